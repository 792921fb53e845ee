"""The TFDS sets of pairs: what is read from them is what is read from the folder, to the bit."""

import multiprocessing
import pickle
import shutil
import subprocess
import sys
from collections import namedtuple
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from mofme_jax.data import entries
from mofme_jax.data.builders import BUILDERS, PreparedSet
from mofme_jax.data.folders import PairFolder, open_pairs
from mofme_jax.data.prepared import build, pair_source
from tests.trees import TREES, make_tree

PAIRS = [name for name in TREES if not name.startswith("photographs")]
CONFIGS = {"all_weather": "mofme", "all_weather_transweather": "transweather", "snow100k": "synthetic"}
SPLITS = {"snow100k": ["train", "test_s", "test_m", "test_l"]}


def assert_same(source, expected):
    """Two sources give the same examples."""
    assert source.names == expected.names
    assert len(source) == len(expected)
    for i, (one, other) in enumerate(zip(source, expected, strict=True)):
        assert one.keys() == other.keys()
        for name, value in other.items():
            assert type(one[name]) is type(value)
            np.testing.assert_array_equal(one[name], value)
        assert source.size(i) == other["input"].shape[:2]


@pytest.fixture
def tree(tmp_path):
    """A folder of pairs, with a split train of three and a split test."""
    return make_tree("paired_folder", tmp_path / "tree").root


@pytest.fixture
def sets(tmp_path):
    return tmp_path / "sets"


@pytest.fixture
def nothing_is_built(monkeypatch):
    """nothing_is_built(): building is an error from then on."""

    def fail(*_, **__):
        raise AssertionError("it was built again")

    return lambda: monkeypatch.setattr(PreparedSet, "download_and_prepare", fail)


@pytest.mark.parametrize("name", PAIRS)
def test_every_set_gives_what_its_folder_gives(tmp_path, sets, name, nothing_is_built):
    expected = make_tree(name, tmp_path / "tree")
    layout, listing = open_pairs(expected.root)
    assert layout.name == expected.layout
    build(expected.root, sets)
    nothing_is_built()
    for split, examples in expected.splits.items():
        source = pair_source(sets, split, expected.root)
        assert_same(source, PairFolder(listing, split))
        assert [(e["input_name"], e.get("target_name"), e["weather"]) for e in source] == [tuple(e) for e in examples]
        assert_same(pair_source(sets, split, layout=layout.name), source)


def test_real_snow_is_a_config_without_targets(tmp_path, sets):
    root = make_tree("snow100k", tmp_path / "tree").root
    source = pair_source(sets, "realistic", root)
    assert set(source[0]) == {"input", "weather", "scene", "input_name"}
    assert [path.name for path in (sets / "snow100k").glob("*/1.0.0")] == ["1.0.0"]
    with pytest.raises(ValueError, match=r"no set in .*synthetic.* yet"):
        pair_source(sets, "train", layout="snow100k")
    pair_source(sets, "train", root)
    synthetic = tfds.builder("snow100k/synthetic", data_dir=str(sets))
    assert set(synthetic.info.splits) == {"train", "test_s", "test_m", "test_l"}


def test_a_wrapped_set(tmp_path, sets):
    expected = make_tree("raindrop", tmp_path / "tree", wrapped=True)
    assert_same(pair_source(sets, "test_a", expected.root), PairFolder(open_pairs(expected.root)[1], "test_a"))


@pytest.mark.parametrize("layout", [name for name in PAIRS if "/" not in name])
def test_the_way_of_every_tfds_set(tmp_path, sets, layout):
    """By tfds.builder and as_data_source, out of a manual folder that holds many sets."""
    name = "all_weather" if layout == "all_weather_transweather" else layout
    expected = make_tree(layout, tmp_path / "manual" / name)
    make_tree("rain13k" if name != "rain13k" else "raindrop", tmp_path / "manual" / "other")
    builder = tfds.builder(name, config=CONFIGS.get(layout), data_dir=str(sets), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=tmp_path / "manual"))
    splits = SPLITS.get(layout, list(expected.splits))
    assert set(builder.info.splits) == set(splits)
    weather = builder.info.features["weather"]
    _, listing = open_pairs(expected.root)
    for split in splits:
        for one, other in zip(builder.as_data_source(split), PairFolder(listing, split), strict=True):
            for image in ("input", "target"):
                np.testing.assert_array_equal(one[image], other[image])
            assert weather.int2str(int(one["weather"])) == other["weather"]
            for text in ("scene", "input_name", "target_name"):
                assert one[text].decode() == other[text]
    # and it is the same set
    assert_same(pair_source(sets, splits[0], expected.root), PairFolder(listing, splits[0]))


def test_the_manual_folder_may_be_the_set_itself(tmp_path, sets):
    root = make_tree("raindrop", tmp_path / "any name").root
    builder = tfds.builder("raindrop", data_dir=str(sets), file_format="array_record")
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=root))
    assert_same(pair_source(sets, "train", layout="raindrop"), PairFolder(open_pairs(root)[1], "train"))


@pytest.mark.parametrize("builder", BUILDERS.values(), ids=BUILDERS)
def test_a_set_says_what_it_is_and_how_to_lay_it_out(sets, builder):
    info = builder(data_dir=str(sets)).info
    layout = builder(data_dir=str(sets)).layout
    assert layout.title in info.description
    assert layout.terms in info.description
    assert info.citation == layout.citation
    assert layout.tree in builder.MANUAL_DOWNLOAD_INSTRUCTIONS
    assert str(builder.VERSION) in builder.RELEASE_NOTES
    assert builder.name in tfds.list_builders(with_community_datasets=False)


def test_a_plain_file_keeps_its_bytes_and_a_cut_target_does_not(tmp_path, sets):
    root = make_tree("reside", tmp_path / "tree").root
    folder = build(root, sets)
    builder = tfds.builder_from_directory(str(folder / "1.0.0"))
    decoders = {name: tfds.decode.SkipDecoding() for name in ("input", "target")}
    cut, uncut = (builder.as_data_source(split, decoders=decoders)[0] for split in ("sots_indoor", "train"))
    assert uncut["input"] == (root / uncut["input_name"].decode()).read_bytes()
    assert uncut["target"] == (root / uncut["target_name"].decode()).read_bytes()
    assert cut["input"] == (root / cut["input_name"].decode()).read_bytes()
    assert cut["target"] != (root / cut["target_name"].decode()).read_bytes()


@pytest.mark.parametrize("change", ["more", "other", "fewer"])
def test_a_folder_that_has_changed_is_an_error(tree, sets, change, nothing_is_built):
    pair_source(sets, "train", tree)
    nothing_is_built()
    assert len(pair_source(sets, "train", tree)) == 3
    found = {"more": "3 then, 4 now", "other": "3 then, 3 now, of other names or sizes", "fewer": "3 then, 2 now"}[
        change
    ]
    if change == "more":
        for folder in ("input", "gt"):
            shutil.copy(tree / "train" / folder / "0.png", tree / "train" / folder / "9.png")
    elif change == "other":  # only the target is another
        Image.new("RGB", (28, 24)).save(tree / "train/gt/0.png")
    else:
        (tree / "train/input/0.png").unlink()
    for open_again in (lambda: pair_source(sets, "train", tree), lambda: build(tree, sets)):
        with pytest.raises(ValueError, match=rf"built from other pairs .*\(train: {found}\): delete it"):
            open_again()
    # without the folder the set stands for itself
    assert len(pair_source(sets, "train", layout="paired_folder")) == 3


@pytest.mark.parametrize("damaged", ["test/input/0.png", "test/gt/1_clean.png"])
def test_a_damaged_image_is_named_and_leaves_no_set(tree, sets, damaged):
    path = tree / damaged
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=f"{path.name} cannot be read"):
        build(tree, sets)
    assert list((sets / "paired_folder").iterdir()) == []
    path.write_bytes(whole)
    build(tree, sets)
    assert len(pair_source(sets, "test", tree)) == 3


def test_a_pair_of_two_sizes_is_named(tree, sets):
    Image.new("RGB", (30, 24)).save(tree / "train/gt/0.png")
    with pytest.raises(ValueError, match=r"input/0\.png and .*gt/0\.png differ in size: 28 x 24 and 30 x 24"):
        build(tree, sets)
    assert list((sets / "paired_folder").iterdir()) == []


def test_what_cannot_be_built_is_said_before_any_work(tree, sets, tmp_path, monkeypatch):
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (4, 4)).save(tmp_path / "photos/x.png")
    for arguments, error, message in [
        (("val", tree), ValueError, "has no split 'val'; it has train, test"),
        (("train",), ValueError, "name manual_dir"),
        (("train", None, "raindrop"), ValueError, "no set in .* yet: name manual_dir"),
        (("train", None, "rain"), ValueError, "'rain' is unknown"),
        (("train", None, "photographs"), ValueError, "photographs has no pairs"),
        (("train", tmp_path / "photos"), ValueError, "photographs, and no pairs"),
        (("train", tmp_path / "nowhere"), FileNotFoundError, "nowhere"),
        (("train", tree, "raindrop"), FileNotFoundError, "in a layout known here"),
    ]:
        with pytest.raises(error, match=message):
            pair_source(sets, *arguments)
    usage = namedtuple("usage", "total used free")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(2, 1, 1))
        with pytest.raises(OSError, match=r"0\.0 GB left; the set needs"):
            build(tree, sets)
    (tree / "test").rename(tree / "test x")
    with pytest.raises(ValueError, match="TFDS takes no split called 'test x'"):
        build(tree, sets)
    assert not sets.exists()


def test_a_set_has_no_other_split(tree, sets):
    build(tree, sets)
    with pytest.raises(ValueError, match="no split 'val'; it has"):
        pair_source(sets, "val", layout="paired_folder")


def test_many_shards_keep_the_order(tmp_path, sets, monkeypatch):
    monkeypatch.setattr(entries, "_SHARD_BYTES", 40_000)
    monkeypatch.setattr(entries, "_AHEAD", 2)
    root = make_tree("paired_folder", tmp_path / "tree", scenes=40).root
    source = pair_source(sets, "train", root)
    assert 2 < len(list(sets.glob("paired_folder/1.0.0/*-train.array_record-*"))) < 10
    assert_same(source, PairFolder(open_pairs(root)[1], "train"))


def test_an_image_is_let_go_of_once_written(tree, sets, monkeypatch):
    """TFDS keeps the examples of a shard: their images must not be in them any more."""
    files = []

    def spy(*arguments):
        files.append(encoded(*arguments))
        return files[-1]

    encoded = entries._encoded
    monkeypatch.setattr(entries, "_encoded", spy)
    build(tree, sets)
    assert len(files) == 12
    assert all(file.closed for file in files)


def test_progress_is_said(tree, sets, monkeypatch):
    said = []
    monkeypatch.setattr(entries.Progress, "PERIOD", 0.0)
    assert build(tree, sets, report=said.append) == sets / "paired_folder"
    assert [line.split(" prepared")[0] for line in said[:6]] == [f"{i} of 6" for i in range(1, 7)]
    assert said[5].endswith("a second, 0:00:00 left")
    assert said[6:] == [f"{sets}/paired_folder/1.0.0 is built"]
    assert build(tree, sets, report=said.append) == sets / "paired_folder"
    assert said[7:] == [f"{sets}/paired_folder/1.0.0 is there, built from files of the same names and sizes"]


def test_a_source_goes_to_other_threads_and_processes(tree, sets):
    source = pair_source(sets, "train", tree)
    expected = PairFolder(open_pairs(tree)[1], "train")
    with ThreadPoolExecutor(4) as pool:
        read = list(pool.map(source.__getitem__, [0, 1, 2] * 20))
    for i, example in enumerate(read):
        np.testing.assert_array_equal(example["target"], expected[i % 3]["target"])
    assert len(pickle.dumps(source)) < 500  # readers stay behind
    assert_same(pickle.loads(pickle.dumps(source)), expected)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        example = pool.submit(source.__getitem__, 2).result()
    np.testing.assert_array_equal(example["input"], expected[2]["input"])
    assert example["input_name"] == expected.names[2]


def test_nobody_imports_tensorflow(tree, sets):
    code = (
        "import sys; from mofme_jax.data.prepared import *; "
        f"build({str(tree)!r}, {str(sets)!r}, report=str); "
        f"pair_source({str(sets)!r}, 'train', {str(tree)!r})[0]; "
        "print([m for m in ('tensorflow', 'jax') if m in sys.modules])"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.stdout.splitlines()[-1] == "[]"
