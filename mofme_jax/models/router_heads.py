"""The heads of a router: from a token to a distribution over experts. Pure functions of arrays.

Axis glossary: `T` tokens of a batch, `D` width, `E` experts, `M` Monte-Carlo passes. A router is a linear map of the
token, `z = x W`, seen six ways:

- `linear`: the logits as they are. No uncertainty; the baseline.
- `deterministic`: dropout on the token makes the logits random; the moments of a linear map under dropout
  are exact, so mean and variance come from two matrix products and nothing is sampled.
- `stochastic`: M dropout passes, really drawn, averaged as probabilities.
- `heteroscedastic`: the logits' variance is learnt, a second linear map of the token.
- `variational`: W is Gaussian, and the spread of each of its elements is learnt.
- `paper`: the formula of the paper, taken literally.
"""

import jax
import jax.numpy as jnp
from flax import linen as nn
from flax import struct


@struct.dataclass
class RouterDist:
    """What a router believes of each token.

    Attributes:
      mean_logits: (T, E) expected logits.
      var_logits: (T, E) their variance, at least 0.
      probs: (T, E) on the simplex: the probability of each expert with the uncertainty averaged out.
      weights: (T, E) what top-k chooses from and the experts are weighed with: `probs`, but for the
        `paper` head, whose weights are signed and of unit length.
      mutual_information: (T,) nats, at least 0: how much the choice of an expert tells of what is random in the
        logits (dropped parameters, or learnt noise), the part of the predictive entropy that certain logits would
        remove.
    """

    mean_logits: jax.Array
    var_logits: jax.Array
    probs: jax.Array
    weights: jax.Array
    mutual_information: jax.Array


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


def mean_field(mean: jax.Array, var: jax.Array) -> RouterDist:
    """The router whose logits have these moments, (T, E) each, by formulas.

    The expected softmax of such logits is approximated by `softmax(z / sqrt(1 + pi / 8 * v))` (MacKay 1992). The mutual
    information is its second-order expansion for independent logit noise, `sum_e q_e (1 - q_e) v_e / 2`: near for
    variances up to about 1, too large beyond, and cut at the entropy, which the true one cannot pass.
    """
    probs = nn.softmax(mean / jnp.sqrt(1.0 + jnp.pi / 8.0 * var))
    information = 0.5 * jnp.sum(probs * (1.0 - probs) * var, axis=-1)
    return RouterDist(mean, var, probs, probs, jnp.minimum(information, entropy(probs)))


def deterministic_router(x: jax.Array, kernel: jax.Array, dropout_rate: float) -> RouterDist:
    """Exact moments of the logits under dropout of the token, and the mean-field softmax.

    With inverted dropout at rate p, `E z = x W` and `Var z_e = p / (1 - p) * sum_d x_d^2 W_de^2`.
    p = 0 gives the linear router exactly.
    """
    mean = _product(x, kernel)
    var = dropout_rate / (1.0 - dropout_rate) * _product(jnp.square(x), jnp.square(kernel))
    return mean_field(mean, var)


def predicted_variance(x: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """softplus(x V + b), at least 0. x: (T, D), kernel: (D, E), bias: (E,). Returns (T, E)."""
    return nn.softplus(_product(x, kernel) + bias)


def weights_variance(x: jax.Array, spread: jax.Array) -> jax.Array:
    """Of logits `x W` whose W has independent Gaussian elements of standard deviation `spread` (D, E): (T, E).

    The logits of a variational posterior over the router's weights (Blundell et al. 2015), to be drawn for each token
    by itself (Kingma et al. 2015). Of its divergence from a prior there is only what weight decay does: the loss is no
    sum of likelihoods that it could be weighed against.
    """
    return _product(jnp.square(x), jnp.square(spread))


def heteroscedastic_router(x: jax.Array, kernel: jax.Array, var: jax.Array, key: jax.Array | None = None) -> RouterDist:
    """Logits `x W` with a variance of each token's own (Kendall & Gal 2017; Collier et al. 2021).

    With a key the probabilities are those of one draw, `softmax(x W + sqrt(v) eps)`, eps standard normal for every
    token and expert, so that the variance learns from what its draws cost. Without one they are the mean field's. The
    mutual information is the mean field's in both. Nothing but the loss (and weight decay) teaches the variance: where
    noise in the choice never helps it may well learn to vanish.

    Args:
      x: (T, D). kernel: (D, E).
      var: (T, E), at least 0.
      key: of the draw.
    """
    dist = mean_field(_product(x, kernel), var)
    if key is None:
        return dist
    # at 0 the root has no finite slope
    spread = jnp.sqrt(jnp.maximum(var, 1e-12))
    drawn = nn.softmax(dist.mean_logits + spread * jax.random.normal(key, var.shape, var.dtype))
    return RouterDist(dist.mean_logits, var, drawn, drawn, dist.mutual_information)


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
