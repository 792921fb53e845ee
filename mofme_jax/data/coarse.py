"""Smooth fields on a grid four times coarser than the picture: a sixteenth of the work where nobody can tell.

Smoothing and enlarging are products with small banded matrices, from the left for the rows and from the right
for the columns, which every backend does well.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array

STEP = 4
"""Pixels from one coarse sample to the next."""


def blocks(field: Array) -> Array:
    """Cuts (H, W) into (ceil(H / 4), 4, ceil(W / 4), 4) blocks, the border repeated to fill the last."""
    height, width = field.shape
    field = jnp.pad(field, ((0, -height % STEP), (0, -width % STEP)), mode="edge")
    return field.reshape(field.shape[0] // STEP, STEP, field.shape[1] // STEP, STEP)


def box_mean(field: Array, radius: int) -> Array:
    """Mean of (h, w) over boxes of 2 `radius` + 1 samples a side, the border repeated."""
    return _separable(_boxes(field.shape[0], radius), field, _boxes(field.shape[1], radius))


def enlarge(field: Array, height: int, width: int) -> Array:
    """Enlarges (h, w) four times by linear interpolation between block centres, and cuts it to (H, W)."""
    return _separable(_ramps(field.shape[0])[:height], field, _ramps(field.shape[1])[:width])


def _separable(rows: np.ndarray, field: Array, columns: np.ndarray) -> Array:
    # Highest precision: an accelerator's default rounds the factors to eight bits.
    return jnp.einsum("ih,hw,jw->ij", rows, field, columns, precision="highest")


def _boxes(size: int, radius: int) -> np.ndarray:
    matrix = np.zeros((size, size), np.float32)
    here = np.arange(size)
    for offset in range(-radius, radius + 1):
        np.add.at(matrix, (here, np.clip(here + offset, 0, size - 1)), 1 / (2 * radius + 1))
    return matrix


def _ramps(size: int) -> np.ndarray:
    fine = np.arange(STEP * size)
    position = np.clip((fine + 0.5) / STEP - 0.5, 0, size - 1)
    before = np.minimum(position.astype(int), max(size - 2, 0))
    matrix = np.zeros((STEP * size, size), np.float32)
    np.add.at(matrix, (fine, before), 1 - (position - before))
    np.add.at(matrix, (fine, np.minimum(before + 1, size - 1)), position - before)
    return matrix
