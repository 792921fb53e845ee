"""Pseudo-depth: a plausible relative depth for a photograph that has none, from one look at it."""

import jax.numpy as jnp
from jax import Array

from mofme_jax.data import cells, coarse

_RADIUS = 4  # of the guided filter's box, in coarse samples: 36 pixels across
_SOFTNESS = 0.02  # the filter's epsilon: variations of luma below about 0.14 are smoothed over
_SCENE = 512.0  # pixels from the nearest to the farthest ground: a smaller image is a window of such a scene


def pseudo_depth(seed: Array, image: Array) -> Array:
    """Draws a relative depth for an image.

    A horizon ramp of random tilt, bend and position, mixed with the dark channel (He et al., 2009: what has
    no dark colour component is likely far, or sky), and fitted to the edges of the image by a guided filter,
    which is solved on a coarse grid (He & Sun, 2015). A small crop sees a small part of the ramp, so it may
    be all near, all far, or anything between.

    Args:
      seed: uint32 scalar.
      image: (H, W, C) sRGB values in [0, 1].

    Returns:
      (H, W) depth in [0, 1], 0 at the camera.
    """
    height, width, _ = image.shape
    draws = cells.uniform(seed, 6)
    guide = image.mean(-1)
    coarse_guide = coarse.blocks(guide).mean((1, 3))
    dark = coarse.blocks(image.min(-1)).min((1, 3))
    share = 0.15 + 0.4 * draws[5]
    target = (1 - share) * _ramp(draws, *dark.shape) + share * dark
    slope, offset = _guided_fit(coarse_guide, target)
    slope, offset = (coarse.enlarge(field, height, width) for field in (slope, offset))
    return jnp.clip(slope * guide + offset, 0.0, 1.0)


def _ramp(draws: Array, rows: int, columns: int) -> Array:
    """Draws depth from a horizon, on the coarse grid; of the uniform `draws` the first five are used."""
    y, x = cells.pixel_grid(rows, columns)
    sway = 2 * draws[0] - 1
    tilt = 0.3 * sway + 1.3 * sway**9  # mostly upright, rarely on its side
    up, _ = cells.rotate((rows - 1) / 2 - y, x - (columns - 1) / 2, tilt)
    # The share of the scene's depth that this image spans, and where in the scene it lies.
    extent = min(1.0, max(rows, columns) * coarse.STEP / _SCENE)
    span = extent * (0.7 + 0.6 * draws[1])
    middle = 0.5 + (draws[2] - 0.5) * (1.3 - extent)
    position = jnp.clip(middle + span * up / max(rows, columns), 0.0, 1.0)
    bend = jnp.exp(1.4 * (draws[3] - 0.5))
    nearest = 0.15 * draws[4]
    return nearest + (1 - nearest) * position**bend


def _guided_fit(guide: Array, target: Array) -> tuple[Array, Array]:
    """Fits target ~ slope * guide + offset in every box and averages the fits (He et al., 2010)."""
    mean_guide, mean_target = coarse.box_mean(guide, _RADIUS), coarse.box_mean(target, _RADIUS)
    covariance = coarse.box_mean(guide * target, _RADIUS) - mean_guide * mean_target
    variance = coarse.box_mean(guide * guide, _RADIUS) - mean_guide**2
    slope = covariance / (variance + _SOFTNESS)
    return coarse.box_mean(slope, _RADIUS), coarse.box_mean(mean_target - slope * mean_guide, _RADIUS)
