"""What a folder of images holds: which file is whose target, and the split, weather and scene of each.

A layout knows the folders of one of the field's sets and the rule by which its files are named; it opens no image.
The sets themselves are in `mofme_jax.data.sets`. Words used here: the *stem* of a file is its path below its folder
of inputs or targets without the suffix; the *scene* is what must not be in two splits.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

from mofme_jax.data.photos import SUFFIXES

WEATHER_LABELS = ("haze", "rain", "raindrop", "snow", "clean", "unknown")
"""What the weather of a pair may be called; "rain" may come with its veil of haze."""

TRAIN = "train"
"""The split that is learnt from; all others are judged on."""


@dataclass(frozen=True)
class Pair:
    """The files of one example.

    Attributes:
      input: the degraded image; None of a clean photograph.
      target: the clean image; None of a real one that has no counterpart.
      weather: one of WEATHER_LABELS.
      scene: two pairs of one scene show the same view.
      middle: whether a target that is larger than its input, by RESIDE's margin, is cut to its middle.
    """

    input: Path | None
    target: Path | None
    weather: str
    scene: str
    middle: bool = False

    @property
    def paths(self) -> list[Path]:
        """Its files, the input first."""
        return [path for path in (self.input, self.target) if path is not None]


class Place:
    """A folder and what lies in it: listed when first asked for and then remembered, because many layouts ask.

    Links are followed, but not in circles. What is hidden by a dot before its name is passed over, and so is
    lost+found, which nobody but the file system may read.

    Args:
      path: of the folder. tolerant: whether a folder that cannot be listed counts as empty.
      there: whether there is such a folder; one that is not holds nothing.

    Raises:
      OSError: when listed: it cannot be, and is not tolerant.
    """

    def __init__(self, path: Path, tolerant: bool = False, there: bool = True):
        self.path, self.tolerant, self.there = path, tolerant, there

    @property
    def folders(self) -> "dict[str, Place]":
        """The folders in it by name, sorted."""
        return self._listed[0]

    @property
    def files(self) -> list[str]:
        """The names of the files in it, sorted."""
        return self._listed[1]

    @cached_property
    def _listed(self) -> "tuple[dict[str, Place], list[str]]":
        folders, files = [], []
        try:
            entries = list(os.scandir(self.path)) if self.there else []
        except OSError:
            if not self.tolerant:
                raise
            entries = []
        for entry in entries:
            if entry.name.startswith(".") or entry.name == "lost+found":
                continue
            if not _is_folder(entry):
                files.append(entry.name)
            elif not _leads_back(entry.path):
                folders.append(entry.name)
        return {name: Place(self.path / name, self.tolerant) for name in sorted(folders)}, sorted(files)

    def at(self, path: str) -> "Place":
        """The folder at a path below this one, with / between its parts, whatever the case of the names."""
        place = self
        for name in path.split("/"):
            alike = (there for known, there in place.folders.items() if known.lower() == name.lower())
            exact = place.folders.get(name)
            place = exact or next(alike, Place(place.path / name, self.tolerant, there=False))
        return place

    def walk(self) -> "Iterator[Place]":
        """Itself and every folder below."""
        yield self
        for folder in self.folders.values():
            yield from folder.walk()

    @cached_property
    def images(self) -> list[Path]:
        """The images in it and below, by their suffix, sorted."""
        found = [place.path / name for place in self.walk() for name in place.files if _suffix(name) in SUFFIXES]
        return sorted(found, key=lambda path: path.parts)


def _is_folder(entry: os.DirEntry) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link that leads nowhere
        return False


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return os.path.islink(folder) and Path(folder).parent.resolve().is_relative_to(Path(folder).resolve())


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


@dataclass(frozen=True)
class Folder:
    """A folder of inputs and that of their targets, in a split.

    Attributes:
      inputs: None where all are clean photographs. targets: None where all are real ones.
      names: of the inputs that belong to the set, where a list in a text file says so; None: all.
      middle: see `Pair`.
    """

    split: str
    inputs: Place | None
    targets: Place | None
    names: tuple[str, ...] | None = None
    middle: bool = False


@dataclass(frozen=True)
class Rule:
    """What a set says of an input: the stems that its target may have, best first; its weather; its scene."""

    targets: tuple[str, ...]
    weather: str
    scene: str


@dataclass(frozen=True)
class Layout:
    """A set's layout.

    Attributes:
      name: of the layout, and of the TFDS set that reads it.
      title: the set in a few words.
      tree: the folders and files, as a person has to lay them out.
      terms: who made it, under which terms, where known.
      citation: BibTeX.
      published: how many pairs each split was published with, where that is known.
      folders: (root) -> the folders of the set below it; none where this is another set.
      rule: (split, stem) -> Rule.
      divide: (listing) -> listing: the set's own rule for splits.
      doubt: (root) -> why this layout is not to be taken, unless insisted on; "" where it may be.
    """

    name: str
    title: str
    tree: str
    terms: str
    citation: str
    published: dict[str, int]
    folders: Callable[[Place], list[Folder]]
    rule: Callable[[str, str], Rule]
    divide: "Callable[[Listing], Listing]" = lambda listing: listing
    doubt: Callable[[Place], str] = lambda root: ""


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
      root: the folder that it was found in.
      splits: the pairs of each split, sorted by input; TRAIN first.
      lost: inputs without a target. absent: files that a text file lists and that are not there.
      unused: targets of no input.
      doubled: two inputs, or two targets, of one stem: nothing says which is meant.
      left_out: inputs of TRAIN whose scenes are judged on, and that are therefore not learnt from.
    """

    root: Path
    splits: dict[str, list[Pair]]
    lost: list[Path] = field(default_factory=list)
    absent: list[Path] = field(default_factory=list)
    unused: list[Path] = field(default_factory=list)
    doubled: list[tuple[Path, Path]] = field(default_factory=list)
    left_out: list[Path] = field(default_factory=list)

    def name(self, path: Path | None) -> str:
        """A path below the root, with / between its parts; "" of None."""
        return "" if path is None else path.relative_to(self.root).as_posix()


def read_layout(layout: Layout, root: Place) -> Listing:
    """Lists what is below `root`; opens nothing.

    Returns:
      A listing without splits where `root` is not of this layout.

    Raises:
      ValueError: a text file names what is not below its folder.
      OSError: a folder cannot be listed, see `Place`.
    """
    listing = Listing(root.path, {})
    for folder in layout.folders(root):
        _read_folder(layout, folder, listing)
    listing = layout.divide(listing)
    splits = {split: sorted(pairs, key=_place) for split, pairs in sorted(listing.splits.items()) if pairs}
    if TRAIN in splits:
        splits = {TRAIN: splits.pop(TRAIN), **splits}
    return _without_leaks(replace(listing, splits=splits))


def _read_folder(layout: Layout, folder: Folder, listing: Listing) -> None:
    """Adds the pairs of a folder to the listing."""
    pairs = listing.splits.setdefault(folder.split, [])
    if folder.inputs is None:
        assert folder.targets is not None
        for path in folder.targets.images:
            pairs.append(Pair(None, path, "clean", f"{folder.split}/{stem_of(path, folder.targets)}"))
        return
    inputs = _by_stem(folder.inputs)
    if folder.names is not None:
        inputs = _listed(folder.inputs.path, folder.names, inputs, listing)
    targets = _by_stem(folder.targets) if folder.targets else {}
    for paths in [*targets.values(), *(inputs.values() if folder.targets else ())]:
        listing.doubled.extend((paths[0], other) for other in paths[1:])
    used = set()
    for stem, paths in inputs.items():
        rule = layout.rule(folder.split, stem)
        target = next((targets[s][0] for s in rule.targets if s in targets), None)
        if target is None and folder.targets is not None:
            listing.lost.extend(paths)
            continue
        used.add(target)
        pairs.extend(Pair(path, target, rule.weather, rule.scene, folder.middle) for path in paths)
    if folder.names is None:
        listing.unused.extend(paths[0] for paths in targets.values() if paths[0] not in used)


def _by_stem(place: Place) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    for path in place.images:
        found.setdefault(stem_of(path, place), []).append(path)
    return found


def _listed(
    folder: Path, names: Iterable[str], inputs: dict[str, list[Path]], listing: Listing
) -> dict[str, list[Path]]:
    """The inputs that a list names, by stem: the very file if it is there, or else what differs in its suffix alone."""
    found: dict[str, list[Path]] = {}
    for name in dict.fromkeys(names):
        stem = os.path.splitext(name)[0]
        there = inputs.get(stem, [])
        if not there:
            listing.absent.append(folder / name)
            continue
        exact = [path for path in there if path == folder / name]
        found[stem] = list(dict.fromkeys([*found.get(stem, []), *(exact or there)]))
    return found


def _without_leaks(listing: Listing) -> Listing:
    """Leaves out of TRAIN what shows a scene of another split."""
    judged = {pair.scene for split, pairs in listing.splits.items() if split != TRAIN for pair in pairs}
    kept, leaks = [], list(listing.left_out)
    for pair in listing.splits.get(TRAIN, []):
        if pair.scene in judged and pair.input is not None:
            leaks.append(pair.input)
        else:
            kept.append(pair)
    if len(leaks) == len(listing.left_out):
        return listing
    return replace(listing, splits={**listing.splits, TRAIN: kept}, left_out=leaks)


def _place(pair: Pair) -> tuple[str, ...]:
    return pair.paths[0].parts


def stem_of(path: Path, place: Place) -> str:
    """The path below a folder without its suffix: folders count, so that a/1.png and b/1.png are two."""
    return os.path.splitext("/".join(path.parts[len(place.path.parts) :]))[0]


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, sorted; folders that cannot be listed are passed over."""
    return Place(folder, tolerant=True).images


def find_layout(
    root: str | Path, layouts: Iterable[Layout], *, tolerant: bool = False, insist: bool = False
) -> tuple[Layout, Listing]:
    """The first of `layouts` that fits a folder, or the one folder in it where an archive was unpacked deeper.

    Args:
      root: the folder that the user has.
      layouts: from the particular to the general.
      tolerant: whether folders that cannot be listed are passed over: what is found may then be less than the set.
      insist: whether a layout is taken in spite of its doubt.

    Returns:
      The layout and what it finds, if only images without their counterparts.

    Raises:
      FileNotFoundError: there is no such folder, or it fits none of the layouts; the message shows them.
      NotADirectoryError: it is a file.
      OSError: it, or a folder in it, cannot be listed; the message names it.
      ValueError: see `read_layout`.
    """
    layouts = list(layouts)
    root = Path(root).expanduser().absolute()
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder: give the folder that holds the images")
    os.scandir(root).close()  # of a folder that may not be looked into nothing can be said
    places = _places(Place(root, tolerant))
    doubts = ""
    for layout in layouts:
        if not insist and (doubt := layout.doubt(places[-1])):
            doubts += f" {doubt}" + (f", or insist with --layout {layout.name}" if len(layouts) > 1 else "")
            continue
        for place in places:
            listing = read_layout(layout, place)
            if listing.splits or listing.lost or listing.absent or listing.unused:
                return layout, listing
    wanted = "\n\n".join(f"{layout.name}: {layout.title}\n{layout.tree}" for layout in layouts)
    raise FileNotFoundError(f"{root} holds no set of images in a layout known here.{doubts}\n\n{wanted}")


def _places(root: Place) -> list[Place]:
    """Where the set may begin: the root, and the one folder in it if that is all there is; the deepest first.

    Seen from above an unpacked folder, a layout for any folders of pairs would take it for a split.
    """
    places = [root]
    while len(places) < _DEPTH:
        folders = places[0].folders
        if len(folders) != 1 or is_split(*folders) or any(_suffix(name) in SUFFIXES for name in places[0].files):
            break
        places.insert(0, *folders.values())
    return places


_DEPTH = 4


def is_split(name: str) -> bool:
    """Whether a folder's name says that it is a split."""
    return re.match("train|val|test|eval", name.lower()) is not None
