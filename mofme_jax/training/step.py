"""One training step: weather on clean photographs, the network, the loss, the update.

Axis glossary: `B` images, `H W` pixels, `C` channels, `T` tokens of a batch, `E` experts.
"""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from mofme_jax.data.augment import add_sky, vary_colours
from mofme_jax.data.weather import degrade, severity_ranges
from mofme_jax.models.restorer import ERROR_HEAD
from mofme_jax.training import losses
from mofme_jax.training.state import TrainState, ema_decay


def put_weather(
    key: jax.Array,
    images: jax.Array,
    weathers: tuple[str, ...],
    clean_share: float,
    severity: Mapping[str, tuple[float, float]],
) -> tuple[jax.Array, dict[str, Any]]:
    """Fresh weather for a batch: image i gets `weathers[i % n]`, or none at all with a chance of clean_share.

    Every image's key depends on `key` and i alone. The kinds are dealt out, not drawn, so that one step computes
    each kind for its own images only, and each device (which holds whole groups of n) the same.

    Args:
      key: JAX key of this step.
      images: (B, H, W, 3) clean, in [0, 1]; B a multiple of n.
      weathers: names for `degrade`, n of them.
      clean_share: in [0, 1].
      severity: bounds by the name of a severity, for all weathers that have it; the others are drawn as usual.

    Returns:
      (B, H, W, 3) in [0, 1]; and what was drawn: "severities", for each of `weathers` a dict of them, (B / n,) each,
      and "stays_clean", (B,).
    """
    batch, n = images.shape[0], len(weathers)
    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(batch))
    groups, group_keys = images.reshape(batch // n, n, *images.shape[1:]), keys.reshape(batch // n, n)
    by_weather = []
    for i, name in enumerate(weathers):
        bounds: dict[str, Any] = {part: severity[part] for part in severity_ranges(name) if part in severity}

        def one(key, image, name=name, bounds=bounds):
            return degrade(key, image, name, **bounds)

        by_weather.append(jax.vmap(one)(group_keys[:, i], groups[:, i]))
    degraded = jnp.stack([image for image, _ in by_weather], axis=1).reshape(images.shape)
    stays_clean = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, 7), clean_share))(keys)
    drawn = {"severities": [drawn for _, drawn in by_weather], "stays_clean": stays_clean}
    return jnp.where(stays_clean[:, None, None, None], images, degraded), drawn


def augment(key: jax.Array, images: jax.Array, colour_share: float, sky_share: float) -> jax.Array:
    """Another rendering of each clean photograph, and a sky over some: see `mofme_jax.data.augment`.

    Args:
      key: JAX key of this step.
      images: (B, H, W, 3) in [0, 1].
      colour_share, sky_share: chance of either for an image, in [0, 1].

    Returns:
      (B, H, W, 3) in [0, 1].
    """

    def one(key, image):
        colour_key, sky_key, chance_key = jax.random.split(key, 3)
        chance = jax.random.uniform(chance_key, (2,))
        image = jnp.where(chance[0] < colour_share, vary_colours(colour_key, image), image)
        return jnp.where(chance[1] < sky_share, add_sky(sky_key, image), image)

    keys = jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(images.shape[0]))
    return jax.vmap(one)(keys, images)


def make_examples(
    key: jax.Array,
    photographs: jax.Array,
    *,
    weathers: tuple[str, ...] | None,
    clean_share: float,
    severity: Mapping[str, tuple[float, float]],
    colour_share: float,
    sky_share: float,
) -> tuple[jax.Array, jax.Array, dict[str, Any]]:
    """What a step learns from, made of what the host sends.

    Args:
      key: see `step_keys`.
      photographs: (B, H, W, 3) uint8; or pairs (B, H, W, 6), [input | target], where weathers is None.
      weathers, clean_share, severity: see `put_weather`.
      colour_share, sky_share: see `augment`; not done to pairs.

    Returns:
      degraded and target, (B, H, W, 3) in [0, 1], and what was drawn, see `put_weather`; nothing for pairs.
    """
    pixels = photographs.astype(jnp.float32) / 255.0
    if weathers is None:
        degraded, target = jnp.split(pixels, 2, axis=-1)
        return degraded, target, {}
    augment_key, weather_key = key
    target = augment(augment_key, pixels, colour_share, sky_share)
    degraded, drawn = put_weather(weather_key, target, weathers, clean_share, severity)
    return degraded, target, drawn


def step_keys(key: jax.Array, step: jax.Array | int) -> tuple[jax.Array, jax.Array]:
    """The keys of a step, a function of the run's seed and the step alone.

    Args:
      key: the data of the run's key, as the state holds it. step: steps taken before.

    Returns:
      (2,) keys for `make_examples`, and the key of the dropout.
    """
    keys = jax.random.split(jax.random.fold_in(jax.random.wrap_key_data(key), step), 3)
    return keys[:2], keys[2]


def make_train_step(
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    image_loss: Callable[[jax.Array, jax.Array], jax.Array],
    *,
    weathers: tuple[str, ...] | None,
    clean_share: float,
    severity: Mapping[str, tuple[float, float]],
    colour_share: float,
    sky_share: float,
    decay: float,
    router_weights: dict[str, float],
    gather: Callable[[Any], Any] = lambda params: params,
    accumulate: int = 1,
) -> Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]:
    """Returns `step(state, photographs) -> (state, metrics)`, pure, to be jitted by the caller.

    Args:
      model: a Restorer.
      optimiser: see `make_optimiser`.
      image_loss: (restored, target) -> (B,) loss of each image.
      weathers, clean_share, severity, colour_share, sky_share: see `make_examples`.
      decay: of the parameters' moving average.
      router_weights: weights of the routers' "importance", "load" and "z" terms; 0 leaves one out.
      gather: brings parameters that are split over devices together, see `sharding.gather`.
      accumulate: micro-batches that a batch is computed in, one after the other, to need less memory. Images and their
        weather are the same for any number; dropout masks are not, and the routers' terms are means over micro-batches.

    The step takes uint8 photographs (B, H, W, 3), or pairs (B, H, W, 6), [input | target]. Its metrics are
    scalars: loss, psnr_rgb (of the batch, dB), psnr_rgb_input (of the degraded batch), grad_norm, bad_steps. The error
    head has no part in loss and grad_norm: they are those of a network without it.
    """

    def loss_fn(params, degraded, target, key):
        with_error = getattr(model, "error_head", False)
        method = "with_error" if with_error else None
        outputs: Any = model.apply({"params": gather(params)}, degraded, True, rngs={"dropout": key}, method=method)
        restored, aux, *error = outputs
        with jax.named_scope("image_loss"):
            loss = image_loss(restored, target).mean()
            # clipping leaves the head out and Adam knows no scale, so that it needs no weight
            likelihood = losses.laplace(restored, target, *error).mean() if with_error else 0.0
        loss = loss + router_terms(aux, router_weights)
        return loss + likelihood, (loss, mean_psnr(restored, target))

    def gradients(params, degraded, target, key):
        (_, (loss, psnr)), grads = jax.value_and_grad(loss_fn, has_aux=True)(params, degraded, target, key)
        return loss, psnr, grads

    def mean_gradients(params, degraded, target, key):
        if accumulate == 1:
            return gradients(params, degraded, target, key)
        degraded, target = (micro_batches(a, accumulate, len(weathers or (None,))) for a in (degraded, target))

        def add(total, micro):
            return jax.tree.map(jnp.add, total, gradients(params, *micro)), None

        zero = (jnp.zeros(()), jnp.zeros(()), jax.tree.map(jnp.zeros_like, params))
        total, _ = jax.lax.scan(add, zero, (degraded, target, jax.random.split(key, accumulate)))
        return jax.tree.map(lambda value: value / accumulate, total)

    def step(state: TrainState, photographs: jax.Array) -> tuple[TrainState, dict[str, jax.Array]]:
        example_keys, dropout_key = step_keys(state.key, state.step)
        with jax.named_scope("examples"):
            degraded, target, _ = make_examples(
                example_keys,
                photographs,
                weathers=weathers,
                clean_share=clean_share,
                severity=severity,
                colour_share=colour_share,
                sky_share=sky_share,
            )
        loss, psnr, grads = mean_gradients(state.params, degraded, target, dropout_key)
        with jax.named_scope("update"):
            updates, opt_state = optimiser.update(grads, state.opt_state, state.params)
            params = optax.apply_updates(state.params, updates)
            # a bad step leaves the average alone as well
            keep = jnp.where(opt_state.notfinite_count > 0, 1.0, ema_decay(state.step, decay))
            ema = jax.tree.map(lambda old, new: keep * old + (1.0 - keep) * new, state.ema, params)
        metrics = {
            "loss": loss,
            "psnr_rgb": psnr,
            "psnr_rgb_input": mean_psnr(degraded, target),
            "grad_norm": optax.tree.norm({n: part for n, part in grads.items() if not n.startswith(ERROR_HEAD)}),
            "bad_steps": opt_state.notfinite_count,
        }
        return TrainState(state.step + 1, params, ema, opt_state, state.key), metrics

    return step


def micro_batches(images: jax.Array, count: int, group: int) -> jax.Array:
    """(B, ...) -> (count, B / count, ...): each has every weather, and of every device's images its part, so that none
    travels.

    Args:
      images: groups of `group` images one behind the other, one of each weather.
      count: micro-batches; B is a multiple of count x group.
    """
    rest = images.shape[1:]
    return jnp.swapaxes(images.reshape(-1, count, group, *rest), 0, 1).reshape(count, -1, *rest)


def router_terms(aux: tuple, weights: dict[str, float]) -> jax.Array:
    """The routers' auxiliary loss: the mean over layers of the weighted terms; 0 without layers or weights."""
    total = jnp.zeros(())
    for routing in aux:
        gates, probs, logits = (a.reshape(-1, a.shape[-1]) for a in (routing.gates, routing.probs, routing.logits))
        if weights["importance"]:
            total += weights["importance"] * losses.importance_loss(gates)
        if weights["load"]:
            total += weights["load"] * losses.load_loss(probs, gates)
        if weights["z"]:
            total += weights["z"] * losses.z_loss(logits)
    return total / max(len(aux), 1)


def mean_psnr(images: jax.Array, target: jax.Array) -> jax.Array:
    """() dB: the mean over images of `-10 log10(mse + 1e-6)`, clipped to [0, 1] first. The small number keeps the
    clean examples, which may come back exactly, from making a batch's mean infinite."""
    mse = jnp.mean(jnp.square(jnp.clip(images, 0.0, 1.0) - target), axis=(1, 2, 3))
    return jnp.mean(-10.0 * jnp.log10(mse + 1e-6))
