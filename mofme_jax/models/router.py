"""Routers: from a token to a distribution over experts, and from that to the chosen few.

Axis glossary: `T` tokens of a batch, `D` width, `E` experts, `K` experts chosen a token, `M` Monte-Carlo
passes. A router is a linear map of the token, `z = x W`, seen four ways:

- `linear`: the logits as they are. No uncertainty; the baseline.
- `deterministic`: dropout on the token makes the logits random; the moments of a linear map under dropout
  are exact, so mean and variance come from two matrix products and nothing is sampled.
- `stochastic`: M dropout passes, really drawn, averaged as probabilities.
- `paper`: the formula of the paper, taken literally.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct

from mofme_jax.models.dispatch import by_shard

RouterKind = Literal["linear", "deterministic", "stochastic", "paper"]
NormOrder = Literal["softmax_topk", "topk_softmax"]


@struct.dataclass
class RouterDist:
    """What a router believes of each token.

    Attributes:
      mean_logits: (T, E) expected logits.
      var_logits: (T, E) their variance, at least 0.
      probs: (T, E) on the simplex: the probability of each expert with the uncertainty averaged out.
      weights: (T, E) what top-k chooses from and the experts are weighed with: `probs`, but for the
        `paper` head, whose weights are signed and of unit length.
      mutual_information: (T,) nats, at least 0: how much the choice of an expert tells of the router's
        own parameters, the part of the predictive entropy that more certain logits would remove.
    """

    mean_logits: jax.Array
    var_logits: jax.Array
    probs: jax.Array
    weights: jax.Array
    mutual_information: jax.Array


@struct.dataclass
class Routing:
    """What a router did: one is returned for each mixture layer. Leading axes are the tokens'.

    Attributes:
      gates: (..., E) weight of each expert, exactly 0 where it was not chosen.
      chosen: (..., K) the experts chosen, the heaviest first; equal weights take the lower number first.
      probs: (..., E) the router's probabilities before the choice; 0 for an expert that is switched off, the others'
        as they were.
      logits: (..., E) expected logits.
      entropy: (...) nats, of the probabilities with every expert on: between 0 and log E.
      uncertainty: (...) nats: mutual information between choice and router (0 for a linear router).
      load: (E,) share of the choices that fell on each expert; sums to 1.
    """

    gates: jax.Array
    chosen: jax.Array
    probs: jax.Array
    logits: jax.Array
    entropy: jax.Array
    uncertainty: jax.Array
    load: jax.Array


def entropy(probs: jax.Array) -> jax.Array:
    """Shannon entropy in nats over the last axis, with 0 log 0 = 0."""
    return -jnp.sum(jax.scipy.special.xlogy(probs, probs), axis=-1)


def _product(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """x @ kernel in full precision: an accelerator's default rounds its inputs, and a choice is not continuous."""
    return jnp.matmul(x, kernel, precision="highest")


def linear_router(x: jax.Array, kernel: jax.Array) -> RouterDist:
    """Plain logits. x: (T, D), kernel: (D, E)."""
    logits = _product(x, kernel)
    probs = nn.softmax(logits)
    return RouterDist(logits, jnp.zeros_like(logits), probs, probs, jnp.zeros_like(logits[:, 0]))


def deterministic_router(x: jax.Array, kernel: jax.Array, dropout_rate: float) -> RouterDist:
    """Exact moments of the logits under dropout of the token, and the mean-field softmax.

    With inverted dropout at rate p, `E z = x W` and `Var z_e = p / (1 - p) * sum_d x_d^2 W_de^2`. The expected
    softmax of such logits is approximated by `softmax(z / sqrt(1 + pi / 8 * v))` (MacKay 1992). The mutual
    information is its second-order expansion for independent logit noise, `sum_e q_e (1 - q_e) v_e / 2`: near for
    variances up to about 1, too large beyond, and cut at the entropy, which the true one cannot pass.
    p = 0 gives the linear router exactly.
    """
    mean = _product(x, kernel)
    var = dropout_rate / (1.0 - dropout_rate) * _product(jnp.square(x), jnp.square(kernel))
    probs = nn.softmax(mean / jnp.sqrt(1.0 + jnp.pi / 8.0 * var))
    information = 0.5 * jnp.sum(probs * (1.0 - probs) * var, axis=-1)
    return RouterDist(mean, var, probs, probs, jnp.minimum(information, entropy(probs)))


def dropout_passes(x: jax.Array, kernel: jax.Array, dropout_rate: float, passes: int, key: jax.Array) -> jax.Array:
    """(M, T, E) logits of M dropout passes. One mask over D a pass, shared by all tokens, so that what a
    token gets does not depend on its batch."""

    def one_pass(key):
        kept = jax.random.bernoulli(key, 1.0 - dropout_rate, (x.shape[-1],))
        return _product(x, kernel * (kept / (1.0 - dropout_rate))[:, None])

    return jax.vmap(one_pass)(jax.random.split(key, passes))


def stochastic_router(x: jax.Array, kernel: jax.Array, dropout_rate: float, passes: int, key: jax.Array) -> RouterDist:
    """M dropout passes: probabilities are the mean of their softmaxes.

    The mutual information is the predictive entropy less the expected entropy of the passes.
    """
    logits = dropout_passes(x, kernel, dropout_rate, passes, key)
    each = nn.softmax(logits)
    probs = each.mean(0)
    information = jnp.maximum(entropy(probs) - entropy(each).mean(0), 0.0)
    return RouterDist(logits.mean(0), logits.var(0), probs, probs, information)


def paper_router(x: jax.Array, kernel: jax.Array, dropout_rate: float, passes: int, key: jax.Array) -> RouterDist:
    """The paper's uncertainty-aware router, literally: `r^ = S^-1 (r - mu) / ||S^-1 (r - mu)||_2`.

    mu and S are mean and covariance of M dropout passes' softmaxes, r the softmax without dropout. S has rank
    at most min(M, E) - 1; a small multiple of the identity (1e-4 of its mean variance) makes it invertible.
    Caveats: r^ is no distribution. As every pass sums to one, r^ sums to (nearly) zero, half of it is
    negative, and its direction is mostly that of the sampling noise. Kept to be measured, not recommended.
    """
    logits = dropout_passes(x, kernel, dropout_rate, passes, key)
    each = nn.softmax(logits)
    mean = each.mean(0)
    centred = each - mean
    covariance = jnp.einsum("mte,mtf->tef", centred, centred) / passes
    ridge = 1e-4 * jnp.trace(covariance, axis1=1, axis2=2) / kernel.shape[1] + 1e-12
    covariance = covariance + ridge[:, None, None] * jnp.eye(kernel.shape[1])
    deviation = nn.softmax(_product(x, kernel)) - mean
    solved = jnp.linalg.solve(covariance, deviation[..., None])[..., 0]
    # the length is taken of a rescaled vector: S^-1 (r - mu) overflows float32 when the passes agree
    solved = solved / jnp.maximum(jnp.max(jnp.abs(solved), -1, keepdims=True), 1e-30)
    weights = solved * jax.lax.rsqrt(jnp.sum(jnp.square(solved), -1, keepdims=True) + 1e-12)
    information = jnp.maximum(entropy(mean) - entropy(each).mean(0), 0.0)
    return RouterDist(logits.mean(0), logits.var(0), mean, weights, information)


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

    The sampling heads take their key from the RNG stream "dropout"; without one they use the same fixed masks
    every time, so that a model without a key is a function of its input.

    Attributes:
      num_experts: E.
      top_k: K, 1 to E.
      kind: "linear", "deterministic", "stochastic" or "paper".
      norm_order: see `select`. The paper head's signed weights allow "softmax_topk" only.
      dropout_rate: p in [0, 1) of the token's elements; the paper head needs p > 0.
      passes: M, of the sampling heads.

    Raises:
      ValueError: for a value outside these ranges.
    """

    num_experts: int
    top_k: int
    kind: RouterKind = "deterministic"
    norm_order: NormOrder = "softmax_topk"
    dropout_rate: float = 0.1
    passes: int = 5

    def check(self) -> None:
        """Raises ValueError where the fields do not make a router."""
        check_router(self.num_experts, self.top_k, self.kind, self.norm_order, self.dropout_rate, self.passes)

    @nn.compact
    def __call__(self, x: jax.Array, kept: jax.Array | None = None) -> tuple[jax.Array, Routing]:
        """x: (..., D) tokens. kept: (E,), see `select`. Returns gates (..., E) and the Routing."""
        self.check()
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (x.shape[-1], self.num_experts))
        # a choice is not continuous, and a variance is a small sum of squares: never in half precision
        tokens = x.reshape(-1, x.shape[-1]).astype(jnp.promote_types(x.dtype, jnp.float32))
        dist = self._distribution(tokens, kernel)
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
        key = self.make_rng("dropout") if self.has_rng("dropout") else jax.random.key(0)
        sampled = stochastic_router if self.kind == "stochastic" else paper_router
        return sampled(tokens, kernel, self.dropout_rate, self.passes, key)


def check_router(num_experts: int, top_k: int, kind: str, norm_order: str, dropout_rate: float, passes: int) -> None:
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
    if kind == "paper" and norm_order != "softmax_topk":
        raise ValueError('router="paper" gives signed weights, which cannot be renormalised: '
                         'use norm_order="softmax_topk"')  # fmt: skip
    if kind == "paper" and (dropout_rate == 0.0 or passes < 2):
        raise ValueError('router="paper" needs passes that differ: router_dropout > 0 and router_passes >= 2')
