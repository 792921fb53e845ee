"""Restoring an image of any size, in tiles of one size.

Axis glossary: `S` tiles, `H W` pixels. Tiles have a fixed shape, so that one compiled program serves every image;
neighbours overlap by a halo and are blended by a smooth window, so that no seam shows.
"""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

TILE = 240
"""Default pixels on a tile's side: the published network's training crop."""

TILES_AT_ONCE = 4


@partial(jax.jit, static_argnums=0)
def _restore_tiles(model, params, tiles):
    """(S, tile, tile, 3) -> restored (S, tile, tile, 3) and uncertainty (S, tile, tile, 1)."""
    restored, aux = model.apply({"params": params}, tiles, train=False)
    maps = [layer.uncertainty for layer in aux if hasattr(layer, "uncertainty")]
    if not maps:
        return restored, jnp.zeros((*tiles.shape[:3], 1))
    tokens = jnp.mean(jnp.stack(maps), axis=0)[..., None]
    patch = -(-tiles.shape[1] // tokens.shape[1])
    pixels = jnp.repeat(jnp.repeat(tokens, patch, axis=1), patch, axis=2)
    return restored, pixels[:, : tiles.shape[1], : tiles.shape[2]]


def restore(model, params, image: np.ndarray, *, tile: int | None = None) -> np.ndarray:
    """Restores one image.

    Args:
      model: a module with `apply({"params": params}, images, train=False) -> (restored, aux)`.
      params: its parameters.
      image: (H, W, 3), uint8, or float in [0, 1]; any size of at least one pixel.
      tile: pixels on a tile's side, at least 16; `TILE` when None. A quarter of it is the overlap of neighbours.

    Returns:
      The restored image, of the same shape and dtype; floats lie in [0, 1].

    Raises:
      ValueError: for an array that is not such an image, or a tile that is too small.
      TypeError: for another dtype.
    """
    return restore_with_uncertainty(model, params, image, tile=tile)[0]


def restore_with_uncertainty(
    model, params, image: np.ndarray, *, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`restore`, and (H, W) float32: the routers' uncertainty in nats, the mean over layers, a value a token.

    It is 0 everywhere for a network without routers or with routers that know none.
    """
    image = np.asarray(image)
    tile = TILE if tile is None else tile
    _check(image, tile)
    pixels = image.astype(np.float32) / 255.0 if image.dtype == np.uint8 else image.astype(np.float32)
    height, width = image.shape[:2]
    overlap = tile // 4
    padded = np.pad(pixels, ((0, max(0, tile - height)), (0, max(0, tile - width)), (0, 0)), mode="edge")
    corners = [(top, left) for top in tile_starts(height, tile, overlap) for left in tile_starts(width, tile, overlap)]
    window = blending_window(tile, overlap)
    total = np.zeros((*padded.shape[:2], 4), np.float32)  # three colours and the uncertainty
    weight = np.zeros((*padded.shape[:2], 1), np.float32)
    for start in range(0, len(corners), TILES_AT_ONCE):
        some = corners[start : start + TILES_AT_ONCE]
        tiles = np.zeros((TILES_AT_ONCE, tile, tile, 3), np.float32)
        for i, (top, left) in enumerate(some):
            tiles[i] = padded[top : top + tile, left : left + tile]
        outputs = np.concatenate(_restore_tiles(model, params, jnp.asarray(tiles)), axis=-1)
        for i, (top, left) in enumerate(some):
            total[top : top + tile, left : left + tile] += window * outputs[i]
            weight[top : top + tile, left : left + tile] += window
    blended = (total / weight)[:height, :width]
    restored = np.clip(blended[..., :3], 0.0, 1.0)
    if image.dtype == np.uint8:
        return np.round(restored * 255.0).astype(np.uint8), blended[..., 3]
    return restored.astype(image.dtype), blended[..., 3]


def tile_starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles begin along a side: evenly spread from 0 to the end, neighbours sharing at least `overlap`."""
    if length <= tile:
        return [0]
    count = -(-(length - overlap) // (tile - overlap))
    return [round(i * (length - tile) / (count - 1)) for i in range(count)]


def blending_window(tile: int, overlap: int) -> np.ndarray:
    """(tile, tile, 1) weights: 1 in the middle, falling as half a cosine over `overlap` pixels, never to 0."""
    ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(overlap) + 0.5) / overlap)
    side = np.ones(tile)
    side[:overlap], side[tile - overlap :] = ramp, ramp[::-1]
    return np.outer(side, side)[..., None].astype(np.float32)


def _check(image: np.ndarray, tile: int) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (H, W, 3) with at least one pixel, not {image.shape}")
    if image.dtype != np.uint8 and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image must be uint8 or float in [0, 1], not {image.dtype}")
    if image.dtype != np.uint8 and not (np.isfinite(image).all() and 0.0 <= image.min() <= image.max() <= 1.0):
        raise ValueError("a float image must hold finite values in [0, 1]; give 0-255 values as uint8")
    if tile < 16:
        raise ValueError(f"tile={tile} is too small: take at least 16 pixels")
