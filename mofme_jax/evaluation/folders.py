"""Folders of pictures that any method has written, beside the ground truth.

Axis glossary: `H W` pixels.
"""

import os
import re
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from mofme_jax.data.layouts import image_files
from mofme_jax.data.photos import COMPANIONS, SUFFIXES, header_size, read_photograph
from mofme_jax.evaluation.metrics import CONVENTIONS
from mofme_jax.evaluation.protocols import PROTOCOLS, fit, fits
from mofme_jax.evaluation.scoring import score


@dataclass(frozen=True)
class Files:
    """The files of one image: `pictures` to be judged, one of each folder, and the `truth`; `name` is the truth's."""

    name: str
    pictures: tuple[Path, ...]
    truth: Path


@dataclass(frozen=True)
class Judged:
    """One image and its figures.

    Attributes:
      name: of the image. group: whose mean it belongs to, such as a weather.
      scores: by protocol, PSNR in dB and SSIM of each picture, in the order of the pictures.
      pictures: the pictures and, last, the truth, as the first protocol compares them: (H, W, 3), uint8, or float in
        [0, 1].
    """

    name: str
    group: str
    scores: dict[str, tuple[tuple[float, float], ...]]
    pictures: tuple[np.ndarray, ...]


def match(pictures: Sequence[Path], truth: Path, how: str = "stem") -> list[Files]:
    """Finds which files belong together, in folders and the folders in them.

    Args:
      pictures: folders with one picture for each of the ground truth's.
      truth: the ground truth's folder.
      how: "stem", by the path below the folder without its suffix; or "sorted", the first with the first and so on,
        in the order of their paths without suffixes, in which 2 comes before 10.

    Returns:
      One for each image, in the order of the truths' paths.

    Raises:
      ValueError: a file without a partner, two of one stem, or counts that differ; the first few are named.
      FileNotFoundError, NotADirectoryError: no such folder, or no picture in it.
    """
    found = [_listed(folder) for folder in (*pictures, truth)]
    truths = found[-1]
    if how == "sorted":
        for folder, paths in zip(pictures, found, strict=False):
            if len(paths) != len(truths):
                raise ValueError(
                    f"{folder} has {len(paths)} pictures and {truth} {len(truths)}: "
                    "in sorted order there must be as many of both"
                )
        ordered = [_sorted(folder, paths) for folder, paths in zip((*pictures, truth), found, strict=True)]
        return [Files(_stem(paths[-1], truth), tuple(paths[:-1]), paths[-1]) for paths in zip(*ordered, strict=True)]
    stems = [_by_stem(folder, paths) for folder, paths in zip((*pictures, truth), found, strict=True)]
    for folder, ours in zip(pictures, stems, strict=False):
        if ours.keys() != stems[-1].keys():
            raise ValueError(_unmatched(folder, ours, truth, stems[-1]))
    return [Files(stem, tuple(of[stem] for of in stems[:-1]), path) for stem, path in stems[-1].items()]


def check_sizes(files: Sequence[Files], protocols: Sequence[str], tell: Callable[[int], None]) -> None:
    """Checks that all pictures can be compared with their truths, from the headers of their files.

    Args:
      files: see `match`.
      protocols: names of those to compare under.
      tell: is called with the number of images checked.

    Raises:
      ValueError: the first picture of a size that a protocol has no use for, with its truth; or that is no picture.
    """
    with ThreadPoolExecutor(_THREADS) as pool:
        headers = pool.map(lambda one: [header_size(path) for path in (*one.pictures, one.truth)], files)
        for done, (one, (*sizes, truth)) in enumerate(zip(files, headers, strict=True), start=1):
            for name in protocols:
                protocol = PROTOCOLS[name]
                expected = protocol.size(truth)
                window = CONVENTIONS[protocol.convention].window
                if min(expected) < window:
                    raise ValueError(
                        f"{one.truth} is {_pixels(truth)} pixels, {_pixels(expected)} under the protocol {name}: "
                        f"smaller than SSIM's window of {window}; remove it"
                    )
                for path, size in zip(one.pictures, sizes, strict=True):
                    if not fits(size, truth, protocol):
                        also = "" if expected == truth else f" or the {_pixels(expected)} of the protocol {name}"
                        raise ValueError(
                            f"{path} is {_pixels(size)} pixels and {one.truth} {_pixels(truth)}: a picture must have "
                            f"the size of its ground truth{also}"
                        )
            tell(done)


def judge_files(files: Sequence[Files], protocols: Sequence[str]) -> Iterator[Judged]:
    """Scores pictures, see `protocols.fit` and `scoring.score`; reads and computes in threads.

    Args:
      files: see `match`; checked by `check_sizes`.
      protocols: names of those to compare under.

    Yields:
      One for each image, in order.

    Raises:
      ValueError, OSError: a file that cannot be read; it is named.
    """

    def judge(one: Files) -> Judged:
        *pictures, truth = (read_photograph(path) for path in (*one.pictures, one.truth))
        return judged(one.name, "", lambda _: pictures, truth, protocols)

    with ThreadPoolExecutor(_THREADS) as pool:
        for start in range(0, len(files), _THREADS):  # no more pictures in memory than threads
            yield from pool.map(judge, files[start : start + _THREADS])


def judged(
    name: str,
    group: str,
    pictures: Callable[[str], Sequence[np.ndarray]],
    truth: np.ndarray,
    protocols: Sequence[str],
) -> Judged:
    """Scores the pictures of one image.

    Args:
      name: of the image. group: whose mean it belongs to.
      pictures: of a protocol's name, gives the pictures to be judged under it, each as `protocols.fit` takes them.
      truth: (H, W, 3) uint8.
      protocols: names of those to compare under.
    """
    scores: dict[str, tuple[tuple[float, float], ...]] = {}
    shown: tuple[np.ndarray, ...] = ()
    for protocol in protocols:
        rules = PROTOCOLS[protocol]
        pairs = [fit(picture, truth, rules) for picture in pictures(protocol)]
        scores[protocol] = tuple(score(*pair, rules.convention) for pair in pairs)
        shown = shown or (*(picture for picture, _ in pairs), pairs[0][1])
    return Judged(name, group, scores, shown)


_THREADS = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _listed(folder: Path) -> list[Path]:
    if not folder.exists():
        raise FileNotFoundError(f"there is no folder {folder}")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder")
    # not the pictures that `mofme restore` writes beside restored ones
    if not (paths := [path for path in image_files(folder) if not path.name.endswith(COMPANIONS)]):
        raise FileNotFoundError(f"no picture in {folder} or the folders in it ({', '.join(SUFFIXES)})")
    return paths


def _stem(path: Path, folder: Path) -> str:
    return path.relative_to(folder).with_suffix("").as_posix()


def _sorted(folder: Path, paths: Sequence[Path]) -> list[Path]:
    """By the numbers in their names: characters say 1, 10, but 10_rain, 1_rain, and wrong pairs would be scored."""
    parts = {path: re.split(r"([0-9]+)", _stem(path, folder)) for path in paths}
    return sorted(paths, key=lambda path: [int(part) if i % 2 else part for i, part in enumerate(parts[path])])


def _by_stem(folder: Path, paths: Sequence[Path]) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in paths:
        if (other := found.setdefault(_stem(path, folder), path)) != path:
            raise ValueError(f"{other} and {path} have one stem: which of them is meant? Remove the other")
    return found


def _unmatched(folder: Path, ours: dict[str, Path], truth: Path, theirs: dict[str, Path]) -> str:
    sides = []
    for place, stems, other in ((folder, ours, theirs), (truth, theirs, ours)):
        if lost := [stem for stem in stems if stem not in other]:
            sides.append(
                f"{len(lost)} of the {len(stems)} in {place} ({', '.join(lost[:3])}{', ...' * (len(lost) > 3)})"
            )
    remedy = (
        "if their sorted order agrees, say --match sorted"
        if len(ours) == len(theirs)
        else "add or remove files until there are as many; if names differ by more than the suffix, say --match sorted"
    )
    return f"pictures without a partner of the same stem: {' and '.join(sides)}; {remedy}"


def _pixels(size: tuple[int, int]) -> str:
    return f"{size[1]} x {size[0]}"
