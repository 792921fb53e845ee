"""What a folder of images holds: which file is whose target, and the split, weather and scene of each.

A layout knows the folders of one of the field's sets and the rule by which its files are named; it opens no image.
The sets themselves are in `mofme_jax.data.sets`. Words used here: the *stem* of a file is its path below its folder
of inputs or targets without the suffix; the *scene* is what must not be in two splits.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
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
      middle: whether a target larger than its input is cut to its middle.
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


@dataclass(frozen=True)
class Folder:
    """A folder of inputs and that of their targets, in a split.

    Attributes:
      inputs: None where all are clean photographs. targets: None where all are real ones.
      names: of the inputs that belong to the set, where a list in a text file says so; None: all.
    """

    split: str
    inputs: Path | None
    targets: Path | None
    names: tuple[str, ...] | None = None


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
      middle: see `Pair`.
      divide: (listing) -> listing: the set's own rule for splits.
    """

    name: str
    title: str
    tree: str
    terms: str
    citation: str
    published: dict[str, int]
    folders: Callable[[Path], list[Folder]]
    rule: Callable[[str, str], Rule]
    middle: bool = False
    divide: "Callable[[Listing], Listing]" = lambda listing: listing


@dataclass(frozen=True)
class Listing:
    """What was found.

    Attributes:
      root: the folder that it was found in.
      splits: the pairs of each split, sorted by input; TRAIN first.
      lost: inputs without a target. absent: files that a text file lists and that are not there.
      unused: targets of no input.
      doubled: two targets of one stem: nothing says which is meant.
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


def read_layout(layout: Layout, root: Path) -> Listing:
    """Lists what is below `root`; opens nothing.

    Returns:
      A listing without splits where `root` is not of this layout.

    Raises:
      ValueError: a text file names what is not below its folder.
    """
    listing = Listing(root, {})
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
        for path in image_files(folder.targets):
            pairs.append(Pair(None, path, "clean", f"{folder.split}/{stem_of(path, folder.targets)}"))
        return
    inputs = [(stem_of(path, folder.inputs), path) for path in image_files(folder.inputs)]
    if folder.names is not None:
        there, listed = {stem for stem, _ in inputs}, {os.path.splitext(name)[0] for name in folder.names}
        listing.absent.extend(folder.inputs / name for name in folder.names if os.path.splitext(name)[0] not in there)
        inputs = [(stem, path) for stem, path in inputs if stem in listed]
    targets: dict[str, Path] = {}
    for path in image_files(folder.targets) if folder.targets else []:
        stem = stem_of(path, folder.targets)
        if (other := targets.setdefault(stem, path)) != path:
            listing.doubled.append((other, path))
    used = set()
    for stem, path in inputs:
        rule = layout.rule(folder.split, stem)
        target = next((targets[s] for s in rule.targets if s in targets), None)
        if target is None and folder.targets is not None:
            listing.lost.append(path)
            continue
        used.add(target)
        pairs.append(Pair(path, target, rule.weather, rule.scene, layout.middle))
    if folder.names is None:
        listing.unused.extend(path for path in targets.values() if path not in used)


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


def stem_of(path: Path, folder: Path | None) -> str:
    """The path below `folder` without its suffix: folders count, so that a/1.png and b/1.png are two."""
    assert folder is not None
    return os.path.splitext("/".join(path.parts[len(folder.parts) :]))[0]


def image_files(folder: Path) -> list[Path]:
    """The images in a folder and the folders in it, by their suffix, sorted; hidden ones are passed over."""
    found: list[Path] = []
    for place, _, files in visible(folder):
        found += [place / name for name in files if _suffix(name) in SUFFIXES]
    return sorted(found, key=lambda path: path.parts)


def visible(folder: Path) -> Iterator[tuple[Path, list[str], list[str]]]:
    """As `os.walk`, into links too, without what is hidden by a dot before its name, and without going in circles."""
    for where, folders, files in os.walk(folder, followlinks=True):
        folders[:] = [n for n in folders if not n.startswith(".") and not _leads_back(os.path.join(where, n))]
        yield Path(where), folders, [name for name in files if not name.startswith(".")]


def _leads_back(folder: str) -> bool:
    """Whether a folder is a link to one that it lies in."""
    return os.path.islink(folder) and Path(folder).parent.resolve().is_relative_to(Path(folder).resolve())


def _suffix(name: str) -> str:
    return os.path.splitext(name)[1].lower()


def find_layout(root: str | Path, layouts: Iterable[Layout]) -> tuple[Layout, Listing]:
    """The first of `layouts` that fits a folder, or the one folder in it where an archive was unpacked deeper.

    Args:
      root: the folder that the user has. layouts: from the particular to the general.

    Returns:
      The layout and what it finds, if only images without their counterparts.

    Raises:
      FileNotFoundError: there is no such folder, or it fits none of the layouts; the message shows them.
      NotADirectoryError: it is a file.
      ValueError: see `read_layout`.
    """
    layouts = list(layouts)
    root = Path(root).expanduser().absolute()
    if not root.exists():
        raise FileNotFoundError(f"there is no folder {root}")
    if not root.is_dir():
        raise NotADirectoryError(f"{root} is not a folder: give the folder that holds the images")
    places = _places(root)
    for layout in layouts:
        for place in places:
            listing = read_layout(layout, place)
            if listing.splits or listing.lost or listing.absent or listing.unused:
                return layout, listing
    wanted = "\n\n".join(f"{layout.name}: {layout.title}\n{layout.tree}" for layout in layouts)
    raise FileNotFoundError(f"{root} holds no set of images in a layout known here:\n\n{wanted}")


def _places(root: Path) -> list[Path]:
    """Where the set may begin: the root, and the one folder in it if that is all there is; the deepest first.

    Seen from above an unpacked folder, a layout for any folders of pairs would take it for a split.
    """
    places = [root]
    while len(places) < _DEPTH:
        _, folders, files = next(visible(places[0]), (root, [], []))
        if len(folders) != 1 or is_split(folders[0]) or any(_suffix(name) in SUFFIXES for name in files):
            break
        places.insert(0, places[0] / folders[0])
    return places


_DEPTH = 4


def is_split(name: str) -> bool:
    """Whether a folder's name says that it is a split."""
    return re.match("train|val|test|eval", name.lower()) is not None
