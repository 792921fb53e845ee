"""The three feed-forward layers a block can have: one network, a mixture of networks, a mixture of modulations.

Axis glossary: `B` images, `N` tokens of an image, `T = B N`, `D` width, `E` experts, `K` chosen a token.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.dispatch import Dispatch, Product, resolve, through_chosen
from mofme_jax.models.film import Generator, ModulatedExperts, side_by_side
from mofme_jax.models.layers import FeedForward, cast, gelu
from mofme_jax.models.router import NormOrder, Router, RouterKind, Routing

FeedForwardKind = Literal["dense", "moe", "mofme"]


def feed_forward(params: Any, rows: jax.Array, product: Product) -> jax.Array:
    """`FeedForward` of each row by its own expert.

    Args:
      params: those of `FeedForward`, stacked over the experts.
      rows, product: see `mofme_jax.models.dispatch.Experts`.

    Returns:
      (R, D).
    """
    up, down = params["up"], params["down"]
    return product(gelu(product(rows, up["kernel"], up["bias"])), down["kernel"], down["bias"])


class Mixture(nn.Module):
    """A routed feed-forward layer.

    "mofme": `FFN(sum_e r_e(x) FM_e(x))`: E modulations of the token, then ONE shared network, run once a token
    whatever E and K are (paper, the MoFME layer). "moe": `sum_e r_e(x) FFN_e(x)`: E networks side by side, what
    the paper compares with. Both under the same router and the same dispatch.

    Attributes:
      kind: "mofme" or "moe".
      hidden: hidden width of the network(s).
      num_experts: E; top_k: K.
      router: head of the router; norm_order, router_dropout, router_passes, router_temperature: see `Router`.
      generator, rank: see `FeatureModulation` ("mofme" only).
      dispatch: see `mofme_jax.models.dispatch`.
      dtype: what is computed in, see `mofme_jax.models.layers`; the router computes in float32 at the least.
    """

    kind: FeedForwardKind
    hidden: int
    num_experts: int
    top_k: int
    router: RouterKind = "deterministic"
    norm_order: NormOrder = "softmax_topk"
    router_dropout: float = 0.1
    router_passes: int = 5
    router_temperature: float = 1.0
    generator: Generator = "linear"
    rank: int = 8
    dispatch: Dispatch = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> tuple[jax.Array, Routing]:
        """x: (..., D), normalised tokens. kept: (E,), 0 for an expert that is switched off; None: none is.

        Returns (..., D) and the Routing with the same leading axes.
        """
        gates, routing = Router(
            self.num_experts,
            self.top_k,
            self.router,
            self.norm_order,
            self.router_dropout,
            self.router_passes,
            self.router_temperature,
            name="router",
        )(x, kept)
        tokens, gates, chosen = (a.reshape(-1, a.shape[-1]) for a in (x, gates.astype(x.dtype), routing.chosen))
        if self.kind == "mofme":
            modulation = ModulatedExperts(
                self.num_experts, self.generator, self.rank, self.dispatch, self.dtype, name="modulation"
            )
            y = FeedForward(self.hidden, self.dtype, name="shared")(modulation(tokens, gates, chosen))
        else:
            y = self._networks(tokens, gates, chosen)
        return y.reshape(x.shape), routing

    def _networks(self, tokens: jax.Array, gates: jax.Array, chosen: jax.Array) -> jax.Array:
        """The weighted sum of E networks: (T, D) and (T, E) gates in, (T, D) out."""
        bank = side_by_side(FeedForward, self.num_experts)
        method = resolve(self.dispatch, self.num_experts)
        if method == "dense" or self.is_initializing():
            return jnp.einsum("te,etd->td", gates, bank(self.hidden, self.dtype, name="experts")(tokens))
        params = cast(self.variables["params"]["experts"], self.dtype)
        return through_chosen(feed_forward, params, tokens, gates, chosen, method)
