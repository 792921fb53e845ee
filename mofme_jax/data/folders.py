"""Folders as random-access sources, read as they are: photographs, and pairs of a degraded and a clean image.

Axis glossary: `H W` pixels. A source is a sequence of examples, dicts with the same entries as the TFDS set of that
layout: of a pair input and target, (H, W, 3) uint8; weather, one of `WEATHER_LABELS`; scene; input_name and
target_name, paths below the folder. Of a clean photograph image, (H, W, 3) uint8, and name.
"""

import threading
import warnings
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from PIL import Image

from mofme_jax.data.layouts import TRAIN, Layout, Listing, Pair, find_layout, image_files
from mofme_jax.data.photos import SUFFIXES, header_size, read_photograph
from mofme_jax.data.rules import unread_pairs
from mofme_jax.data.sets import LAYOUTS, layout_named


class Source(Sequence[dict]):
    """Random access to examples, see above.

    Attributes:
      names: of the examples, in order.
    """

    names: list[str]

    def __len__(self) -> int:
        return len(self.names)

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of an example, found without decoding it."""
        raise NotImplementedError


class PhotographFolder(Source):
    """The clean photographs in a folder, sorted by path.

    Args:
      root: the folder, see `open_photographs`.
      splits: the first of these that it has is taken. One without splits is all TRAIN.

    Raises:
      FileNotFoundError, NotADirectoryError: see `open_photographs`; or it has none of the splits.
      ValueError, OSError: as `read_photograph` does, when one is read.
    """

    def __init__(self, root: str | Path, splits: Sequence[str] = (TRAIN,)):
        listing = open_photographs(root)
        if not (there := [split for split in splits if split in listing.splits]):
            raise FileNotFoundError(f"{root} has no photographs in {splits[0]}/; it has {', '.join(listing.splits)}")
        split = there[0]
        self.paths = [pair.paths[0] for pair in listing.splits[split]]
        self.names = [listing.name(path).removeprefix(f"{split}/") for path in self.paths]

    def __getitem__(self, index):
        return {"image": read_photograph(self.paths[index]), "name": self.names[index]}

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of a photograph, from its header alone."""
        return header_size(self.paths[index])


class ArraySource(Source):
    """Photographs that are in memory, as a source.

    Args:
      photographs: (H, W, 3) uint8 by name.
    """

    def __init__(self, photographs: dict[str, np.ndarray]):
        self.names, self._images = list(photographs), list(photographs.values())

    def __getitem__(self, index):
        return {"image": self._images[index], "name": self.names[index]}

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of a photograph."""
        height, width = self._images[index].shape[:2]
        return height, width


class PairFolder(Source):
    """The pairs of one split of a listing.

    Args:
      listing: see `open_pairs`. split: one of its splits, of images with a target.

    Raises:
      ValueError, OSError: when read: a pair of two sizes or an image that cannot be decoded; both files are named.
    """

    def __init__(self, listing: Listing, split: str):
        self.listing, self.pairs = listing, listing.splits[split]
        self.names = [listing.name(pair.input) for pair in self.pairs]

    def __getitem__(self, index):
        pair = self.pairs[index]
        return {**read_pair(pair), **labels(self.listing, pair)}

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of a pair, from the headers of its files alone.

        Raises:
          ValueError: the two differ.
        """
        pair = self.pairs[index]
        sizes = [header_size(path) for path in pair.paths]
        if not sizes_agree(sizes, pair.middle):
            raise ValueError(_two_sizes(pair, sizes))
        return sizes[0]


def labels(listing: Listing, pair: Pair) -> dict[str, str]:
    """What is known of a pair besides its pixels; target_name only where there is a target."""
    known = {"weather": pair.weather, "scene": pair.scene, "input_name": listing.name(pair.input)}
    return known if pair.target is None else {**known, "target_name": listing.name(pair.target)}


def read_pair(pair: Pair) -> dict[str, np.ndarray]:
    """Reads the images of a pair.

    Returns:
      input and, where there is one, target: (H, W, 3) uint8 of one size.

    Raises:
      ValueError, OSError: see `read_photograph`; or the sizes differ.
    """
    assert pair.input is not None
    degraded = read_photograph(pair.input)
    if pair.target is None:
        return {"input": degraded}
    target = read_photograph(pair.target)
    sizes = [image.shape[:2] for image in (degraded, target)]
    if not sizes_agree(sizes, pair.middle):
        raise ValueError(_two_sizes(pair, sizes))
    top, left = ((t - d) // 2 for t, d in zip(*reversed(sizes), strict=True))
    return {"input": degraded, "target": target[top : top + sizes[0][0], left : left + sizes[0][1]]}


def sizes_agree(sizes: Sequence[Sequence[int]], middle: bool) -> bool:
    """Whether input and target, (H, W) each, are of one size, or the target as much larger as RESIDE's indoor ones."""
    margins = [target - degraded for degraded, target in zip(*sizes, strict=True)]
    return margins == [0, 0] or (middle and margins == [MARGIN, MARGIN])


MARGIN = 20
"""Pixels by which a target is larger, both ways, where it is cut to its middle: 640 x 480 against 620 x 460."""


def _two_sizes(pair: Pair, sizes: Sequence[Sequence[int]]) -> str:
    shown = " and ".join(f"{width} x {height}" for height, width in sizes)
    return f"{pair.input} and {pair.target} differ in size: {shown} pixels"


def open_photographs(root: str | Path) -> Listing:
    """Lists a folder of clean photographs, in train/ and validation/ or loose.

    Raises:
      FileNotFoundError, NotADirectoryError: no folder, or none of photographs: what looks like pairs is no such folder.
    """
    root = Path(root).expanduser()
    if root.is_dir() and not image_files(root):
        raise FileNotFoundError(
            f"No photograph in {root} or the folders in it: put some there ({', '.join(SUFFIXES)})."
        )
    return find_layout(root, [layout_named("photographs")])[1]


def open_pairs(root: str | Path, layout: str | None = None) -> tuple[Layout, Listing]:
    """Lists a folder of pairs, in the layout that it is found to have, or the one named.

    Returns:
      The layout and a listing in which every input has its target.

    Raises:
      FileNotFoundError: no folder, or none of the layouts; those known are shown.
      ValueError: clean photographs or targets alone; inputs without targets, missing files, two inputs or two
        targets of one name: the first five are named.
      OSError: a folder cannot be listed.

    Warns:
      UserWarning: there are pairs in the folder that the layout has no use for.
    """
    layouts = LAYOUTS if layout is None else [layout_named(layout)]
    found, listing = find_layout(root, layouts)
    if found.name == "photographs":
        raise ValueError(f"{root} holds photographs, and no pairs of a degraded and a clean one")
    for paths, what in [
        (listing.lost, "inputs have no target of their name"),
        (listing.absent, "files are listed and missing"),
        ([path for two in listing.doubled for path in two], "files share a name with another"),
    ]:
        if paths:
            named = ", ".join(listing.name(path) for path in paths[:5])
            raise ValueError(
                f"{listing.root} ({found.title}): {len(paths)} {what}: {named}{', ...' if len(paths) > 5 else ''}; "
                f"`mofme data doctor {root}` says all that is wrong"
            )
    if not listing.splits:
        raise ValueError(f"{listing.root} ({found.title}) holds targets, and no inputs that go with them")
    if unread := unread_pairs(found, listing):
        named = ", ".join(listing.name(inputs) for inputs, _ in unread[:5])
        more = ", ..." if len(unread) > 5 else ""
        warnings.warn(f"{listing.root} ({found.title}): pairs of no use here are left out: {named}{more}", stacklevel=2)
    return found, listing


class TrainingImages(Sequence):
    """A source as arrays to crop from, kept in memory while `cache_bytes` last. Safe to use from threads.

    An example becomes (H, W, 3) uint8 of a photograph, (H, W, 6) [input | target] of a pair.

    Args:
      source: of examples.
      resize: (H, W) that every image is resized to, bicubic; () leaves them.
      cache_bytes: memory that decoded images may take.

    Attributes:
      source: as given.
    """

    def __init__(self, source: Source, resize: tuple[int, ...] = (), cache_bytes: int = 0):
        self.source = source
        self._resized = (resize[1], resize[0]) if resize else None  # Pillow says width first
        self._limit = self._left = cache_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        if (image := self._kept.get(index)) is None:
            image = self._read(index)
            with self._lock:
                if index not in self._kept and image.nbytes <= self._left:
                    self._kept[index] = image
                    self._left -= image.nbytes
        return image

    def fill(self) -> Iterator[int]:
        """Reads images until the memory is full, with threads; yields how many have been read.

        It makes the first pass as fast as the others, and shows damaged files before any training.

        Raises:
          ValueError, OSError: an image that cannot be read.
        """
        with ThreadPoolExecutor(_THREADS) as pool:
            for start in range(0, len(self), _THREADS):
                if start and len(self._kept) < start:
                    return
                for image in pool.map(self.__getitem__, range(start, min(start + _THREADS, len(self)))):
                    del image
                yield min(start + _THREADS, len(self))

    def _read(self, index: int) -> np.ndarray:
        example = self.source[index]
        images = [example["input"], example["target"]] if "target" in example else [example["image"]]
        if size := self._resized:
            images = [np.asarray(Image.fromarray(i).resize(size, Image.Resampling.BICUBIC)) for i in images]
        return np.concatenate(images, axis=-1) if len(images) > 1 else images[0]

    def __getstate__(self) -> dict:
        """For worker processes: each has a memory of its own, which starts empty."""
        return {**self.__dict__, "_kept": {}, "_left": self._limit, "_lock": None}

    def __setstate__(self, state: dict) -> None:
        self.__dict__.update(state)
        self._lock = threading.Lock()


_THREADS = 8
