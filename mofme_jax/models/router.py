"""Routers: from a token to a distribution over experts (`mofme_jax.models.router_heads`), and to the chosen few.

Axis glossary: `T` tokens of a batch, `D` width, `E` experts, `K` experts chosen a token, `M` Monte-Carlo passes.
"""

import math
from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from mofme_jax.models.dispatch import by_shard
from mofme_jax.models.router_heads import (
    RouterDist,
    deterministic_router,
    entropy,
    heteroscedastic_router,
    linear_router,
    paper_router,
    predicted_variance,
    stochastic_router,
    weights_variance,
)

LEARN_VARIANCE = ("heteroscedastic", "variational")
"""Kinds that learn the variance of their logits, and draw these while training."""

RouterKind = Literal["linear", "deterministic", "stochastic", "heteroscedastic", "variational", "paper"]
NormOrder = Literal["softmax_topk", "topk_softmax"]

FIRST_VARIANCE = 0.1
"""Of a logit of an untrained router that learns it: about what dropout at p = 0.1 gives the deterministic one."""


@struct.dataclass
class Routing:
    """What a router did: one is returned for each mixture layer. Leading axes are the tokens'.

    Attributes:
      gates: (..., E) weight of each expert, exactly 0 where it was not chosen.
      chosen: (..., K) the experts chosen, the heaviest first; equal weights take the lower number first.
      probs: (..., E) the router's probabilities before the choice; 0 for an expert that is switched off, the others'
        as they were.
      logits: (..., E) expected logits, divided by the temperature.
      entropy: (...) nats, of the probabilities with every expert on: between 0 and log E.
      uncertainty: (...) nats: see `RouterDist.mutual_information` (0 for a linear router).
      load: (E,) share of the choices that fell on each expert; sums to 1.
    """

    gates: jax.Array
    chosen: jax.Array
    probs: jax.Array
    logits: jax.Array
    entropy: jax.Array
    uncertainty: jax.Array
    load: jax.Array


def select(
    weights: jax.Array, top_k: int, norm_order: NormOrder, kept: jax.Array | None = None
) -> tuple[jax.Array, jax.Array]:
    """Keeps each token's K heaviest experts.

    Args:
      weights: (T, E).
      top_k: K, 1 to E. Exactly K are kept; among equals the lower number wins.
      norm_order: "softmax_topk" keeps the weights as they are, so that they sum to less than one (the paper);
        "topk_softmax" divides by their sum, which equals a softmax over the chosen logits (K = 1 then gives
        weight 1 and the router no gradient).
      kept: (E,) 0 for an expert that is switched off: it weighs 0, and is chosen only where fewer than K are left.
        None keeps all.

    Returns:
      gates (T, E), exactly 0 where not chosen, and chosen (T, K).
    """
    # the order is by -inf and not by 0, which would come before the paper head's negative weights
    order = weights if kept is None else jnp.where(kept != 0, weights, -jnp.inf)
    weights = weights if kept is None else jnp.where(kept != 0, weights, 0.0)
    chosen = by_shard(lambda _, order: jax.lax.top_k(order, top_k)[1], None, order)
    gates = weights * jax.nn.one_hot(chosen, weights.shape[-1], dtype=weights.dtype).sum(-2)
    if norm_order == "topk_softmax":
        total = gates.sum(-1, keepdims=True)
        # of the experts that are left, none may weigh anything
        gates = gates / (total if kept is None else jnp.where(total > 0, total, 1.0))
    return gates, chosen


class Router(nn.Module):
    """A linear router with one of the uncertainty heads, and the choice of K experts.

    The sampling heads take their key from the RNG stream "dropout"; without one the stochastic and the paper head use
    the same fixed masks every time and a head whose variance is learnt draws nothing, so that a model without a key is
    a function of its input.

    Attributes:
      num_experts: E.
      top_k: K, 1 to E.
      kind: "linear", "deterministic", "stochastic", "heteroscedastic", "variational" or "paper".
      norm_order: see `select`. The paper head's signed weights allow "softmax_topk" only.
      dropout_rate: p in [0, 1) of the token's elements; the paper head needs p > 0. The linear head and those
        whose variance is learnt have none.
      passes: M, of the stochastic and the paper head.
      temperature: above 0; the logits are divided by it, their variance by its square.

    Raises:
      ValueError: for a value outside these ranges.
    """

    num_experts: int
    top_k: int
    kind: RouterKind = "deterministic"
    norm_order: NormOrder = "softmax_topk"
    dropout_rate: float = 0.1
    passes: int = 5
    temperature: float = 1.0

    def check(self) -> None:
        """Raises ValueError where the fields do not make a router."""
        check_router(self.num_experts, self.top_k, self.kind, self.norm_order, self.dropout_rate, self.passes,
                     self.temperature)  # fmt: skip

    @nn.compact
    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> tuple[jax.Array, Routing]:
        """x: (..., D) tokens. kept: (E,), see `select`. Returns gates (..., E) and the Routing."""
        self.check()
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.num_experts))
        # a choice is not continuous, and a variance is a small sum of squares: never in half precision
        tokens = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
        # whatever a head makes of them, logits are linear in the kernel
        dist = self._distribution(tokens, kernel / self.temperature)
        gates, chosen = select(dist.weights, self.top_k, self.norm_order, kept)
        probs = dist.probs if kept is None else jnp.where(kept != 0, dist.probs, 0.0)
        load = jnp.zeros(self.num_experts).at[chosen.reshape(-1)].add(1.0) / chosen.size

        def like_input(a):
            return a.reshape(*x.shape[:-1], *a.shape[1:])

        routing = Routing(
            gates=like_input(gates),
            chosen=like_input(chosen),
            probs=like_input(probs),
            logits=like_input(dist.mean_logits),
            entropy=like_input(entropy(dist.probs)),
            uncertainty=like_input(dist.mutual_information),
            load=load,
        )
        return routing.gates, routing

    def _distribution(self, tokens: jax.Array, kernel: jax.Array) -> RouterDist:
        if self.kind == "linear":
            return linear_router(tokens, kernel)
        if self.kind == "deterministic":
            return deterministic_router(tokens, kernel, self.dropout_rate)
        key = self.make_rng("dropout") if self.has_rng("dropout") else None
        if self.kind == "heteroscedastic":
            at_start = nn.initializers.constant(math.log(math.expm1(FIRST_VARIANCE)))
            variance_kernel = self.param("variance_kernel", nn.initializers.zeros, kernel.shape)
            variance_bias = self.param("variance_bias", at_start, kernel.shape[1:])
            var = predicted_variance(tokens, variance_kernel, variance_bias) / self.temperature**2
            return heteroscedastic_router(tokens, kernel, var, key)
        if self.kind == "variational":
            # tokens are normalised: their squares are 1 in the mean
            first = math.log(math.expm1(math.sqrt(FIRST_VARIANCE / kernel.shape[0])))
            # from where it starts, which is also where weight decay draws it
            spread = nn.softplus(first + self.param("spread", nn.initializers.zeros, kernel.shape)) / self.temperature
            return heteroscedastic_router(tokens, kernel, weights_variance(tokens, spread), key)
        sampled = stochastic_router if self.kind == "stochastic" else paper_router
        key = jax.random.key(0) if key is None else key
        return sampled(tokens, kernel, self.dropout_rate, self.passes, key)


def check_router(
    num_experts: int, top_k: int, kind: str, norm_order: str, dropout_rate: float, passes: int, temperature: float
) -> None:
    """Raises ValueError, naming the field and the remedy, where these do not make a router."""
    if kind not in get_args(RouterKind):
        raise ValueError(f"router={kind!r} is unknown; choose one of {', '.join(get_args(RouterKind))}")
    if norm_order not in get_args(NormOrder):
        raise ValueError(f"norm_order={norm_order!r} is unknown; choose {' or '.join(get_args(NormOrder))}")
    if num_experts < 1:
        raise ValueError(f"num_experts={num_experts}: at least 1 is needed")
    if not 1 <= top_k <= num_experts:
        raise ValueError(f"top_k={top_k} experts cannot be chosen among num_experts={num_experts}: "
                         f"set top_k between 1 and {num_experts}")  # fmt: skip
    if not 0.0 <= dropout_rate < 1.0:
        raise ValueError(f"router_dropout={dropout_rate} is not a rate: choose one in [0, 1)")
    if passes < 1:
        raise ValueError(f"router_passes={passes}: at least 1 is needed")
    if not 0.0 < temperature < math.inf:
        raise ValueError(
            f"router_temperature={temperature} cannot divide logits: choose one above 0; 1 changes nothing"
        )
    if kind == "paper" and norm_order != "softmax_topk":
        raise ValueError('router="paper" gives signed weights, which cannot be renormalised: '
                         'use norm_order="softmax_topk"')  # fmt: skip
    if kind == "paper" and (dropout_rate == 0.0 or passes < 2):
        raise ValueError('router="paper" needs passes that differ: router_dropout > 0 and router_passes >= 2')
