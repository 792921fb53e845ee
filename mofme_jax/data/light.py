"""Light and camera: between sRGB values and linear light, and what a sensor adds."""

import jax.numpy as jnp
from jax import Array

from mofme_jax.data import cells


def linear_from_srgb(image: Array) -> Array:
    """Decodes sRGB values in [0, 1] to linear light in [0, 1] (IEC 61966-2-1), elementwise."""
    return jnp.where(image <= 0.04045, image / 12.92, _power((image + 0.055) / 1.055, 2.4))


def srgb_from_linear(light: Array) -> Array:
    """Encodes linear light in [0, 1] as sRGB values in [0, 1] (IEC 61966-2-1), elementwise."""
    return jnp.where(light <= 0.0031308, light * 12.92, 1.055 * _power(light, 1 / 2.4) - 0.055)


def sense(light: Array, noise: Array, seed: Array) -> Array:
    """What a camera with `noise` makes of the light: shot noise, sRGB encoding, clipping, eight bits.

    Args:
      light: (H, W, C) linear light; values beyond [0, 1] saturate.
      noise: standard deviation of the noise at full light; it falls with the square root of the light, to a
        tenth in the dark. 0 is a perfect sensor.
      seed: uint32 scalar.

    Returns:
      (H, W, C) sRGB values in [0, 1], each a multiple of 1/255.
    """
    light = jnp.clip(light, 0.0, 1.0)
    index = jnp.arange(light.size, dtype=jnp.uint32).reshape(light.shape)
    # Four uniform bytes of one hash add up to a bell: variance 4/12, mean 2.
    bell = (sum(cells.quarters(cells.mix(index ^ seed))) - 2.0) * (12 / 4) ** 0.5
    light = jnp.clip(light + noise * jnp.sqrt(0.01 + light) * bell, 0.0, 1.0)
    return jnp.round(srgb_from_linear(light) * 255.0) / 255.0


def _power(base: Array, exponent: float) -> Array:
    """Power of a base of at least 1e-3, by exp and log: compilers have vector code for these two."""
    return jnp.exp(exponent * jnp.log(jnp.maximum(base, 1e-3)))
