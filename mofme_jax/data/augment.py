"""Photometric variety for clean photographs, drawn on the device before the weather is put on.

Axis glossary: `H W` pixels. A handful of photographs has a handful of colours and, perhaps, no sky; a network that
learns them by heart will paint them over the next photograph. Random exposure, contrast, saturation and order of
the channels take the habit away; so does a plain bright region now and then, where haze and sky look alike.
"""

import jax
import jax.numpy as jnp


def vary_colours(key: jax.Array, image: jax.Array) -> jax.Array:
    """Draws another rendering of a photograph.

    The channels are permuted; saturation is scaled by 0.3 to 1.3, gamma by 0.6 to 1.65, exposure by 0.67 to 1.28 and
    each channel by another 0.9 to 1.1.

    Args:
      key: JAX key.
      image: (H, W, 3) in [0, 1].

    Returns:
      (H, W, 3) in [0, 1].
    """
    keys = jax.random.split(key, 5)
    image = image[..., jax.random.permutation(keys[0], 3)]
    grey = image.mean(-1, keepdims=True)
    image = grey + (image - grey) * jax.random.uniform(keys[1], minval=0.3, maxval=1.3)
    gamma = jnp.exp(jax.random.uniform(keys[2], minval=-0.5, maxval=0.5))
    exposure = jnp.exp(jax.random.uniform(keys[3], minval=-0.4, maxval=0.25))
    balance = jnp.exp(jax.random.uniform(keys[4], (3,), minval=-0.1, maxval=0.1))
    # the small number keeps the slope of x ** gamma finite at black
    return jnp.clip((jnp.clip(image, 0.0, 1.0) + 1e-6) ** gamma * exposure * balance, 0.0, 1.0)


def add_sky(key: jax.Array, image: jax.Array) -> jax.Array:
    """Lays a smooth bright region over one side of a photograph, behind a wavy edge, as a sky lies over a skyline.

    The side, the share (none to most), the outline, the softness of the edge and the two colours of the gradient
    are drawn.

    Args:
      key: JAX key.
      image: (H, W, 3) in [0, 1].

    Returns:
      (H, W, 3) in [0, 1].
    """
    height, width, _ = image.shape
    keys = jax.random.split(key, 7)
    y, x = jnp.meshgrid(jnp.linspace(-0.5, 0.5, height), jnp.linspace(-0.5, 0.5, width), indexing="ij")
    angle = jax.random.uniform(keys[0], maxval=2 * jnp.pi)
    across, along = jnp.cos(angle) * x + jnp.sin(angle) * y, jnp.cos(angle) * y - jnp.sin(angle) * x
    waves = jnp.array([1.0, 2.0, 4.0, 7.0])
    height_of = 0.06 * jax.random.normal(keys[1], (4,)) / waves
    phase = jax.random.uniform(keys[2], (4,), maxval=2 * jnp.pi)
    outline = jnp.sin(2 * jnp.pi * waves * along[..., None] + phase) @ height_of
    edge, softness = (
        jax.random.uniform(keys[3], minval=-0.3, maxval=0.5),
        jax.random.uniform(keys[4], minval=0.004, maxval=0.03),
    )
    cover = jnp.clip((across + outline - edge) / softness + 0.5, 0.0, 1.0)[..., None]
    zenith = jax.random.uniform(keys[5], (3,), minval=0.4, maxval=1.0)
    tint, lighter = jax.random.uniform(keys[6], (2,))
    zenith = zenith.mean() + (zenith - zenith.mean()) * tint
    horizon = jnp.clip(zenith + 0.3 * lighter, 0.0, 1.0)
    share = jnp.clip(across + 0.5, 0.0, 1.0)[..., None]
    return image + cover * (zenith * share + horizon * (1.0 - share) - image)
