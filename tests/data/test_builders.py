"""The TFDS set of clean photographs: built once, without TensorFlow, and read back to the bit."""

import io
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image, PngImagePlugin

from mofme_jax.data import entries
from mofme_jax.data.builders import Photographs
from mofme_jax.data.folders import PhotographFolder
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.prepared import build, photograph_source

RNG = np.random.default_rng(0)
ROTATED = Image.Exif()
ROTATED[0x0112] = 6  # turn by 90 degrees to see it upright


def write(path, height=20, width=24, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(image).save(path, **options)


def records(data_dir, config, split):
    builder = Photographs(data_dir=str(data_dir), config=config, file_format="array_record")
    return list(builder.as_data_source(split, decoders={"image": tfds.decode.SkipDecoding()}))


def assert_same(source, expected):
    """Two sources give the same examples."""
    assert source.names == expected.names
    for i, (one, other) in enumerate(zip(source, expected, strict=True)):
        assert one["name"] == other["name"] == source.names[i]
        assert one["image"].dtype == np.uint8
        np.testing.assert_array_equal(one["image"], other["image"])
        assert source.size(i) == other["image"].shape[:2]


@pytest.fixture(scope="module")
def embedded(tmp_path_factory):
    """A data_dir that holds the embedded photographs."""
    data_dir = tmp_path_factory.mktemp("embedded")
    photograph_source(data_dir, "train")
    return data_dir


@pytest.fixture
def photos(tmp_path):
    """A folder of photographs: three to train on, one to evaluate on."""
    write(tmp_path / "photos/train/b.jpg")
    write(tmp_path / "photos/train/a/turned.jpg", exif=ROTATED)
    write(tmp_path / "photos/train/c.bmp")
    write(tmp_path / "photos/validation/d.png")
    return tmp_path / "photos"


@pytest.mark.parametrize("split", ["train", "validation"])
def test_embedded_photographs_come_back_to_the_bit(embedded, split):
    expected = embedded_photographs(split)
    source = photograph_source(embedded, split)
    assert source.names == list(expected)
    for i, (example, (name, photograph)) in enumerate(zip(source, expected.items(), strict=True)):
        assert set(example) == {"image", "name"}
        assert example["name"] == name
        np.testing.assert_array_equal(example["image"], photograph)
        assert source.size(i) == photograph.shape[:2]


def test_a_prepared_set_is_only_read(embedded, monkeypatch):
    monkeypatch.setattr(entries, "embedded_photographs", None)  # building would call it
    assert len(photograph_source(embedded, "train")) == 5


def test_a_record_is_an_encoded_image_and_its_name(embedded):
    record = records(embedded, "embedded", "validation")[0]
    assert record["name"] == b"china"
    with Image.open(io.BytesIO(record["image"])) as image:
        assert (image.format, image.size) == ("PNG", (640, 427))


@pytest.mark.parametrize("split", ["train", "validation"])
def test_a_folder_gives_what_photograph_folder_gives(tmp_path, photos, split):
    source = photograph_source(tmp_path / "sets", split, "folder", photos)
    assert_same(source, PhotographFolder(photos / split))


def test_a_source_ends(embedded):
    source = photograph_source(embedded, "train")
    for beyond in (5, -1):
        with pytest.raises(IndexError):
            source[beyond]


def save_16_bit(path):
    """An RGB PNG of 16 bits, which Pillow reads and does not write."""
    grey = io.BytesIO()
    Image.fromarray(np.arange(5 * 18, dtype=np.uint16).reshape(5, 18) * 700).save(grey, "PNG")
    data = bytearray(grey.getvalue())
    data[16:20], data[25] = (6).to_bytes(4, "big"), 2  # six columns of three values, and the colour type RGB
    data[29:33] = zlib.crc32(data[12:29]).to_bytes(4, "big")
    path.write_bytes(data)


def save_turned_at_the_end(path):
    """A square PNG whose EXIF comes behind its pixels."""
    write(path, 20, 20, exif=ROTATED)
    data = path.read_bytes()
    start = data.index(b"eXIf") - 4
    end = start + 12 + int.from_bytes(data[start : start + 4], "big")
    last = data.index(b"IEND") - 4
    path.write_bytes(data[:start] + data[end:last] + data[start:end] + data[last:])


def save_odd_images(folder):
    """Twelve images that some readers show otherwise than `read_photograph`, or that are no JPEG or PNG."""
    write(folder / "turned.jpg", 20, 20, exif=ROTATED)  # square, so that its size does not give it away
    write(folder / "turned.png", 20, 20, exif=ROTATED)
    save_turned_at_the_end(folder / "turned_at_the_end.png")
    save_16_bit(folder / "16_bit.png")
    write(folder / "transparent_colour.png", transparency=(1, 2, 3))
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt("XML:com.adobe.xmp", '<x tiff:Orientation="6"/>')
    write(folder / "turned_by_xmp.png", 20, 20, pnginfo=xmp)
    frames = [Image.fromarray(RNG.integers(0, 256, (5, 6, 3), dtype=np.uint8)) for _ in range(2)]
    frames[0].save(folder / "moving.png", save_all=True, append_images=frames[1:])
    frames[0].convert("L").save(folder / "grey.jpg")
    frames[0].convert("CMYK").save(folder / "cmyk.jpg")
    frames[0].convert("P").save(folder / "palette.png")
    frames[0].convert("RGBA").save(folder / "alpha.png")
    frames[0].save(folder / "lossless.webp", lossless=True)


def test_only_plain_files_keep_their_bytes(tmp_path):
    # a reader that knows nothing of EXIF must see the turned ones upright, one that goes by it must not turn them
    folder = tmp_path / "photos"
    write(folder / "plain.jpg")
    write(folder / "plain.png")
    save_odd_images(folder)
    source = photograph_source(tmp_path, "train", "folder", folder)
    assert_same(source, PhotographFolder(folder))
    stored = {r["name"].decode(): r["image"] for r in records(tmp_path, "folder", "train")}
    kept = {name for name, data in stored.items() if data == (folder / name).read_bytes()}
    assert kept == {"plain.jpg", "plain.png"}
    assert len(stored) == 14
    for name in set(stored) - kept:
        with Image.open(io.BytesIO(stored[name])) as image:
            assert (image.format, image.mode, image.info) == ("PNG", "RGB", {})
            assert stored[name][24] == 8


def test_building_leaves_nothing_in_the_temporary_folder(tmp_path, photos, monkeypatch):
    (tmp_path / "temporary").mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "temporary"))
    photograph_source(tmp_path / "sets", "train", "folder", photos)
    assert not list((tmp_path / "temporary").iterdir())


def test_a_folder_without_splits_is_all_train(tmp_path):
    write(tmp_path / "photos/x.png")
    source = photograph_source(tmp_path, "train", "folder", tmp_path / "photos")
    assert source.names == ["x.png"]
    with pytest.raises(ValueError, match="no split 'validation'; it has train"):
        photograph_source(tmp_path, "validation", "folder")


def test_many_shards_keep_the_order(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(entries, "_SHARD_BYTES", 1)
    source = photograph_source(tmp_path / "sets", "train", "folder", photos)
    assert len(list(tmp_path.glob("sets/photographs/folder/*/photographs-train.array_record-*-of-00003"))) == 3
    assert_same(source, PhotographFolder(photos / "train"))


def test_a_folder_that_has_changed_is_an_error(tmp_path, photos):
    photograph_source(tmp_path / "sets", "train", "folder", photos)
    photograph_source(tmp_path / "sets", "train", "folder", photos)
    write(photos / "train/new.png")
    with pytest.raises(ValueError, match=r"built from other photographs .*train: 3 then, 4 now\): delete it"):
        photograph_source(tmp_path / "sets", "train", "folder", photos)
    # without the folder the set stands for itself
    assert len(photograph_source(tmp_path / "sets", "train", "folder")) == 3


def test_a_damaged_photograph_is_named_and_leaves_no_set(tmp_path, photos):
    damaged = photos / "train/b.jpg"
    damaged.write_bytes(damaged.read_bytes()[:200])
    with pytest.raises(ValueError, match=r"b\.jpg cannot be read"):
        photograph_source(tmp_path / "sets", "train", "folder", photos)
    assert list((tmp_path / "sets/photographs/folder").iterdir()) == []
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


def test_build_finds_photographs(tmp_path, photos):
    said = []
    assert build(photos, tmp_path / "sets", report=said.append) == tmp_path / "sets/photographs"
    assert_same(photograph_source(tmp_path / "sets", "validation", "folder"), PhotographFolder(photos / "validation"))
    assert said[0].startswith("4 of 4 prepared")
    assert said[1].endswith("is built")


def test_build_asks_nobody_for_a_set_made_elsewhere(tmp_path, photos, monkeypatch):
    monkeypatch.setattr("tensorflow_datasets.core.utils.gcs_utils.is_dataset_on_gcs", lambda name: pytest.fail(name))
    build(photos, tmp_path / "sets", report=lambda line: None)


def test_a_manual_folder_of_many_sets(tmp_path, photos):
    (tmp_path / "manual").mkdir()
    photos.rename(tmp_path / "manual/photographs")
    write(tmp_path / "manual/raindrop/other.png")
    builder = Photographs(data_dir=str(tmp_path), config="folder", file_format="array_record")
    manual = tfds.download.DownloadConfig(manual_dir=tmp_path / "manual")
    builder.download_and_prepare(download_config=manual)
    assert [r["name"] for r in records(tmp_path, "folder", "train")] == [b"a/turned.jpg", b"b.jpg", b"c.bmp"]


def run(code):
    """What a fresh interpreter prints."""
    command = [sys.executable, "-c", code]
    root = Path(__file__).parents[2]
    return subprocess.run(command, check=True, capture_output=True, text=True, cwd=root).stdout


def test_only_who_asks_for_tfds_imports_it(embedded):
    loaded = "print([m for m in ('tensorflow', 'tensorflow_datasets') if m in sys.modules])"
    assert run(f"import sys, mofme_jax.data.pipeline, mofme_jax.training.sources; {loaded}") == "[]\n"
    opened = f"from mofme_jax.data.prepared import photograph_source as s; s({str(embedded)!r}, 'train')[0]"
    assert run(f"import sys; {opened}; {loaded}") == "['tensorflow_datasets']\n"
