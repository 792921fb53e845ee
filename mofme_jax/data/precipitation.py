"""What falls: rain streaks and snow flakes, as fields of light and opacity."""

import jax
import jax.numpy as jnp
from jax import Array

from mofme_jax.data import cells

# Rain in layers from near to far: (cell width in pixels, streak length relative to the longest, half width in
# pixels, light, relative density). Near streaks are long, sparse, bright and out of focus.
_RAIN_LAYERS = (
    (44.0, 1.00, 2.4, 0.26, 0.5),
    (22.0, 0.70, 1.6, 0.34, 0.7),
    (12.0, 0.45, 1.2, 0.30, 1.0),
    (7.0, 0.28, 1.0, 0.20, 1.1),
    (4.5, 0.18, 0.9, 0.12, 1.2),
)
# Snow in classes from near to far: (radius relative to the middle, softness of the edge, opacity, relative
# density). A softness of 2 is a blur without a core.
_SNOW_CLASSES = (
    (4.5, 2.0, 0.55, 0.5),
    (2.0, 1.5, 0.80, 0.7),
    (1.0, 1.0, 0.95, 0.55),
    (0.5, 0.9, 1.00, 0.2),
)
_SNOW_PITCH = 8.0  # size of a cell in radii of its largest flake; a flake must end within half of it


def rain_streaks(
    seed: Array, height: int, width: int, *, density: Array, length: Array, angle: Array, strength: Array
) -> Array:
    """Light that falling drops add to a picture, before the veil.

    Args:
      seed: uint32 scalar.
      height, width: size of the field in pixels.
      density: share of the cells that hold a streak, in [0, 1].
      length: of the nearest streaks, in pixels.
      angle: of the fall, in radians from the vertical.
      strength: factor on the light of all streaks.

    Returns:
      (H, W) light, 0 where there is no streak.
    """
    along, across = cells.rotate(*cells.pixel_grid(height, width), angle)

    def add_layer(index, total):
        layer, step = index >> 1, index & 1
        pitch, relative_length, half_width, light, crowd = jnp.asarray(_RAIN_LAYERS)[layer]
        reach = jnp.maximum(relative_length * length, 5.0)
        pitch_along = 1.5 * reach
        layer_seed = cells.stir(seed, layer)
        dv, du, bits = cells.column_cell(along / pitch_along, across / pitch, layer_seed, step)
        shift, size, bright, slant = cells.quarters(cells.stir(bits, 1))
        _, present = cells.halves(bits)
        half_length = reach * (0.25 + 0.25 * size)
        # Jitter along the fall as far as the cell leaves room.
        room = 0.5 * pitch_along - half_length
        s = (dv * pitch_along - (2 * shift - 1) * room) / half_length
        sway = jnp.minimum(0.04 * half_length, 0.5 * pitch - half_width)  # no farther than its cells reach
        d = (du * pitch - (2 * slant - 1) * s * sway) / half_width
        ends = cells.smooth(2.0 * (1 - jnp.abs(s)))
        streak = light * (0.35 + 0.65 * bright) * cells.bump(d * d) * ends
        return total + jnp.where(present < density * crowd, streak, 0.0)

    # A loop keeps the program small, and has the field computed once however often it is used.
    total = jax.lax.fori_loop(0, 2 * len(_RAIN_LAYERS), add_layer, jnp.zeros((height, width)))
    return strength * total


def snow_opacity(
    seed: Array, height: int, width: int, *, density: Array, size: Array, angle: Array, drift: Array
) -> Array:
    """How much of each pixel the flakes cover.

    Args:
      seed: uint32 scalar.
      height, width: size of the field in pixels.
      density: share of the cells that hold a flake, in [0, 1].
      size: radius of a flake of the middle class, in pixels.
      angle: of the fall, in radians from the vertical.
      drift: how far a flake moves while the shutter is open, in radii.

    Returns:
      (H, W) opacity in [0, 1].
    """
    y, x = cells.pixel_grid(height, width)

    def add_class(index, clear):
        kind, step = index >> 2, index & 3
        relative_radius, softness, opacity, crowd = jnp.asarray(_SNOW_CLASSES)[kind]
        radius = jnp.maximum(relative_radius * size, 1.5)
        pitch = _SNOW_PITCH * radius
        turn = 0.5 + 1.1 * kind  # each class on a grid of its own direction, lest the eye finds rows
        v, u = cells.rotate(y / pitch, x / pitch, turn)
        dv, du, bits = cells.cell(v, u, cells.stir(seed, kind), step >> 1, step & 1)
        # Along and across the fall, in flake radii.
        along, across = cells.rotate(dv * _SNOW_PITCH, du * _SNOW_PITCH, angle - turn)
        grow, squeeze, lean, dense = cells.quarters(cells.stir(bits, 1))
        present, wobble, notch, _ = cells.quarters(cells.stir(bits, 2))
        extent = 0.45 + 0.55 * grow
        along, across = along / extent, (across + (lean - 0.5) * 0.5 * along) / extent
        # A clump of three balls, smeared along its way.
        clump = jnp.zeros(())
        for size_, y_, x_ in ((1.0, 0.0, 0.0), (0.75, wobble, squeeze), (0.6, notch, 1 - wobble)):
            ahead = jnp.maximum(jnp.abs(along - 1.1 * (y_ - 0.5)) - drift, 0.0)
            aside = across - 0.8 * (x_ - 0.5) * jnp.sign(size_ - 0.7)
            clump = clump + size_ * cells.bump((ahead * ahead + aside * aside) / size_**2)
        # A rim of at least a pixel, so that the smallest are faint and not ragged.
        rim = jnp.maximum(softness, 2.0 / (radius * extent))
        alpha = opacity * (0.4 + 0.6 * dense) * cells.smooth(clump / rim)
        return clear * (1 - jnp.where(present < density * crowd, alpha, 0.0))

    clear = jax.lax.fori_loop(0, 4 * len(_SNOW_CLASSES), add_class, jnp.ones((height, width)))
    return 1 - clear
