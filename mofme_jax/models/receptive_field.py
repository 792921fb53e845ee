"""How far a restored pixel looks: which pixels of the image it can depend on.

Every operation of the network treats rows and columns alike and on their own, so one axis is enough: an interval of
positions is followed from the output back to the image, through the grids of the levels and of the tokens.
"""

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofme_jax.models.restorer import Restorer

Interval = tuple[int, int]
"""The first and the last position on a grid, which may lie below 0: borders are far away."""


def receptive_field(model: "Restorer") -> int | None:
    """The reach of a restored pixel.

    Returns:
      Pixels on each side, the most over all places in patches and windows; None where attention is global, so that
      every pixel depends on the whole image.
    """
    if model.window is None and model.depth:
        return None
    period = model.patch * (model.window or 1) * 2
    reach = 0
    for pixel in range(period):
        first, last = _needed(model, pixel)
        reach = max(reach, pixel - first, last - pixel)
    return reach


def _needed(model: "Restorer", pixel: int) -> Interval:
    """The pixels of the image that an output pixel depends on."""
    if model.skip == "none":
        convolutions = 6  # two residual blocks, the narrowing one, the output
        return _of_tokens(model, _coarser(_wider((pixel, pixel), convolutions), model.patch))
    strides, coarsest = _strides(model), len(model.channels) - 1
    found = [(pixel, pixel)]
    # the detail, and its means over patches, which are enlarged
    blocks = _between(pixel, model.patch)
    for low, high in ((pixel, pixel), (blocks[0] * model.patch, (blocks[1] + 1) * model.patch - 1)):
        found.append(_of_tail(model, 0, _wider(_coarser((low, high), model.stem), 1)))
    found.append(_of_tail(model, coarsest, _wider(_between(pixel, strides[-1]), 1)))  # the tone
    return _union(found)


def _of_tail(model: "Restorer", level: int, interval: Interval) -> Interval:
    """Through the way back up, from the features of a level behind its blocks."""
    interval = _wider(interval, 2 * model.blocks)
    found = [_of_head(model, level, interval)]
    if level == len(model.channels) - 1:
        found.append(_of_tokens(model, _coarser(interval, model.patch // _strides(model)[-1])))
    else:
        found.append(_of_tail(model, level + 1, _coarser(interval, 2)))
    return _union(found)


def _of_tokens(model: "Restorer", interval: Interval) -> Interval:
    """Through the transformer blocks and the embedding, from tokens."""
    for i in reversed(range(model.depth)):
        assert model.window is not None
        shift = model.window // 2 if i % 2 else 0
        low, high = ((position + shift) // model.window for position in interval)
        interval = (low * model.window - shift, (high + 1) * model.window - 1 - shift)
    return _of_head(model, len(model.channels) - 1, _finer(interval, model.patch // _strides(model)[-1]))


def _of_head(model: "Restorer", level: int, interval: Interval) -> Interval:
    """Through the way down, from the features of a level behind its blocks to pixels."""
    for i in reversed(range(level + 1)):
        interval = _wider(interval, 2 * model.blocks)
        interval = _finer(interval, 2) if i else _wider(interval, 1)
    return _finer(interval, model.stem)


def _strides(model: "Restorer") -> list[int]:
    return [model.stem * 2**i for i in range(len(model.channels))]


def _wider(interval: Interval, by: int) -> Interval:
    return interval[0] - by, interval[1] + by


def _coarser(interval: Interval, factor: int) -> Interval:
    return interval[0] // factor, interval[1] // factor


def _finer(interval: Interval, factor: int) -> Interval:
    return interval[0] * factor, interval[1] * factor + factor - 1


def _between(pixel: int, factor: int) -> Interval:
    """The two positions of a grid `factor` times coarser between whose centres a pixel is interpolated."""
    low = math.floor((pixel + 0.5) / factor - 0.5)
    return low, low + 1


def _union(intervals: list[Interval]) -> Interval:
    return min(low for low, _ in intervals), max(high for _, high in intervals)
