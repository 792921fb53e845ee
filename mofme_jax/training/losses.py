"""Training losses: pure functions of arrays, free of parameters.

Axis glossary: `B` images, `H W` pixels, `C` channels; `T` tokens of a batch, `E` experts.

Image losses take two float images of the same shape, (B, H, W, C) with values in [0, 1], and return one
value an image, (B,), the mean over H, W and C. The mean over images is left to the caller, who knows which
images are padding. A single image (H, W, C) gives a scalar. Half-precision images are compared in float32.

Router losses take (T, E) arrays and return a scalar. They pull a router towards using all of its experts, and
are worth a small weight only (published: 1e-2 for the first two, 1e-3 for the third).
"""

import jax
import jax.numpy as jnp
import optax

from mofme_jax.models import vgg

_PIXELS = (-3, -2, -1)  # the axes H, W, C


def smooth_l1(restored: jax.Array, target: jax.Array, beta: float = 1.0) -> jax.Array:
    """Quadratic below `beta`, linear above: d^2 / (2 beta) if |d| < beta, else |d| - beta / 2.

    Girshick, "Fast R-CNN", 2015, equation 3, with the corner moved to beta: Huber's loss divided by beta.
    With images in [0, 1] and beta 1 the linear part is never reached, so this is half the squared error.

    Args:
      restored: (B, H, W, C) float.
      target: same shape.
      beta: the difference at which the quadratic gives way, > 0, in units of the images.

    Returns:
      (B,) loss of each image.

    Raises:
      ValueError: shapes differ, images are not float, or beta is not positive.
    """
    _require_positive("beta", beta)
    restored, target = _comparable(restored, target)
    return optax.losses.huber_loss(restored, target, delta=beta).mean(_PIXELS) / beta


def charbonnier(restored: jax.Array, target: jax.Array, epsilon: float = 1e-3) -> jax.Array:
    """An L1 whose tip is rounded: sqrt(d^2 + epsilon^2). Identical images score epsilon, not zero.

    Lai et al., "Deep Laplacian Pyramid Networks", CVPR 2017, equation 3.

    Args:
      restored: (B, H, W, C) float.
      target: same shape.
      epsilon: radius of the rounding, > 0, in units of the images.

    Returns:
      (B,) loss of each image.

    Raises:
      ValueError: shapes differ, images are not float, or epsilon is not positive.
    """
    _require_positive("epsilon", epsilon)  # at zero the gradient of equal pixels is 0 / 0
    restored, target = _comparable(restored, target)
    return jnp.sqrt(jnp.square(restored - target) + epsilon**2).mean(_PIXELS)


def rmse(restored: jax.Array, target: jax.Array, epsilon: float = 1e-5) -> jax.Array:
    """Root of each image's mean squared error: sqrt(mse + epsilon).

    Between the squared error, by which a batch is about its haziest image, and its logarithm (PSNR), by which it is
    about its easiest; within an image it is the squared error, which a few bright flakes cannot hide from as they
    can from an absolute one.

    Args:
      restored: (B, H, W, C) float.
      target: same shape.
      epsilon: > 0; keeps the slope finite where an image is nearly right.

    Returns:
      (B,) loss of each image.

    Raises:
      ValueError: unequal shapes, or epsilon <= 0.
    """
    _require_positive("epsilon", epsilon)
    restored, target = _comparable(restored, target)
    return jnp.sqrt(jnp.mean(jnp.square(restored - target), _PIXELS) + epsilon)


def laplace(restored: jax.Array, target: jax.Array, error: jax.Array) -> jax.Array:
    """What the error head learns from: |d| / b + log b, a Laplace distribution's -log-likelihood less log 2.

    It is least where `error` is the mean of |d|. Kendall and Gal, "What Uncertainties Do We Need", NeurIPS 2017,
    section 2.2, with Laplace's distribution for the normal one. No gradient goes to `restored`.

    Args:
      restored: (B, H, W, 3) float; taken clipped to [0, 1].
      target: same shape.
      error: (B, H, W) float > 0: b, of |d| averaged over the channels.

    Returns:
      (B,) loss of each image; it has no lower bound.

    Raises:
      ValueError: restored and target of unequal shapes.
    """
    restored, target = _comparable(restored, target)
    off = jnp.abs(jnp.clip(jax.lax.stop_gradient(restored), 0.0, 1.0) - target).mean(-1)
    return (off / error + jnp.log(error)).mean((-2, -1))


def gradient_l1(restored: jax.Array, target: jax.Array) -> jax.Array:
    """L1 between the finite differences of the images: it asks for the right edges at any brightness.

    The mean absolute difference of the vertical steps I[i+1, j] - I[i, j] and of the horizontal steps
    I[i, j+1] - I[i, j] are averaged, each direction weighing one half.

    Args:
      restored: (B, H, W, C) float, H and W at least 2.
      target: same shape.

    Returns:
      (B,) loss of each image.

    Raises:
      ValueError: shapes differ, images are not float, or are one pixel high or wide.
    """
    restored, target = _comparable(restored, target)
    if min(restored.shape[-3:-1]) < 2:
        raise ValueError(f"gradient_l1 needs images of at least 2x2 pixels, got shape {restored.shape}")
    error = restored - target  # differences are linear: those of the error are the errors of those
    vertical = jnp.abs(jnp.diff(error, axis=-3)).mean(_PIXELS)
    horizontal = jnp.abs(jnp.diff(error, axis=-2)).mean(_PIXELS)
    return 0.5 * (vertical + horizontal)


def perceptual(restored: jax.Array, target: jax.Array, params: vgg.Params) -> jax.Array:
    """Distance in VGG16 features: the mean over relu1_2, relu2_2 and relu3_3 of their mean squared errors.

    Johnson et al., "Perceptual Losses for Real-Time Style Transfer", ECCV 2016, equation 2, as MoFME's
    training uses it (there with weight 0.04): images go in as they are, in [0, 1], without ImageNet's mean
    and deviation.

    Args:
      restored: (B, H, W, 3) float in [0, 1], H and W at least 4.
      target: same shape; no gradient flows into it.
      params: what `vgg.load_vgg16` returns.

    Returns:
      (B,) loss of each image.

    Raises:
      ValueError: shapes differ, or images are not float, not RGB, or below 4x4 pixels.
    """
    restored, target = _comparable(restored, target)
    pairs = zip(vgg.features(params, restored), vgg.features(params, jax.lax.stop_gradient(target)), strict=True)
    return jnp.stack([jnp.square(ours - theirs).mean(_PIXELS) for ours, theirs in pairs]).mean(0)


def importance_loss(gates: jax.Array) -> jax.Array:
    """Squared coefficient of variation of the experts' summed gates; zero when all experts weigh the same.

    Shazeer et al., "Outrageously Large Neural Networks", ICLR 2017, equations 6 and 7: importance_e is the
    sum over tokens of the gate of expert e; the loss is their variance (over E, not E - 1) divided by the
    square of their mean.

    Args:
      gates: (T, E) non-negative weights, zero where an expert was not chosen.

    Returns:
      Scalar in [0, E - 1]; E - 1 when one expert takes everything.
    """
    _require_tokens_by_experts("gates", gates)
    importance = gates.astype(jnp.float32).sum(0)
    return importance.var() / (jnp.square(importance.mean()) + 1e-10)


def load_loss(probs: jax.Array, gates: jax.Array) -> jax.Array:
    """E times the sum over experts of f_e P_e: one when the load is even, up to E when one expert takes all.

    Fedus et al., "Switch Transformers", JMLR 2022, equations 4 to 6, for any K: f_e is the share of the T K
    choices that fell on expert e (a count: no gradient), P_e the mean probability of expert e, which carries
    the gradient.

    Args:
      probs: (T, E) the router's probabilities before the choice, rows on the simplex.
      gates: (T, E) weights after the choice; an expert counts as chosen where its gate is not zero.

    Returns:
      Scalar.
    """
    _require_tokens_by_experts("probs", probs)
    if gates.shape != probs.shape:
        raise ValueError(f"gates have shape {gates.shape}, probs {probs.shape}: both are (T, E)")
    choices = (gates != 0).astype(jnp.float32).sum(0)
    share = choices / jnp.maximum(choices.sum(), 1.0)
    return probs.shape[1] * jnp.sum(share * probs.astype(jnp.float32).mean(0))


def z_loss(logits: jax.Array) -> jax.Array:
    """Mean over tokens of the squared log-sum-exp of the logits: keeps the router's logits small.

    Zoph et al., "ST-MoE", 2022, equation 5.

    Args:
      logits: (T, E) the router's logits.

    Returns:
      Scalar, >= 0.
    """
    _require_tokens_by_experts("logits", logits)
    return jnp.square(jax.nn.logsumexp(logits.astype(jnp.float32), axis=-1)).mean()


def _comparable(restored: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Checks a pair of images; returns both in their common dtype, float32 at the least."""
    if restored.shape != target.shape:
        raise ValueError(f"restored has shape {restored.shape}, target {target.shape}: they must be equal")
    if restored.ndim not in (3, 4):
        raise ValueError(f"expected images (B, H, W, C) or (H, W, C), got shape {restored.shape}")
    for name, image in (("restored", restored), ("target", target)):
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {image.dtype}: losses take float images, scaled to [0, 1]")
    dtype = jnp.promote_types(jnp.promote_types(restored.dtype, target.dtype), jnp.float32)
    return restored.astype(dtype), target.astype(dtype)


def _require_positive(name: str, value: float) -> None:
    if not value > 0:
        raise ValueError(f"{name} must be positive, got {value}")


def _require_tokens_by_experts(name: str, array: jax.Array) -> None:
    if array.ndim != 2:
        raise ValueError(f"{name} must be (T, E), tokens by experts, got shape {array.shape}")
