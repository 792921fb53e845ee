"""What becomes a record of a TFDS set: the files of each example, and the images in them as every reader sees them."""

import hashlib
import io
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image

from mofme_jax.data.folders import PhotographFolder, labels, open_photographs, read_pair
from mofme_jax.data.layouts import Listing, Pair
from mofme_jax.data.photos import embedded_photographs, read_photograph

SPLITS = ("train", "validation")
"""Of clean photographs."""

Report = Callable[[str], None]

_SHARD_BYTES = 2**28  # of files in a shard: some hundred shards in a large set
_THREADS = 8
_AHEAD = 32  # examples that are read before they are written


@dataclass(frozen=True)
class Entry:
    """An example to be.

    Attributes:
      name: within its split. files: the name and the bytes of each file it is made from.
      read: () -> the example as TFDS takes it, and the (H, W) of its images.
    """

    name: str
    files: tuple[tuple[str, int], ...]
    read: Callable[[], tuple[dict, tuple[int, int]]]

    @property
    def bytes(self) -> int:
        """Of all its files."""
        return sum(size for _, size in self.files)


Entries = dict[str, list[Entry]]
"""By split, in order."""


def embedded_entries() -> Entries:
    """The photographs inside packages."""
    found = {split: embedded_photographs(split) for split in SPLITS}
    return {
        split: [Entry(n, ((n, image.nbytes),), partial(_embedded_example, n, image)) for n, image in images.items()]
        for split, images in found.items()
    }


def photograph_entries(root: Path) -> Entries:
    """The photographs in a folder, in the order of `PhotographFolder`.

    Raises:
      OSError: see `open_photographs`.
    """
    found = {split: PhotographFolder(root, (split,)) for split in open_photographs(root).splits}
    return {
        split: [_photograph(path, name) for path, name in zip(folder.paths, folder.names, strict=True)]
        for split, folder in found.items()
    }


def _photograph(path: Path, name: str) -> Entry:
    return Entry(name, ((name, path.stat().st_size),), partial(_photograph_example, path, name))


def pair_entries(listing: Listing, real: bool = False) -> Entries:
    """The pairs of a listing, in the order of `PairFolder`; of its splits those with a target, or the `real` ones."""
    return {
        split: [_pair(pair, listing) for pair in pairs]
        for split, pairs in listing.splits.items()
        if pairs and (pairs[0].target is None) == real
    }


def _pair(pair: Pair, listing: Listing) -> Entry:
    known = labels(listing, pair)
    names = [known[name] for name in ("input_name", "target_name") if name in known]
    files = tuple((name, path.stat().st_size) for name, path in zip(names, pair.paths, strict=True))
    return Entry(names[0], files, partial(_pair_example, pair, known))


def _embedded_example(name: str, image: np.ndarray) -> tuple[dict, tuple[int, int]]:
    return {"image": _ReadOnce(_png(image)), "name": name}, image.shape[:2]


def _photograph_example(path: Path, name: str) -> tuple[dict, tuple[int, int]]:
    image = read_photograph(path)
    return {"image": _encoded(path, image), "name": name}, image.shape[:2]


def _pair_example(pair: Pair, known: dict[str, str]) -> tuple[dict, tuple[int, int]]:
    images = read_pair(pair)
    encoded = {name: _encoded(path, images[name]) for name, path in zip(("input", "target"), pair.paths, strict=False)}
    return {**encoded, **known}, images["input"].shape[:2]


class _ReadOnce(io.BytesIO):
    """A file that lets go of its bytes once read: TFDS keeps the examples of a shard until all of them are written."""

    def read(self, size=-1):
        """All of it."""
        data = self.getvalue()
        self.close()
        return data


def _encoded(path: Path, image: np.ndarray) -> _ReadOnce:
    """The file itself if every reader sees `image` in it, else a PNG of `image`.

    Args:
      path: a file that has been read. image: what was read of it, uint8 (H, W, 3).
    """
    data = path.read_bytes()
    return _ReadOnce(data if _is_plain(data, image.shape[:2]) else _png(image))


_PNG_EXTRAS = (b"eXIf", b"iTXt", b"tRNS", b"acTL", b"Raw profile type")
"""Chunks of a PNG that may turn it, make it transparent or move it."""


def _is_plain(data: bytes, size: tuple[int, ...]) -> bool:
    """Whether this is an RGB JPEG or PNG of 8 bits, of that (H, W), which no reader turns or shows otherwise.

    What looks like an extra of a PNG by chance is taken for one: the picture stays the same.
    """
    with Image.open(io.BytesIO(data)) as image:
        if image.mode != "RGB" or (image.height, image.width) != tuple(size):
            return False
        if image.format == "JPEG":
            return image.getexif().get(ExifTags.Base.Orientation, 1) == 1
        # byte 24 of a PNG is its depth: Pillow calls 16 bits RGB as well
        return image.format == "PNG" and data[24] == 8 and not any(extra in data for extra in _PNG_EXTRAS)


def _png(image: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(image).save(file, "PNG")
    return file.getvalue()


def fingerprint(entries: Iterable[Entry]) -> dict[str, int | str]:
    """What a split was built from, in a few words: how many examples, their bytes, and a hash of names and bytes."""
    files = [entry.files for entry in entries]
    return {
        "examples": len(files),
        "bytes": sum(size for both in files for _, size in both),
        "sha256": hashlib.sha256(repr(files).encode("utf-8", "surrogateescape")).hexdigest(),
    }


def shards(entries: Iterable[Entry]) -> list[list[Entry]]:
    """The entries in runs of about `_SHARD_BYTES`."""
    found: list[list[Entry]] = []
    room = 0
    for entry in entries:
        if entry.bytes > room:
            found.append([])
            room = _SHARD_BYTES
        found[-1].append(entry)
        room -= entry.bytes
    return found


def read_entries(entries: Iterable[Entry]) -> Iterator[tuple[Entry, dict, tuple[int, int]]]:
    """Reads with threads, some examples ahead; yields in order.

    Raises:
      ValueError, OSError: an image that cannot be read.
    """
    ahead: deque[tuple[Entry, Future]] = deque()
    with ThreadPoolExecutor(_THREADS) as pool:
        for entry in entries:
            ahead.append((entry, pool.submit(entry.read)))
            if len(ahead) > _AHEAD:
                first, example = ahead.popleft()
                yield first, *example.result()
        for last, example in ahead:
            yield last, *example.result()


class Progress:
    """Says now and then how far the reading of `total` examples is."""

    PERIOD = 5.0  # seconds

    def __init__(self, total: int, report: Report):
        self._total, self._report, self._done = total, report, 0
        self._start = self._said = time.monotonic()

    def step(self) -> None:
        """Another one is done."""
        self._done += 1
        now = time.monotonic()
        if self._done == self._total or now - self._said >= self.PERIOD:
            self._said = now
            rate = self._done / max(now - self._start, 1e-3)
            left = (self._total - self._done) / rate
            self._report(f"{self._done:,} of {self._total:,} prepared, {rate:.0f} a second, {_clock(left)} left")


def _clock(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{seconds:02}"
