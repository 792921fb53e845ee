"""The training stream: random crops of clean photographs, by Grain.

Axis glossary: `B` images, `H W` pixels. The stream is a function of its seed: photographs are shuffled anew each
epoch, every crop is drawn from (seed, position) alone, and the iterator's position is a small JSON-able dict,
so that a run continues after a stop with exactly the batches it would have seen.
"""

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import grain
import numpy as np
from PIL import Image


@dataclass(frozen=True)
class RandomCrop(grain.transforms.RandomMap):
    """A square crop of a photograph, perhaps shrunk, in one of its eight orientations.

    Attributes:
      size: pixels on the crop's side.
      min_scale: in (0, 1]. A crop is taken from a square up to 1/min_scale times as large (the factor is
        log-uniform, bounded by the photograph) and shrunk to `size`: distant views from near ones.
    """

    size: int
    min_scale: float = 1.0

    def random_map(self, photograph: np.ndarray, rng: np.random.Generator) -> np.ndarray:
        """(H, W, 3) uint8 -> (size, size, 3) uint8; pairs (H, W, 6) are cut alike and keep 6."""
        height, width = photograph.shape[:2]
        factor = self.min_scale ** -rng.uniform()
        side = min(round(self.size * factor), height, width)
        top, left = rng.integers(height - side + 1), rng.integers(width - side + 1)
        crop = photograph[top : top + side, left : left + side]
        if side != self.size:
            images = np.split(crop, crop.shape[-1] // 3, axis=-1)
            crop = np.concatenate([_resize(image, self.size) for image in images], axis=-1)
        orientation = int(rng.integers(8))
        crop = np.rot90(crop, orientation % 4)
        return np.ascontiguousarray(crop[:, ::-1] if orientation >= 4 else crop)


def _resize(image: np.ndarray, size: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((size, size), Image.Resampling.BICUBIC))


class _Passes:
    """Endless passes over `photographs`, each in an order drawn from (seed, number of the pass).

    Grain's own shuffle finds a place in a set of n among 2^16 by trial: with the five embedded photographs
    that takes 5 ms an element, more than the crop.
    """

    def __init__(self, photographs: Sequence[np.ndarray], seed: int):
        self._photographs, self._seed = photographs, seed
        self._order = lru_cache(maxsize=4)(self._draw)

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> np.ndarray:
        number, place = divmod(index, len(self._photographs))
        return self._photographs[int(self._order(number)[place])]

    def _draw(self, number: int) -> np.ndarray:
        return np.random.default_rng((self._seed, number)).permutation(len(self._photographs))


def training_stream(
    photographs: Sequence[np.ndarray],
    *,
    batch: int,
    crop: int,
    min_scale: float,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator:
    """An endless iterator over batches (B / process_count, crop, crop, 3) uint8.

    Args:
      photographs: random-access source of (H, W, 3) uint8 photographs, none smaller than the crop.
      batch: global batch size B, a multiple of process_count.
      crop, min_scale: see `RandomCrop`.
      seed: of the shuffle and of every crop.
      process_index, process_count: of this host; hosts take turns in the one stream and never share an element.

    Returns:
      A Grain iterator: `next`, `get_state() -> dict`, `set_state(dict)`.
    """
    if batch % process_count:
        raise ValueError(f"batch={batch} cannot be shared by {process_count} processes: make it a multiple")
    stream = grain.MapDataset.source(_Passes(photographs, seed)).seed(seed)
    stream = stream.random_map(RandomCrop(crop, min_scale))
    stream = stream[process_index::process_count].batch(batch // process_count)
    # two threads: the work is a crop and a resize, and on a laptop the other cores train
    options = grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)
    return iter(stream.to_iter_dataset(options))
