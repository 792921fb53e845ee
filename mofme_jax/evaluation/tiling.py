"""Restoring an image of any size, in tiles of one size.

Axis glossary: `S` tiles, `H W` pixels, `h w` rows and columns of tokens, `L` mixture layers, `M` passes. Tiles have a
fixed shape, so that one compiled program serves every image. Each begins on the grid of the network's patches (and of
its attention windows, where these fit), so that it sees its tokens as the whole image would have them. Neighbours
overlap: what lies nearest to a tile's border, the halo, is thrown away, and the rest of the overlap is blended by a
smooth window. Where the halo holds the receptive field, tiled and untiled are equal, but for what a tile that hangs
over the image's last row or column sees there: of an image smaller than a tile, or one that windows do not fill. The
error that a network expects of itself looks a few pixels further, and may differ a little near a tile's border.

A network that attends to the whole image judges the veil by what it sees of it, and a tile of nothing but sky looks
like dense haze. So of photographs from `TONE_FROM` pixels on the tone, what changes slowly, is taken from the same
photograph made `TONE_SIDE` pixels long, and only the rest from the tiles.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

from mofme_jax.models.router import LEARN_VARIANCE

TILE = 240
"""Default pixels on a tile's side: the published network's training crop."""

LARGEST_TILE = 1200
"""So far the default goes, for a network whose receptive field it can hold."""

TONE_FROM = 900
"""Pixels on the longer side of a photograph, of which tiles see so little that its tone is not left to them."""

TONE_SIDE = 480
"""Pixels on the longer side of the small photograph that tone is taken from."""

_TONE_SIGMA = 2.0  # pixels of that: what changes slower is tone

LARGEST_CHANNELS = {"uint8": 255, "uint16": 65535}
"""The whole numbers that images come in, with the value of full light."""


@dataclass(frozen=True)
class Observation:
    """A restored image and what the network did meanwhile.

    Attributes:
      restored: (H, W, 3), in the type of the image given.
      uncertainty: (H, W) float32, nats: the routers' mutual information, mean over layers, a value a token; 0 for
        a network without routers or with routers that know none.
      experts: (L, h, w) the number of each token's heaviest expert in each mixture layer.
      patch: pixels on a token's side.
      spread: (H, W) float32 in [0, 1]: standard deviation of the restored pixel over M passes with the routers'
        dropout (of one that learns a variance: its logits) drawn, mean over the channels; None where no passes were
        asked for.
      passes: M.
      error: (H, W) float32: the mean absolute error that the network expects of itself, in [0, 1]; None for one
        without an error head.
    """

    restored: np.ndarray
    uncertainty: np.ndarray
    experts: np.ndarray
    patch: int
    spread: np.ndarray | None = None
    passes: int = 0
    error: np.ndarray | None = None


def restore(model, params, image: np.ndarray, *, tile: int | None = None) -> np.ndarray:
    """Restores one image.

    Args:
      model: a module with `apply({"params": params}, images, train=False) -> (restored, aux)`.
      params: its parameters.
      image: (H, W, 3), uint8, uint16, or float in [0, 1]; any size of at least one pixel.
      tile: pixels on a tile's side, at least 16; rounded up to whole patches, two at the least. None: `TILE`, or four
        times the network's receptive field where that is more and at most `LARGEST_TILE`.

    Returns:
      The restored image, of the same shape and dtype; floats lie in [0, 1].

    Raises:
      ValueError: for an array that is not such an image, or a tile that is too small.
      TypeError: for another dtype.
    """
    return observe(model, params, image, tile=tile, error=False).restored


def restore_with_uncertainty(
    model, params, image: np.ndarray, *, tile: int | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """`restore`, and the uncertainty of an `Observation`."""
    seen = observe(model, params, image, tile=tile, error=False)
    return seen.restored, seen.uncertainty


def observe(
    model,
    params,
    image: np.ndarray,
    *,
    tile: int | None = None,
    passes: int = 0,
    error: bool = True,
    progress: Callable[[int, int], None] | None = None,
) -> Observation:
    """Restores one image and says what the network did: see `Observation`.

    Memory beyond the image, what is returned, and the network on `tiles_at_once` tiles is that of one row of tiles.

    Args:
      model, params, image, tile: see `restore`. Parameters that are split over devices must be on a mesh of axes of
        type Auto.
      passes: M, of the spread; 0 asks for none. The draws are fixed: the same image gives the same spread.
      error: whether the error head is asked, where there is one; it takes a fifth of the work of the small network.
      progress: called with the tiles done and their number, after every few.

    Raises:
      ValueError, TypeError: as `restore` does; or passes below 0 or 1, or a network whose routers have no dropout.
    """
    image = np.asarray(image)
    _check(image, tile)
    check_passes(model, passes)
    layout = lay_out(model, tile)
    tile, patch = layout.tile, layout.patch
    height, width = image.shape[:2]
    tops, lefts = (tile_starts(-(-length // patch) * patch, layout) for length in (height, width))
    rows, columns = tops[-1] + tile, lefts[-1] + tile
    padded = np.pad(image, ((0, rows - height), (0, columns - width), (0, 0)), mode="edge")
    error = error and getattr(model, "error_head", False)
    run = partial(_observe_tiles, model, passes, error)
    at_once = tiles_at_once()

    toned = layout.whole and max(height, width) >= TONE_FROM
    restored = np.empty((height, width, 3), np.float32 if toned else image.dtype)
    kinds = ["uncertainty", *(["spread"] if passes else []), *(["error"] if error else [])]
    maps = np.empty((height, width, len(kinds)), np.float32)
    experts: np.ndarray | None = None
    band = np.zeros((tile, columns, 3 + maps.shape[-1]), np.float32)
    weights = np.zeros((tile, columns, 1), np.float32)
    done = 0
    for i, top in enumerate(tops):
        for start in range(0, len(lefts), at_once):
            some = lefts[start : start + at_once]
            tiles = np.zeros((at_once, tile, tile, 3), np.float32)
            for j, left in enumerate(some):
                tiles[j] = _to_float(padded[top : top + tile, left : left + tile])
            pixels, heaviest = jax.device_get(run(params, jnp.asarray(tiles)))
            if experts is None:
                token = tile // heaviest.shape[2]
                experts = np.zeros((heaviest.shape[1], rows // token, columns // token), np.int32)
            for j, left in enumerate(some):
                window = layout.side(tops, i)[:, None, None] * layout.side(lefts, start + j)[:, None]
                band[:, left : left + tile] += window * pixels[j]
                weights[:, left : left + tile] += window
                _put(experts, heaviest[j], (top // token, left // token), layout.overlap // 2 // token)
            done += len(some)
            if progress is not None:
                progress(done, len(tops) * len(lefts))
        # what the next row of tiles does not reach is final
        final = (tops[i + 1] if i + 1 < len(tops) else rows) - top
        seen = slice(top, min(top + final, height))
        blended = band[: seen.stop - seen.start, :width] / weights[: seen.stop - seen.start, :width]
        restored[seen] = _like(blended[..., :3], restored.dtype)
        maps[seen] = blended[..., 3:]
        for kept in (band, weights):
            kept[: tile - final] = kept[final:].copy()
            kept[tile - final :] = 0.0
    assert experts is not None
    if toned:
        restored = _with_tone(model, params, image, restored, tile)
    experts = experts[:, : -(-height // token), : -(-width // token)]
    found = {kind: maps[..., i] for i, kind in enumerate(kinds)}
    return Observation(restored, experts=experts, patch=token, passes=passes, **found)


@partial(jax.jit, static_argnums=(0, 1, 2))
def _observe_tiles(model, passes: int, error: bool, params: Any, tiles: jax.Array) -> tuple[jax.Array, jax.Array]:
    """(S, tile, tile, 3) -> (S, tile, tile, 4 to 6): colours, uncertainty, and spread and error where they are asked
    for; (S, L, h, w) heaviest experts."""
    options = {"method": "with_error"} if error else {}
    restored, aux, *expected = model.apply({"params": params}, tiles, train=False, **options)
    layers = [layer for layer in aux if hasattr(layer, "uncertainty")]
    if layers:
        uncertainty = _to_pixels(jnp.mean(jnp.stack([layer.uncertainty for layer in layers]), axis=0), tiles.shape)
        heaviest = jnp.stack([layer.chosen[..., 0] for layer in layers], axis=1)
    else:
        uncertainty = jnp.zeros((*tiles.shape[:3], 1))
        heaviest = jnp.zeros((tiles.shape[0], 0, 1, 1), jnp.int32)
    parts = [restored, uncertainty]
    if passes:
        parts.append(_spread(model, passes, params, tiles, restored))
    parts += [each[..., None] for each in expected]
    return jnp.concatenate(parts, axis=-1), heaviest


def _to_pixels(tokens: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """(S, h, w) -> (S, tile, tile, 1): each pixel has its token's value."""
    size = -(-shape[1] // tokens.shape[1])
    pixels = jnp.repeat(jnp.repeat(tokens, size, axis=1), size, axis=2)
    return pixels[:, : shape[1], : shape[2], None]


def _spread(model, passes: int, params: Any, tiles: jax.Array, middle: jax.Array) -> jax.Array:
    """(S, tile, tile, 1): standard deviation over passes, in each of which the routers are drawn once.

    `middle` is the image restored without a draw. A dropout mask is one for all tokens, so every tile of an image sees
    the same M networks and their spread has no seams. The logits of a router that learns their variance are
    drawn token by token.
    """
    # any other head's parameters are those of a linear map, of which one pass of the stochastic head is a draw
    own = model.router in LEARN_VARIANCE
    sampled = model if own else model.clone(router="stochastic", router_passes=1)

    def one_pass(sums, key):
        restored, _ = sampled.apply({"params": params}, tiles, train=False, rngs={"dropout": key})
        off = restored - middle  # squares of small numbers keep their digits
        return (sums[0] + off, sums[1] + jnp.square(off)), None

    zeros = jnp.zeros(tiles.shape, jnp.float32)
    (total, squares), _ = jax.lax.scan(one_pass, (zeros, zeros), jax.random.split(jax.random.key(0), passes))
    variance = jnp.maximum(squares / passes - jnp.square(total / passes), 0.0) * passes / (passes - 1)
    return jnp.sqrt(variance).mean(-1, keepdims=True)


@dataclass(frozen=True)
class Layout:
    """How tiles lie over an image, all in pixels.

    Attributes:
      tile: side of a tile, a multiple of the patch.
      patch: of the network; 1 for what has none.
      grid: places where a tile may begin are its multiples.
      halo: thrown away at a border between tiles.
      overlap: of neighbours, at least; what is left of it between the halos is blended.
      whole: whether every pixel of a tile depends on all of it.
    """

    tile: int
    patch: int
    grid: int
    halo: int
    overlap: int
    whole: bool = False

    def side(self, starts: list[int], index: int) -> np.ndarray:
        """(tile,) float32 weights along one side of the `index`th of the tiles that begin at `starts`: 1 in the middle,
        0 in the halo where a neighbour lies, half a cosine over the rest of what the two share."""
        side = np.ones(self.tile, np.float32)
        if index > 0:
            edge = self._edge(starts[index - 1] + self.tile - starts[index])
            side[: len(edge)] = edge
        if index < len(starts) - 1:
            edge = self._edge(starts[index] + self.tile - starts[index + 1])
            side[self.tile - len(edge) :] *= edge[::-1]
        return side

    def _edge(self, shared: int) -> np.ndarray:
        blend = shared - 2 * self.halo
        ramp = 0.5 - 0.5 * np.cos(np.pi * (np.arange(blend) + 0.5) / blend)
        return np.concatenate([np.zeros(self.halo), ramp])


def lay_out(model, tile: int | None) -> Layout:
    """The layout for a network; `tile` as in `restore`.

    The halo holds the receptive field where that is at most a quarter of the tile: then tiled equals untiled. Else it
    is a sixteenth, which keeps what convolutions see of a tile's border out of the image.
    """
    patch = getattr(model, "patch", 1)
    reach = model.receptive_field() if hasattr(model, "receptive_field") else None
    if tile is None:
        tile = 4 * reach if reach is not None and TILE < 4 * reach <= LARGEST_TILE else TILE
    tile = max(-(-tile // patch), 2 if patch > 1 else 1) * patch
    halo = reach if reach is not None and 4 * reach <= tile else tile // 16
    overlap = max(tile // 4, 2 * halo + tile // 8)
    windows = patch * (getattr(model, "window", None) or 1)
    whole = reach is None and hasattr(model, "receptive_field")
    return Layout(tile, patch, windows if windows <= tile - overlap else patch, halo, overlap, whole)


def tile_starts(length: int, layout: Layout) -> list[int]:
    """Where tiles begin along a side of `length` pixels, a multiple of the patch.

    On multiples of the grid, evenly spread from 0 on, neighbours sharing at least the overlap. The last one ends where
    the image does or, where the grid does not allow that, beyond it.
    """
    if length <= layout.tile:
        return [0]
    steps = -(-(length - layout.tile) // layout.grid)
    stride = (layout.tile - layout.overlap) // layout.grid
    count = -(-steps // stride)
    return [i * steps // count * layout.grid for i in range(count + 1)]


def tiles_at_once() -> int:
    """S: a CPU gains nothing from more, and most photographs fill few."""
    return 2 if jax.default_backend() == "cpu" else 8


def _with_tone(model, params, image: np.ndarray, restored: np.ndarray, tile: int) -> np.ndarray:
    """(H, W, 3) floats restored in tiles, with the tone of the whole photograph restored small; in the image's type."""
    height, width = image.shape[:2]
    scale = TONE_SIDE / max(height, width)
    size = max(1, round(height * scale)), max(1, round(width * scale))
    small = np.clip(_resized(image, size, Image.Resampling.BOX), 0.0, 1.0)
    wanted = observe(model, params, small, tile=tile, error=False).restored
    off = wanted - _resized(restored, size, Image.Resampling.BOX)
    off = gaussian_filter(off, (_TONE_SIGMA, _TONE_SIGMA, 0.0), mode="nearest")
    for channel in range(3):  # one at a time: of a large photograph they are much
        restored[..., channel] += _resized(off[..., channel : channel + 1], (height, width), Image.Resampling.BILINEAR)[
            ..., 0
        ]
    toned = np.empty(image.shape, image.dtype)
    for top in range(0, height, tile):
        toned[top : top + tile] = _like(restored[top : top + tile], image.dtype)
    return toned


def _resized(pixels: np.ndarray, size: tuple[int, int], how: Image.Resampling) -> np.ndarray:
    """(H, W, C) of any type -> (h, w, C) float32."""
    channels = (Image.fromarray(_to_float(pixels[..., c])) for c in range(pixels.shape[-1]))
    return np.stack([np.asarray(channel.resize(size[::-1], how)) for channel in channels], axis=-1)


def _put(experts: np.ndarray, heaviest: np.ndarray, corner: tuple[int, int], margin: int) -> None:
    """Writes a tile's (L, h, w) into the image's, but for what the tiles above and to the left know better."""
    inner = [margin if start else 0 for start in corner]
    rows, columns = (slice(start + skip, start + size) for start, skip, size in
                     zip(corner, inner, heaviest.shape[1:], strict=True))  # fmt: skip
    experts[:, rows, columns] = heaviest[:, inner[0] :, inner[1] :]


def _to_float(pixels: np.ndarray) -> np.ndarray:
    full = LARGEST_CHANNELS.get(pixels.dtype.name)
    return pixels.astype(np.float32) / full if full else pixels.astype(np.float32)


def _like(pixels: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """Floats as the type that the image had."""
    pixels = np.clip(pixels, 0.0, 1.0)
    full = LARGEST_CHANNELS.get(dtype.name)
    return (np.round(pixels * full) if full else pixels).astype(dtype)


def _check(image: np.ndarray, tile: int | None) -> None:
    if image.ndim != 3 or image.shape[-1] != 3 or 0 in image.shape:
        raise ValueError(f"image must be (H, W, 3) with at least one pixel, not {image.shape}")
    whole = image.dtype.name in LARGEST_CHANNELS
    if not whole and not np.issubdtype(image.dtype, np.floating):
        raise TypeError(f"image must be uint8, uint16 or float in [0, 1], not {image.dtype}")
    if not whole and not (np.isfinite(image).all() and 0.0 <= image.min() <= image.max() <= 1.0):
        raise ValueError("a float image must hold finite values in [0, 1]; give 0-255 values as uint8")
    if tile is not None and tile < 16:
        raise ValueError(f"tile={tile} is too small: take at least 16 pixels")


def check_passes(model, passes: int) -> None:
    """Raises ValueError for passes that `observe` cannot make with a network."""
    if passes == 0:
        return
    if passes < 2:
        raise ValueError(f"passes={passes}: a spread takes at least 2; 0 asks for none")
    if getattr(model, "feed_forward", "dense") == "dense":
        raise ValueError("passes draw the routers' dropout, and this network has no routers: take passes=0")
    if model.router_dropout == 0.0 and model.router not in LEARN_VARIANCE:
        raise ValueError("passes draw the routers' dropout, and this network has router_dropout=0: take passes=0")
