"""Folders of photographs and of pairs as sources, and what is learnt from in memory."""

import os
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Barrier

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data.folders import (
    ArraySource,
    PairFolder,
    PhotographFolder,
    TrainingImages,
    labels,
    open_pairs,
    read_pair,
)
from mofme_jax.data.layouts import Pair
from mofme_jax.data.photos import read_photograph
from tests.trees import TREES, make_tree, write_image

RNG = np.random.default_rng(0)
PAIRS = [tree for tree in TREES if not tree.startswith("photographs")]


def write(path, height=6, width=8):
    """Writes an image of noise, lossless, and returns it, (H, W, 3) uint8."""
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    write_image(path, image)
    return image


def pair_folder(root, split="train"):
    return PairFolder(open_pairs(root)[1], split)


class CountedSource(list):
    """Examples that note which of them are read."""

    def __init__(self, examples):
        super().__init__(examples)
        self.read = []

    def __getitem__(self, index):
        self.read.append(index)
        return super().__getitem__(index)


def photographs(count, height=6, width=8):
    images = [RNG.integers(0, 256, (height, width, 3), dtype=np.uint8) for _ in range(count)]
    return images, CountedSource({"image": image} for image in images)


# photographs


def test_photographs_are_sorted_by_path(tmp_path):
    images = {name: write(tmp_path / name) for name in ["b.png", "a/2.png", "c.PNG", "a/1.png"]}
    (tmp_path / "notes.txt").write_text("no photograph")
    folder = PhotographFolder(tmp_path)
    assert folder.names == ["a/1.png", "a/2.png", "b.png", "c.PNG"]
    assert len(folder) == 4
    for name, example in zip(folder.names, folder, strict=True):
        assert example["name"] == name
        np.testing.assert_array_equal(example["image"], images[name])


def test_the_size_of_a_photograph_is_height_and_width(tmp_path):
    write(tmp_path / "a.png", 5, 9)
    assert PhotographFolder(tmp_path).size(0) == (5, 9)
    assert ArraySource({"a": np.zeros((5, 9, 3), np.uint8)}).size(0) == (5, 9)


def test_arrays_are_a_source_like_a_folder(tmp_path):
    images = {name: write(tmp_path / name) for name in ("a.png", "b.png")}
    arrays, folder = ArraySource(images), PhotographFolder(tmp_path)
    assert arrays.names == folder.names
    for one, other in zip(arrays, folder, strict=True):
        assert one.keys() == other.keys()
        assert one["name"] == other["name"]
        np.testing.assert_array_equal(one["image"], other["image"])


@pytest.mark.parametrize("make", ["nothing", "empty"])
def test_a_folder_without_photographs_is_named(tmp_path, make):
    path = tmp_path / make
    if make == "empty":
        path.mkdir()
    with pytest.raises(FileNotFoundError, match=make):
        PhotographFolder(path)


# pairs


@pytest.mark.parametrize("tree", PAIRS)
def test_every_example_of_every_layout_is_read_as_its_files_are(tmp_path, tree):
    expected = make_tree(tree, tmp_path, size=(20, 24))
    _, listing = open_pairs(tmp_path)
    for split, examples in expected.splits.items():
        if not all(example.target for example in examples):
            continue
        folder = PairFolder(listing, split)
        assert folder.names == [example.input for example in examples]
        for index, example in enumerate(examples):
            read = folder[index]
            assert read["weather"] == example.weather
            assert (read["input_name"], read["target_name"]) == (example.input, example.target)
            assert read["input"].shape == read["target"].shape == (20, 24, 3)
            assert folder.size(index) == (20, 24)
            np.testing.assert_array_equal(read["input"], read_photograph(expected.place / example.input))
            target = read_photograph(expected.place / example.target)
            margin = 10 if split == "sots_indoor" else 0
            np.testing.assert_array_equal(read["target"], target[margin : margin + 20, margin : margin + 24])


def test_a_real_image_has_no_target(tmp_path):
    make_tree("snow100k", tmp_path)
    _, listing = open_pairs(tmp_path)
    pair = listing.splits["realistic"][0]
    assert list(read_pair(pair)) == ["input"]
    assert labels(listing, pair) == {
        "weather": "snow",
        "scene": "realistic/snow_storm_00001",
        "input_name": "realistic/snow_storm_00001.jpg",
    }


def test_a_pair_of_two_sizes_is_named_by_its_headers_and_when_read(tmp_path):
    for folder in ("input", "gt"):
        write(tmp_path / folder / "good.png")
    write(tmp_path / "input" / "odd.png")
    write(tmp_path / "gt" / "odd.png", height=7)
    folder = pair_folder(tmp_path)
    assert folder[0]["input"].shape == (6, 8, 3)
    for read in (folder.__getitem__, folder.size):
        with pytest.raises(ValueError, match=r"input/odd\.png and .*gt/odd\.png differ in size: 8 x 6 and 8 x 7"):
            read(1)


@pytest.mark.parametrize(
    ("more", "middle", "read"),
    [
        ((20, 20), True, True),
        ((0, 20), True, False),
        ((10, 10), True, False),
        ((20, 20), False, False),
        ((21, 20), True, False),  # it has no middle
        ((22, 22), True, False),  # it is another picture
        ((-2, -2), True, False),
        ((2, -2), True, False),
    ],
)
def test_only_a_target_with_the_margin_of_resides_is_cut_to_its_middle(tmp_path, more, middle, read):
    degraded = write(tmp_path / "i.png", 30, 40)
    target = write(tmp_path / "t.png", 30 + more[0], 40 + more[1])
    pair = Pair(tmp_path / "i.png", tmp_path / "t.png", "haze", "1", middle)
    if not read:
        with pytest.raises(ValueError, match="differ in size"):
            read_pair(pair)
        return
    images = read_pair(pair)
    np.testing.assert_array_equal(images["input"], degraded)
    top, left = more[0] // 2, more[1] // 2
    np.testing.assert_array_equal(images["target"], target[top : top + 30, left : left + 40])


@pytest.mark.parametrize("part", ["input", "gt"])
def test_a_damaged_file_of_a_pair_is_named(tmp_path, part):
    for folder in ("input", "gt"):
        write(tmp_path / folder / "a.png", 40, 40)
    damaged = tmp_path / part / "a.png"
    damaged.write_bytes(damaged.read_bytes()[:2000])
    folder = pair_folder(tmp_path)
    assert folder.size(0) == (40, 40)
    with pytest.raises(ValueError, match=rf"{part}/a\.png cannot be read"):
        folder[0]


# what is wrong with a set


def test_inputs_without_targets_are_counted_and_five_are_named(tmp_path):
    for i in range(8):
        write(tmp_path / "input" / f"{i}.png")
    write(tmp_path / "gt" / "0.png")
    with pytest.raises(ValueError, match=r": 7 inputs have no target .*: (input/\d\.png, ){5}\.\.\.; ") as error:
        open_pairs(tmp_path)
    assert str(tmp_path) in str(error.value)


def test_five_are_all_that_are_named_where_there_are_five(tmp_path):
    for i in range(6):
        write(tmp_path / "input" / f"{i}.png")
    write(tmp_path / "gt" / "0.png")
    with pytest.raises(ValueError, match=r"5 inputs .*: input/1\.png, .*, input/5\.png; "):
        open_pairs(tmp_path)


def test_two_targets_of_one_name_are_named(tmp_path):
    write(tmp_path / "input" / "a.png")
    for name in ("a.png", "a.bmp"):
        write(tmp_path / "gt" / name)
    with pytest.raises(ValueError, match=r"share a name with another: gt/a\.bmp, gt/a\.png; "):
        open_pairs(tmp_path)


def test_two_inputs_of_one_name_are_named(tmp_path):
    write(tmp_path / "gt" / "a.png")
    for name in ("a.png", "a.bmp"):
        write(tmp_path / "input" / name)
    with pytest.raises(ValueError, match=r"share a name with another: input/a\.bmp, input/a\.png; "):
        open_pairs(tmp_path)


def test_pairs_that_are_left_out_are_said(tmp_path):
    make_tree("raindrop", tmp_path)
    for folder in ("input", "gt"):
        write(tmp_path / "val" / folder / "a.png")
    with pytest.warns(UserWarning, match=r"RainDrop.*left out: val/input$"):
        _, listing = open_pairs(tmp_path)
    assert list(listing.splits) == ["train", "test_a", "test_b"]


def test_a_folder_that_cannot_be_listed_is_no_smaller_set(tmp_path, monkeypatch):
    make_tree("paired_folder", tmp_path)
    scandir = os.scandir

    def guarded(path):
        if Path(path).name == "street 2.5":
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", guarded)
    with pytest.raises(PermissionError, match=r"street 2\.5"):
        open_pairs(tmp_path)


def test_files_that_are_listed_and_missing_are_named(tmp_path):
    make_tree("all_weather_transweather", tmp_path)
    (tmp_path / "data/train/snow/input/input_scene_00002.jpg").unlink()
    with pytest.raises(ValueError, match=r"1 files are listed and missing: train/snow/input/input_scene_00002\.jpg; "):
        open_pairs(tmp_path)


@pytest.mark.parametrize("part", ["input", "gt"])
def test_one_folder_of_two_is_an_error(tmp_path, part):
    write(tmp_path / part / "a.png")
    with pytest.raises(ValueError, match=r"input/a\.png|targets, and no inputs"):
        open_pairs(tmp_path)


def test_photographs_are_no_pairs(tmp_path):
    make_tree("photographs", tmp_path)
    with pytest.raises(ValueError, match="holds photographs, and no pairs"):
        open_pairs(tmp_path)


def test_a_layout_may_be_named(tmp_path):
    make_tree("rain13k", tmp_path)
    assert open_pairs(tmp_path)[0].name == "rain13k"
    assert open_pairs(tmp_path, "paired_folder")[0].name == "paired_folder"
    with pytest.raises(FileNotFoundError, match="raindrop: "):
        open_pairs(tmp_path, "raindrop")
    with pytest.raises(ValueError, match="'weather' is unknown"):
        open_pairs(tmp_path, "weather")


def test_targets_that_no_input_has_do_not_hinder(tmp_path):
    images = [write(tmp_path / folder / "a.png") for folder in ("input", "gt")]
    write(tmp_path / "gt" / "unused.png")
    example = pair_folder(tmp_path)[0]
    np.testing.assert_array_equal(example["input"], images[0])
    np.testing.assert_array_equal(example["target"], images[1])


# what is learnt from


def test_a_photograph_stays_and_a_pair_is_input_then_target():
    (image, other), _ = photographs(2)
    np.testing.assert_array_equal(TrainingImages([{"image": image, "name": "a"}])[0], image)
    pair = TrainingImages([{"target": other, "input": image, "weather": "rain"}])[0]
    assert pair.dtype == np.uint8
    np.testing.assert_array_equal(pair[..., :3], image)
    np.testing.assert_array_equal(pair[..., 3:], other)


def test_an_image_out_of_range_is_an_index_error():
    images = TrainingImages(photographs(1)[1])
    for index in (1, -1):
        with pytest.raises(IndexError):
            images[index]


@pytest.mark.parametrize(("kept", "reads"), [(0, 6), (1, 5), (2, 4), (3, 3)])
def test_memory_keeps_what_its_limit_allows(kept, reads):
    # two passes over three photographs: each of those kept saves one read
    arrays, source = photographs(3)
    images = TrainingImages(source, cache_bytes=kept * arrays[0].nbytes)
    for _ in range(2):
        for image, expected in zip(images, arrays, strict=True):
            np.testing.assert_array_equal(image, expected)
    assert len(source.read) == reads


def test_memory_passes_over_what_is_too_large_and_keeps_the_next():
    large, small = photographs(1, 40, 40)[1][0], photographs(1)[1][0]
    source = CountedSource([large, small])
    images = TrainingImages(source, cache_bytes=small["image"].nbytes)
    for index in (0, 1, 0, 1):
        images[index]
    assert source.read == [0, 1, 0]


def test_what_is_kept_is_what_was_resized():
    _, source = photographs(2, 40, 40)
    images = TrainingImages(source, resize=(10, 20), cache_bytes=2 * 10 * 20 * 3)
    for _ in range(2):
        assert [image.shape for image in images] == [(10, 20, 3)] * 2
    assert source.read == [0, 1]


def test_pairs_are_resized_alike():
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    ramp = np.stack([5 * x, 7 * y, 2 * x + 3 * y], axis=-1).astype(np.uint8)
    pair = TrainingImages([{"input": ramp, "target": 255 - ramp}], resize=(15, 20))[0]
    assert pair.shape == (15, 20, 6)
    # bicubic is linear, but each of the two results is rounded
    assert np.abs(pair[..., 3:].astype(int) - (255 - pair[..., :3].astype(int))).max() <= 1
    # halved, a pixel is the mean of 2x2: the ramp half a pixel on, away from the borders
    middle = (slice(3, -3), slice(3, -3))
    expected = ramp[::2, ::2] + np.array([2.5, 3.5, 2.5])
    assert np.abs(pair[..., :3] - expected)[middle].max() <= 1


def test_filling_reads_every_image_once_and_says_how_many():
    arrays, source = photographs(19)
    images = TrainingImages(source, cache_bytes=19 * arrays[0].nbytes)
    told = list(images.fill())
    assert told == sorted(set(told))
    assert told[-1] == 19
    assert sorted(source.read) == list(range(19))
    for image, expected in zip(images, arrays, strict=True):
        np.testing.assert_array_equal(image, expected)
    assert len(source.read) == 19


def test_filling_ends_soon_after_the_memory_is_full():
    arrays, source = photographs(100)
    images = TrainingImages(source, cache_bytes=12 * arrays[0].nbytes)
    assert list(images.fill())[-1] < 30
    before = len(source.read)
    assert before < 30
    list(images)
    assert len(source.read) - before == 100 - 12


def test_filling_shows_a_damaged_file(tmp_path):
    for i in range(10):
        write(tmp_path / f"{i}.png")
    (tmp_path / "9.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"9\.png cannot be read"):
        list(TrainingImages(PhotographFolder(tmp_path), cache_bytes=2**20).fill())


def test_two_threads_that_read_one_image_count_it_once():
    arrays, source = photographs(2)
    together = Barrier(2, timeout=10)

    class Slow(CountedSource):
        def __getitem__(self, index):
            if index == 0:
                together.wait()
            return super().__getitem__(index)

    source = Slow(source)
    images = TrainingImages(source, cache_bytes=2 * arrays[0].nbytes)
    with ThreadPoolExecutor(2) as pool:
        for image in pool.map(images.__getitem__, [0, 0]):
            np.testing.assert_array_equal(image, arrays[0])
    for _ in range(2):
        for image, expected in zip(images, arrays, strict=True):
            np.testing.assert_array_equal(image, expected)
    assert source.read == [0, 0, 1]


def test_many_threads_read_what_one_does(tmp_path):
    make_tree("paired_folder", tmp_path, scenes=12)
    folder = pair_folder(tmp_path)
    alone = list(TrainingImages(folder))
    images = TrainingImages(folder, cache_bytes=5 * alone[0].nbytes)
    order = [int(i) for i in RNG.integers(0, 12, 200)]
    with ThreadPoolExecutor(8) as pool:
        for index, image in zip(order, pool.map(images.__getitem__, order), strict=True):
            np.testing.assert_array_equal(image, alone[index])


def test_a_copy_for_another_process_starts_with_its_whole_memory_empty(tmp_path):
    make_tree("reside", tmp_path)
    images = TrainingImages(pair_folder(tmp_path), resize=(8, 8), cache_bytes=2 * 8 * 8 * 6)
    before = list(images)
    pickled = pickle.dumps(images)
    kept = TrainingImages(pair_folder(tmp_path), resize=(8, 8), cache_bytes=0)
    assert abs(len(pickled) - len(pickle.dumps(kept))) < 100  # no picture travels
    copy = pickle.loads(pickled)
    for image, expected in zip(copy, before, strict=True):
        np.testing.assert_array_equal(image, expected)
    (tmp_path / "OTS/hazy/0001_0.8_0.2.jpg").unlink()
    np.testing.assert_array_equal(copy[0], before[0])  # it has been kept anew


def test_a_source_may_be_read_from_another_folder_than_it_was_listed_in(tmp_path, monkeypatch):
    make_tree("paired_folder", tmp_path / "set")
    monkeypatch.chdir(tmp_path)
    folder = pair_folder(Path("set"))
    monkeypatch.chdir("/")
    assert folder[0]["input"].shape == (24, 28, 3)


def test_a_target_is_turned_upright_as_its_input_is(tmp_path):
    """A camera's pair: the target was turned by a program, the input's file says that it is on its side."""
    target = write(tmp_path / "gt" / "a.png", 6, 8)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "input").mkdir()
    Image.fromarray(np.ascontiguousarray(np.rot90(target, 1))).save(tmp_path / "input/a.png", exif=exif)
    folder = pair_folder(tmp_path)
    assert folder.size(0) == (6, 8)
    np.testing.assert_array_equal(folder[0]["input"], target)


def test_folder_is_listed_sorted_and_to_the_bottom(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "z.tif", "notes.txt", ".hidden.jpg", ".cache/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = PhotographFolder(tmp_path).names
    assert names == ["a.jpg", "b.PNG", "deep/er/c.webp", "z.tif"]


def test_folder_below_a_hidden_one_is_not_hidden(tmp_path):
    folder = tmp_path / ".home" / "photographs"
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    assert len(PhotographFolder(str(folder))) == 1


def test_missing_empty_or_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        PhotographFolder(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No photograph in .*put some there \(\.jpg"):
        PhotographFolder(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(NotADirectoryError, match=r"a\.jpg"):
        PhotographFolder(tmp_path / "a.jpg")
