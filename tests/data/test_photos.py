"""Photographs in, upright RGB out; and whatever is wrong with a file or folder is said with its name."""

import socket

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data.photos import embedded_photographs, folder_photographs, read_photograph

COLOUR = np.array([200, 100, 50], np.uint8)


@pytest.fixture
def patch():
    """4 x 6, one colour but for a dark upper left corner."""
    pixels = np.tile(COLOUR, (4, 6, 1))
    pixels[:2, :3] = 10
    return pixels


def test_embedded_photographs_need_no_network(monkeypatch):
    def refuse(*_args, **_kwargs):
        raise AssertionError("the network was asked")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    train, validation = embedded_photographs("train"), embedded_photographs("validation")
    assert sorted(train) == ["astronaut", "chelsea", "coffee", "flower", "rocket"]
    assert sorted(validation) == ["china", "motorcycle"]
    for name, photograph in (train | validation).items():
        assert photograph.dtype == np.uint8, name
        assert photograph.shape[0] >= 300, name
        assert photograph.shape[1] >= 451, name
        assert photograph.shape[2:] == (3,), name
        assert photograph.std() > 30, name


def test_embedded_photographs_have_two_splits():
    with pytest.raises(ValueError, match="train or validation"):
        embedded_photographs("test")


def test_folder_is_listed_sorted_and_to_the_bottom(tmp_path):
    for name in ("b.PNG", "a.jpg", "deep/er/c.webp", "z.tif", "notes.txt", ".hidden.jpg", ".cache/d.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    names = [path.relative_to(tmp_path).as_posix() for path in folder_photographs(tmp_path)]
    assert names == ["a.jpg", "b.PNG", "deep/er/c.webp", "z.tif"]


def test_folder_below_a_hidden_one_is_not_hidden(tmp_path):
    folder = tmp_path / ".home" / "photographs"
    folder.mkdir(parents=True)
    (folder / "a.jpg").touch()
    assert len(folder_photographs(str(folder))) == 1


def test_missing_empty_or_no_folder(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no folder .*nowhere"):
        folder_photographs(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"No photograph in .*put some there \(\.jpg"):
        folder_photographs(tmp_path)
    (tmp_path / "a.jpg").touch()
    with pytest.raises(NotADirectoryError, match=r"a\.jpg"):
        folder_photographs(tmp_path / "a.jpg")


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_files_are_read_exactly(tmp_path, patch, suffix):
    Image.fromarray(patch).save(tmp_path / f"p.{suffix}")
    np.testing.assert_array_equal(read_photograph(tmp_path / f"p.{suffix}"), patch)


def test_every_orientation_is_turned_upright(tmp_path, patch):
    """What each EXIF orientation says was done to the picture; reading must undo it."""
    done = {
        1: lambda p: p,
        2: lambda p: p[:, ::-1],
        3: lambda p: p[::-1, ::-1],
        4: lambda p: p[::-1],
        5: lambda p: p.transpose(1, 0, 2),
        6: lambda p: np.rot90(p, 1),
        7: lambda p: p[::-1, ::-1].transpose(1, 0, 2),
        8: lambda p: np.rot90(p, -1),
    }
    for orientation, change in done.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        path = tmp_path / f"{orientation}.png"
        Image.fromarray(np.ascontiguousarray(change(patch))).save(path, exif=exif)
        np.testing.assert_array_equal(read_photograph(path), patch, err_msg=str(orientation))


def test_grey_palette_and_black_and_white_become_rgb(tmp_path, patch):
    grey = patch[..., 0]
    Image.fromarray(grey).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "grey.png"), np.repeat(grey[..., None], 3, -1))
    Image.fromarray(patch).quantize(4).save(tmp_path / "palette.png")
    np.testing.assert_array_equal(read_photograph(tmp_path / "palette.png"), patch)
    Image.fromarray(grey > 100).save(tmp_path / "two.png")
    assert set(np.unique(read_photograph(tmp_path / "two.png"))) == {0, 255}


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    values = np.array([[0, 257, 128 * 257, 65535]], np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"deep.{suffix}")
        read = read_photograph(tmp_path / f"deep.{suffix}")
        np.testing.assert_array_equal(read[0, :, 0], [0, 1, 128, 255])


def test_transparent_parts_become_white(tmp_path, patch):
    alpha = np.full((4, 6, 1), 255, np.uint8)
    alpha[3] = 0
    Image.fromarray(np.concatenate([patch, alpha], -1)).save(tmp_path / "clear.png")
    read = read_photograph(tmp_path / "clear.png")
    np.testing.assert_array_equal(read[:3], patch[:3])
    np.testing.assert_array_equal(read[3], 255)
    palette = Image.fromarray(patch).quantize(4)
    palette.save(tmp_path / "palette.png", transparency=palette.getpixel((0, 0)))
    assert (read_photograph(tmp_path / "palette.png")[:2, :3] == 255).all()


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / "red.jpg", quality=95)
    red = read_photograph(tmp_path / "red.jpg")
    assert red.shape == (16, 16, 3)
    np.testing.assert_allclose(red[8, 8], [255, 0, 0], atol=12)


def test_damaged_files_are_named(tmp_path, patch):
    (tmp_path / "text.jpg").write_text("no picture")
    (tmp_path / "empty.png").touch()
    noise = np.random.default_rng(0).integers(0, 255, (64, 64, 3), np.uint8)
    for suffix in ("jpg", "png", "webp", "tif", "bmp"):
        whole = tmp_path / f"whole.{suffix}"
        Image.fromarray(noise).save(whole)
        (tmp_path / f"half.{suffix}").write_bytes(whole.read_bytes()[: whole.stat().st_size // 2])
    for name in ("text.jpg", "empty.png", "half.jpg", "half.png", "half.webp", "half.tif", "half.bmp"):
        with pytest.raises(ValueError, match=rf"{name} cannot be read as a photograph"):
            read_photograph(tmp_path / name)


def test_values_that_say_no_colour_are_refused(tmp_path):
    Image.fromarray(np.full((4, 4), 0.5, np.float32)).save(tmp_path / "float.tif")
    with pytest.raises(ValueError, match=r"float\.tif .*floats"):
        read_photograph(tmp_path / "float.tif")
    Image.fromarray(np.full((4, 4), 70000, np.int32)).save(tmp_path / "wide.tif")
    with pytest.raises(ValueError, match=r"wide\.tif .*16 bits"):
        read_photograph(tmp_path / "wide.tif")


@pytest.mark.parametrize("times", [1.5, 3.0])
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, times):
    """Pillow warns above its limit and refuses above twice that; here both are errors."""
    Image.new("RGB", (60, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60 * 40 / times))
    with pytest.raises(ValueError, match=r"bomb\.png is too large"):
        read_photograph(tmp_path / "bomb.png")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        read_photograph(tmp_path / "gone.jpg")
