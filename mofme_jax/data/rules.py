"""Where each set of the field keeps its images, and how it names them: folders and rules for `Layout`.

Every `folders` takes the root that a person gives and returns the folders of the set, none where it is another set;
every rule takes a split and a stem. The case of a folder's name says nothing.
"""

import re
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from mofme_jax.data.layouts import TRAIN, Folder, Layout, Listing, Pair, Place, Rule, is_split, stem_of

INPUTS = ("input", "inputs", "in", "data", "synthetic", "hazy", "haze", "rain", "rainy", "snow", "lq", "degraded")
"""Names that folders of degraded images go by."""

TARGETS = ("gt", "target", "targets", "clear", "clean", "norain", "groundtruth", "hq")
"""Names that folders of clean images go by."""

RAIN_TESTS = ("Rain100H", "Rain100L", "Test100", "Test1200", "Test2800")

_HEAVY_RAIN = re.compile(r"(?:.*/)?(im_(\d{4}))_s\d+_a\d+")
_TEST1_SCENES = range(301, 351)
_NEARLY_ALL = 0.9


def _pair_folder(split: str, place: Place, inputs: Sequence[str], targets: Sequence[str]) -> list[Folder]:
    """The two folders in `place`, each by the first of its names that is there.

    Where one of them is not there it is listed all the same: the images of the other then lack their counterparts,
    which is an error to be shown and not another set.
    """
    found_inputs, found_targets = (
        next((found for name in names if (found := place.at(name)).there), place.at(names[0]))
        for names in (inputs, targets)
    )
    return [Folder(split, found_inputs, found_targets)] if found_inputs.there or found_targets.there else []


def own_name(split: str, stem: str) -> Rule:
    """A target of its input's own name, of RainDrop's or of Rain100H's; no scene is shared between splits."""
    return Rule((stem, _clean_name(stem), _norain_name(stem)), "unknown", f"{split}/{stem}")


def _clean_name(stem: str) -> str:
    return re.sub("_rain$", "_clean", stem)


def _norain_name(stem: str) -> str:
    return re.sub(r"(^|/)rain-(\d+)$", r"\1norain-\2", stem)


# All-Weather: 9,001 snow, 818 raindrop, 8,250 rain


def all_weather_rule(split: str, stem: str) -> Rule:
    """What the names tell: Outdoor-Rain's, RainDrop's, and the rest is Snow100K's."""
    if heavy := _HEAVY_RAIN.fullmatch(stem):
        return Rule((stem, heavy[1]), "rain", heavy[1])
    weather = "raindrop" if split == "test_raindrop" or stem.endswith("_rain") else "snow"
    return replace(own_name(split, stem), weather=weather)


def all_weather_mofme(root: Place) -> list[Folder]:
    """All-Weather in MoFME's folders, known by those of its tests."""
    tests = ("test_rain", "test_raindrop", "test_snow")
    splits = {name.lower() for name, place in root.folders.items() if place.at("input").there}
    if not splits & set(tests) or splits - {TRAIN, *tests}:  # with a split of another name it is a set of the user's
        return []
    return [f for split in (TRAIN, *tests) for f in _pair_folder(split, root.at(split), ["input"], ["gt"])]


_LISTS = {
    "allweather.txt": TRAIN,
    "test1.txt": "test_rain",
    "raindroptesta.txt": "test_raindrop",
    "snowtest100k_l.txt": "test_snow",
}


def all_weather_transweather(root: Place) -> list[Folder]:
    """All-Weather in TransWeather's folders, known by its lists of inputs, three folders deep at most."""
    return [
        folder
        for place in _below(root, 3)
        for file in place.files
        if (split := _LISTS.get(file.lower()))
        for folder in _listed_folders(place, file, split)
    ]


def _below(root: Place, depth: int) -> Iterator[Place]:
    """A folder and those in it, so many deep."""
    yield root
    if depth:
        for folder in root.folders.values():
            yield from _below(folder, depth - 1)


def _listed_folders(place: Place, file: str, split: str) -> list[Folder]:
    """The folders that a list of inputs names: `<set>/input/<name>`, each line relative to the list."""
    names: dict[str, list[str]] = {}
    for line in _text(place.path / file).splitlines():
        parts = [part for part in re.split(r"[/\\]", line.strip()) if part not in ("", ".")]
        if not parts:
            continue
        if ".." in parts or "input" not in parts[:-1]:
            raise ValueError(f"{place.path / file}: the line {line!r} is no path <set>/input/<name> below {place.path}")
        end = len(parts) - 1 - parts[::-1].index("input")
        names.setdefault("/".join(parts[:end]), []).append("/".join(parts[end + 1 :]))
    folders = {above: place.at(above) if above else place for above in names}
    return [Folder(split, folders[a].at("input"), folders[a].at("gt"), tuple(listed)) for a, listed in names.items()]


def _text(file: Path) -> str:
    if not file.is_file():  # a pipe would keep its reader waiting
        raise ValueError(f"{file} is no regular file: replace it by the list of the set, or remove it")
    try:
        return file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{file} is no text in UTF-8: replace it by the list of the set, or remove it") from None


# Snow100K


def snow100k(root: Place) -> list[Folder]:
    """Snow100K, known by the folders of its three tests, or by its name."""
    archive = "media/jdway/GameSSD/overlapping/test"  # the archive of the tests has that path in it
    trains = ("train", "all", "Snow100K-training", "Snow100K-training/all")  # that of the training set unpacks to all/
    tests = [root, *map(root.at, ("test", archive, "Snow100K-testset", f"Snow100K-testset/{archive}"))]
    found = [
        folder
        for place in tests
        for size in "SML"
        for folder in _pair_folder(f"test_{size.lower()}", place.at(f"Snow100K-{size}"), ["synthetic"], ["gt"])
    ]
    if not found and not root.at("Snow100K-training").there:
        return []
    found += [f for place in trains for f in _pair_folder(TRAIN, root.at(place), ["synthetic"], ["gt"])]
    if found and root.at("realistic").there:
        found.append(Folder("realistic", root.at("realistic"), None))
    return found


def snow_rule(split: str, stem: str) -> Rule:
    """The same names on both sides."""
    return Rule((stem,), "snow", f"{split}/{stem}")


# RainDrop


def raindrop(root: Place) -> list[Folder]:
    """RainDrop, known by its folders called data; an archive may have been unpacked into a folder of its name."""
    splits = (TRAIN, "test_a", "test_b")
    places = [(split, root.at(place)) for split in splits for place in (split, f"{split}/{split}")]
    if not any(place.at("data").there for _, place in places):
        return []
    return [f for split, place in places for f in _pair_folder(split, place, ["data"], ["gt"])]


def raindrop_rule(split: str, stem: str) -> Rule:
    """X_rain goes with X_clean. The numbers start anew in every split."""
    return Rule((stem, _clean_name(stem)), "raindrop", f"{split}/{stem}")


# Outdoor-Rain


def outdoor_rain(root: Place) -> list[Folder]:
    """Outdoor-Rain, known by the names of nearly all inputs; with other pairs beside it, it is a set of the user's."""
    names = {TRAIN: (TRAIN, "OutdoorRain", "Outdoor-Rain", "Outdoor_Rain"), "test1": ("test1", "test")}
    places = [(TRAIN, root)]
    places += [(split, place) for split in names for name in names[split] if (place := root.at(name)).there]
    found = [f for split, place in places for f in _pair_folder(split, place, ["in", "input"], ["gt"])]
    taken = [place for _, place in places]
    others = [place for place in root.folders.values() if place not in taken]
    inputs = [path.stem for folder in found if folder.inputs for path in folder.inputs.images]
    known = sum(_HEAVY_RAIN.fullmatch(stem) is not None for stem in inputs)
    # a stray file is to be named as one, and does not make all the others unknown
    if not known or known < _NEARLY_ALL * len(inputs) or any(_of_pairs(p.folders) for p in others):
        return []
    return found


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


def cityscapes(*kinds: str) -> Callable[[Place], list[Folder]]:
    """A set over Cityscapes, known by the first of the folders `kinds`."""

    def folders(root: Place) -> list[Folder]:
        place = next((found for kind in kinds if (found := root.at(kind)).there), None)
        if place is None:
            return []
        clean = root.at("leftImg8bit")
        return [Folder(split, inputs, clean.at(split)) for split, inputs in place.folders.items()]

    return folders


def cityscapes_rule(weather: str) -> Callable[[str, str], Rule]:
    """What comes before _leftImg8bit is the scene, by whatever weather follows."""

    def rule(split: str, stem: str) -> Rule:
        scene = re.sub(r"_leftImg8bit_(rain|foggy).*$", "", stem)
        return Rule((f"{scene}_leftImg8bit",), weather, scene)

    return rule


# RESIDE

_HAZY = ("hazy", "haze", "ITS_haze")
_CLEAR = ("clear", "gt", "ITS_clear")


def reside(root: Place) -> list[Folder]:
    """RESIDE's parts, known by the names OTS and SOTS, or by those of all images, with no other pairs beside them."""
    ots = [root.at(name) for name in ("OTS", "OTS_BETA")]
    sots = [root.at("SOTS")]
    if root.path.name.lower().startswith("ots"):
        ots.append(root)
    if root.path.name.lower() == "sots":
        sots.append(root)
    found = [f for place in ots for f in _pair_folder(TRAIN, place, _HAZY, _CLEAR)]
    for place in sots:
        for part in ("outdoor", "indoor", "indoor/nyuhaze500", "nyuhaze500"):
            split = f"sots_{'outdoor' if part == 'outdoor' else 'indoor'}"
            found += _pair_folder(split, place.at(part), _HAZY, _CLEAR)
    known = {folder.inputs.path.parent for folder in found if folder.inputs}
    others = [place for place in _below(root, 2) if place.path not in known and _looks_paired(place)]
    named = [_pair_folder(_reside_split(root, place), place, _HAZY, _CLEAR) for place in others]
    fitting = [folders[0] for folders in named if folders and _has_resides_names(folders[0])]
    if found or len(fitting) == len(others):
        found += fitting
    return [replace(folder, middle=folder.split == "sots_indoor") for folder in found]


def _has_resides_names(folder: Folder) -> bool:
    """Whether `1400_1` or `0001_0.8_0.2` is to meet `1400` or `0001`."""
    assert folder.inputs
    assert folder.targets
    inputs, targets = ([Path(stem_of(path, p)).name for path in p.images] for p in (folder.inputs, folder.targets))
    shown = [re.fullmatch(r"\d+_[\d._]+", name) for name in inputs]
    return bool(inputs) and all(shown) and all(name.isdecimal() for name in targets)


def _reside_split(root: Place, place: Place) -> str:
    """The tests are told apart, because only the indoor one has targets to be cut."""
    names = [name.lower() for name in place.path.relative_to(root.path).parts]
    if any(name.startswith("train") for name in names):
        return TRAIN
    for part, marks in (("indoor", ("indoor", "nyuhaze")), ("outdoor", ("outdoor",))):
        if any(mark in name for mark in marks for name in (*names, root.path.name.lower())):
            return f"sots_{part}"
    return next(filter(is_split, names), TRAIN)


def reside_rule(split: str, stem: str) -> Rule:
    """`0001_0.8_0.2` shows 0001, as `1400_1` shows 1400; the airlight and density come behind, perhaps with points."""
    name = Path(stem).name
    scene = name.split("_")[0]
    return Rule((scene, name, stem), "haze", f"{split}/{scene}")


# Rain13K and its tests


def rain13k(root: Place) -> list[Folder]:
    """Rain13K, known by the folders of its tests."""
    names = ["input", "rain"], ["target", "norain"]  # Rain100H and Rain100L were published with the others
    tests = [(name, place) for name in RAIN_TESTS for place in (root.at(name), root.at(f"test/{name}"))]
    found = [f for name, place in tests for f in _pair_folder(name.lower(), place, *names)]
    if found:
        for name in ("train", "train/Rain13K"):
            found += _pair_folder(TRAIN, root.at(name), ["input"], ["target"])
    return found


def rain_rule(split: str, stem: str) -> Rule:
    """The same names on both sides, or Rain100H's."""
    return replace(own_name(split, stem), weather="rain")


# anything else


def paired_folder(root: Place) -> list[Folder]:
    """Folders of inputs and targets by the usual names, in splits or not."""
    if found := _any_pair_folder(TRAIN, root):
        return found
    for outer_name, outer in root.folders.items():
        if here := _any_pair_folder(_split_name(outer_name), outer):
            found += here
            continue
        for inner_name, inner in outer.folders.items():  # train/<set>/{input,gt}, or <set>/train/{input,gt}
            split = inner_name if is_split(inner_name) and not is_split(outer_name) else outer_name
            found += _any_pair_folder(_split_name(split), inner)
    return found


def _split_name(folder: str) -> str:
    return TRAIN if folder.lower() in (TRAIN, "training") else folder


def _any_pair_folder(split: str, place: Place) -> list[Folder]:
    """As `_pair_folder`; but a folder called rain, alone, is no set of pairs that lacks its targets."""
    return _pair_folder(split, place, INPUTS, TARGETS) if _of_pairs(place.folders) else []


def _of_pairs(names: Collection[str]) -> bool:
    """Whether folders of these names, side by side, are of pairs."""
    known = {name.lower() for name in names}
    return bool((known & set(INPUTS) and known & set(TARGETS)) or known & set(_PLAIN))


_PLAIN = ("input", "gt", "target")
"""Names that tell of pairs even alone."""


def photographs(root: Place) -> list[Folder]:
    """All images are clean photographs."""
    if not root.at(TRAIN).there:
        return [Folder(TRAIN, None, root)]
    return [Folder(split, None, place) for split in (TRAIN, "validation") if (place := root.at(split)).there]


def doubt_photographs(root: Place) -> str:
    """Degraded images are never to be taken for clean ones: names that tell of pairs, however deep, forbid it."""
    folders = [folder for folder in root.walk() if folder is not root]
    telling = [next((f for f in folders if f.path.name.lower() in _PLAIN), None)]
    if not any(telling):
        telling = [next((f for f in folders if _is_like(f.path.name, names)), None) for names in (INPUTS, TARGETS)]
        if not all(telling):
            return ""
    names = " and ".join(f.path.relative_to(root.path).as_posix() for f in telling if f)
    return (
        f"It looks like pairs of degraded and clean images ({names}): lay them out as one of the layouts below does, "
        "or rename their folders to input and gt"
    )


def _looks_paired(place: Place) -> bool:
    """Whether folders that are named like inputs and like targets, however freely, lie side by side."""
    return all(any(_is_like(name, names) for name in place.folders) for names in (INPUTS, TARGETS))


def _is_like(name: str, names: Sequence[str]) -> bool:
    """Whether a folder's name is one of `names` or ends in one, as ITS_haze, GT_train and "clear images" do."""
    words = [word for word in re.split(r"[^a-z0-9]+", name.lower()) if word not in ("", "image", "images")]
    words = [word for word in words if not is_split(word)]
    return bool(words) and (words[-1] in names or "".join(words) in names)


def unread_pairs(layout: Layout, listing: Listing) -> list[tuple[Path, Path]]:
    """Folders of inputs and of targets, side by side, of neither of which the listing has a single image.

    Lists of files leave out what they leave out on purpose.
    """
    if layout.folders is all_weather_transweather:
        return []
    read = {path.parent for pairs in listing.splits.values() for pair in pairs for path in pair.paths}
    read |= {path.parent for paths in (listing.lost, listing.unused, listing.left_out) for path in paths}
    read |= {above for path in read for above in path.parents}
    found = []
    for place in Place(listing.root, tolerant=True).walk():
        unread = [folder for folder in place.folders.values() if folder.path not in read]
        two = [next((f for f in unread if _is_like(f.path.name, n) and f.images), None) for n in (INPUTS, TARGETS)]
        if two[0] and two[1] and two[0] is not two[1]:
            found.append((two[0].path, two[1].path))
    return found
