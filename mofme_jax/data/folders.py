"""Folders as random-access sources: photographs, and pairs of a degraded and a clean image.

Decoded images stay in memory up to a limit, so that a small set is decoded once and a large one streams.
"""

import re
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from mofme_jax.data.photos import folder_photographs, read_photograph


class CachedImages(Sequence):
    """Random access to images made by `_read(index)`, kept while `cache_bytes` last. Safe to use from threads."""

    def __init__(self, length: int, cache_bytes: int):
        self._length, self._left = length, cache_bytes
        self._kept: dict[int, np.ndarray] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, index):
        if not 0 <= index < self._length:
            raise IndexError(index)
        if (image := self._kept.get(index)) is None:
            image = self._read(index)
            with self._lock:
                if index not in self._kept and image.nbytes <= self._left:
                    self._kept[index] = image
                    self._left -= image.nbytes
        return image

    def _read(self, index: int) -> np.ndarray:
        raise NotImplementedError


class PhotographFolder(CachedImages):
    """The photographs below a folder, sorted by path, as (H, W, 3) uint8.

    Args:
      path: the folder. cache_bytes: memory that decoded photographs may take.

    Raises:
      ValueError, OSError: as `folder_photographs` and `read_photograph` do.
    """

    def __init__(self, path: str | Path, cache_bytes: int):
        self.paths = list(folder_photographs(path))
        self.names = [str(p.relative_to(Path(path).expanduser())) for p in self.paths]
        super().__init__(len(self.paths), cache_bytes)

    def _read(self, index: int) -> np.ndarray:
        return read_photograph(self.paths[index])


class PairFolder(CachedImages):
    """Pairs `input/<name>` and `gt/<name>` as (H, W, 6) uint8, [input | target].

    A target has its input's name, with any image suffix, or the RainDrop set's: `X_rain.png` goes with `X_clean.png`.
    Folders below input and gt are part of the name.

    Args:
      path: a folder with the folders input and gt in it.
      resize: (H, W) that both are resized to, bicubic; () leaves them.
      cache_bytes: memory that decoded pairs may take.

    Raises:
      ValueError, OSError: a missing folder, an input without its target (the first five are named), two
        targets of one name, or, when read, a pair of two sizes or an image that cannot be decoded.
    """

    def __init__(self, path: str | Path, resize: tuple[int, ...], cache_bytes: int):
        root = Path(path).expanduser()
        for part in ("input", "gt"):
            if not (root / part).is_dir():
                raise FileNotFoundError(f"{root} has no folder {part!r}: pairs lie in {root}/input and {root}/gt")
        inputs = folder_photographs(root / "input")
        targets = _by_stem(root / "gt")
        names = [p.relative_to(root / "input").as_posix() for p in inputs]
        stems = [_stem(p, root / "input") for p in inputs]
        found = [targets.get(stem) or targets.get(re.sub("_rain$", "_clean", stem)) for stem in stems]
        if lost := [name for name, target in zip(names, found, strict=True) if target is None]:
            raise ValueError(
                f"{len(lost)} of {len(inputs)} inputs in {root}/input have no target of that name in {root}/gt: "
                f"{', '.join(lost[:5])}{', ...' if len(lost) > 5 else ''}"
            )
        self.pairs = [(p, target) for p, target in zip(inputs, found, strict=True) if target]
        self.names, self.resize = names, tuple(resize)
        super().__init__(len(inputs), cache_bytes)

    def _read(self, index: int) -> np.ndarray:
        paths = self.pairs[index]
        pair = [read_photograph(p) for p in paths]
        if self.resize:
            height, width = self.resize
            pair = [np.asarray(Image.fromarray(p).resize((width, height), Image.Resampling.BICUBIC)) for p in pair]
        if pair[0].shape != pair[1].shape:
            raise ValueError(f"{paths[0]} and {paths[1]} differ in size: {pair[0].shape} and {pair[1].shape}")
        return np.concatenate(pair, axis=-1)


def _stem(path: Path, root: Path) -> str:
    """The path below `root` without its suffix: folders count, so that a/1.png and b/1.png are two."""
    return path.relative_to(root).with_suffix("").as_posix()


def _by_stem(root: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in folder_photographs(root):
        if (other := found.setdefault(_stem(path, root), path)) != path:
            raise ValueError(f"{other} and {path} are targets of one name: remove one")
    return found


def pair_splits(root: str | Path) -> list[str]:
    """Names of the folders below `root` that hold pairs, sorted.

    Raises:
      FileNotFoundError: there is no such folder, or none holds pairs.
    """
    root = Path(root).expanduser()
    found = sorted(p.name for p in root.glob("*") if (p / "input").is_dir() and (p / "gt").is_dir())
    if not found:
        raise FileNotFoundError(f"{root} holds no pairs: they lie in {root}/<split>/input and {root}/<split>/gt")
    return found
