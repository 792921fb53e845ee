"""Where each set of the field keeps its images, and how it names them: folders and rules for `Layout`.

Every `folders` takes the root that a person gives and returns the folders of the set, none where it is another set;
every rule takes a split and a stem.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from mofme_jax.data.layouts import TRAIN, Folder, Listing, Pair, Rule, image_files, is_split, visible

INPUTS = ("input", "inputs", "in", "data", "synthetic", "hazy", "haze", "rain", "rainy", "snow", "lq", "degraded")
"""Names that folders of degraded images go by."""

TARGETS = ("gt", "target", "targets", "clear", "clean", "norain", "groundtruth", "hq")
"""Names that folders of clean images go by."""

RAIN_TESTS = ("Rain100H", "Rain100L", "Test100", "Test1200", "Test2800")

_HEAVY_RAIN = re.compile(r"(?:.*/)?(im_(\d{4}))_s\d+_a\d+")
_TEST1_SCENES = range(301, 351)


def _pair_folder(split: str, place: Path, inputs: Sequence[str], targets: Sequence[str]) -> list[Folder]:
    """The two folders in `place`, each by the first of its names that is there.

    Where one of them is not there it is listed all the same: the images of the other then lack their counterparts,
    which is an error to be shown and not another set.
    """
    found_inputs, found_targets = (
        next((place / name for name in names if (place / name).is_dir()), None) for names in (inputs, targets)
    )
    if not (found_inputs or found_targets):
        return []
    return [Folder(split, found_inputs or place / inputs[0], found_targets or place / targets[0])]


def own_name(split: str, stem: str) -> Rule:
    """A target of its input's own name or of RainDrop's; no scene is shared between splits."""
    return Rule((stem, _clean_name(stem)), "unknown", f"{split}/{stem}")


def _clean_name(stem: str) -> str:
    return re.sub("_rain$", "_clean", stem)


# All-Weather: 9,001 snow, 818 raindrop, 8,250 rain


def all_weather_rule(split: str, stem: str) -> Rule:
    """What the names tell: Outdoor-Rain's, RainDrop's, and the rest is Snow100K's."""
    if heavy := _HEAVY_RAIN.fullmatch(stem):
        return Rule((stem, heavy[1]), "rain", heavy[1])
    weather = "raindrop" if split == "test_raindrop" or stem.endswith("_rain") else "snow"
    return replace(own_name(split, stem), weather=weather)


def all_weather_mofme(root: Path) -> list[Folder]:
    """All-Weather in MoFME's folders, known by those of its tests."""
    tests = ("test_rain", "test_raindrop", "test_snow")
    splits = {place.name for place in _folders_in(root) if (place / "input").is_dir()}
    if not splits & set(tests) or splits - {TRAIN, *tests}:  # with a split of another name it is a set of the user's
        return []
    return [f for split in (TRAIN, *tests) for f in _pair_folder(split, root / split, ["input"], ["gt"])]


_LISTS = {
    "allweather.txt": TRAIN,
    "test1.txt": "test_rain",
    "raindroptesta.txt": "test_raindrop",
    "snowtest100k_L.txt": "test_snow",
}


def all_weather_transweather(root: Path) -> list[Folder]:
    """All-Weather in TransWeather's folders, known by its lists of inputs."""
    found = []
    for place in (root, root / "train", root / "test", root / "data" / "train", root / "data" / "test"):
        for file, split in _LISTS.items():
            if (place / file).is_file():
                found += _listed_folders(place / file, split)
    return found


def _listed_folders(file: Path, split: str) -> list[Folder]:
    """The folders that a list of inputs names: `<set>/input/<name>`, each line relative to the list."""
    names: dict[Path, list[str]] = {}
    for line in file.read_text(encoding="utf-8-sig").splitlines():
        parts = [part for part in line.strip().split("/") if part not in ("", ".")]
        if not parts:
            continue
        if ".." in parts or "input" not in parts[:-1]:
            raise ValueError(f"{file}: the line {line!r} is no path <set>/input/<name> below {file.parent}")
        end = len(parts) - 1 - parts[::-1].index("input")
        inside = "/".join(parts[end + 1 :])
        names.setdefault(file.parent.joinpath(*parts[: end + 1]), []).append(inside)
    return [Folder(split, folder, folder.parent / "gt", tuple(listed)) for folder, listed in names.items()]


# Snow100K


def snow100k(root: Path) -> list[Folder]:
    """Snow100K, known by the folders of its three tests."""
    found = []
    for train in ("train", "all"):  # the archive of the training set unpacks to all/
        found += _pair_folder(TRAIN, root / train, ["synthetic"], ["gt"])
    for tests in ("test", "media/jdway/GameSSD/overlapping/test", "."):  # the archive of the tests has that path in it
        for size in "SML":
            found += _pair_folder(f"test_{size.lower()}", root / tests / f"Snow100K-{size}", ["synthetic"], ["gt"])
    if found and (root / "realistic").is_dir():
        found.append(Folder("realistic", root / "realistic", None))
    return found if any(f.targets and f.targets.parent.name.startswith("Snow100K-") for f in found) else []


def snow_rule(split: str, stem: str) -> Rule:
    """The same names on both sides."""
    return Rule((stem,), "snow", f"{split}/{stem}")


# RainDrop


def raindrop(root: Path) -> list[Folder]:
    """RainDrop, known by its folders called data; an archive may have been unpacked into a folder of its name."""
    splits = (TRAIN, "test_a", "test_b")
    if not any((root / split / "data").is_dir() or (root / split / split / "data").is_dir() for split in splits):
        return []
    places = [(split, place) for split in splits for place in (root / split, root / split / split)]
    return [f for split, place in places for f in _pair_folder(split, place, ["data"], ["gt"])]


def raindrop_rule(split: str, stem: str) -> Rule:
    """X_rain goes with X_clean. The numbers start anew in every split."""
    return Rule((stem, _clean_name(stem)), "raindrop", f"{split}/{stem}")


# Outdoor-Rain


def outdoor_rain(root: Path) -> list[Folder]:
    """Outdoor-Rain, known by the names of its inputs."""
    places = [(TRAIN, root), (TRAIN, root / "train")]
    places += [("test1", root / name) for name in ("test1", "test")]
    found = [f for split, place in places for f in _pair_folder(split, place, ["in", "input"], ["gt"])]
    names = (next(iter(image_files(f.inputs)), Path()).stem for f in found if f.inputs)
    return found if found and all(_HEAVY_RAIN.fullmatch(name) for name in names) else []


def outdoor_rain_rule(split: str, stem: str) -> Rule:
    """im_0001_s80_a04 shows im_0001; copies of the target may have the input's name."""
    heavy = _HEAVY_RAIN.fullmatch(stem)
    scene = heavy[1] if heavy else stem
    return Rule((stem, stem[: -len(Path(stem).name)] + scene), "rain", scene)


def hold_test1_out(listing: Listing) -> Listing:
    """Test1 is 50 of the published scenes: learnt from, they would be known when they are judged on."""
    kept: list[Pair] = []
    test1: list[Pair] = []
    for pair in listing.splits.get(TRAIN, []):
        number = re.fullmatch(r"im_(\d{4})", pair.scene)
        (test1 if number and int(number[1]) in _TEST1_SCENES else kept).append(pair)
    if not test1:
        return listing
    if "test1" in listing.splits:
        left_out = listing.left_out + [pair.input for pair in test1 if pair.input]
        return replace(listing, splits={**listing.splits, TRAIN: kept}, left_out=left_out)
    return replace(listing, splits={**listing.splits, TRAIN: kept, "test1": test1})


# Cityscapes with weather


def cityscapes(*kinds: str) -> Callable[[Path], list[Folder]]:
    """A set over Cityscapes, known by the first of the folders `kinds`."""

    def folders(root: Path) -> list[Folder]:
        place = next((root / kind for kind in kinds if (root / kind).is_dir()), None)
        if place is None:
            return []
        splits = [path.name for path in _folders_in(place)]
        return [Folder(split, place / split, root / "leftImg8bit" / split) for split in splits]

    return folders


def cityscapes_rule(weather: str) -> Callable[[str, str], Rule]:
    """What comes before _leftImg8bit is the scene, by whatever weather follows."""

    def rule(split: str, stem: str) -> Rule:
        scene = re.sub(r"_leftImg8bit_(rain|foggy).*$", "", stem)
        return Rule((f"{scene}_leftImg8bit",), weather, scene)

    return rule


# RESIDE


def reside(root: Path) -> list[Folder]:
    """RESIDE's parts that are used outdoors and in tests, known by the names OTS and SOTS."""
    hazy, clear = ("hazy", "haze"), ("clear", "gt")
    ots = [root / name for name in ("OTS", "OTS_BETA", "ots")]
    sots = [root / name for name in ("SOTS", "sots")]
    if root.name.lower().startswith("ots"):
        ots.append(root)
    if root.name.lower() == "sots":
        sots.append(root)
    found = [f for place in ots for f in _pair_folder(TRAIN, place, hazy, clear)]
    for place in sots:
        for part in ("outdoor", "indoor"):
            found += _pair_folder(f"sots_{part}", place / part, hazy, clear)
    return found


def reside_rule(split: str, stem: str) -> Rule:
    """`0001_0.8_0.2` shows 0001, as `1400_1` shows 1400; the airlight and density come behind, perhaps with points."""
    name = Path(stem).name
    scene = name.split("_")[0]
    return Rule((scene, name, stem), "haze", f"{split}/{scene}")


# Rain13K and its tests


def rain13k(root: Path) -> list[Folder]:
    """Rain13K, known by the folders of its tests."""
    tests = [(name, root / place / name) for name in RAIN_TESTS for place in (".", "test")]
    found = [f for name, place in tests for f in _pair_folder(name.lower(), place, ["input"], ["target"])]
    if found:
        for place in ("train", "train/Rain13K"):
            found += _pair_folder(TRAIN, root / place, ["input"], ["target"])
    return found


def rain_rule(split: str, stem: str) -> Rule:
    """The same names on both sides."""
    return replace(own_name(split, stem), weather="rain")


# anything else


def paired_folder(root: Path) -> list[Folder]:
    """Folders of inputs and targets by the usual names, in splits or not."""
    if found := _any_pair_folder(TRAIN, root):
        return found
    for outer in _folders_in(root):
        if here := _any_pair_folder(_split_name(outer), outer):
            found += here
            continue
        for inner in _folders_in(outer):  # train/<set>/{input,gt}, or <set>/train/{input,gt}
            split = inner if is_split(inner.name) and not is_split(outer.name) else outer
            found += _any_pair_folder(_split_name(split), inner)
    return found


def _split_name(folder: Path) -> str:
    return TRAIN if folder.name.lower() in (TRAIN, "training") else folder.name


def _any_pair_folder(split: str, place: Path) -> list[Folder]:
    """As `_pair_folder`; but a folder called rain, alone, is no set of pairs that lacks its targets."""
    if _holds_pairs(path.name for path in _folders_in(place)):
        return _pair_folder(split, place, INPUTS, TARGETS)
    return []


def _holds_pairs(names: Iterable[str]) -> bool:
    """Whether folders of these names, side by side, are of pairs."""
    names = set(names)
    return bool((names & set(INPUTS) and names & set(TARGETS)) or names & {"input", "gt", "target"})


def _folders_in(place: Path) -> list[Path]:
    _, folders, _ = next(visible(place), (place, [], []))
    return [place / name for name in sorted(folders)]


def photographs(root: Path) -> list[Folder]:
    """All images are clean photographs, unless degraded ones are among them, however deep."""
    if any(_holds_pairs(folders) for _, folders, _ in visible(root)):
        return []
    if not (root / TRAIN).is_dir():
        return [Folder(TRAIN, None, root)]
    return [Folder(split, None, root / split) for split in (TRAIN, "validation") if (root / split).is_dir()]
