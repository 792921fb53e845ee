"""The training stream: random crops of photographs or pairs from one source or several, by Grain.

Axis glossary: `B` images, `H W` pixels. The stream is a function of its seed: every source is shuffled anew each
epoch, every crop is drawn from (seed, position) alone, and the iterator's state is a position, so that a run continues
after a stop with exactly the batches it would have seen.
"""

import atexit
import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import grain
import numpy as np
from absl import flags
from PIL import Image

SIGNALS = (signal.SIGINT, signal.SIGTERM)
"""What ends a process, and not its workers."""


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
    """Endless passes over `images`, each in an order drawn from (seed, number of the pass, number of the source).

    Grain's own shuffle finds a place in a set of n among 2^16 by trial: with the five embedded photographs
    that takes 5 ms an element, more than the crop.
    """

    def __init__(self, images: Sequence[np.ndarray], seed: int, source: int):
        self._images, self._seed, self._source = images, seed, source
        self._orders: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return sys.maxsize

    def __getitem__(self, index: int) -> np.ndarray:
        number, place = divmod(index, len(self._images))
        return self._images[int(self._order(number)[place])]

    def _order(self, number: int) -> np.ndarray:
        if (order := self._orders.get(number)) is None:
            order = np.random.default_rng((self._seed, number, self._source)).permutation(len(self._images))
            # threads read ahead into the next pass; older ones are over
            self._orders = {n: o for n, o in self._orders.items() if n >= number - 1} | {number: order}
        return order


class TrainingStream(Iterator[np.ndarray]):
    """An endless iterator over this process's part of every batch, from any position on.

    Its whole state is how many batches were taken: batch n is a function of n, so that a run goes on with the same
    batches on any number of processes, workers or threads.
    """

    def __init__(self, batches: grain.MapDataset, workers: int):
        self._batches, self._workers = batches, workers
        self._taken = 0
        self._iterator: grain.DatasetIterator | None = None

    def __next__(self) -> np.ndarray:
        if self._iterator is None:
            # a worker, and the thread that starts it, inherit what is held back: until a worker ignores them, signals
            # to all processes cannot end it. This process takes them in other threads, or behind its first batch
            held = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS if self._workers else ())
            try:
                self._iterator = self._start()
                batch = next(self._iterator)
            finally:
                signal.pthread_sigmask(signal.SIG_SETMASK, held)
        else:
            batch = next(self._iterator)
        self._taken += 1
        return batch

    def get_state(self) -> dict[str, int]:
        """The position, for JSON."""
        return {"batches": self._taken}

    def set_state(self, state: dict[str, int]) -> None:
        """Goes to a position."""
        self.close()
        self._taken = state["batches"]

    def close(self) -> None:
        """Ends the threads or processes that read ahead; another `next` starts them anew."""
        if self._iterator is not None:
            self._iterator.close()
            atexit.unregister(self._iterator.close)
        self._iterator = None

    def _start(self) -> grain.DatasetIterator:
        rest = self._batches[self._taken :]
        if self._workers == 0:
            # two threads: the work is a crop and a resize, and on a laptop the other cores train
            return iter(rest.to_iter_dataset(grain.ReadOptions(num_threads=2, prefetch_buffer_size=16)))
        if not flags.FLAGS.is_parsed():  # Grain reads flags of its own, which nobody parses outside absl's app
            flags.FLAGS.mark_as_parsed()
        options = grain.multiprocessing.MultiprocessingOptions(num_workers=self._workers, per_worker_buffer_size=2)
        one_thread = grain.ReadOptions(num_threads=1, prefetch_buffer_size=2)
        iterator = iter(rest.to_iter_dataset(one_thread).mp_prefetch(options, _leave_with_parent))
        # Python ends what was not closed by SIGTERM, which workers ignore, and then waits for them
        atexit.register(iterator.close)
        return iterator


def _leave_with_parent(index: int, count: int) -> None:
    """What a worker does first: it leaves signals to its parent, and ends when that is gone, however it went.

    A terminal sends Ctrl-C, and a scheduler may send SIGTERM, to all processes; the parent needs its workers until the
    step that it is taking is saved.
    """
    del index, count
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def training_stream(
    sources: Sequence[Sequence[np.ndarray]],
    *,
    weights: Sequence[float] = (),
    batch: int,
    crop: int,
    min_scale: float,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
    workers: int = 0,
) -> TrainingStream:
    """An endless iterator over batches (B / process_count, crop, crop, 3 or 6) uint8.

    Args:
      sources: random-access sources of (H, W, 3) uint8 photographs, or all of (H, W, 6) pairs; see `TrainingImages`.
      weights: the share of the examples that come from each source, in any unit; (): by their lengths, so that
        an epoch of all has every image about once. They are mixed in a fixed pattern, not drawn.
      batch: global batch size B, a multiple of process_count.
      crop, min_scale: see `RandomCrop`.
      seed: of the shuffle and of every crop.
      process_index, process_count: of this host; the batches of all, one behind the other, are the one global batch.
      workers: processes that read; 0 reads with threads of this process.

    Raises:
      ValueError: a batch that cannot be shared, or weights as `mixed` has it.
    """
    if batch % process_count:
        raise ValueError(f"batch={batch} cannot be shared by {process_count} processes: make it a multiple")
    crops = mixed(sources, weights, seed).seed(seed).random_map(RandomCrop(crop, min_scale))
    # each host takes every n-th run of B / n examples and never reads those of another
    # endless as they are there is no remainder, but for the rounding of so large a number
    batches = crops.batch(batch // process_count, drop_remainder=True)
    return TrainingStream(batches[process_index::process_count], workers)


def mixed(sources: Sequence[Sequence], weights: Sequence[float], seed: int) -> grain.MapDataset:
    """Endless shuffled passes over every source, mixed: element n is what place n of the stream is cut from.

    Args:
      sources, weights, seed: see `training_stream`; the order depends on the lengths of the sources alone.

    Raises:
      ValueError: weights that are not one above 0 for each source.
    """
    weights = tuple(weights) or tuple(len(source) for source in sources)
    if len(weights) != len(sources) or not all(0 < weight < math.inf for weight in weights):
        raise ValueError(f"weights={weights} must be a number above 0 for each of the {len(sources)} sources")
    passes = [grain.MapDataset.source(_Passes(source, seed, number)) for number, source in enumerate(sources)]
    return passes[0] if len(passes) == 1 else grain.MapDataset.mix(passes, [w / sum(weights) for w in weights])
