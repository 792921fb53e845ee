"""Folders of photographs and of pairs."""

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data.folders import PairFolder, PhotographFolder, pair_splits

RNG = np.random.default_rng(0)


def write(path, height=6, width=8):
    """Writes an image of noise, lossless, and returns it, (H, W, 3) uint8."""
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)
    return image


def count_reads(monkeypatch):
    """The paths that `read_photograph` is called with from now on."""
    from mofme_jax.data import folders

    read, paths = folders.read_photograph, []
    monkeypatch.setattr(folders, "read_photograph", lambda path: paths.append(path) or read(path))
    return paths


def test_photographs_are_sorted_by_path(tmp_path):
    images = {name: write(tmp_path / name) for name in ["b.png", "a/2.png", "c.PNG", "a/1.png"]}
    (tmp_path / "notes.txt").write_text("no photograph")
    folder = PhotographFolder(tmp_path, cache_bytes=0)
    assert folder.names == ["a/1.png", "a/2.png", "b.png", "c.PNG"]
    assert len(folder) == 4
    for name, image in zip(folder.names, folder, strict=True):
        np.testing.assert_array_equal(image, images[name])


def test_a_photograph_out_of_range_is_an_index_error(tmp_path):
    write(tmp_path / "a.png")
    folder = PhotographFolder(tmp_path, cache_bytes=0)
    for index in (1, -1):
        with pytest.raises(IndexError):
            folder[index]


@pytest.mark.parametrize(("photographs", "reads"), [(0, 6), (1, 5), (2, 4), (3, 3)])
def test_the_cache_keeps_what_its_limit_allows(tmp_path, monkeypatch, photographs, reads):
    # two passes over three photographs: each of those kept saves one read
    images = [write(tmp_path / f"{i}.png") for i in range(3)]
    folder = PhotographFolder(tmp_path, cache_bytes=photographs * images[0].nbytes)
    paths = count_reads(monkeypatch)
    for _ in range(2):
        for image, expected in zip(folder, images, strict=True):
            np.testing.assert_array_equal(image, expected)
    assert len(paths) == reads


def test_the_cache_passes_over_what_is_too_large_and_keeps_the_next(tmp_path, monkeypatch):
    write(tmp_path / "0.png", 40, 40)
    small = write(tmp_path / "1.png")
    folder = PhotographFolder(tmp_path, cache_bytes=small.nbytes)
    paths = count_reads(monkeypatch)
    for index in (0, 1, 0, 1):
        folder[index]
    assert [path.name for path in paths] == ["0.png", "1.png", "0.png"]


@pytest.mark.parametrize("make", ["nothing", "empty"])
def test_a_folder_without_photographs_is_named(tmp_path, make):
    path = tmp_path / make
    if make == "empty":
        path.mkdir()
    with pytest.raises(FileNotFoundError, match=make):
        PhotographFolder(path, cache_bytes=0)


def test_a_pair_is_input_then_target(tmp_path):
    # the same name, the name with another suffix, RainDrop's rule, and a name in a folder
    pairs = {
        "a.png": "a.png",
        "b_2.5.png": "b_2.5.bmp",
        "3_rain.png": "3_clean.png",
        "city/9_rain.png": "city/9_clean.png",
    }
    images = {i: (write(tmp_path / "input" / i), write(tmp_path / "gt" / t)) for i, t in pairs.items()}
    write(tmp_path / "gt" / "unused.png")
    folder = PairFolder(tmp_path, (), cache_bytes=0)
    assert folder.names == ["3_rain.png", "a.png", "b_2.5.png", "city/9_rain.png"]
    for name, pair in zip(folder.names, folder, strict=True):
        assert pair.shape == (6, 8, 6)
        assert pair.dtype == np.uint8
        np.testing.assert_array_equal(pair[..., :3], images[name][0])
        np.testing.assert_array_equal(pair[..., 3:], images[name][1])


def test_a_target_of_the_inputs_own_name_comes_before_raindrops_rule(tmp_path):
    write(tmp_path / "input" / "x_rain.png")
    own = write(tmp_path / "gt" / "x_rain.png")
    write(tmp_path / "gt" / "x_clean.png")
    np.testing.assert_array_equal(PairFolder(tmp_path, (), cache_bytes=0)[0][..., 3:], own)


def test_one_name_in_two_folders_is_two_pairs(tmp_path):
    images = {}
    for city in ("a", "b"):
        write(tmp_path / "input" / city / "1.png")
        images[city] = write(tmp_path / "gt" / city / "1.png")
    folder = PairFolder(tmp_path, (), cache_bytes=0)
    assert folder.names == ["a/1.png", "b/1.png"]
    for city, pair in zip("ab", folder, strict=True):
        np.testing.assert_array_equal(pair[..., 3:], images[city])


def test_inputs_without_targets_are_named(tmp_path):
    for i in range(8):
        write(tmp_path / "input" / f"{i}.png")
    write(tmp_path / "gt" / "0.png")
    with pytest.raises(ValueError, match=r"^7 of 8 inputs .*: 1\.png, 2\.png, 3\.png, 4\.png, 5\.png, \.\.\.$"):
        PairFolder(tmp_path, (), cache_bytes=0)


def test_two_targets_of_one_name_are_named(tmp_path):
    write(tmp_path / "input" / "a.png")
    for name in ("a.png", "a.bmp"):
        write(tmp_path / "gt" / name)
    with pytest.raises(ValueError, match=r"a\.bmp and .*a\.png are targets of one name"):
        PairFolder(tmp_path, (), cache_bytes=0)


def test_a_pair_of_two_sizes_is_named_when_read(tmp_path):
    for folder in ("input", "gt"):
        write(tmp_path / folder / "good.png")
    write(tmp_path / "input" / "odd.png")
    write(tmp_path / "gt" / "odd.png", height=7)
    folder = PairFolder(tmp_path, (), cache_bytes=0)
    assert folder[0].shape == (6, 8, 6)
    with pytest.raises(ValueError, match=r"input/odd\.png and .*gt/odd\.png differ in size"):
        folder[1]


def test_pairs_are_resized_alike(tmp_path):
    x, y = np.meshgrid(np.arange(40), np.arange(30))
    ramp = np.stack([5 * x, 7 * y, 2 * x + 3 * y], axis=-1).astype(np.uint8)
    for folder, image in (("input", ramp), ("gt", 255 - ramp)):
        (tmp_path / folder).mkdir()
        Image.fromarray(image).save(tmp_path / folder / "a.png")
    pair = PairFolder(tmp_path, (15, 20), cache_bytes=0)[0]
    assert pair.shape == (15, 20, 6)
    # bicubic is linear, but each of the two results is rounded
    assert np.abs(pair[..., 3:].astype(int) - (255 - pair[..., :3].astype(int))).max() <= 1
    # halved, a pixel is the mean of 2x2: the ramp half a pixel on, away from the borders
    middle = (slice(3, -3), slice(3, -3))
    expected = ramp[::2, ::2] + np.array([2.5, 3.5, 2.5])
    assert np.abs(pair[..., :3] - expected)[middle].max() <= 1


def test_pairs_of_two_sizes_may_be_resized(tmp_path):
    write(tmp_path / "input" / "a.png", 30, 40)
    write(tmp_path / "gt" / "a.png", 60, 80)
    assert PairFolder(tmp_path, (15, 20), cache_bytes=0)[0].shape == (15, 20, 6)


@pytest.mark.parametrize("part", ["input", "gt"])
def test_a_folder_that_pairs_lack_is_named(tmp_path, part):
    write(tmp_path / ("gt" if part == "input" else "input") / "a.png")
    with pytest.raises(FileNotFoundError, match=f"no folder '{part}'"):
        PairFolder(tmp_path, (), cache_bytes=0)


def test_splits_are_the_folders_that_hold_pairs(tmp_path):
    for split in ("train", "test_snow"):
        for folder in ("input", "gt"):
            (tmp_path / split / folder).mkdir(parents=True)
    (tmp_path / "half" / "input").mkdir(parents=True)
    assert pair_splits(tmp_path) == ["test_snow", "train"]
    with pytest.raises(FileNotFoundError, match="holds no pairs"):
        pair_splits(tmp_path / "half")
    with pytest.raises(FileNotFoundError, match="nowhere"):
        pair_splits(tmp_path / "nowhere")
