"""The photographs a run trains and is judged on, opened and checked before any work starts."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from mofme_jax.data.folders import PairFolder, PhotographFolder, pair_splits
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation.evaluator import Case, cut_to_middle, weather_cases
from mofme_jax.training.options import Options


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
        height, width = photograph.shape[:2]
        if min(height, width) < data.crop:
            raise ValueError(
                f"photograph {name} is {width} x {height} pixels, smaller than config.data.crop={data.crop}: "
                "remove it or lower the crop"
            )
    if data.validation:
        folder = PhotographFolder(data.validation, cache_bytes=0)
        validation = dict(zip(folder.names, folder, strict=True))
    else:
        validation = embedded_photographs("validation")
    settings = options.evaluation
    cases = partial(weather_cases, validation, data.weathers, repeats=settings.repeats, max_side=settings.max_side)
    return Sources(training, cases, paired=False)


def _pairs(options: Options) -> Sources:
    """Given pairs: train/ to learn from, every other split to be judged on, each a row of the table."""
    data, root = options.data, Path(options.data.pairs).expanduser()
    splits = pair_splits(root)
    tests = [split for split in splits if split != "train"]
    if "train" not in splits or not tests:
        raise FileNotFoundError(f"{root} needs a split train and another to evaluate on; it has {', '.join(splits)}")
    training = PairFolder(root / "train", data.resize, int(data.cache_gigabytes * 2**30))
    folders = {split: PairFolder(root / split, data.resize, cache_bytes=0) for split in tests}

    def cases():
        for split, folder in folders.items():
            for name, pair in zip(folder.names, folder, strict=True):
                cut = cut_to_middle(pair, options.evaluation.max_side)
                yield Case(split, name, cut[..., :3], cut[..., 3:])

    return Sources(training, cases, paired=True)
