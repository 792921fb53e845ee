"""Small trees of images in the layouts of the field's sets: real names, real traps, and what a right reader finds.

Every scene is a smooth field of colours of its own with noise on it, so that no two scenes look alike; an input is its
target with weather-like damage on it. The same arguments give the same pictures.
"""

import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

CLUTTER = (".DS_Store", "._a.png", "Thumbs.db", "readme.txt")
"""Files of no set that lie in every tree; the second ends as an image does, but is hidden."""

WRAPPER = "download (1)"
"""The one folder in which `make_tree` puts a wrapped tree."""


class Example(NamedTuple):
    """The files of a pair, as paths below `Expected.place` with / between the parts; None where there is none."""

    input: str | None
    target: str | None
    weather: str


@dataclass(frozen=True)
class Expected:
    """What a right reader finds.

    Attributes:
      root: the folder to give to the reader. place: the folder in it that names are relative to.
      layout: the name of the layout.
      splits: the examples of each split, in the order in which a reader gives them; train first.
    """

    root: Path
    place: Path
    layout: str
    splits: dict[str, list[Example]] = field(default_factory=dict)


def make_tree(
    name: str, root: Path, *, size: tuple[int, int] = (24, 28), scenes: int = 3, wrapped: bool = False
) -> Expected:
    """Writes a tree of images.

    Args:
      name: one of `TREES`. root: made where it is not there.
      size: (H, W) of every input. scenes: in every split.
      wrapped: whether all lies in one more folder, as archives unpack.

    Returns:
      What a reader must find.
    """
    layout = name.split("/")[0]
    place = root / WRAPPER if wrapped else root
    if layout == "all_weather_transweather":
        place /= "data"  # the only folder in it: a reader looks from there
    tree = _Tree(Expected(root, place, layout), size, scenes)
    _MAKERS[name](tree)
    for clutter in CLUTTER:
        (tree.place / clutter).write_bytes(b"no picture")
    order = sorted(tree.expected.splits, key=lambda split: (split != "train", split))
    splits = {split: sorted(tree.expected.splits[split], key=_parts) for split in order}
    return replace(tree.expected, splits=splits)


def _parts(example: Example) -> tuple[str, ...]:
    """What readers sort by: Path("a/b") comes before Path("a.png")."""
    return Path(example.input or example.target or "").parts


def write_image(path: Path, image: np.ndarray) -> None:
    """Writes (H, W, 3) uint8, by the suffix of the path, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {"quality": 95} if path.suffix.lower() in (".jpg", ".jpeg") else {}
    Image.fromarray(image).save(path, **options)


def picture(scene: str, size: tuple[int, int]) -> np.ndarray:
    """A scene by its name: (H, W, 3) uint8, a smooth field of colours with noise on it."""
    rng = np.random.default_rng(zlib.crc32(scene.encode()))
    field_ = Image.fromarray(rng.integers(10, 246, (4, 5, 3), dtype=np.uint8))
    smooth = np.asarray(field_.resize(size[::-1], Image.Resampling.BICUBIC), np.float32)
    return np.clip(smooth + rng.normal(0, 6, smooth.shape), 0, 255).astype(np.uint8)


_VEILS = {"haze": 0.5, "rain": 0.25, "snow": 0.05, "raindrop": 0.0, "unknown": 0.15}
_SPECKS = {"haze": 0.0, "rain": 0.05, "snow": 0.12, "raindrop": 0.08, "unknown": 0.05}


def degraded(image: np.ndarray, name: str, weather: str) -> np.ndarray:
    """The image under a veil and bright specks, which are others for every name."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    veil = _VEILS[weather] * rng.uniform(0.7, 1.0)
    hazy = image * (1 - veil) + 220 * veil
    specks = rng.random(image.shape[:2]) < _SPECKS[weather]
    return np.where(specks[..., None], rng.uniform(200, 255, (*specks.shape, 1)), hazy).astype(np.uint8)


@dataclass
class _Tree:
    """Writes images and keeps what was written as what is expected."""

    expected: Expected
    size: tuple[int, int]
    scenes: int

    @property
    def place(self) -> Path:
        return self.expected.place

    def pair(self, split: str, weather: str, input_: str, target: str, *, margin: int = 0) -> None:
        """Writes an input, and its target where another input has not; the target has a margin on every side."""
        height, width = self.size
        clean = picture(target, (height + 2 * margin, width + 2 * margin))
        if not (self.place / target).exists():
            write_image(self.place / target, clean)
        seen = clean[margin : margin + height, margin : margin + width]
        write_image(self.place / input_, degraded(seen, input_, weather))
        self._expect(split, Example(input_, target, weather))

    def real(self, split: str, weather: str, input_: str) -> None:
        """Writes a degraded image that has no target."""
        write_image(self.place / input_, degraded(picture(input_, self.size), input_, weather))
        self._expect(split, Example(input_, None, weather))

    def photograph(self, split: str, name: str) -> None:
        """Writes a clean image."""
        write_image(self.place / name, picture(name, self.size))
        self._expect(split, Example(None, name, "clean"))

    def aside(self, name: str) -> None:
        """Writes an image that is no example."""
        write_image(self.place / name, picture(name, self.size))

    def text(self, name: str, lines: list[str]) -> None:
        (self.place / name).parent.mkdir(parents=True, exist_ok=True)
        (self.place / name).write_text("\n".join(lines) + "\n")

    def _expect(self, split: str, example: Example) -> None:
        self.expected.splits.setdefault(split, []).append(example)


_HEAVY = ("s80_a04", "s85_a06")
"""Two of the rains of each scene of Outdoor-Rain."""


def _all_weather(tree: _Tree) -> None:
    """Names of three sets in one folder; X_rain meets X_clean in the test alone."""
    for i in range(1, tree.scenes + 1):
        train = [("snow", f"beautiful_smile_{i:05}.jpg"), ("raindrop", f"{i}_rain.png")]
        train += [("rain", f"im_{i:04}_{heavy}.png") for heavy in _HEAVY]
        for weather, name in train:
            tree.pair("train", weather, f"train/input/{name}", f"train/gt/{name}")
        rain, snow = f"im_{300 + i:04}_{_HEAVY[0]}.png", f"city_read_{i:05}.jpg"
        tree.pair("test_rain", "rain", f"test_rain/input/{rain}", f"test_rain/gt/{rain}")
        tree.pair("test_snow", "snow", f"test_snow/input/{snow}", f"test_snow/gt/{snow}")
        drop = "test_raindrop/input", "test_raindrop/gt"
        tree.pair("test_raindrop", "raindrop", f"{drop[0]}/{i}_rain.png", f"{drop[1]}/{i}_clean.png")


def _transweather(tree: _Tree) -> None:
    """Lists say what belongs to the set; their lines begin in three ways, and a pair that none names lies there."""
    train, test = "train", "test"
    lists: dict[str, list[str]] = {}

    def listed(file: str, start: str, split: str, weather: str, name: str, target: str) -> None:
        folder = Path(file).parent.as_posix()
        tree.pair(split, weather, f"{folder}/{name}", f"{folder}/{target}")
        lists.setdefault(file, []).append(start + name)

    for i in range(1, tree.scenes + 1):
        every = f"{train}/allweather.txt"
        listed(every, "/", "train", "snow", f"snow/input/input_scene_{i:05}.jpg", f"snow/gt/input_scene_{i:05}.jpg")
        listed(every, "./", "train", "raindrop", f"raindrop/input/{i}_rain.png", f"raindrop/gt/{i}_clean.png")
        heavy = f"im_{i:04}_{_HEAVY[0]}.png"
        listed(every, "", "train", "rain", f"rain/input/{heavy}", f"rain/gt/{heavy}")
        heavy, scene = f"im_{300 + i:04}_{_HEAVY[1]}.png", f"im_{300 + i:04}.png"
        listed(f"{test}/test1.txt", "/", "test_rain", "rain", f"test1/input/{heavy}", f"test1/gt/{scene}")
        drop = f"raindrop_test/input/{i}_rain.png", f"raindrop_test/gt/{i}_clean.png"
        listed(f"{test}/raindroptesta.txt", "./", "test_raindrop", "raindrop", *drop)
        snow = f"Snow100K-L/input/winter_{i:05}.jpg", f"Snow100K-L/gt/winter_{i:05}.jpg"
        listed(f"{test}/snowtest100k_L.txt", "", "test_snow", "snow", *snow)
    for file, lines in lists.items():
        tree.text(file, lines)
    for part in ("input", "gt"):
        tree.aside(f"{train}/snow/{part}/unlisted.jpg")


def _transweather_deeper(tree: _Tree) -> None:
    """As WeatherDiffusion lays it out: each list lies with its set; one was written on another system."""
    for i in range(1, tree.scenes + 1):
        for split, weather, place, name, target in [
            ("train", "snow", "allweather", f"input/scene_{i:05}.jpg", f"gt/scene_{i:05}.jpg"),
            ("train", "raindrop", "allweather", f"input/{i}_rain.png", f"gt/{i}_clean.png"),
            ("test_raindrop", "raindrop", "raindrop/test", f"input/{i}_rain.png", f"gt/{i}_clean.png"),
            ("test_rain", "rain", "outdoor-rain", f"input/im_{300 + i:04}_{_HEAVY[0]}.png", f"gt/im_{300 + i:04}.png"),
            ("test_snow", "snow", "snow100k", f"input/winter_{i:05}.jpg", f"gt/winter_{i:05}.jpg"),
        ]:
            tree.pair(split, weather, f"{place}/{name}", f"{place}/{target}")
    for split, file in [
        ("train", "allweather/allweather.txt"),
        ("test_raindrop", "raindrop/test/raindroptesta.txt"),
        ("test_rain", "outdoor-rain/test1.txt"),
        ("test_snow", "snow100k/snowtest100k_L.txt"),
    ]:
        start = f"{Path(file).parent.as_posix()}/"
        lines = [(example.input or "").removeprefix(start) for example in tree.expected.splits[split]]
        tree.text(file, [".\\" + line.replace("/", "\\") for line in lines] if split == "test_snow" else lines)


def _snow100k(tree: _Tree, train: str = "train", test: str = "test") -> None:
    """Every input has a mask beside its target; real snow has neither."""
    for i in range(1, tree.scenes + 1):
        places = [("train", train, "beautiful_smile"), ("test_s", f"{test}/Snow100K-S", "lite")]
        places += [("test_m", f"{test}/Snow100K-M", "grey"), ("test_l", f"{test}/Snow100K-L", "heavy")]
        for split, place, word in places:
            name = f"{word}_{i:05}.JPG" if i == 1 else f"{word}_{i:05}.jpg"
            tree.pair(split, "snow", f"{place}/synthetic/{name}", f"{place}/gt/{name}")
            tree.aside(f"{place}/mask/{name}")
        tree.real("realistic", "snow", f"realistic/snow_storm_{i:05}.jpg")


def _snow100k_archives(tree: _Tree) -> None:
    """As the two archives unpack."""
    _snow100k(tree, "all", "media/jdway/GameSSD/overlapping/test")


def _snow100k_downloads(tree: _Tree) -> None:
    """The archives unpacked side by side, each in a folder of its name."""
    _snow100k(tree, "Snow100K-training/all", "Snow100K-testset/media/jdway/GameSSD/overlapping/test")


def _raindrop(tree: _Tree, deeper: bool = False) -> None:
    """X_rain meets X_clean; the numbers start anew in every split, and test_b has more than one suffix."""
    for split in ("train", "test_a", "test_b"):
        place = f"{split}/{split}" if deeper else split
        for i in range(tree.scenes):
            suffix = "jpg" if split == "test_b" else "png"
            tree.pair(split, "raindrop", f"{place}/data/{i}_rain.{suffix}", f"{place}/gt/{i}_clean.{suffix}")


def _raindrop_deeper(tree: _Tree) -> None:
    """Every archive was unpacked into a folder of its name."""
    _raindrop(tree, deeper=True)


def _outdoor_rain(tree: _Tree, places: tuple[str, str] = ("", ""), folder: str = "in") -> None:
    """Several inputs of one scene; scenes 301 to 350 are Test1's wherever they lie."""
    train = [1, 300, 351, *range(2, tree.scenes)][: tree.scenes]  # the neighbours of Test1's too
    test = [301, 350, *range(302, 300 + tree.scenes)][: tree.scenes]
    for split, numbers, place in (("train", train, places[0]), ("test1", test, places[1])):
        for scene in (f"im_{number:04}" for number in numbers):
            for heavy in _HEAVY:
                tree.pair(split, "rain", f"{place}{folder}/{scene}_{heavy}.png", f"{place}gt/{scene}.png")


def _outdoor_rain_divided(tree: _Tree) -> None:
    """As train/ and test1/."""
    _outdoor_rain(tree, ("train/", "test1/"), "input")


def _outdoor_rain_siblings(tree: _Tree) -> None:
    """As the two archives unpack."""
    _outdoor_rain(tree, ("OutdoorRain/", "Test1/"))


_CITIES = {"train": ("aachen", "bochum"), "val": ("frankfurt",), "test": ("berlin",)}


def _rain_cityscapes(tree: _Tree) -> None:
    """Two rains of each view."""
    rains = ("alpha_0.01_beta_0.005_dropsize_0.01_pattern_1", "alpha_0.03_beta_0.015_dropsize_0.002_pattern_12")
    _cityscapes(tree, "leftImg8bit_rain", "rain", [f"rain_{rain}" for rain in rains], ("train", "val"))


def _foggy_cityscapes(tree: _Tree) -> None:
    """Three fogs of each view."""
    fogs = [f"foggy_beta_{beta}" for beta in ("0.005", "0.01", "0.02")]
    _cityscapes(tree, "leftImg8bit_foggy", "haze", fogs, ("train", "val", "test"))


def _cityscapes(tree: _Tree, folder: str, weather: str, endings: list[str], splits: tuple[str, ...]) -> None:
    for split in splits:
        for i in range(tree.scenes):
            city = _CITIES[split][i % len(_CITIES[split])]
            view = f"{split}/{city}/{city}_{i:06}_000019_leftImg8bit"
            for ending in endings:
                tree.pair(split, weather, f"{folder}/{view}_{ending}.png", f"leftImg8bit/{view}.png")


def _reside(tree: _Tree) -> None:
    """Several inputs of one target; a target in another format; targets with a margin of 10 pixels."""
    for i in range(1, tree.scenes + 1):
        for haze in ("0.8_0.2", "1_0.06"):
            tree.pair("train", "haze", f"OTS/hazy/{i:04}_{haze}.jpg", f"OTS/clear/{i:04}.jpg")
        for haze in ("0.8_0.08", "0.95_0.16"):
            outdoor = "SOTS/outdoor"
            tree.pair("sots_outdoor", "haze", f"{outdoor}/hazy/{i:04}_{haze}.jpg", f"{outdoor}/gt/{i:04}.png")
        for haze in ("1", "10"):
            indoor = f"SOTS/indoor/hazy/{1399 + i}_{haze}.png", f"SOTS/indoor/gt/{1399 + i}.png"
            tree.pair("sots_indoor", "haze", *indoor, margin=10)


def _reside_divided(tree: _Tree) -> None:
    """As later works divide it; the indoor inputs are numbered."""
    for i in range(1, tree.scenes + 1):
        for part, name, target in (
            ("indoor", f"{1399 + i}_1", f"{1399 + i}"),
            ("outdoor", f"{i:04}_0.8_0.2", f"{i:04}"),
        ):
            for split in ("train", "test"):
                place, margin = f"reside-{part}/{split}", 10 if (part, split) == ("indoor", "test") else 0
                names = f"{place}/hazy/{name}.png", f"{place}/GT/{target}.png"
                tree.pair("train" if split == "train" else f"sots_{part}", "haze", *names, margin=margin)


def _reside_its(tree: _Tree) -> None:
    """The indoor parts as their archives unpack, and outdoor hazy images in parts."""
    for i in range(1, tree.scenes + 1):
        tree.pair("train", "haze", f"ITS/train/ITS_haze/{i}_{i}_0.9.png", f"ITS/train/ITS_clear/{i}.png")
        outdoor = f"OTS_BETA/haze/part{i % 4 + 1}/{i:04}_0.8_0.2.jpg", f"OTS_BETA/clear/{i:04}.jpg"
        tree.pair("train", "haze", *outdoor)
        place = "SOTS/indoor/nyuhaze500"
        indoor = f"{place}/hazy/{1399 + i}_1.png", f"{place}/gt/{1399 + i}.png"
        tree.pair("sots_indoor", "haze", *indoor, margin=10)


def _rain13k_published(tree: _Tree) -> None:
    """A test by the names that its authors gave it."""
    for i in range(1, tree.scenes + 1):
        tree.pair("train", "rain", f"train/input/{i}.jpg", f"train/target/{i}.jpg")
        tree.pair("rain100h", "rain", f"Rain100H/rain/rain-{i:03}.png", f"Rain100H/norain/norain-{i:03}.png")


def _rain13k(tree: _Tree) -> None:
    """All five tests. The numbers start anew in each."""
    for split in ("train", "Rain100H", "Rain100L", "Test100", "Test1200", "Test2800"):
        for i in range(1, tree.scenes + 1):
            suffix = "jpg" if split == "train" else "png"
            names = f"{split}/input/{i}.{suffix}", f"{split}/target/{i}.{suffix}"
            tree.pair(split.lower(), "rain", *names)


def _paired_folder(tree: _Tree) -> None:
    """A target of another format, one of RainDrop's name, and a folder in the folders."""
    for split in ("train", "test"):
        for i in range(tree.scenes):
            name = [f"{i}.png", f"{i}_rain.PNG", f"street 2.5/{i}.jpeg"][i % 3]
            target = [f"{i}.png", f"{i}_clean.png", f"street 2.5/{i}.bmp"][i % 3]
            tree.pair(split, "unknown", f"{split}/input/{name}", f"{split}/gt/{target}")


def _paired_folder_capitals(tree: _Tree) -> None:
    """Folders whose names begin with a capital."""
    for split in ("train", "test"):
        for i in range(tree.scenes):
            place = "Train" if split == "train" else split
            tree.pair(split, "unknown", f"{place}/Input/{i}.png", f"{place}/GT/{i}.png")


def _paired_folder_single(tree: _Tree) -> None:
    """Two folders and no split."""
    for i in range(tree.scenes):
        tree.pair("train", "unknown", f"lq/{i}.png", f"hq/{i}.png")


def _paired_folder_sets(tree: _Tree) -> None:
    """Several sets in a split."""
    for split in ("train", "test"):
        for i in range(tree.scenes):
            for part in ("night", "day"):
                tree.pair(split, "unknown", f"{split}/{part}/input/{i}.png", f"{split}/{part}/gt/{i}.png")


def _photographs(tree: _Tree) -> None:
    """In splits, some in a folder."""
    for i in range(tree.scenes):
        tree.photograph("train", f"train/{'alps/' if i % 2 else ''}DSC_{i:04}.{'JPG' if i else 'jpeg'}")
        tree.photograph("validation", f"validation/{i}.png")


def _photographs_loose(tree: _Tree) -> None:
    """In no split: two in the folder itself, and the others in one folder in it."""
    for i in range(tree.scenes):
        tree.photograph("train", f"{'alps/' if i > 1 else ''}{i}.webp")


_MAKERS: dict[str, Callable[[_Tree], None]] = {
    "all_weather": _all_weather,
    "all_weather_transweather": _transweather,
    "all_weather_transweather/deeper": _transweather_deeper,
    "snow100k": _snow100k,
    "snow100k/archives": _snow100k_archives,
    "snow100k/downloads": _snow100k_downloads,
    "raindrop": _raindrop,
    "raindrop/deeper": _raindrop_deeper,
    "outdoor_rain": _outdoor_rain,
    "outdoor_rain/divided": _outdoor_rain_divided,
    "outdoor_rain/siblings": _outdoor_rain_siblings,
    "rain_cityscapes": _rain_cityscapes,
    "foggy_cityscapes": _foggy_cityscapes,
    "reside": _reside,
    "reside/divided": _reside_divided,
    "reside/its": _reside_its,
    "rain13k": _rain13k,
    "rain13k/published": _rain13k_published,
    "paired_folder": _paired_folder,
    "paired_folder/capitals": _paired_folder_capitals,
    "paired_folder/single": _paired_folder_single,
    "paired_folder/sets": _paired_folder_sets,
    "photographs": _photographs,
    "photographs/loose": _photographs_loose,
}

TREES = tuple(_MAKERS)
"""What `make_tree` makes: the name of a layout, and behind a / that of another of its forms."""
