"""The data doctor: a set without fault has none, and each fault planted is found, named, and nothing besides."""

import json
import os
import shutil
import struct
import subprocess
import sys
import time
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data import looks
from mofme_jax.data.diagnosis import KINDS, Diagnosis, Finding
from mofme_jax.data.doctor import examine
from mofme_jax.data.sets import layout_named
from tests.trees import TREES, degraded, make_tree, picture, write_image

LARGE = (96, 112)
"""Pictures in which a thumbnail of 16 pixels a side averages the weather away."""


def found(diagnosis: Diagnosis) -> list[tuple[str, ...]]:
    """The problems: (kind, path, ...)."""
    return [(finding.kind, *finding.paths) for finding in diagnosis.problems]


def read(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


# sets without fault


@pytest.mark.parametrize("wrapped", [False, True], ids=["", "wrapped"])
@pytest.mark.parametrize("tree", TREES)
def test_nothing_is_wrong_with_a_clean_set(tree, wrapped, tmp_path):
    expected = make_tree(tree, tmp_path / "set", scenes=4, wrapped=wrapped)
    diagnosis = examine(tmp_path / "set")
    assert found(diagnosis) == []
    unlisted = {"ignored"} if tree == "all_weather_transweather" else set()
    assert {finding.kind for finding in diagnosis.notes} <= {"count"} | unlisted
    assert diagnosis.layout.name == expected.layout
    assert diagnosis.folder == expected.place
    assert {split: count for split, (count, _) in diagnosis.counts.items() if count} == {
        split: len(examples) for split, examples in expected.splits.items()
    }
    read_once = {name for examples in expected.splits.values() for e in examples for name in (e.input, e.target)}
    assert diagnosis.files == len(read_once - {None})


@pytest.mark.parametrize("tree", ["raindrop", "reside", "rain13k", "photographs"])
def test_nothing_is_wrong_with_larger_pictures(tree, tmp_path):
    make_tree(tree, tmp_path, size=LARGE, scenes=6)
    assert found(examine(tmp_path)) == []


def test_folders_that_the_layout_has_no_use_for_are_noted(tmp_path):
    expected = make_tree("paired_folder", tmp_path)
    image = Image.open(expected.place / expected.splits["train"][0].target)
    for name in ("results/ours/a.png", "results/ours/b.png", "c.png"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        image.save(tmp_path / name)
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == []
    assert [(f.paths, f.text) for f in diagnosis.notes if f.kind == "ignored"] == [
        ((".",), "1 images"),
        (("results/ours",), "2 images"),
    ]


@pytest.mark.parametrize(
    ("tree", "two"),
    [
        ("raindrop", ("val/input", "val/gt")),
        ("paired_folder", ("a/b/c/Hazy", "a/b/c/GT")),
        ("photographs", ()),
        ("all_weather_transweather", ()),  # its lists leave out on purpose
        ("rain13k", ("ours/ITS_haze", "ours/ITS_clear")),
    ],
)
def test_pairs_that_the_layout_has_no_use_for_are_a_problem(tree, two, tmp_path):
    place = make_tree(tree, tmp_path).place
    if tree != "photographs":
        for folder in two or ("test/more/input", "test/more/gt"):
            write_image(place / folder / "1.png", picture(folder, (24, 28)))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == ([("unread", *two)] if two else [])
    assert not {f.paths[0] for f in diagnosis.notes if f.kind == "ignored"} & {*two}


@pytest.mark.parametrize("folders", [("val/input",), ("val/input", "test/gt"), ("results/input", "results/ours")])
def test_folders_that_are_no_pairs_are_but_noted(folders, tmp_path):
    make_tree("raindrop", tmp_path)
    for folder in folders:
        write_image(tmp_path / folder / "1.png", picture(folder, (24, 28)))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == []
    assert {f.paths[0] for f in diagnosis.notes if f.kind == "ignored"} == {*folders}


def test_counts_are_compared_with_those_published_and_are_no_problem(tmp_path):
    make_tree("raindrop", tmp_path, scenes=3)
    diagnosis = examine(tmp_path)
    assert diagnosis.counts == {"train": (3, 861), "test_a": (3, 58), "test_b": (3, None)}
    assert [finding.line() for finding in diagnosis.notes] == [
        "test_a: 3 found, 55 fewer than the 58 published",
        "train: 3 found, 858 fewer than the 861 published",
    ]
    shutil.rmtree(tmp_path / "test_a")
    assert examine(tmp_path).counts["test_a"] == (0, 58)


def test_as_many_as_published_need_no_note(tmp_path, monkeypatch):
    make_tree("raindrop", tmp_path, scenes=3)
    monkeypatch.setitem(layout_named("raindrop").published, "train", 3)
    monkeypatch.setitem(layout_named("raindrop").published, "test_a", 2)
    assert [finding.line() for finding in examine(tmp_path).notes] == ["test_a: 3 found, 1 more than the 2 published"]


def test_a_layout_named_is_the_only_one_tried(tmp_path):
    make_tree("raindrop", tmp_path)
    assert examine(tmp_path, "paired_folder").layout.name == "paired_folder"
    with pytest.raises(FileNotFoundError, match="reside"):
        examine(tmp_path, "reside")
    with pytest.raises(ValueError, match="unknown"):
        examine(tmp_path, "rain_drop")


def test_no_folder_and_an_empty_one_are_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        examine(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match="no set of images"):
        examine(tmp_path)


# files that are missing or too many


@pytest.mark.parametrize(
    ("tree", "target", "inputs"),
    [
        ("all_weather", "train/gt/1_rain.png", ["train/input/1_rain.png"]),
        ("snow100k", "test/Snow100K-S/gt/lite_00002.jpg", ["test/Snow100K-S/synthetic/lite_00002.jpg"]),
        ("outdoor_rain", "gt/im_0300.png", ["in/im_0300_s80_a04.png", "in/im_0300_s85_a06.png"]),
        ("all_weather_transweather", "test/test1/gt/im_0302.png", ["test/test1/input/im_0302_s85_a06.png"]),
    ],
)
def test_inputs_without_target(tree, target, inputs, tmp_path):
    (make_tree(tree, tmp_path).place / target).unlink()
    assert found(examine(tmp_path)) == [("lost", name) for name in inputs]


@pytest.mark.parametrize("file", ["train/snow/input/input_scene_00001", "test/Snow100K-L/input/winter_00002"])
def test_files_that_are_listed_and_missing(file, tmp_path):
    place = make_tree("all_weather_transweather", tmp_path).place
    (place / f"{file}.jpg").unlink()
    ((kind, name),) = found(examine(tmp_path))
    assert kind == "absent"
    assert name.removesuffix(".jpg") == file


@pytest.mark.parametrize(
    ("tree", "target"), [("paired_folder", "train/gt/0.png"), ("raindrop", "test_a/gt/1_clean.png")]
)
def test_two_targets_of_one_name(tree, target, tmp_path):
    make_tree(tree, tmp_path)
    other = Path(target).with_suffix(".bmp")
    write_image(tmp_path / other, read(tmp_path / target))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("doubled", other.as_posix(), target)]
    assert diagnosis.problems[0].text == "two targets: remove one"


def test_two_inputs_of_one_name(tmp_path):
    make_tree("paired_folder", tmp_path)
    write_image(tmp_path / "train/input/0.bmp", read(tmp_path / "train/input/0.png"))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("doubled", "train/input/0.bmp", "train/input/0.png")]
    assert diagnosis.problems[0].text == "two inputs: remove one"


@pytest.mark.parametrize(
    ("tree", "target"),
    [("raindrop", "train/gt/77_clean.png"), ("reside", "OTS/clear/0077.jpg"), ("snow100k", "train/gt/a_00077.jpg")],
)
def test_targets_of_no_input(tree, target, tmp_path):
    make_tree(tree, tmp_path)
    write_image(tmp_path / target, picture("orphan", (24, 28)))
    assert found(examine(tmp_path)) == [("unused", target)]


@pytest.mark.parametrize("tree", ["rain_cityscapes", "foggy_cityscapes"])
def test_cityscapes_may_hold_more_views_than_the_weather(tree, tmp_path):
    make_tree(tree, tmp_path)
    target = "leftImg8bit/train/ulm/ulm_000000_000019_leftImg8bit.png"
    write_image(tmp_path / target, picture("orphan", (24, 28)))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == []
    assert ("unused", (target,)) in [(finding.kind, finding.paths) for finding in diagnosis.notes]


# files that cannot be read

HARMED = {
    "truncated": (lambda data: data[: len(data) // 2], ""),
    "without its last tenth": (lambda data: data[: -len(data) // 10], ""),
    "empty": (lambda data: b"", "an empty file"),
    "text": (lambda data: b"404: not found", "no image"),
    "header alone": (lambda data: data[:60], ""),
}


@pytest.mark.parametrize("harm", HARMED)
@pytest.mark.parametrize(
    ("tree", "file"),
    [
        ("rain13k", "train/target/1.jpg"),
        ("rain13k", "Test100/input/2.png"),
        ("photographs/loose", "alps/2.webp"),
        ("paired_folder", "test/gt/street 2.5/2.bmp"),
    ],
)
def test_files_that_cannot_be_read(tree, file, harm, tmp_path):
    make_tree(tree, tmp_path, scenes=2 if tree == "rain13k" else 3)
    change, text = HARMED[harm]
    (tmp_path / file).write_bytes(change((tmp_path / file).read_bytes()))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("unreadable", file)]
    assert text in diagnosis.problems[0].text
    assert str(tmp_path) not in diagnosis.problems[0].text
    assert diagnosis.problems[0].text


def test_what_is_no_file_at_all(tmp_path):
    make_tree("photographs", tmp_path)
    os.mkfifo(tmp_path / "train" / "pipe.png")
    (tmp_path / "train" / "link.png").symlink_to(tmp_path / "gone.png")
    diagnosis = examine(tmp_path)
    assert [finding.line() for finding in diagnosis.problems] == [
        "train/link.png: No such file or directory",
        "train/pipe.png: no regular file",
    ]


def test_files_and_folders_that_may_not_be_read(tmp_path, monkeypatch):
    make_tree("photographs", tmp_path)
    (tmp_path / "train" / "closed").mkdir()
    (tmp_path / "train" / ".cache").mkdir()  # hidden ones are none of ours
    scandir, real = os.scandir, looks.read_photograph

    def guarded(path):
        if Path(path).name in ("closed", ".cache"):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    def denied(path):
        if path.name == "0.png":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path)

    monkeypatch.setattr(os, "scandir", guarded)
    monkeypatch.setattr(looks, "read_photograph", denied)
    diagnosis = examine(tmp_path)
    assert [f.line() for f in diagnosis.problems] == [
        "train/closed: Permission denied",
        "validation/0.png: Permission denied",
    ]


def test_a_decoders_own_error_is_a_finding(tmp_path, monkeypatch):
    make_tree("photographs/loose", tmp_path, scenes=1)
    monkeypatch.setattr(looks, "read_photograph", lambda path: {}["chunk"])
    assert [f.line() for f in examine(tmp_path).problems] == ["0.webp: KeyError: 'chunk'"]


def test_a_decoders_warning_is_no_fault(tmp_path, monkeypatch):
    make_tree("photographs/loose", tmp_path, scenes=1)
    real = looks.read_photograph
    monkeypatch.setattr(
        looks, "read_photograph", lambda path: warnings.warn("corrupt EXIF", stacklevel=1) or real(path)
    )
    assert found(examine(tmp_path)) == []


# files that another program may read otherwise


def png_of_16_bits(path: Path, pixels: np.ndarray) -> None:
    """Writes RGB of 16 bits, which Pillow does not."""
    height, width, _ = pixels.shape
    rows = (pixels.astype(">u2") * 257).reshape(height, -1).view(np.uint8).reshape(height, -1)
    data = zlib.compress(np.insert(rows, 0, 0, axis=1).tobytes())
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", data), (b"IEND", b"")]
    body = b"".join(
        struct.pack(">I", len(d)) + name + d + struct.pack(">I", zlib.crc32(name + d)) for name, d in chunks
    )
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


def save(path: Path, pixels: np.ndarray, mode: str, **options) -> None:
    image = Image.fromarray(pixels)
    if mode == "I;16":
        image = Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    else:
        image = image.convert(mode)
    image.save(path, **options)


def frames(path: Path, pixels: np.ndarray) -> None:
    image = Image.fromarray(pixels)
    image.save(path, save_all=True, append_images=[Image.fromarray(pixels[::-1])])


def turned(path: Path, pixels: np.ndarray, orientation: int = 6) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.rot90(pixels, {6: 1, 3: 2}[orientation])).save(path, exif=exif)


def turned_behind(path: Path, pixels: np.ndarray) -> None:
    """As `turned`, with the EXIF chunk of a PNG behind its pixels."""
    turned(path, pixels)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + struct.unpack(">I", data[start : start + 4])[0]
    path.write_bytes(data[:start] + data[end:-12] + data[start:end] + data[-12:])


ODD = {
    "grey": (lambda p, x: save(p, x, "L"), "grey: "),
    "palette": (lambda p, x: save(p, x, "P"), "a palette: "),
    "see-through": (lambda p, x: save(p, x, "P", transparency=0), "a palette: read as RGB, a transparent"),
    "one colour": (lambda p, x: save(p, x, "RGB", transparency=(1, 2, 3)), "a transparent colour"),
    "alpha": (lambda p, x: save(p, x, "RGBA"), "with alpha"),
    "grey and alpha": (lambda p, x: save(p, x, "LA"), "grey with alpha"),
    "one bit": (lambda p, x: save(p, x, "1"), "black and white"),
    "16 bits": (png_of_16_bits, "16 bits a channel"),
    "grey of 16": (lambda p, x: save(p, x, "I;16"), "grey of 16 bits"),
    "turned": (turned, "turned by its EXIF"),
    "upside down": (lambda p, x: turned(p, x, 3), "turned by its EXIF"),
    "turned behind": (turned_behind, "turned by its EXIF"),
    "frames": (frames, "2 frames"),
}


@pytest.mark.parametrize("odd", ODD)
@pytest.mark.parametrize(
    ("tree", "file"), [("raindrop", "train/data/0_rain.png"), ("reside", "SOTS/outdoor/gt/0001.png")]
)
def test_images_that_are_no_plain_rgb(tree, file, odd, tmp_path):
    make_tree(tree, tmp_path, size=LARGE)
    write, text = ODD[odd]
    write(tmp_path / file, read(tmp_path / file))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("mode", file)]
    assert diagnosis.problems[0].text.startswith(text)


@pytest.mark.parametrize(
    ("tree", "file", "suffix", "write", "text"),
    [
        (
            "snow100k",
            "train/synthetic/beautiful_smile_00002.jpg",
            ".jpg",
            lambda p, x: save(p, x, "CMYK"),
            "CMYK: read as RGB without a",
        ),
        ("photographs", "train/DSC_0002.JPG", ".JPG", lambda p, x: save(p, x, "CMYK"), "CMYK: read as RGB without a"),
        ("photographs", "train/DSC_0002.JPG", ".JPG", turned, "turned by its EXIF"),
        ("photographs/loose", "0.webp", ".webp", frames, "2 frames"),
        ("photographs/loose", "0.webp", ".tif", frames, "2 frames"),
        ("photographs/loose", "0.webp", ".tif", lambda p, x: save(p, x, "LAB"), "LAB"),
    ],
)
def test_other_files_that_are_no_plain_rgb(tree, file, suffix, write, text, tmp_path):
    make_tree(tree, tmp_path, size=LARGE)
    pixels = read(tmp_path / file)
    (tmp_path / file).unlink()
    odd = Path(file).with_suffix(suffix)
    write(tmp_path / odd, pixels)
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("mode", odd.as_posix())]
    assert diagnosis.problems[0].text.startswith(text)


def test_the_second_picture_of_a_telephones_jpeg_is_no_fault(tmp_path):
    make_tree("photographs", tmp_path)
    pixels = read(tmp_path / "train/DSC_0002.JPG")
    images = [Image.fromarray(pixels), Image.fromarray(pixels[::-1])]
    images[0].save(tmp_path / "train/DSC_0002.JPG", format="MPO", save_all=True, append_images=images[1:])
    assert found(examine(tmp_path)) == []
    assert examine(tmp_path).notes == []


@pytest.mark.parametrize("tree", ["photographs", "photographs/loose"])
def test_a_name_that_says_another_format_is_a_note(tree, tmp_path):
    make_tree(tree, tmp_path)
    place = tmp_path / "train" if tree == "photographs" else tmp_path
    save(place / "x.png", picture("x", (24, 28)), "RGB", format="JPEG")
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == []
    assert [f.line() for f in diagnosis.notes] == [f"{(place / 'x.png').relative_to(tmp_path)}: it is JPEG"]


# pairs that do not fit


@pytest.mark.parametrize(
    ("tree", "input_", "target"),
    [
        ("paired_folder", "train/input/0.png", "train/gt/0.png"),
        ("all_weather", "train/input/im_0001_s80_a04.png", "train/gt/im_0001_s80_a04.png"),
        ("reside", "SOTS/indoor/hazy/1400_1.png", "SOTS/indoor/gt/1400.png"),  # its target may be larger, by 20 pixels
    ],
)
def test_pairs_of_two_sizes(tree, input_, target, tmp_path):
    make_tree(tree, tmp_path)
    pixels = read(tmp_path / input_)
    write_image(tmp_path / input_, pixels[2:])
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("size", input_, target)]
    height, width = read(tmp_path / target).shape[:2]
    assert diagnosis.problems[0].text == f"28 x 22 pixels and {width} x {height} pixels"


def test_small_images(tmp_path):
    make_tree("photographs/loose", tmp_path)
    write_image(tmp_path / "15.png", picture("a", (15, 40)))
    write_image(tmp_path / "16.png", picture("b", (16, 16)))
    diagnosis = examine(tmp_path)
    assert [f.line() for f in diagnosis.problems] == ["15.png: 40 x 15 pixels"]
    assert diagnosis.problems[0].kind == "small"


@pytest.mark.parametrize(
    ("tree", "input_", "target"),
    [
        ("raindrop", "test_b/data/1_rain.jpg", "test_b/gt/1_clean.jpg"),
        ("paired_folder/single", "lq/2.png", "hq/2.png"),
        ("foggy_cityscapes", None, None),
    ],
)
def test_inputs_that_are_their_own_target(tree, input_, target, tmp_path):
    expected = make_tree(tree, tmp_path)
    if input_ is None:
        input_, target, _ = expected.splits["val"][0]
    shutil.copy(tmp_path / target, tmp_path / input_)
    assert found(examine(tmp_path)) == [("same", input_, target)]


@pytest.mark.parametrize("tree", ["raindrop", "snow100k", "rain13k", "reside", "paired_folder/sets"])
def test_targets_that_were_swapped(tree, tmp_path):
    expected = make_tree(tree, tmp_path, size=LARGE)
    examples = expected.splits["train"]
    targets = sorted({example.target for example in examples})[:2]
    contents = [(tmp_path / name).read_bytes() for name in targets]
    for name, content in zip(targets, reversed(contents), strict=True):
        (tmp_path / name).write_bytes(content)
    diagnosis = examine(tmp_path)
    wrong = [example for example in examples if example.target in targets]
    assert found(diagnosis) == [("swapped", example.input, example.target) for example in wrong]
    for finding in diagnosis.problems:
        shown = targets[1 - targets.index(finding.paths[1])]
        assert finding.text == f"the input shows {shown}"


def test_a_wrong_target_that_is_no_others_is_not_called_swapped(tmp_path):
    make_tree("raindrop", tmp_path, size=LARGE)
    write_image(tmp_path / "train/gt/0_clean.png", picture("elsewhere", LARGE))
    assert found(examine(tmp_path)) == []  # heavy weather may do this as well


# what is learnt and judged on


@pytest.mark.parametrize(
    ("tree", "folders", "names", "scene"),
    [
        ("outdoor_rain/divided", ("train/input", "train/gt"), ("im_0301_s80_a04.png", "im_0301.png"), "im_0301"),
        ("all_weather", ("train/input", "train/gt"), ("im_0302_s80_a04.png",) * 2, "im_0302"),
        (
            "rain_cityscapes",
            ("leftImg8bit_rain/train/frankfurt", "leftImg8bit/train/frankfurt"),
            (
                "frankfurt_000000_000019_leftImg8bit_rain_alpha_0.01_beta_0.005_dropsize_0.01_pattern_1.png",
                "frankfurt_000000_000019_leftImg8bit.png",
            ),
            "frankfurt_000000_000019",
        ),
    ],
)
def test_scenes_of_a_test_in_the_training(tree, folders, names, scene, tmp_path):
    expected = make_tree(tree, tmp_path)
    input_, target = (f"{folder}/{name}" for folder, name in zip(folders, names, strict=True))
    clean = picture("leak", (24, 28))  # the names tell: no picture is needed
    write_image(tmp_path / target, clean)
    write_image(tmp_path / input_, degraded(clean, "leak", "rain"))
    diagnosis = examine(tmp_path)
    assert [f.line() for f in diagnosis.problems] == [f"{input_}: scene {scene}"]
    assert diagnosis.problems[0].kind == "leak"
    assert diagnosis.counts["train"][0] == len(expected.splits["train"])


def pair_of(tree, tmp_path, **options):
    """A set; and the target of its first training example and where to write a pair for another split."""
    expected = make_tree(tree, tmp_path, size=LARGE, **options)
    target = expected.splits["train"][0].target
    new = {
        "rain13k": ("Test100/input/9.png", "Test100/target/9.png"),
        "raindrop": ("test_a/data/9_rain.png", "test_a/gt/9_clean.png"),
        "photographs": (None, "validation/9.png"),
    }[tree]
    return target, *new


@pytest.mark.parametrize("tree", ["rain13k", "raindrop", "photographs"])
def test_a_clean_picture_in_two_splits(tree, tmp_path):
    target, new_input, new_target = pair_of(tree, tmp_path)
    pixels = read(tmp_path / target)
    if Path(target).suffix == ".png":
        new_target = Path(new_target).with_suffix(".bmp").as_posix()  # other bytes, the same pixels
    write_image(tmp_path / new_target, pixels)
    if new_input:
        write_image(tmp_path / new_input, degraded(pixels, "anew", "rain"))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("duplicate", target, new_target)]
    split = Path(new_target).parts[0].lower()
    assert diagnosis.problems[0].text == f"in train, {split}: remove it from train"


@pytest.mark.parametrize(("tree", "which"), [("rain13k", 0), ("rain13k", 1), ("raindrop", 0), ("raindrop", 1)])
def test_an_input_to_be_judged_that_was_seen_in_the_training(tree, which, tmp_path):
    """As an input, or even as a target."""
    expected = make_tree(tree, tmp_path, size=LARGE)
    source = expected.splits["train"][1][which]
    _, new_input, new_target = pair_of(tree, tmp_path)
    write_image(tmp_path / new_input, read(tmp_path / source))
    write_image(tmp_path / new_target, picture("elsewhere", LARGE))
    assert found(examine(tmp_path)) == [("duplicate", source, new_input)]


def test_repeats_that_do_no_harm(tmp_path):
    """Of one split, and of two that are both judged on, as Rain100H and Rain100L."""
    expected = make_tree("rain13k", tmp_path, size=LARGE)
    copies = [("train", "train"), ("rain100h", "rain100l"), ("test2800", "test2800")]
    for from_split, to_split in copies:
        for example in expected.splits[from_split][:1]:
            place = Path(expected.splits[to_split][0].target).parent.parent
            clean = read(tmp_path / example.target)
            write_image(tmp_path / place / "target" / "77.png", clean)
            write_image(tmp_path / place / "input" / "77.png", degraded(clean, to_split, "rain"))
    assert found(examine(tmp_path)) == []


def test_many_copies_are_one_finding(tmp_path):
    make_tree("photographs", tmp_path)
    for i in range(20):
        write_image(tmp_path / "train" / f"copy {i:02}.png", picture("copied", LARGE))
        write_image(tmp_path / "validation" / f"copy {i:02}.png", picture("copied", LARGE))
    (problem,) = examine(tmp_path).problems
    assert len(problem.paths) == 40
    assert problem.line() == (
        "train/copy 00.png, train/copy 01.png, train/copy 02.png, train/copy 03.png and 36 more: "
        "in train, validation: remove it from train"
    )


ANEW = {
    "quality 75": lambda image, path: image.save(path, quality=75),
    "half": lambda image, path: image.resize((image.width // 2, image.height // 2)).save(path, quality=95),
    "brighter": lambda image, path: image.point([min(255, round(1.05 * i)) for i in range(256)] * 3).save(path),
}


@pytest.mark.parametrize("way", ANEW)
@pytest.mark.parametrize("tree", ["rain13k", "raindrop", "photographs"])
def test_a_clean_picture_that_was_encoded_anew(tree, way, tmp_path):
    target, new_input, new_target = pair_of(tree, tmp_path)
    new_target = Path(new_target).with_suffix(".jpg").as_posix()
    ANEW[way](Image.fromarray(read(tmp_path / target)), tmp_path / new_target)
    if new_input:
        write_image(tmp_path / new_input, degraded(read(tmp_path / new_target), "anew", "rain"))
    diagnosis = examine(tmp_path)
    assert found(diagnosis) == [("near", target, new_target)]
    assert diagnosis.problems[0].text.startswith("similarity 0.9")


def test_pictures_without_detail_are_not_all_alike(tmp_path):
    make_tree("photographs", tmp_path)
    ramp = np.linspace(150, 250, LARGE[0])[:, None, None] * np.ones((1, LARGE[1], 3))
    for i, split in enumerate(("train", "validation") * 2):
        fog = ramp + np.random.default_rng(i).normal(0, 1, ramp.shape)
        write_image(tmp_path / split / f"fog {i}.png", np.clip(fog, 0, 255).astype(np.uint8))
    assert found(examine(tmp_path)) == []


# what is said


def test_the_report(tmp_path):
    make_tree("raindrop", tmp_path, scenes=14)
    for i in range(12):
        (tmp_path / f"train/gt/{i}_clean.png").unlink()
    (tmp_path / "test_a/data/3_rain.png").write_bytes(b"")
    diagnosis = examine(tmp_path)
    assert diagnosis.report().splitlines() == [
        f"{tmp_path}: RainDrop: photographs through a wet and a dry pane (layout raindrop)",
        "",
        "split                  found   published",
        "train                      2         861",
        "test_a                    14          58",
        "test_b                    14",
        "",
        "inputs without a target: they are of no use (12)",
        *(f"  train/data/{i}_rain.png" for i in (0, 10, 11, 1, 2, 3, 4, 5, 6, 7)),
        "  ... and 2 more; --json lists all",
        "",
        "files and folders that cannot be read (1)",
        "  test_a/data/3_rain.png: an empty file",
        "",
        "note: splits of another size than published (2)",
        "  test_a: 14 found, 44 fewer than the 58 published",
        "  train: 2 found, 859 fewer than the 861 published",
        "",
        f"13 problems in 60 files ({diagnosis.seconds:.0f} s)",
    ]


@pytest.mark.parametrize(("problems", "verdict"), [(0, "nothing wrong found in 1,234 files (12 s)"),
                                                   (1, "1 problem in 1,234 files (12 s)"),
                                                   (2000, "2,000 problems in 1,234 files (12 s)")])  # fmt: skip
def test_the_verdict(problems, verdict):
    layout = layout_named("photographs")
    findings = [Finding("mode", (f"{i}.png",), "grey") for i in range(problems)]
    diagnosis = Diagnosis(Path("/photos"), layout, {"train": (1234, None)}, findings, [], 1234, 12.3)
    assert diagnosis.report().splitlines()[-1] == verdict


def test_the_json(tmp_path):
    make_tree("raindrop", tmp_path, scenes=2)
    (tmp_path / "test_b/gt/1_clean.jpg").unlink()
    (tmp_path / "train/data/0_rain.png").write_bytes(b"")
    given = json.loads(json.dumps(examine(tmp_path).to_json()))
    assert given == {
        "version": 1,
        "folder": str(tmp_path),
        "layout": "raindrop",
        "title": "RainDrop: photographs through a wet and a dry pane",
        "splits": {
            "train": {"found": 2, "published": 861},
            "test_a": {"found": 2, "published": 58},
            "test_b": {"found": 1, "published": None},
        },
        "problems": [
            {"kind": "lost", "paths": ["test_b/data/1_rain.jpg"], "text": ""},
            {"kind": "unreadable", "paths": ["train/data/0_rain.png"], "text": "an empty file"},
        ],
        "notes": [
            {"kind": "count", "paths": [], "text": "test_a: 2 found, 56 fewer than the 58 published"},
            {"kind": "count", "paths": [], "text": "train: 2 found, 859 fewer than the 861 published"},
        ],
        "files": 10,
    }


def test_names_of_any_bytes(tmp_path):
    make_tree("photographs/loose", tmp_path)
    for name in (b"\xff \n.png", "Straße\x1b[2J.png".encode()):
        (tmp_path / os.fsdecode(name)).write_bytes(b"")
    diagnosis = examine(tmp_path)
    report = diagnosis.report()
    assert r"  \udcff \n.png: an empty file" in report.encode().decode().splitlines()
    assert r"  Straße\x1b[2J.png: an empty file" in report.splitlines()
    names = [problem["paths"][0] for problem in json.loads(json.dumps(diagnosis.to_json()))["problems"]]
    assert sorted(os.fsencode(name) for name in names) == [b"Stra\xc3\x9fe\x1b[2J.png", b"\xff \n.png"]


def test_every_kind_is_explained():
    assert all(KINDS.values())
    with pytest.raises(KeyError):
        Diagnosis(Path(), layout_named("photographs"), {}, [Finding("odd", ())], [], 0, 0).report()


# how it goes


def test_progress_tells_every_file_read_once(tmp_path, monkeypatch):
    make_tree("reside", tmp_path)  # several inputs of one target
    monkeypatch.setattr(looks, "_AT_ONCE", 4)
    opened, real = [], looks.read_photograph
    monkeypatch.setattr(looks, "read_photograph", lambda path: opened.append(path) or real(path))
    told = []
    diagnosis = examine(tmp_path, progress=lambda *count: told.append(count))
    assert diagnosis.files == len(opened) == len(set(opened)) == 27
    assert told == [(done, 27) for done in range(28)]


def test_the_user_may_stop_it(tmp_path, monkeypatch):
    make_tree("photographs/loose", tmp_path, scenes=64)
    monkeypatch.setattr(looks, "_THREADS", 2)
    opened, real = [], looks.read_photograph

    def slow(path):
        opened.append(path)
        time.sleep(0.02)
        return real(path)

    monkeypatch.setattr(looks, "read_photograph", slow)

    def stop(done, total):
        if done:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        examine(tmp_path, progress=stop)
    assert 1 <= len(opened) < 32


def test_it_needs_no_jax():
    code = "import sys, mofme_jax.data.doctor; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
