"""The three feed-forward layers a block can have: one network, a mixture of networks, a mixture of modulations.

Axis glossary: `B` images, `N` tokens of an image, `T = B N`, `D` width, `E` experts, `K` chosen a token.
"""

from typing import Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.film import EXPERT_AXIS, Generator, ModulatedExperts
from mofme_jax.models.layers import FeedForward
from mofme_jax.models.router import NormOrder, Router, RouterKind, Routing

FeedForwardKind = Literal["dense", "moe", "mofme"]


class Mixture(nn.Module):
    """A routed feed-forward layer.

    "mofme": `FFN(sum_e r_e(x) FM_e(x))`: E modulations of the token, then ONE shared network, run once a token
    whatever E and K are (paper, the MoFME layer). "moe": `sum_e r_e(x) FFN_e(x)`: E networks side by side, what
    the paper compares with. Both under the same router.

    Attributes:
      kind: "mofme" or "moe".
      hidden: hidden width of the network(s).
      num_experts: E; top_k: K.
      router: head of the router; norm_order, router_dropout, router_passes: see `Router`.
      generator, rank: see `FeatureModulation` ("mofme" only).
    """

    kind: FeedForwardKind
    hidden: int
    num_experts: int
    top_k: int
    router: RouterKind = "deterministic"
    norm_order: NormOrder = "softmax_topk"
    router_dropout: float = 0.1
    router_passes: int = 5
    generator: Generator = "linear"
    rank: int = 8

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, Routing]:
        """x: (..., D), normalised tokens. Returns (..., D) and the Routing with the same leading axes."""
        gates, routing = Router(
            self.num_experts,
            self.top_k,
            self.router,
            self.norm_order,
            self.router_dropout,
            self.router_passes,
            name="router",
        )(x)
        tokens, gates = x.reshape(-1, x.shape[-1]), gates.reshape(-1, self.num_experts)
        if self.kind == "mofme":
            mixed = ModulatedExperts(self.num_experts, self.generator, self.rank, name="modulation")(tokens, gates)
            y = FeedForward(self.hidden, name="shared")(mixed)
        else:
            bank = nn.vmap(
                FeedForward,
                in_axes=None,
                out_axes=0,
                axis_size=self.num_experts,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                metadata_params={nn.PARTITION_NAME: EXPERT_AXIS},
            )
            y = jnp.einsum("te,etd->td", gates, bank(self.hidden, name="experts")(tokens))
        return y.reshape(x.shape), routing
