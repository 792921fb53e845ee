"""The TFDS set of clean photographs: built once, without TensorFlow, and read back to the bit."""

import io
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from configs import default
from mofme_jax.data import builders
from mofme_jax.data.builders import Photographs, photograph_source
from mofme_jax.data.folders import PhotographFolder
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.pipeline import training_stream
from mofme_jax.training.options import read_options
from mofme_jax.training.sources import open_sources

RNG = np.random.default_rng(0)
ROTATED = 6  # EXIF: turn by 90 degrees to see it upright


def write(path, height=20, width=24, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path, **options)


def records(data_dir, config, split):
    builder = Photographs(data_dir=str(data_dir), config=config, file_format="array_record")
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A data_dir that holds the embedded photographs."""
    data_dir = tmp_path_factory.mktemp("embedded")
    photograph_source(data_dir, "train")
    return data_dir


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs: three to train on, one to evaluate on."""
    exif = Image.Exif()
    exif[0x0112] = ROTATED
    write(tmp_path / "photos/train/b.jpg")
    write(tmp_path / "photos/train/a/turned.jpg", exif=exif)
    write(tmp_path / "photos/train/c.bmp")
    write(tmp_path / "photos/validation/d.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_embedded_photographs_come_back_to_the_bit(embedded, split):
    expected = embedded_photographs(split)
    source = photograph_source(embedded, split)
    assert source.names == list(expected)
    for image, photograph in zip(source, expected.values(), strict=True):
        assert image.dtype == np.uint8
        np.testing.assert_array_equal(image, photograph)


def test_a_prepared_set_is_only_read(embedded, monkeypatch):
    monkeypatch.setattr(builders, "embedded_photographs", None)  # building would call it
    assert len(photograph_source(embedded, "train")) == 5


def test_a_record_is_an_encoded_image_and_its_name(embedded):
    record = records(embedded, "embedded", "validation")[0]
    assert record["name"] == b"china"
    with Image.open(io.BytesIO(record["image"])) as image:
        assert (image.format, image.size) == ("PNG", (640, 427))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_gives_what_photograph_folder_gives(tmp_path, photos, split):
    expected = PhotographFolder(photos / split, cache_bytes=0)
    source = photograph_source(tmp_path / "sets", split, "folder", photos)
    assert source.names == expected.names
    for image, photograph in zip(source, expected, strict=True):
        np.testing.assert_array_equal(image, photograph)


def test_only_plain_jpegs_keep_their_bytes(tmp_path, photos):
    # a reader that knows nothing of EXIF must see the turned one upright
    photograph_source(tmp_path, "train", "folder", photos)
    images = {r["name"].decode(): r["image"] for r in records(tmp_path, "folder", "train")}
    formats = {name: Image.open(io.BytesIO(image)).format for name, image in images.items()}
    assert formats == {"a/turned.jpg": "PNG", "b.jpg": "JPEG", "c.bmp": "PNG"}
    assert images["b.jpg"] == (photos / "train/b.jpg").read_bytes()


def test_a_folder_without_splits_is_all_train(tmp_path):
    write(tmp_path / "photos/x.png")
    source = photograph_source(tmp_path, "train", "folder", tmp_path / "photos")
    assert source.names == ["x.png"]
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        photograph_source(tmp_path, "validation", "folder")


def test_many_shards_keep_the_order(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(builders, "_SHARD_BYTES", 1)
    source = photograph_source(tmp_path / "sets", "train", "folder", photos)
    assert len(list(tmp_path.glob("sets/photographs/folder/*/photographs-train.array_record-*-of-00003"))) == 3
    expected = PhotographFolder(photos / "train", cache_bytes=0)
    for image, photograph in zip(source, expected, strict=True):
        np.testing.assert_array_equal(image, photograph)


def test_a_folder_that_has_changed_is_an_error(tmp_path, photos):
    photograph_source(tmp_path / "sets", "train", "folder", photos)
    photograph_source(tmp_path / "sets", "train", "folder", photos)
    write(photos / "train/new.png")
    with pytest.raises(ValueError, match="built from other photographs"):
        photograph_source(tmp_path / "sets", "train", "folder", photos)
    # without the folder the set stands for itself
    assert len(photograph_source(tmp_path / "sets", "train", "folder")) == 3


def test_a_damaged_photograph_is_named_and_leaves_no_set(tmp_path, photos):
    damaged = photos / "train/b.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read"):
        photograph_source(tmp_path / "sets", "train", "folder", photos)
    damaged.unlink()
    assert photograph_source(tmp_path / "sets", "train", "folder", photos).names == ["a/turned.jpg", "c.bmp"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (dict(config="paired"), ValueError, "config='paired' is unknown; choose one of embedded, folder"),
        (dict(config="folder"), ValueError, "name manual_dir"),
        (dict(config="folder", manual_dir="/nowhere"), FileNotFoundError, "/nowhere"),
    ],
)
def test_what_cannot_be_built_is_said(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        photograph_source(tmp_path, "train", **arguments)
    assert not (tmp_path / "photographs").exists()


def test_the_cache_spares_reading_again(embedded):
    source = photograph_source(embedded, "train", cache_bytes=2**30)
    assert source[0] is source[0]
    assert photograph_source(embedded, "train")[0] is not source[0]


def test_grain_streams_the_same_crops_as_from_the_photographs(embedded):
    settings = dict(batch=4, crop=32, min_scale=0.5, seed=0)
    stream = training_stream(photograph_source(embedded, "train"), **settings)
    plain = training_stream(list(embedded_photographs("train").values()), **settings)
    for _ in range(3):
        np.testing.assert_array_equal(next(stream), next(plain))


def options(**data):
    read = read_options(default.get_config())
    return replace(read, data=replace(read.data, crop=16, **data))


def test_training_reads_the_set_that_the_config_names(tmp_path, embedded, photos):
    training = open_sources(options(tfds=str(embedded))).training
    assert training.names == list(embedded_photographs("train"))
    sets = tmp_path / "sets"
    training = open_sources(options(tfds=str(sets), photographs=str(photos))).training
    assert training.names == ["a/turned.jpg", "b.jpg", "c.bmp"]
    assert (sets / "photographs" / "folder").is_dir()


def run(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout


def test_only_who_asks_for_tfds_imports_it_and_nobody_tensorflow(embedded):
    loaded = "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    assert run(f"import sys, mofme_jax.data.pipeline, mofme_jax.training.sources; {loaded}") == "[]\n"
    opened = f"from mofme_jax.data.builders import photograph_source as s; s({str(embedded)!r}, 'train')[0]"
    assert run(f"import sys; {opened}; {loaded}") == "['tensorflow_datasets']\n"
