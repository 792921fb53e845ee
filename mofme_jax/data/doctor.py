"""The data doctor: what is wrong with a folder of images, found before anything is learnt from it or judged by it."""

import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from mofme_jax.data.diagnosis import KINDS, Diagnosis, Finding
from mofme_jax.data.duplicates import ALIKE, figures, most_alike
from mofme_jax.data.folders import sizes_agree
from mofme_jax.data.layouts import TRAIN, Layout, Listing, Pair, find_layout, image_files
from mofme_jax.data.looks import Look, look_at_all
from mofme_jax.data.rules import unread_pairs
from mofme_jax.data.sets import LAYOUTS, layout_named

_LEAST_SIDE = 16

_COVERED_IN_PART = ("rain_cityscapes", "foggy_cityscapes")
"""Layouts whose folder of targets is another set's: it may hold more than they need."""

_KNOWN_EXTRAS = ("mask",)
"""Folders of images that come with a set and are of no use here: where Snow100K has snow."""

_UNLIKE, _SWAPPED = 0.3, 0.7
"""An input is swapped whose similarity with its own target is below the first and with another above the second.

Measured with `degrade` on 95 photographs: under its haze, rain, snow, raindrops and all four at once, an input's
similarity with its own target was 0.34 at least, and with another 0.35 at most. Haze far beyond its range leaves no
detail to compare. Of inputs given another's target, 95 in 95 are found under haze or rain, 78 under all four.
"""


def examine(
    root: str | Path, layout: str | None = None, progress: Callable[[int, int], None] | None = None
) -> Diagnosis:
    """Reads every image that the set in a folder uses, to its end, and says what is wrong with the set.

    Args:
      root: the folder. layout: the name of its layout; None finds it.
      progress: called with (files done, files in all) as the reading goes on.

    Returns:
      The diagnosis. Whatever is wrong with single files is in it, and no error.

    Raises:
      FileNotFoundError, NotADirectoryError, PermissionError: there is no folder that can be listed, or it is of no
        layout known.
      ValueError: the layout is unknown; a list of files names what is not below it.
    """
    started = time.monotonic()
    layouts = LAYOUTS if layout is None else [layout_named(layout)]
    found, listing = find_layout(root, layouts, tolerant=True, insist=layout is not None)
    paths = dict.fromkeys(path for pairs in listing.splits.values() for pair in pairs for path in pair.paths)
    looks = look_at_all(list(paths), progress)
    order = {kind: place for place, kind in enumerate(KINDS)}
    findings = sorted(_findings(found, listing, looks), key=lambda finding: (order[finding.kind], finding))
    harmless = {"count", "format", "ignored"} | ({"unused"} if found.name in _COVERED_IN_PART else set())
    return Diagnosis(
        folder=listing.root,
        layout=found,
        counts=_counts(found, listing),
        problems=[finding for finding in findings if finding.kind not in harmless],
        notes=[finding for finding in findings if finding.kind in harmless],
        files=len(looks),
        seconds=time.monotonic() - started,
    )


def _findings(layout: Layout, listing: Listing, looks: dict[Path, Look]) -> Iterator[Finding]:
    yield from _of_the_listing(layout, listing)
    yield from _of_the_folders(listing.root)
    yield from _ignored(layout, listing)
    yield from _of_the_files(listing, looks)
    whole = {path: look for path, look in looks.items() if not look.error}
    for pairs in listing.splits.values():
        both = [pair for pair in pairs if pair.input in whole and pair.target in whole]
        yield from _of_the_pairs(listing, both, whole)
        yield from _swapped(listing, both, whole)
    yield from _shared(listing, whole)


def _counts(layout: Layout, listing: Listing) -> dict[str, tuple[int, int | None]]:
    splits = dict.fromkeys([*listing.splits, *layout.published])
    return {split: (len(listing.splits.get(split, [])), layout.published.get(split)) for split in splits}


def _of_the_listing(layout: Layout, listing: Listing) -> Iterator[Finding]:
    """What the names alone tell."""
    for kind in ("lost", "absent", "unused"):
        for path in getattr(listing, kind):
            yield Finding(kind, (listing.name(path),))
    inputs = {*listing.lost, *(pair.input for pairs in listing.splits.values() for pair in pairs)}
    for two in listing.doubled:
        text = f"two {'inputs' if inputs & {*two} else 'targets'}: remove one"
        yield Finding("doubled", tuple(listing.name(path) for path in two), text)
    for path in listing.left_out:
        name = listing.name(path)
        scene = layout.rule(TRAIN, os.path.splitext(name)[0]).scene
        yield Finding("leak", (name,), f"scene {scene.split('/')[-1]}")
    for split, (found, known) in _counts(layout, listing).items():
        if known is not None and found != known:
            much = f"{abs(found - known):,} {'fewer' if found < known else 'more'}"
            yield Finding("count", (), f"{split}: {found:,} found, {much} than the {known:,} published")


def _of_the_folders(root: Path) -> Iterator[Finding]:
    """Folders that cannot be listed: the listing passes over them in silence."""
    errors: list[OSError] = []
    for _, folders, _ in os.walk(root, onerror=errors.append):
        folders[:] = [name for name in folders if not name.startswith(".")]
    for error in errors:
        yield Finding("unreadable", (Path(error.filename).relative_to(root).as_posix(),), str(error.strerror))


def _ignored(layout: Layout, listing: Listing) -> Iterator[Finding]:
    """Folders with images that the layout has no use for: perhaps it is not the layout that the user means."""
    unread = unread_pairs(layout, listing)
    for two in unread:
        text = "lay them out as the others are, take them elsewhere, or name another layout"
        yield Finding("unread", tuple(listing.name(path) for path in two), text)
    told = {path for two in unread for path in two}
    used = {path for pairs in listing.splits.values() for pair in pairs for path in pair.paths}
    used |= {*listing.lost, *listing.unused, *listing.left_out, *(path for two in listing.doubled for path in two)}
    count = Counter(path.parent for path in image_files(listing.root) if path not in used)
    for folder, images in count.items():
        if folder.name.lower() not in _KNOWN_EXTRAS and told.isdisjoint((folder, *folder.parents)):
            yield Finding("ignored", (listing.name(folder),), f"{images:,} images")


def _of_the_files(listing: Listing, looks: dict[Path, Look]) -> Iterator[Finding]:
    """What each file tells by itself."""
    for path, look in looks.items():
        name = (listing.name(path),)
        if look.error:
            yield Finding("unreadable", name, look.error)
            continue
        if look.odd:
            yield Finding("mode", name, look.odd)
        if look.format:
            yield Finding("format", name, f"it is {look.format}")
        if min(look.size) < _LEAST_SIDE:
            yield Finding("small", name, _size(look))


def _size(look: Look) -> str:
    return f"{look.size[1]} x {look.size[0]} pixels"


def _of_the_pairs(listing: Listing, pairs: list[Pair], looks: dict[Path, Look]) -> Iterator[Finding]:
    """What an input and its target tell."""
    for pair in pairs:
        one, other = (looks[path] for path in pair.paths)
        names = tuple(listing.name(path) for path in pair.paths)
        if not sizes_agree((one.size, other.size), pair.middle):
            yield Finding("size", names, f"{_size(one)} and {_size(other)}")
        if one.digest == other.digest and pair.weather != "clean":
            yield Finding("same", names, "a copy lies in the place of one of the two")


def _swapped(listing: Listing, pairs: list[Pair], looks: dict[Path, Look]) -> Iterator[Finding]:
    """Inputs that show another's target."""
    if not pairs:
        return
    inputs, targets = (_thumbnails([pair.paths[place] for pair in pairs], looks) for place in (0, 1))
    own = np.concatenate([
        np.sum(figures(inputs[i : i + 1024]) * figures(targets[i : i + 1024]), axis=1)
        for i in range(0, len(pairs), 1024)
    ])  # fmt: skip
    unlike = np.flatnonzero(own < _UNLIKE)
    for at, other, similarity in zip(unlike, *most_alike(inputs[unlike], targets), strict=True):
        if similarity > _SWAPPED:
            text = f"the input shows {listing.name(pairs[other].target)}"
            yield Finding("swapped", tuple(listing.name(path) for path in pairs[at].paths), text)


def _thumbnails(paths: list[Path], looks: dict[Path, Look]) -> np.ndarray:
    return np.stack([np.asarray(looks[path].thumbnail) for path in paths])


def _shared(listing: Listing, looks: dict[Path, Look]) -> Iterator[Finding]:
    """Pictures in TRAIN and another split. Several in one split, or in two that are both judged on, are as usual."""
    splits: dict[bytes, dict[Path, str]] = {}
    for split, pairs in listing.splits.items():
        for path in (path for pair in pairs for path in pair.paths if path in looks):
            splits.setdefault(looks[path].digest, {})[path] = split
    twice = {key: places for key, places in splits.items() if TRAIN in places.values() and len({*places.values()}) > 1}
    for places in twice.values():
        text = f"in {', '.join(dict.fromkeys(places.values()))}: remove it from {TRAIN}"
        yield Finding("duplicate", tuple(listing.name(path) for path in places), text)
    learnt, judged = (
        list({looks[path].digest: path for path in views if looks[path].digest not in twice}.values())
        for views in _clean_views(listing, looks)
    )
    if not (learnt and judged):
        return
    best, similarity = most_alike(_thumbnails(judged, looks), _thumbnails(learnt, looks))
    for at in np.flatnonzero(similarity >= ALIKE):
        text = f"similarity {similarity[at]:.3f}; remove the first"
        yield Finding("near", (listing.name(learnt[best[at]]), listing.name(judged[at])), text)


def _clean_views(listing: Listing, looks: dict[Path, Look]) -> tuple[list[Path], list[Path]]:
    """The clean image of every pair, or the only one it has, of TRAIN and of the rest.

    Inputs are passed over: fog and drops look much the same wherever they are, and what repeats has its target repeat.
    """
    learnt: list[Path] = []
    judged: list[Path] = []
    for split, pairs in listing.splits.items():
        views = (pair.target or pair.input for pair in pairs)
        (learnt if split == TRAIN else judged).extend(path for path in views if path in looks)
    return learnt, judged
