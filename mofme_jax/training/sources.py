"""The photographs a run trains and is judged on, opened and checked before any work starts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from mofme_jax.data.folders import PairFolder, PhotographFolder, pair_splits
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation.evaluator import Case, cut_to_middle, weather_cases
from mofme_jax.training.options import Options

WINDOW = 11
"""Pixels on the side of SSIM's window: the smallest image that can be judged."""

CROP_REMEDY = "config.data.crop: remove it or lower the crop"
WINDOW_REMEDY = "SSIM's window: remove it"


@dataclass(frozen=True)
class Sources:
    """What a run sees.

    Attributes:
      training: random access to (H, W, 3) uint8 photographs or, if `paired`, (H, W, 6) [input | target].
      cases: makes the evaluation's cases, the same at every call.
      paired: whether the inputs are given, rather than made from the targets.
    """

    training: Sequence[np.ndarray]
    cases: Callable[[], Iterable[Case]]
    paired: bool


def open_sources(options: Options) -> Sources:
    """Opens what the `data` section names.

    Raises:
      ValueError, OSError: naming the folder or file and the remedy.
    """
    return _pairs(options) if options.data.pairs else _photographs(options)


def _photographs(options: Options) -> Sources:
    """Clean photographs; their weather is synthesised."""
    data = options.data
    cache_bytes = int(data.cache_gigabytes * 2**30)
    training: Sequence[np.ndarray]
    if data.tfds:
        from mofme_jax.data.builders import photograph_source  # only who asks for TFDS waits for its import

        config, manual_dir = ("folder", data.photographs) if data.photographs else ("embedded", None)
        prepared = photograph_source(data.tfds, "train", config, manual_dir, cache_bytes=cache_bytes)
        names, training = prepared.names, prepared
    elif data.photographs:
        folder = PhotographFolder(data.photographs, cache_bytes)
        names, training = folder.names, folder
    else:
        names, training = map(list, zip(*embedded_photographs("train").items(), strict=True))
    for name, photograph in zip(names, training, strict=True):
        _check_size(f"photograph {name}", photograph.shape[:2], data.crop, CROP_REMEDY)
    if data.validation:
        folder = PhotographFolder(data.validation, cache_bytes=0)
        validation = dict(zip(folder.names, folder, strict=True))
    else:
        validation = embedded_photographs("validation")
    for name, photograph in validation.items():
        _check_size(f"photograph {name}", photograph.shape[:2], WINDOW, WINDOW_REMEDY)
    settings = options.evaluation
    cases = partial(weather_cases, validation, data.weathers, repeats=settings.repeats, max_side=settings.max_side)
    return Sources(training, cases, paired=False)


def _pairs(options: Options) -> Sources:
    """Given pairs: train/ to learn from, every other split to be judged on, each a row of the table.

    All are looked at now, but only as far as their headers: sets of pairs are large.
    """
    data, root = options.data, Path(options.data.pairs).expanduser()
    splits = pair_splits(root)
    tests = [split for split in splits if split != "train"]
    if "train" not in splits or not tests:
        raise FileNotFoundError(f"{root} needs a split train and another to evaluate on; it has {', '.join(splits)}")
    training = PairFolder(root / "train", data.resize, int(data.cache_gigabytes * 2**30))
    folders = {split: PairFolder(root / split, data.resize, cache_bytes=0) for split in tests}
    _check_pairs(training, data.crop, CROP_REMEDY)
    for folder in folders.values():
        _check_pairs(folder, WINDOW, WINDOW_REMEDY)

    def cases() -> Iterable[Case]:
        for split, folder in folders.items():
            for name, pair in zip(folder.names, folder, strict=True):
                cut = cut_to_middle(pair, options.evaluation.max_side)
                yield Case(split, name, cut[..., :3], cut[..., 3:])

    return Sources(training, cases, paired=True)


def _check_size(name: str, size: Sequence[int], least: int, whose: str) -> None:
    if min(size) < least:
        raise ValueError(f"{name} is {size[1]} x {size[0]} pixels, smaller than the {least} of {whose}")


def _check_pairs(folder: PairFolder, least: int, whose: str) -> None:
    """Raises ValueError for the first pair that is no pair of images, of two sizes, or too small."""
    for paths in folder.pairs:
        # sides in ascending order, because a camera's orientation may turn one image of a pair and not the other
        sides = [sorted(_header_size(path)) for path in paths]
        if folder.resize:
            continue
        if sides[0] != sides[1]:
            raise ValueError(f"{paths[0]} and {paths[1]} differ in size: make them one, or set config.data.resize")
        _check_size(str(paths[0]), sides[0], least, whose)


def _header_size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path} cannot be read as a photograph: {error}. Replace or remove it.") from error
