"""The images a run trains and is judged on, opened and checked before any work starts."""

import hashlib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from mofme_jax.data.fetch import cache_folder, photographs_folder
from mofme_jax.data.folders import (
    ArraySource,
    PairFolder,
    PhotographFolder,
    Source,
    TrainingImages,
    open_pairs,
    open_photographs,
)
from mofme_jax.data.layouts import TRAIN, Layout, Listing
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation.cases import Case, cut_to_middle, weather_cases
from mofme_jax.training import processes
from mofme_jax.training.options import DataOptions, Options
from mofme_jax.viz import ProgressBar

WINDOW = 11
"""Pixels on the side of SSIM's window: the smallest image that can be judged."""

CROP_REMEDY = "config.data.crop: remove it or lower the crop"
WINDOW_REMEDY = "SSIM's window: remove it"


@dataclass(frozen=True)
class Sources:
    """What a run sees.

    Attributes:
      training: the sources to mix, of (H, W, 3) uint8 photographs or, if `paired`, (H, W, 6) [input | target].
      cases: makes the evaluation's cases, the same at every call.
      paired: whether the inputs are given, rather than made from the targets.
    """

    training: list[TrainingImages]
    cases: Callable[[], Iterable[Case]]
    paired: bool

    def signature(self) -> list[str]:
        """The training images, in a word for each source: a run that goes on must find those it began with."""
        lists = [images.source.names for images in self.training]
        hashes = [hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")) for names in lists]
        return [f"{len(names)} images {h.hexdigest()[:12]}" for names, h in zip(lists, hashes, strict=True)]


def open_sources(options: Options) -> Sources:
    """Opens what the `data` section names, and checks every image as far as its header.

    Without workers, those that memory holds are also decoded; damage to others is found when they are read, and named.

    Raises:
      ValueError, OSError: naming the folder or file and the remedy.
    """
    if not options.data.tfds:
        return _pairs(options) if options.data.pairs else _photographs(options)
    with processes.first_one_first("prepared sets"):  # which builds those that are not there yet
        return _pairs(options) if options.data.pairs else _photographs(options)


def _photographs(options: Options) -> Sources:
    """Clean photographs; their weather is synthesised."""
    data = options.data
    training: list[Source]
    if data.tfds:
        from mofme_jax.data import prepared  # only who asks for TFDS waits for its import

        prepared.build(data.photographs[0], data.tfds, "photographs")
        training = [prepared.photograph_source(data.tfds, TRAIN, "folder")]
    elif data.photographs:
        training = [PhotographFolder(_fetched(folder)) for folder in data.photographs]
    else:
        training = [ArraySource(embedded_photographs("train"))]
    for source in training:
        _check_sizes(source, data.crop, CROP_REMEDY)
    validation = validation_photographs(data)
    _check_sizes(validation, WINDOW, WINDOW_REMEDY)
    settings, cache = options.evaluation, _cache()

    def cases() -> Iterable[Case]:
        photographs = {name: validation[index]["image"] for index, name in enumerate(validation.names)}
        return weather_cases(
            photographs,
            data.weathers,
            repeats=settings.repeats,
            max_side=settings.max_side,
            cache=cache,
        )

    return Sources(_in_memory(training, options), cases, paired=False)


def validation_photographs(data: DataOptions) -> Source:
    """The photographs to be judged by: those named, or validation/ beside those to train on, or the embedded ones.

    Raises:
      ValueError: photographs that are trained on as well.
    """
    if data.validation:
        judged = PhotographFolder(_fetched(data.validation), ("validation", TRAIN))
        learnt = {path.resolve() for folder in data.photographs for path in PhotographFolder(folder).paths}
        if both := [path for path in judged.paths if path.resolve() in learnt]:
            raise ValueError(f"{both[0]} and {len(both) - 1} others would be trained on and judged on: keep them apart")
        return judged
    for folder in data.photographs:
        if "validation" in open_photographs(folder).splits:
            return PhotographFolder(folder, ("validation",))
    return ArraySource(embedded_photographs("validation"))


def _cache() -> Path | None:
    """Where the evaluation's images are kept, or None for a user without a home."""
    try:
        return cache_folder() / "evaluation"
    except FileNotFoundError:
        return None


def _fetched(folder: str) -> Path:
    """The folder; where it is that of the photographs to be fetched, and they are not, they are asked for."""
    path = Path(folder).expanduser()
    if not path.exists() and path.absolute().is_relative_to(photographs_folder()):
        raise FileNotFoundError(f"{path} is not there yet: `mofme data fetch-photos` fetches these photographs")
    return path


def _pairs(options: Options) -> Sources:
    """Given pairs: the split train to learn from, every other to be judged on, each a row of the table."""
    data = options.data
    listings = {Path(root).expanduser().resolve(): open_pairs(root) for root in data.pairs}
    kinds = [layout.name for layout, _ in listings.values()]
    if len(listings) < len(data.pairs):
        raise ValueError(f"config.data.pairs={data.pairs!r} names a folder twice")
    if data.tfds and len(set(kinds)) < len(kinds):
        raise ValueError(f"config.data.tfds keeps one set of a layout, and the folders are {', '.join(kinds)}")
    short = len({root.name for root in listings}) == len(listings)
    training: list[Source] = []
    tests: dict[str, Source] = {}
    for root, (layout, listing) in listings.items():
        open_split = _opener(data.tfds, root, layout, listing)
        if listing.left_out:
            left_out = len(listing.left_out)
            processes.say(f"{root}: {left_out} training pairs are left out, because their scenes are judged on")
        if listing.splits.get(TRAIN):
            training.append(open_split(TRAIN))
            _check_sizes(training[-1], 1 if data.resize else data.crop, CROP_REMEDY)
        for split, pairs in listing.splits.items():
            if split != TRAIN and all(pair.target for pair in pairs):
                name = split if len(listings) == 1 else f"{root.name if short else root}/{split}"
                tests[name] = open_split(split)
                _check_sizes(tests[name], WINDOW, WINDOW_REMEDY)
    if len(training) < len(listings) or not tests:
        raise FileNotFoundError(
            "every folder of pairs needs a split train to learn from, and one of them another to be judged on (keep "
            "some pairs apart in test/input and test/gt); there are "
            + "; ".join(f"{', '.join(listing.splits)} in {root}" for root, (_, listing) in listings.items())
        )

    def cases() -> Iterable[Case]:
        for name, source in tests.items():
            for example in source:
                degraded, target = (cut_to_middle(example[k], options.evaluation.max_side) for k in ("input", "target"))
                yield Case(name, example["input_name"], degraded, target, f"{name}: {example['scene']}")

    return Sources(_in_memory(training, options), cases, paired=True)


def _opener(tfds: str, root: Path, layout: Layout, listing: Listing) -> Callable[[str], Source]:
    """What opens a split: of the folder itself, or of the set that TFDS keeps of it, built where it is not there."""
    if not tfds:
        return partial(PairFolder, listing)
    from mofme_jax.data import prepared  # only who asks for TFDS waits for its import

    prepared.build(root, tfds, layout.name)
    return partial(prepared.pair_source, tfds, layout=layout.name)


def _in_memory(sources: list[Source], options: Options) -> list[TrainingImages]:
    """The sources with memory for decoded images, shared by their lengths and by the workers."""
    data = options.data
    total = sum(len(source) for source in sources)
    memory = data.cache_gigabytes * 2**30 / max(1, data.workers)
    kept = [TrainingImages(source, data.resize, int(memory * len(source) / total)) for source in sources]
    if not data.workers:  # workers have memories of their own
        for images in kept:
            with ProgressBar(len(images), "reading images") as bar:
                for read in images.fill():
                    bar.update(read)
    return kept


def _check_sizes(source: Source, least: int, whose: str) -> None:
    """Raises ValueError for the first image that is none, too small, or of another size than its target."""
    with ThreadPoolExecutor(8) as pool, ProgressBar(len(source), "checking sizes") as bar:
        for index, size in enumerate(pool.map(source.size, range(len(source)))):
            if min(size) < least:
                raise ValueError(
                    f"photograph {source.names[index]} is {size[1]} x {size[0]} pixels, "
                    f"smaller than the {least} of {whose}"
                )
            bar.update(index + 1)


def batch_groups(options: Options, paired: bool) -> int:
    """How many parts a batch can be split into: every part holds each weather once (pairs: one image) in every
    micro-batch.

    Raises:
      ValueError: the batch cannot be dealt out to the weathers and the micro-batches.
    """
    weathers = 1 if paired else len(options.data.weathers)
    if options.train.batch % weathers:
        raise ValueError(f"config.train.batch={options.train.batch} must be a multiple of {weathers}, its weathers")
    if options.train.batch % (weathers * options.train.accumulate):
        raise ValueError(
            f"config.train.batch={options.train.batch} must be a multiple of {weathers * options.train.accumulate}: "
            f"config.train.accumulate={options.train.accumulate} micro-batches, each with {weathers} weather(s)"
        )
    return options.train.batch // (weathers * options.train.accumulate)
