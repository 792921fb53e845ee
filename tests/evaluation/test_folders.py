"""Which files belong together, and what is said of those that do not."""

import numpy as np
import pytest
from PIL import Image

from mofme_jax.evaluation.folders import check_sizes, judge_files, match
from mofme_jax.evaluation.protocols import PROTOCOLS
from mofme_jax.evaluation.scoring import score

RNG = np.random.default_rng(0)


@pytest.fixture
def folder(tmp_path):
    """folder("gt", {"a.png": (20, 24)}): makes a folder of pictures of these sizes; returns its path."""

    def make(name, files):
        for file, size in files.items():
            path = tmp_path / name / file
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(RNG.integers(0, 256, (*size, 3), dtype=np.uint8)).save(path)
        return tmp_path / name

    return make


SIZE = (20, 24)


def test_files_of_one_path_but_for_the_suffix_belong_together(folder):
    truth = folder("gt", {"b.png": SIZE, "x/a.png": SIZE, "a.v2.png": SIZE})
    first = folder("first", {"a.v2.bmp": SIZE, "b.webp": SIZE, "x/a.png": SIZE})
    second = folder("second", {"x/a.tif": SIZE, "b.png": SIZE, "a.v2.png": SIZE})
    files = match([first, second], truth)
    assert [one.name for one in files] == ["a.v2", "b", "x/a"]
    assert [one.truth for one in files] == [truth / "a.v2.png", truth / "b.png", truth / "x/a.png"]
    assert files[2].pictures == (first / "x/a.png", second / "x/a.tif")
    assert files[0].pictures == (first / "a.v2.bmp", second / "a.v2.png")


def test_sorted_order_is_the_same_with_what_methods_add_to_names(folder):
    truth = folder("gt", {"1.png": SIZE, "10.png": SIZE, "2.png": SIZE, "x/1.png": SIZE})
    pictures = folder("out", {"1_rain.png": SIZE, "10_rain.jpg": SIZE, "2_rain.png": SIZE, "x/1-b.png": SIZE})
    files = match([pictures], truth, "sorted")
    assert [one.name for one in files] == ["1", "2", "10", "x/1"]
    assert [one.pictures[0].name for one in files] == ["1_rain.png", "2_rain.png", "10_rain.jpg", "1-b.png"]


@pytest.mark.parametrize(
    ("pictures", "how", "message"),
    [
        (
            ["a_rain", "b_rain"],
            "stem",
            r"2 of the 2 in .*out \(a_rain, b_rain\) and 2 of the 2 in .*gt \(a, b\); .*order",
        ),
        (["a"], "stem", r"^pictures without a partner .* 1 of the 2 in .*gt \(b\); add or remove"),
        (["a", "b", *"cdefg"], "stem", r"5 of the 7 in .*out \(c, d, e, \.\.\.\); add .* --match sorted"),
        (["a"], "sorted", r"out has 1 pictures and .*gt 2: in sorted order there must be as many"),
    ],
)
def test_files_without_a_partner_are_named(folder, pictures, how, message):
    truth = folder("gt", {"a.png": SIZE, "b.png": SIZE})
    out = folder("out", {f"{name}.png": SIZE for name in pictures})
    with pytest.raises(ValueError, match=message):
        match([out], truth, how)


def test_two_files_of_one_stem_are_named(folder):
    out = folder("out", {"a.png": SIZE, "a.jpg": SIZE})
    with pytest.raises(ValueError, match=r"out/a.jpg and .*out/a.png have one stem"):
        match([out], folder("gt", {"a.png": SIZE}))


def test_folders_that_are_missing_or_empty(folder, tmp_path):
    truth = folder("gt", {"a.png": SIZE})
    with pytest.raises(FileNotFoundError, match=r"there is no folder .*nowhere"):
        match([tmp_path / "nowhere"], truth)
    with pytest.raises(NotADirectoryError, match=r"gt/a.png is not a folder"):
        match([truth / "a.png"], truth)
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "notes.txt").touch()
    with pytest.raises(FileNotFoundError, match=r"no picture in .*empty"):
        match([truth], tmp_path / "empty")


@pytest.mark.parametrize(
    ("size", "protocol", "message"),
    [
        ((20, 25), "native-rgb", r"out/b.png is 25 x 20 pixels and .*gt/b.png 24 x 20: .* of its ground truth$"),
        ((24, 32), "mofme", r"out/b.png is 32 x 24 .* or the 720 x 480 of the protocol mofme$"),
        ((32, 32), "centre16-rgb", r"or the 16 x 16 of the protocol centre16-rgb$"),
    ],
)
def test_sizes_that_do_not_fit_are_named(folder, size, protocol, message):
    files = match([folder("out", {"a.png": SIZE, "b.png": size})], folder("gt", {"a.png": SIZE, "b.png": SIZE}))
    with pytest.raises(ValueError, match=message):
        check_sizes(files, ["native-rgb", protocol] if protocol == "native-rgb" else [protocol], lambda done: None)


def test_images_smaller_than_the_window_are_named(folder):
    files = match([folder("out", {"a.png": (10, 30)})], folder("gt", {"a.png": (10, 30)}))
    with pytest.raises(ValueError, match=r"gt/a.png is 30 x 10 pixels, 30 x 10 under .* window of 11; remove it"):
        check_sizes(files, ["basicsr-y"], lambda done: None)
    check_sizes(files, ["mofme", "weatherdiff-y"], lambda done: None)  # which make it larger


def test_a_damaged_file_is_named(folder):
    out, truth = folder("out", {"a.png": (64, 64)}), folder("gt", {"a.png": (64, 64)})
    whole = (out / "a.png").read_bytes()
    (out / "a.png").write_bytes(whole[: len(whole) // 2])
    files = match([out], truth)
    check_sizes(files, ["native-rgb"], lambda done: None)  # the header is all right
    with pytest.raises(ValueError, match=r"out/a.png cannot be read"):
        list(judge_files(files, ["native-rgb"]))
    (out / "a.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"out/a.png cannot be read"):
        check_sizes(files, ["native-rgb"], lambda done: None)


def test_pictures_are_judged_in_order_under_every_protocol(folder):
    sizes = {f"{i}.png": (16 + i, 33 - i) for i in range(9)}
    files = match([folder("a", sizes), folder("b", sizes)], folder("gt", sizes))
    told = []
    check_sizes(files, list(PROTOCOLS), told.append)
    assert told == list(range(1, 10))
    found = list(judge_files(files, ["native-rgb", "centre16-rgb"]))
    assert [one.name for one in found] == [str(i) for i in range(9)]
    for one, files_of_one in zip(found, files, strict=True):
        truth = np.asarray(Image.open(files_of_one.truth))
        pictures = [np.asarray(Image.open(path)) for path in files_of_one.pictures]
        assert one.scores["native-rgb"] == tuple(score(picture, truth, "rgb-u8") for picture in pictures)
        assert one.scores["centre16-rgb"] != one.scores["native-rgb"]
        for shown, expected in zip(one.pictures, [*pictures, truth], strict=True):
            np.testing.assert_array_equal(shown, expected)
