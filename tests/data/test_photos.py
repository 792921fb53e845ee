"""Photographs in, upright RGB out; and whatever is wrong with a file or folder is said with its name."""

import io
import os
import socket
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

from mofme_jax.data.photos import embedded_photographs, header_size, read_photograph

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


@pytest.mark.parametrize("suffix", ["png", "bmp", "tif"])
def test_lossless_files_are_read_exactly(tmp_path, patch, suffix):
    Image.fromarray(patch).save(tmp_path / f"p.{suffix}")
    np.testing.assert_array_equal(read_photograph(tmp_path / f"p.{suffix}"), patch)


# what each EXIF orientation says was done to the picture; reading must undo it
DONE = {
    1: lambda p: p,
    2: lambda p: p[:, ::-1],
    3: lambda p: p[::-1, ::-1],
    4: lambda p: p[::-1],
    5: lambda p: p.swapaxes(0, 1),
    6: lambda p: np.rot90(p, 1),
    7: lambda p: p[::-1, ::-1].swapaxes(0, 1),
    8: lambda p: np.rot90(p, -1),
    0: lambda p: p,  # these two say nothing
    9: lambda p: p,
}


def save_turned(path, pixels, orientation, **options):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(np.ascontiguousarray(DONE[orientation](pixels))).save(path, exif=exif, **options)


@pytest.mark.parametrize("suffix", ["png", "tif", "webp", "jpg"])
@pytest.mark.parametrize("orientation", DONE)
def test_every_orientation_is_turned_upright(tmp_path, patch, orientation, suffix):
    patch = np.kron(patch, np.ones((16, 16, 1), np.uint8))  # so large that a JPEG shows its corner
    path = tmp_path / f"turned.{suffix}"
    save_turned(path, patch, orientation, **({"lossless": True} if suffix == "webp" else {}))
    assert header_size(path) == patch.shape[:2]
    if suffix == "jpg":
        np.testing.assert_allclose(read_photograph(path)[8::16, 8::16], patch[8::16, 8::16], atol=12)
    else:
        np.testing.assert_array_equal(read_photograph(path), patch)


@pytest.mark.parametrize("orientation", DONE)
@pytest.mark.parametrize("kind", ["grey", "transparent", "deep"])
def test_an_uncompressed_tiff_on_its_side_is_not_scrambled(tmp_path, orientation, kind):
    grey = np.arange(7 * 12, dtype=np.uint8).reshape(7, 12)
    opaque = np.full_like(grey, 255)
    pixels = {
        "grey": grey,
        "transparent": np.stack([grey, grey, grey, opaque], axis=-1),
        "deep": grey.astype(np.uint16) * 257,
    }[kind]
    path = tmp_path / "turned.tif"
    save_turned(path, pixels, orientation)
    np.testing.assert_array_equal(read_photograph(path), np.stack([grey] * 3, axis=-1))


def test_the_orientation_in_xmp_counts_in_the_header_too(tmp_path, patch):
    xmp = PngImagePlugin.PngInfo()
    xmp.add_itxt(
        "XML:com.adobe.xmp",
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>',
    )
    Image.fromarray(np.ascontiguousarray(np.rot90(patch, 1))).save(tmp_path / "p.png", pnginfo=xmp)
    assert header_size(tmp_path / "p.png") == (4, 6)
    np.testing.assert_array_equal(read_photograph(tmp_path / "p.png"), patch)


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


def deep_png(path, values, colour):
    """A PNG of 16 bits, which Pillow does not write: values (H, W, channels), colour as the format numbers it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = values.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)


@pytest.mark.parametrize(("colour", "channels"), [(0, 1), (2, 3), (4, 2), (6, 4)])
def test_sixteen_bits_of_every_kind_of_png_become_eight(tmp_path, colour, channels):
    values = np.linspace(0, 65535, 5 * 7 * channels).reshape(5, 7, channels).astype(np.uint16)
    if channels in (2, 4):
        values[..., -1] = 65535  # opaque
    deep_png(tmp_path / "deep.png", values, colour)
    read = read_photograph(tmp_path / "deep.png")
    assert read.shape == (5, 7, 3)
    assert header_size(tmp_path / "deep.png") == (5, 7)
    colours = values[..., :3] if channels >= 3 else values[..., :1]
    assert np.abs(read - colours / 257).max() <= 1  # of colours Pillow drops the lower byte


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


MODES = {
    "1": ["png", "bmp", "tif"],
    "L": ["png", "bmp", "tif", "jpg", "webp"],
    "LA": ["png", "tif", "webp"],
    "P": ["png", "bmp", "tif"],
    "RGB": ["png", "bmp", "tif", "jpg", "webp"],
    "RGBA": ["png", "tif", "webp"],
    "CMYK": ["jpg", "tif"],
    "YCbCr": ["jpg", "tif"],
}


@pytest.mark.parametrize(("mode", "suffix"), [(mode, suffix) for mode, all_ in MODES.items() for suffix in all_])
def test_every_mode_is_read_in_its_colour_and_its_headers_size(tmp_path, mode, suffix):
    path = tmp_path / f"p.{suffix}"
    picture = Image.new("RGB", (24, 16), tuple(COLOUR.tolist())).convert(mode)
    # Pillow before 13 reads too far in a TIFF of plain YCbCr; the compressed ones that there are it reads
    picture.save(path, **({"compression": "jpeg"} if (mode, suffix) == ("YCbCr", "tif") else {}))
    read = read_photograph(path)
    assert header_size(path) == read.shape[:2] == (16, 24)
    grey = 0.299 * 200 + 0.587 * 100 + 0.114 * 50
    expected = {"L": [grey] * 3, "LA": [grey] * 3}.get(mode, COLOUR)
    if mode == "1":
        assert set(np.unique(read)) == {0, 255}  # dithered
        assert abs(read.mean() - grey) < 20
    else:
        np.testing.assert_allclose(read[8, 12], expected, atol=6)


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.tif", "gif.png"])
def test_of_an_animation_the_first_frame_is_taken(tmp_path, name):
    red, blue = (Image.new("RGB", (20, 10), colour) for colour in ("red", "blue"))
    kind = "GIF" if name == "gif.png" else None
    options = {"lossless": True} if name == "a.webp" else {}
    red.save(tmp_path / name, kind, save_all=True, append_images=[blue], **options)
    assert header_size(tmp_path / name) == (10, 20)
    np.testing.assert_array_equal(read_photograph(tmp_path / name), np.asarray(red))


def test_a_file_is_read_by_what_it_holds_and_not_by_its_name(tmp_path, patch):
    Image.fromarray(patch).save(tmp_path / "bitmap.jpg", "BMP")
    np.testing.assert_array_equal(read_photograph(tmp_path / "bitmap.jpg"), patch)


def test_what_is_no_picture_is_named(tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "zeros.jpg").write_bytes(bytes(1000))
    Image.new("RGB", (4, 5)).save(tmp_path / "program.jpg", "EPS")  # which Pillow has Ghostscript run
    for name in ("text.png", "empty.png", "zeros.jpg", "program.jpg"):
        for read in (read_photograph, header_size):
            with pytest.raises(ValueError, match=rf"{name} cannot be read as a photograph"):
                read(tmp_path / name)


FORMATS = {
    "jpg": {},
    "progressive.jpg": {"progressive": True},
    "png": {},
    "webp": {},
    "lossless.webp": {"lossless": True},
    "bmp": {},
    "tif": {},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_deflate"},
}


@pytest.mark.filterwarnings("ignore::UserWarning:PIL")  # of a TIFF whose header is cut, before the error
@pytest.mark.parametrize("name", FORMATS)
def test_a_file_that_is_cut_off_anywhere_is_named_or_lacks_no_pixel(tmp_path, name):
    noise = np.random.default_rng(0).integers(0, 256, (40, 56, 3), np.uint8)
    whole, cut = tmp_path / f"whole.{name}", tmp_path / f"cut.{name}"
    Image.fromarray(noise).save(whole, **FORMATS[name])
    data, expected = whole.read_bytes(), read_photograph(whole)
    errors = []
    for length in (*range(0, len(data), len(data) // 40), *range(len(data) - 24, len(data))):
        cut.write_bytes(data[:length])
        try:
            np.testing.assert_array_equal(read_photograph(cut), expected)
        except ValueError as error:
            errors.append(str(error))
    assert all(f"{cut} cannot be read as a photograph" in error for error in errors)
    assert len(errors) >= 40  # behind the last pixel of a PNG there are some bytes more


def test_damage_behind_the_header_is_not_seen_by_it(tmp_path):
    image = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 48, 3), np.uint8)).save(image, "PNG")
    (tmp_path / "half.png").write_bytes(image.getvalue()[:1000])
    assert header_size(tmp_path / "half.png") == (64, 48)


def test_values_that_say_no_colour_are_refused(tmp_path):
    """Integers of 32 bits may end at 255, at 65535 or anywhere: read as the wrong ones they would be black."""
    for dtype, kind in ((np.float32, "floats"), (np.int32, "integers of 32 bits")):
        Image.fromarray(np.full((4, 4), 0.5).astype(dtype)).save(tmp_path / "wide.tif")
        with pytest.raises(ValueError, match=rf"wide\.tif .*{kind}"):
            read_photograph(tmp_path / "wide.tif")
        assert header_size(tmp_path / "wide.tif") == (4, 4)


@pytest.mark.filterwarnings("ignore")  # as outside of tests, where Pillow's warning ends nothing
@pytest.mark.parametrize("times", [1.5, 3.0])
def test_decompression_bombs_are_refused(tmp_path, monkeypatch, times):
    """Pillow warns above its limit and refuses above twice that; here both are errors."""
    Image.new("RGB", (60, 40)).save(tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", int(60 * 40 / times))
    for read in (read_photograph, header_size):
        with pytest.raises(ValueError, match=r"bomb\.png is too large"):
            read(tmp_path / "bomb.png")


def test_a_missing_file_is_missing(tmp_path):
    for read in (read_photograph, header_size):
        with pytest.raises(FileNotFoundError, match="gone"):
            read(tmp_path / "gone.jpg")


@pytest.mark.parametrize("error", [AssertionError(), KeyError("palette"), OverflowError("too large"), MemoryError()])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    Image.new("RGB", (4, 5)).save(tmp_path / "a.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ValueError, match=r"a\.png (cannot be read as a photograph: (its|'pal|too)|is too large for)"):
        read_photograph(tmp_path / "a.png")


def test_a_pipe_does_not_keep_its_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "zeros.png").symlink_to("/dev/zero")
    for name in ("pipe.png", "zeros.png"):
        for read in (read_photograph, header_size):
            with pytest.raises(ValueError, match=f"{name} cannot be read as a photograph: it is no regular file"):
                read(tmp_path / name)
