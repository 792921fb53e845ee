"""Raindrops on the glass in front of the lens: each is a small wide-angle lens that turns the scene over."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from mofme_jax.data import cells, coarse

# Drops in classes from small to large: (radius relative to the largest, relative density).
_CLASSES = ((0.18, 0.25), (0.42, 0.9), (1.0, 1.25))
_PITCH = 3.5  # size of a cell in radii of its largest drop; a drop must end within half of it
_FLOOR = 0.3  # height of the surface of balls at which the glass is dry: higher is further apart


class Glass(NamedTuple):
    """The wet glass, per pixel.

    Attributes:
      cover: (H, W) how much of the pixel is seen through water, in [0, 1].
      rise, run: (H, W) vertical and horizontal offset from the drop's middle, in radii of the drop.
      thickness: (H, W) of the water, 0 at the rim, about 1 in the middle.
    """

    cover: Array
    rise: Array
    run: Array
    thickness: Array


def wet_glass(seed: Array, height: int, width: int, *, density: Array, size: Array, blur: Array) -> Glass:
    """Draws drops on a pane of glass.

    Where drops overlap, the thickest is seen. A first pass finds which one that is among the cells that reach
    the pixel, a second works out that one alone.

    Args:
      seed: uint32 scalar.
      height, width: size of the pane in pixels.
      density: share of the cells that hold a drop, in [0, 1].
      size: radius of the largest drops, in pixels.
      blur: width of the drops' edges in pixels, as the glass is nearer than the lens's focus.

    Returns:
      The wet glass.
    """
    grid = cells.pixel_grid(height, width)

    def rank(index, ranking):
        water, radius, *_ = _drop(grid, index, seed, density, size)
        # The thickness in the high bits, whose drop it is in the low four: one maximum finds both.
        return jnp.maximum(ranking, (water * radius * 4096).astype(jnp.int32) * 16 + index)

    index = jax.lax.fori_loop(0, 4 * len(_CLASSES), rank, jnp.zeros((height, width), jnp.int32)) & 15
    water, radius, rise, run = _drop(grid, index, seed, density, size)
    # Near the rim the water deepens about two radii per radius: the way in from the rim in pixels, over blur.
    return Glass(cells.smooth(0.5 * water * radius / blur), rise, run, water)


def _drop(
    grid: tuple[Array, Array], index: Array, seed: Array, density: Array, size: Array
) -> tuple[Array, Array, Array, Array]:
    """One of the drops that may reach each pixel: `index` (scalar or (H, W)) is 4 * class + cell of the 2x2.

    Returns:
      The thickness of the water, the drop's radius in pixels, and the vertical and horizontal offset from its
      middle in radii, each (H, W).
    """
    kind, step_v, step_u = index >> 2, (index >> 1) & 1, index & 1
    scale, crowd = (_pick(kind, [row[i] for row in _CLASSES]) for i in range(2))
    largest = jnp.maximum(scale * size, 2.5)
    pitch = _PITCH * largest
    # Each class on a grid of its own direction, lest the eye finds rows.
    cosine, sine = _pick(kind, [0.88, 0.45, -0.16]), _pick(kind, [0.475, 0.893, 0.987])
    y, x = grid
    v, u = (y * cosine + x * sine) / pitch, (x * cosine - y * sine) / pitch
    dv, du, bits = cells.cell(v, u, cells.stir(seed, kind), step_v, step_u)
    dy, dx = _PITCH * (dv * cosine - du * sine), _PITCH * (dv * sine + du * cosine)

    present, grow, side, lower = cells.quarters(cells.stir(bits, 3))
    near, wide, high, lean = cells.quarters(cells.stir(bits, 4))
    extent = 0.5 + 0.5 * grow
    dy, dx = dy / (1.2 * extent), dx / (1.2 * extent)
    # Three balls run into one another, as beads of water do: no drop is round.
    sag = dx + 0.5 * (lean - 0.5) * dy
    surface = cells.bump((dy * dy * 0.9 + sag * sag * (1.0 + 0.5 * wide)) * 0.7)
    y2, x2 = dy - 0.9 * (lower - 0.4), dx - 1.3 * (side - 0.5)
    surface = surface + (0.3 + 0.6 * near) * cells.bump((y2 * y2 + x2 * x2) * 1.3)
    y3, x3 = (dy + 0.3 + 0.5 * high) * (1.1 - 0.5 * high), dx - 0.8 * (side - 0.5) * (lean - 0.5)
    surface = surface + 0.6 * cells.bump((y3 * y3 + x3 * x3) * 1.8)
    water = jnp.clip((surface - _FLOOR) / (1.0 - _FLOOR), 0.0, 1.5)
    water = jnp.where(present < density * crowd, water, 0.0)
    return water, largest * extent, dy, dx


def look_through(light: Array, glass: Glass, *, view: Array) -> Array:
    """The scene through wet glass: I = (1 - M) J + M R, with R the scene at c - k (p - c), softened.

    Args:
      light: (H, W, C) linear light of the scene in [0, 1].
      glass: the drops.
      view: how far the scene reaches that a drop shows between its middle and its rim, in pixels: a drop of
        radius r has k = view / r - 1.

    Returns:
      (H, W, C) linear light.
    """
    height, width, _ = light.shape
    y, x = cells.pixel_grid(height, width)
    shown_y, shown_x = y - view * glass.rise, x - view * glass.run
    small = jnp.stack([_soften(light[..., c]) for c in range(light.shape[-1])], -1)
    shown = _sample(small, (shown_y + 0.5) / coarse.STEP - 0.5, (shown_x + 0.5) / coarse.STEP - 0.5)
    # Rays near the rim graze the surface and lose light; a light from above left is mirrored.
    shade = 0.6 + 0.4 * jnp.clip(2.5 * glass.thickness, 0.0, 1.0)
    spark = cells.bump(((glass.rise + 0.4) ** 2 + (glass.run + 0.3) ** 2) * 16.0) * glass.thickness
    water = shown * shade[..., None] + 1.2 * light.mean() * spark[..., None]
    return light + glass.cover[..., None] * (water - light)


def _soften(field: Array) -> Array:
    """What a lens so small resolves of (H, W): the means of 3x3 blocks, on the coarse grid."""
    return coarse.box_mean(coarse.blocks(field).mean((1, 3)), 1)


def _sample(image: Array, y: Array, x: Array) -> Array:
    """Bilinear samples of (h, w, C) at float coordinates (H, W), mirrored at the borders."""
    height, width, channels = image.shape
    y, x = _mirror(y, height), _mirror(x, width)
    top = jnp.clip(jnp.floor(y), 0, max(height - 2, 0))
    left = jnp.clip(jnp.floor(x), 0, max(width - 2, 0))
    down, right = (y - top)[..., None], (x - left)[..., None]
    first = (top * width + left).astype(jnp.int32)
    flat = image.reshape(-1, channels)
    corners = [
        flat.at[first + dy + dx].get(mode="clip")
        for dy in (0, width if height > 1 else 0)
        for dx in (0, 1 if width > 1 else 0)
    ]
    upper = corners[0] + right * (corners[1] - corners[0])
    lower = corners[2] + right * (corners[3] - corners[2])
    return upper + down * (lower - upper)


def _mirror(position: Array, size: int) -> Array:
    """Folds positions into [0, size - 1] by reflection."""
    last = float(max(size - 1, 1))
    folded = position - 2 * last * jnp.floor(position / (2 * last))
    return jnp.minimum(folded, 2 * last - folded)


def _pick(kind: Array, values: list[float]) -> Array:
    """values[kind], by selections, which fuse where a gather would not."""
    return jnp.select([kind == i for i in range(len(values))], [jnp.float32(value) for value in values])
