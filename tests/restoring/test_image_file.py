"""Image files read and written again: nothing that they carry is lost, and what is wrong with one is said."""

import io
import os
import struct
import tracemalloc
import zlib
from dataclasses import replace

import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, JpegImagePlugin, PngImagePlugin

from mofme_jax.restoring import deep, image_file
from mofme_jax.restoring.image_file import read_image, stored_size, write_image
from tests.data.test_photos import DONE

RNG = np.random.default_rng(0)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
LOSSLESS = {
    "png": {},
    "bmp": {},
    "webp": {"lossless": True, "exact": True},
    "raw.tif": {"compression": "raw"},
    "lzw.tif": {"compression": "tiff_lzw"},
    "deflate.tif": {"compression": "tiff_adobe_deflate"},
    "packbits.tif": {"compression": "packbits"},
}
CHANNELS = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
SIZES = [(1, 1), (1, 9), (13, 1), (17, 33), (64, 130)]


def values(height, width, channels, dtype=np.uint8):
    return RNG.integers(0, np.iinfo(dtype).max + 1, (height, width, channels)).astype(dtype)


def picture(height, width, mode="RGB"):
    pixels = values(height, width, CHANNELS[mode])
    return Image.fromarray(pixels[..., 0] if mode == "L" else pixels)


def exif(orientation=1):
    """With an entry of each folder, and a name that is not ASCII."""
    made = Image.Exif()
    made[0x0112] = orientation
    made[0x010F] = "Maker"
    made[0x8769] = {0x9003: "2020:01:02 03:04:05", 0x829A: 0.01, 0x927C: b"a maker's note"}
    made[0x8825] = {1: "N", 2: (52.0, 31.0, 12.0)}
    return made.tobytes()


def save(path, pixels, described=None):
    """With EXIF, which Pillow's own writer puts into no TIFF that is compressed."""
    name = next(name for name in [*LOSSLESS, "jpg", "tif"] if path.name.endswith(name))
    plain = Image.fromarray(np.ascontiguousarray(pixels))
    if name.endswith("tif") and described:
        plain.save(path, exif=described)
        image = read_image(path)
        write_image(replace(image, options=image.options | LOSSLESS.get(name, {})), image.pixels, path)
    else:
        plain.save(path, **LOSSLESS.get(name, {}), **({"exif": described} if described else {}))


def told(path):
    """What the EXIF of a file says."""
    with Image.open(path) as image:
        found = image.getexif()
        base = {tag: found.get(tag) for tag in (0x0112, 0x010F)}
        return base, dict(found.get_ifd(0x8769)), dict(found.get_ifd(0x8825))


def again(path, name="again"):
    """The file read, and written as it is."""
    out = path.with_name(f"{name}{path.suffix}")
    image = read_image(path)
    write_image(image, image.pixels, out)
    return out


def same_pixels(a, b):
    with Image.open(a) as first, Image.open(b) as second:
        assert first.mode == second.mode
        assert first.format == second.format
        np.testing.assert_array_equal(np.asarray(first), np.asarray(second))


# --- 8 bits


def modes_of(name):
    return {"bmp": ["L", "RGB"], "webp": ["RGB", "RGBA"]}.get(name, CHANNELS)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("name", "mode"), [(name, mode) for name in LOSSLESS for mode in modes_of(name)])
def test_lossless_files_come_back_as_they_are(tmp_path, name, mode, size):
    path = tmp_path / f"p.{name}"
    picture(*size, mode).save(path, **LOSSLESS[name])
    image = read_image(path)
    assert image.pixels.shape == (*size, 3)
    assert image.pixels.dtype == np.uint8
    assert image.grey == (mode in ("L", "LA"))
    assert (image.alpha is None) == (mode in ("L", "RGB"))
    assert image.notes == ()
    same_pixels(path, again(path))
    if name.endswith(".tif"):
        with Image.open(path) as before, Image.open(again(path)) as after:
            assert before.info["compression"] == after.info["compression"]


@pytest.mark.parametrize("size", SIZES)
def test_a_bmp_keeps_its_alpha(tmp_path, size):
    """Pillow reads such files and does not write them."""
    pixels = values(*size, 4)
    whole = Image.fromarray(pixels)
    whole.save(tmp_path / "p.png", dpi=(300, 200))
    from_png = read_image(tmp_path / "p.png")
    as_bmp = image_file.ImageFile(from_png.pixels, from_png.alpha, False, "BMP", 1, {"dpi": (300, 200)})
    write_image(as_bmp, as_bmp.pixels, tmp_path / "p.bmp")
    with Image.open(tmp_path / "p.bmp") as read:
        np.testing.assert_array_equal(np.asarray(read), pixels)
        np.testing.assert_allclose(read.info["dpi"], (300, 200), atol=0.1)
    assert again(tmp_path / "p.bmp").read_bytes() == (tmp_path / "p.bmp").read_bytes()


def test_pixels_that_are_changed_are_written_and_alpha_is_not(tmp_path):
    for name, mode in (("png", "LA"), ("png", "RGBA"), ("webp", "RGBA"), ("raw.tif", "RGBA")):
        path = tmp_path / f"p.{name}"
        picture(12, 20, mode).save(path, **LOSSLESS[name])
        image = read_image(path)
        write_image(image, 255 - image.pixels, tmp_path / f"out.{name}")
        with Image.open(path) as before, Image.open(tmp_path / f"out.{name}") as after:
            before, after = np.asarray(before), np.asarray(after)
        np.testing.assert_array_equal(after[..., :-1], 255 - before[..., :-1])
        np.testing.assert_array_equal(after[..., -1], before[..., -1])


def test_of_grey_the_luma_is_written(tmp_path):
    picture(5, 6, "L").save(tmp_path / "p.png")
    image = read_image(tmp_path / "p.png")
    colours = np.broadcast_to(np.array([200, 100, 50], np.uint8), image.pixels.shape)
    write_image(image, colours, tmp_path / "out.png")
    with Image.open(tmp_path / "out.png") as out:
        assert out.mode == "L"
        assert set(np.unique(np.asarray(out))) == {round(0.299 * 200 + 0.587 * 100 + 0.114 * 50)}


def test_pixels_of_another_picture_are_refused(tmp_path):
    picture(5, 6).save(tmp_path / "p.png")
    image = read_image(tmp_path / "p.png")
    for pixels in (image.pixels[1:], image.pixels.astype(np.uint16)):
        with pytest.raises(ValueError, match="no picture of it"):
            write_image(image, pixels, tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


# --- 16 bits


def png_of_16_bits(pixels, *chunks, interlaced=False):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    steps = [(0, 0, 1, 1)]
    if interlaced:  # the seven passes of Adam
        steps = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
    passes = [pixels[top::down, left::right].astype(">u2") for top, left, down, right in steps]
    rows = b"".join(b"\0" + row.tobytes() for some in passes if some.size for row in some)
    height, width, channels = pixels.shape
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    header = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, interlaced)
    middle = b"".join(chunk(*both) for both in chunks)
    data = chunk(b"IDAT", zlib.compress(rows))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + middle + data + chunk(b"IEND", b"")


def of_16_bits(image):
    channels = [image.pixels[..., :1] if image.grey else image.pixels]
    return np.concatenate(channels if image.alpha is None else [*channels, image.alpha[..., None]], -1)


@pytest.mark.parametrize("interlaced", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [*SIZES, (130, 5)])
def test_16_bits_of_a_png_are_all_kept(tmp_path, size, channels, interlaced):
    pixels = values(*size, channels, np.uint16)
    path = tmp_path / "p.png"
    path.write_bytes(png_of_16_bits(pixels, interlaced=interlaced))
    image = read_image(path)
    assert image.pixels.dtype == np.uint16
    assert image.grey == (channels < 3)
    np.testing.assert_array_equal(of_16_bits(image), pixels)
    out = again(path)
    np.testing.assert_array_equal(of_16_bits(read_image(out)), pixels)
    with Image.open(path) as before, Image.open(out) as after:  # and as others read it
        assert before.mode == after.mode
        np.testing.assert_array_equal(np.asarray(before), np.asarray(after))


def test_smooth_16_bits_are_compressed(tmp_path):
    y, x = np.mgrid[:100, :200]
    pixels = np.stack([100 * x + y, 50 * y, 20000 + x * y], -1).astype(np.uint16)
    for name in ("p.png", "p.tif"):
        if name == "p.png":
            (tmp_path / name).write_bytes(png_of_16_bits(pixels))
        else:
            tifffile.imwrite(tmp_path / name, pixels, photometric="rgb", compression="zlib")
        out = again(tmp_path / name)
        assert out.stat().st_size < pixels.nbytes / 4
        np.testing.assert_array_equal(of_16_bits(read_image(out)), pixels)


@pytest.mark.parametrize("compression", [None, "zlib", "predictor"])
@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (9, 1), (17, 33), (70, 40)])
def test_16_bits_of_a_tiff_are_all_kept(tmp_path, size, channels, order, compression):
    pixels = values(*size, channels, np.uint16)
    tifffile.imwrite(
        tmp_path / "p.tif",
        pixels if channels > 1 else pixels[..., 0],
        byteorder=order,
        photometric="rgb" if channels > 1 else "minisblack",
        extrasamples=["unassalpha"] if channels == 4 else None,
        compression="zlib" if compression else None,
        predictor=compression == "predictor",
        metadata=None,
    )
    image = read_image(tmp_path / "p.tif")
    np.testing.assert_array_equal(of_16_bits(image), pixels)
    out = again(tmp_path / "p.tif")
    np.testing.assert_array_equal(of_16_bits(read_image(out)), pixels)
    np.testing.assert_array_equal(tifffile.imread(out).reshape(pixels.shape), pixels)
    with tifffile.TiffFile(out) as file:
        assert (file.pages[0].compression == 1) == (compression is None)


def test_16_bits_packed_by_lzw_in_tiles_are_read(tmp_path):
    """Tiles by tifffile; LZW by Pillow, which writes only grey of 16 bits."""
    pixels = values(40, 50, 3, np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="rgb", tile=(16, 32), compression="zlib")
    np.testing.assert_array_equal(of_16_bits(read_image(tmp_path / "p.tif")), pixels)
    Image.fromarray(pixels[..., 0]).save(tmp_path / "grey.tif", compression="tiff_lzw")
    out = again(tmp_path / "grey.tif")
    with Image.open(out) as image:
        assert image.info["compression"] == "tiff_lzw"
        np.testing.assert_array_equal(np.asarray(image), pixels[..., 0])


def test_grey_in_which_white_is_zero_is_seen_as_it_is_meant(tmp_path):
    for dtype in (np.uint8, np.uint16):
        pixels = values(5, 6, 1, dtype)[..., 0]
        tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="miniswhite", metadata=None)
        image = read_image(tmp_path / "p.tif")
        np.testing.assert_array_equal(image.pixels[..., 0], np.iinfo(dtype).max - pixels)
        np.testing.assert_array_equal(read_image(again(tmp_path / "p.tif")).pixels, image.pixels)


def test_the_meaning_of_colours_of_16_bits_is_kept(tmp_path):
    path, pixels = tmp_path / "p.png", values(20, 30, 3, np.uint16)
    texts = (b"tEXt", b"Comment\0hello"), (b"gAMA", struct.pack(">I", 100000))
    resolution = (b"pHYs", struct.pack(">IIB", 11811, 7874, 1))
    profile = (b"iCCP", b"x\0\0" + zlib.compress(ICC))
    path.write_bytes(png_of_16_bits(pixels, profile, *texts, resolution, (b"eXIf", exif(6)[6:])))
    out = again(path)
    with Image.open(path) as before, Image.open(out) as after:
        before.load()
        after.load()
        for name in ("icc_profile", "gamma", "dpi", "exif", "Comment"):
            assert before.info[name] == after.info[name], name
    assert told(out) == told(path)
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="rgb", iccprofile=ICC, resolution=(300, 200))
    with Image.open(again(tmp_path / "p.tif")) as after:
        assert after.info["icc_profile"] == ICC
        assert after.info["dpi"] == (300, 200)


# --- what belongs to the pixels


@pytest.mark.parametrize("name", ["png", "webp", "raw.tif", "lzw.tif"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_network_sees_it_upright_and_the_file_stays_turned(tmp_path, orientation, name):
    upright = values(6, 9, 4)
    path = tmp_path / f"p.{name}"
    save(path, DONE[orientation](upright), exif(orientation))
    image = read_image(path)
    assert image.orientation == orientation
    np.testing.assert_array_equal(image.pixels, upright[..., :3])
    np.testing.assert_array_equal(image.alpha, upright[..., 3])
    assert stored_size(path) in ((9, 6), (6, 9))
    out = again(path)
    same_pixels(path, out)
    assert told(out) == told(path)
    assert told(out)[0] == {0x0112: orientation, 0x010F: "Maker"}
    assert told(out)[1][0x927C] == b"a maker's note"
    assert told(out)[2][2] == (52.0, 31.0, 12.0)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_turned_16_bits_stay_turned_with_all_their_exif(tmp_path, orientation):
    upright = values(6, 9, 3, np.uint16)
    stored = np.ascontiguousarray(DONE[orientation](upright))
    (tmp_path / "p.png").write_bytes(png_of_16_bits(stored, (b"eXIf", exif(orientation)[6:])))
    as_png = read_image(tmp_path / "p.png")
    save(tmp_path / "small.tif", values(1, 1, 3), exif(orientation))
    options = read_image(tmp_path / "small.tif").options
    write_image(replace(as_png, format="TIFF", options=options), upright, tmp_path / "p.tif")
    for path in (tmp_path / "p.png", tmp_path / "p.tif"):
        out = again(path)
        assert told(out) == told(path) == told(tmp_path / "p.png")
        np.testing.assert_array_equal(read_image(out).pixels, upright)
    np.testing.assert_array_equal(as_png.pixels, upright)
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "p.tif"), stored)
    np.testing.assert_array_equal(tifffile.imread(again(tmp_path / "p.tif")), stored)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_turned_jpeg_stays_turned(tmp_path, orientation):
    upright = np.kron(values(4, 6, 3), np.ones((16, 16, 1), np.uint8))
    path = tmp_path / "p.jpg"
    stored = np.ascontiguousarray(DONE[orientation](upright))
    Image.fromarray(stored).save(path, exif=exif(orientation), subsampling=0, quality=98)
    np.testing.assert_allclose(read_image(path).pixels[8::16, 8::16], upright[8::16, 8::16], atol=6)
    with Image.open(path) as before, Image.open(again(path)) as after:
        assert before.info["exif"] == after.info["exif"]  # byte for byte
        assert before.size == after.size


def test_the_orientation_in_xmp_counts_and_stays(tmp_path):
    xmp = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    upright = values(6, 9, 3)
    stored = Image.fromarray(np.ascontiguousarray(np.rot90(upright, 1)))
    text = PngImagePlugin.PngInfo()
    text.add_itxt("XML:com.adobe.xmp", xmp)
    stored.save(tmp_path / "p.png", pnginfo=text)
    stored.save(tmp_path / "p.webp", xmp=xmp.encode(), lossless=True)
    tifffile.imwrite(
        tmp_path / "p.tif", np.asarray(stored), photometric="rgb", extratags=[(700, 1, None, xmp.encode(), True)]
    )
    for suffix in ("png", "webp", "tif"):
        path = tmp_path / f"p.{suffix}"
        np.testing.assert_array_equal(read_image(path).pixels, upright)
        np.testing.assert_array_equal(read_image(again(path)).pixels, upright)
        same_pixels(path, again(path))


@pytest.mark.parametrize("name", ["jpg", "webp", "png", "raw.tif", "lzw.tif"])
@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_profile_and_resolution_are_kept(tmp_path, name, mode):
    path = tmp_path / f"p.{name}"
    picture(20, 30, mode).save(path, icc_profile=ICC, dpi=(300, 200), **LOSSLESS.get(name, {}))
    with Image.open(path) as before, Image.open(again(path)) as after:
        assert after.info["icc_profile"] == ICC
        assert before.info.get("dpi") == after.info.get("dpi")
        assert name == "webp" or after.info["dpi"] == pytest.approx((300, 200), abs=0.1)
    picture(20, 30, mode).save(path, **LOSSLESS.get(name, {}))
    assert "dpi" not in read_image(path).options


def test_names_that_are_not_ascii_are_kept_in_a_tiff(tmp_path):
    path, artist = tmp_path / "p.tif", "Zoë Ångström".encode()
    for compression in (None, "zlib"):
        tag = [(0x013B, 2, None, artist, True)]
        tifffile.imwrite(path, values(4, 5, 3), photometric="rgb", compression=compression, extratags=tag)
        with Image.open(again(path)) as after:
            assert after.tag_v2[0x013B].encode("latin-1") == artist


@pytest.mark.parametrize("quality", [30, 75, 98])
@pytest.mark.parametrize("subsampling", [0, 1, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_compressed_as_it_was(tmp_path, quality, subsampling, progressive):
    path = tmp_path / "p.jpg"
    picture(40, 56).save(path, quality=quality, subsampling=subsampling, progressive=progressive, comment=b"mine")
    with Image.open(path) as before, Image.open(again(path)) as after:
        assert before.quantization == after.quantization
        assert JpegImagePlugin.get_sampling(after) == subsampling
        assert after.info.get("progressive", False) == progressive
        assert after.info["comment"] == b"mine"


def test_captions_of_a_jpeg_are_kept(tmp_path):
    block = b"8BIM\x04\x04\0\0" + struct.pack(">I", 10) + b"\x1c\x02\x78\0\x05hello"  # IPTC, in Photoshop's way
    data = b"Photoshop 3.0\0" + block
    picture(20, 30).save(tmp_path / "p.jpg", extra=b"\xff\xed" + struct.pack(">H", 2 + len(data)) + data, xmp=b"<x/>")
    with Image.open(tmp_path / "p.jpg") as before, Image.open(again(tmp_path / "p.jpg")) as after:
        assert before.info["photoshop"] == after.info["photoshop"] == {0x0404: b"\x1c\x02\x78\0\x05hello"}
        assert before.info["xmp"] == after.info["xmp"] == b"<x/>"


def test_a_lossy_webp_stays_lossy_and_its_alpha_exact(tmp_path):
    path = tmp_path / "p.webp"
    pixels = values(40, 56, 4)
    Image.fromarray(pixels).save(path, quality=80, alpha_quality=100)
    out = again(path)
    assert b"VP8L" not in out.read_bytes()[:40]
    with Image.open(out) as after:
        np.testing.assert_array_equal(np.asarray(after)[..., 3], pixels[..., 3])


# --- other modes


def test_palettes_become_colours(tmp_path):
    palette = picture(20, 30).quantize(16)
    expected = np.asarray(palette.convert("RGB"))
    for suffix in ("png", "bmp", "tif"):
        palette.save(tmp_path / f"p.{suffix}")
        out = again(tmp_path / f"p.{suffix}")
        with Image.open(out) as after:
            assert after.mode == "RGB"
            np.testing.assert_array_equal(np.asarray(after), expected)
    palette.save(tmp_path / "clear.png", transparency=bytes(range(0, 256, 16)))
    image = read_image(tmp_path / "clear.png")
    np.testing.assert_array_equal(image.pixels, expected)
    np.testing.assert_array_equal(image.alpha, 16 * np.asarray(palette))


def test_black_and_white_becomes_grey(tmp_path):
    bits = RNG.random((20, 30)) < 0.5
    for name, options in (("p.png", {}), ("p.bmp", {}), ("raw.tif", {}), ("fax.tif", {"compression": "group4"})):
        Image.fromarray(bits).save(tmp_path / name, **options)
        with Image.open(again(tmp_path / name)) as after:
            assert after.mode == "L"
            np.testing.assert_array_equal(np.asarray(after), 255 * bits)


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_transparent_colour_becomes_alpha(tmp_path, mode):
    pixels = 50 * RNG.integers(0, 3, (20, 30, CHANNELS[mode])).astype(np.uint8)
    key = pixels[3, 4]
    clear = (pixels == key).all(-1)
    whole = Image.fromarray(pixels[..., 0] if mode == "L" else pixels)
    whole.save(tmp_path / "p.png", transparency=int(key[0]) if mode == "L" else tuple(key.tolist()))
    image = read_image(tmp_path / "p.png")
    np.testing.assert_array_equal(image.alpha, np.where(clear, 0, 255))
    np.testing.assert_array_equal(image.pixels[..., : pixels.shape[-1]], pixels)
    deep = 257 * pixels.astype(np.uint16)
    deep[0, 0] = deep[3, 4] + 1  # another colour, of the same higher byte
    (tmp_path / "deep.png").write_bytes(
        png_of_16_bits(deep, (b"tRNS", struct.pack(f">{len(key)}H", *(257 * int(k) for k in key))))
    )
    clear[0, 0] = False
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png").alpha, np.where(clear, 0, 65535))


def test_a_transparent_grey_of_few_bits_becomes_alpha(tmp_path):
    plain = io.BytesIO()
    PngImagePlugin.putchunk(plain, b"IHDR", struct.pack(">IIBBBBB", 4, 1, 2, 0, 0, 0, 0))
    PngImagePlugin.putchunk(plain, b"tRNS", struct.pack(">H", 2))
    PngImagePlugin.putchunk(plain, b"IDAT", zlib.compress(bytes([0, 0b00011011])))
    PngImagePlugin.putchunk(plain, b"IEND", b"")
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + plain.getvalue())
    image = read_image(tmp_path / "p.png")
    assert image.pixels[0, :, 0].tolist() == [0, 85, 170, 255]
    assert image.alpha.tolist() == [[255, 255, 0, 255]]


@pytest.mark.parametrize("name", ["p.jpg", "p.tif"])
@pytest.mark.parametrize("profile", [None, b"damaged", "not of inks"])
def test_cmyk_becomes_rgb_with_a_note(tmp_path, name, profile):
    profile = ICC if profile == "not of inks" else profile
    Image.new("CMYK", (16, 16), (0, 255, 255, 0)).save(tmp_path / name, icc_profile=profile)
    image = read_image(tmp_path / name)
    np.testing.assert_allclose(image.pixels[8, 8], [255, 0, 0], atol=12)
    assert image.notes == ("CMYK became RGB of 8 bits",)
    with Image.open(again(tmp_path / name)) as after:
        assert after.mode == "RGB"
        assert "icc_profile" not in after.info


def test_ycbcr_becomes_rgb(tmp_path):
    for compression in ("jpeg", "tiff_lzw"):
        made = Image.new("RGB", (16, 16), (200, 100, 50)).convert("YCbCr" if compression != "jpeg" else "RGB")
        made.save(tmp_path / "p.tif", compression=compression)
        np.testing.assert_allclose(read_image(tmp_path / "p.tif").pixels[8, 8], [200, 100, 50], atol=3)
        with Image.open(again(tmp_path / "p.tif")) as after:
            assert after.mode == "RGB"
            assert after.info["compression"] == {"jpeg": "tiff_adobe_deflate"}.get(compression, compression)


def test_of_a_phones_several_pictures_the_first_is_taken(tmp_path):
    red, blue = (Image.new("RGB", (16, 16), colour) for colour in ("red", "blue"))
    red.save(tmp_path / "p.jpg", "MPO", save_all=True, append_images=[blue])
    image = read_image(tmp_path / "p.jpg")
    np.testing.assert_allclose(image.pixels[8, 8], [255, 0, 0], atol=3)
    assert "the first" in image.notes[0]
    with Image.open(again(tmp_path / "p.jpg")) as after:
        assert after.format == "JPEG"


# --- what cannot be restored


def damaged(tmp_path):
    """Files by what the error says."""
    red, blue = (Image.new("RGB", (16, 12), colour) for colour in ("red", "blue"))
    for name in ("frames.png", "frames.webp", "pages.tif"):
        red.save(tmp_path / name, save_all=True, append_images=[blue])
        yield name, "several pages or frames"
    red.save(tmp_path / "frames.gif", save_all=True, append_images=[blue])
    red.save(tmp_path / "one.gif")
    yield from (("frames.gif", "convert it to PNG"), ("one.gif", "convert it to PNG"))
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "empty.png").touch()
    (tmp_path / "zeros.jpg").write_bytes(bytes(1000))
    (tmp_path / "script.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    yield from ((name, "is no JPEG") for name in ("text.png", "empty.png", "zeros.jpg", "script.png"))
    for dtype, message in ((np.float32, "floats"), (np.int32, "integers of 32 bits"), (np.int16, "with a sign")):
        tifffile.imwrite(tmp_path / f"{np.dtype(dtype)}.tif", np.zeros((4, 5), dtype))
        yield f"{np.dtype(dtype)}.tif", message
    Image.new("LAB", (4, 5)).save(tmp_path / "lab.tif")
    Image.new("YCbCr", (4, 5)).save(tmp_path / "ycbcr.tif")
    yield from (("lab.tif", "convert it to RGB"), ("ycbcr.tif", "convert it to RGB"))
    deep = values(20, 30, 4, np.uint16)
    tifffile.imwrite(tmp_path / "premultiplied.tif", deep, photometric="rgb", extrasamples=["assocalpha"])
    yield "premultiplied.tif", "unassociated alpha"
    planes = deep[..., :3].transpose(2, 0, 1).copy()
    for compression in (None, "zlib"):
        name = f"planes_{compression}.tif"
        tifffile.imwrite(tmp_path / name, planes, photometric="rgb", planarconfig="separate", compression=compression)
        yield name, "interleaved"
    (tmp_path / "folder.png").mkdir()
    os.mkfifo(tmp_path / "pipe.png")
    yield from (("folder.png", "is no file"), ("pipe.png", "is no file"))
    whole = png_of_16_bits(deep)
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    yield "cut.png", "cannot be restored"
    for width, height in ((100_000, 100_000), (2**31 - 1, 2**31 - 1), (20_000, 6_401)):
        huge = whole[:16] + struct.pack(">II", width, height) + whole[24:29]
        huge += struct.pack(">I", zlib.crc32(huge[12:29])) + whole[33:]
        (tmp_path / f"huge{width}.png").write_bytes(huge)
        yield f"huge{width}.png", "too large"


def test_what_cannot_be_restored_is_named_with_the_reason(tmp_path):
    for name, message in damaged(tmp_path):
        for read in (read_image, stored_size):
            if read is stored_size and ("interleaved" in message or "alpha" in message or name == "cut.png"):
                continue  # seen when the pixels are read
            with pytest.raises(ValueError, match=message) as raised:
                read(tmp_path / name)
            assert str(tmp_path / name) in str(raised.value)
            assert "\n" not in str(raised.value)


def test_a_hundred_megapixels_are_not_too_many(tmp_path):
    header = struct.pack(">IIBBBBB", 12_000, 10_000, 8, 2, 0, 0, 0)
    file = io.BytesIO()
    PngImagePlugin.putchunk(file, b"IHDR", header)
    PngImagePlugin.putchunk(file, b"IDAT", zlib.compress(b""))
    (tmp_path / "p.png").write_bytes(b"\x89PNG\r\n\x1a\n" + file.getvalue())
    assert stored_size(tmp_path / "p.png") == (12_000, 10_000)


def test_large_tiffs_are_written_though_their_bytes_are_many(tmp_path, monkeypatch):
    pixels = values(30, 40, 3, np.uint16)
    tifffile.imwrite(tmp_path / "p.tif", pixels, photometric="rgb", compression="zlib")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 30 * 40)
    np.testing.assert_array_equal(read_image(again(tmp_path / "p.tif")).pixels, pixels)


def test_a_tiff_without_its_lower_part_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "p.tif", values(40, 30, 3), photometric="rgb", rowsperstrip=40, metadata=None)
    with tifffile.TiffFile(tmp_path / "p.tif", mode="r+b") as file:
        file.pages[0].tags["ImageLength"].overwrite(80)
    with pytest.raises(ValueError, match="lower part is missing"):
        read_image(tmp_path / "p.tif")


def test_damaged_exif_is_kept_and_refuses_no_photograph(tmp_path):
    for name in ("p.jpg", "p.webp"):
        picture(20, 30).save(tmp_path / name, exif=b"Exif\0\0no exif")
        with Image.open(again(tmp_path / name)) as after:
            assert after.info["exif"].removeprefix(b"Exif\0\0") == b"no exif"


def test_exif_that_cannot_be_written_is_said(tmp_path):
    picture(4, 5).save(tmp_path / "p.tif")
    image = read_image(tmp_path / "p.tif")
    broken = replace(image, options=image.options | {"tags": {0x0112: b"x" * 9}})
    with pytest.raises(ValueError, match=r"out\.tif cannot be written"):
        write_image(broken, image.pixels, tmp_path / "out.tif")
    assert not (tmp_path / "out.tif").exists()


def test_missing_files_are_missing(tmp_path):
    (tmp_path / "link.png").symlink_to(tmp_path / "gone.png")
    for name in ("gone.png", "link.png"):
        with pytest.raises(FileNotFoundError, match=name):
            read_image(tmp_path / name)


def sample_files(tmp_path):
    for name in (*LOSSLESS, "jpg", "lossy.webp"):
        save(tmp_path / f"p.{name}", values(40, 56, 3), None if name == "bmp" else exif(6))
    (tmp_path / "deep.png").write_bytes(png_of_16_bits(values(30, 40, 3, np.uint16), (b"eXIf", exif(6)[6:])))
    tifffile.imwrite(tmp_path / "deep.tif", values(30, 40, 3, np.uint16), photometric="rgb", compression="zlib")
    return sorted(tmp_path.glob("*.*"))


def test_a_file_that_is_cut_off_is_refused_or_lacks_no_pixel(tmp_path):
    for path in sample_files(tmp_path):
        data, expected = path.read_bytes(), read_image(path).pixels
        cut, refused = path.with_name(f"cut_{path.name}"), 0
        for length in range(0, len(data), len(data) // 30):
            cut.write_bytes(data[:length])
            try:
                np.testing.assert_array_equal(read_image(cut).pixels, expected)
            except ValueError as error:
                assert f"{cut} " in str(error)  # noqa: PT017
                refused += 1
        assert refused >= 28, path


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    return folder, [path.read_bytes() for path in sample_files(folder)], sample_files(folder)


@settings(deadline=None, max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.integers(0, 99), place=st.floats(0, 1), early=st.booleans(), byte=st.integers(0, 255))
def test_a_byte_that_is_wrong_gives_a_picture_or_an_error_that_names_the_file(samples, which, place, early, byte):
    folder, contents, names = samples
    data = bytearray(contents[which % len(contents)])
    at = int(place * (min(600, len(data)) - 1 if early else len(data) - 1))
    data[at] = byte
    path = folder / f"wrong{names[which % len(names)].suffix}"
    path.write_bytes(data)
    try:
        image = read_image(path)
    except ValueError as error:
        assert str(path) in str(error)  # noqa: PT017
    else:
        assert image.pixels.ndim == 3


def test_a_failed_write_leaves_nothing_behind(tmp_path, monkeypatch):
    path, target = tmp_path / "p.png", tmp_path / "out" / "p.png"
    target.parent.mkdir()
    picture(8, 9).save(path)
    image = read_image(path)

    def fail(self, file, *_, **__):
        file.write(b"half")
        raise OSError("no space left on the device")

    monkeypatch.setattr(Image.Image, "save", fail)
    with pytest.raises(OSError, match="no space"):
        write_image(image, image.pixels, target)
    assert list(target.parent.iterdir()) == []
    target.write_bytes(b"the old one")
    with pytest.raises(OSError, match="no space"):
        write_image(image, image.pixels, target)
    assert target.read_bytes() == b"the old one"


def test_a_files_permissions_are_as_of_any_new_file(tmp_path):
    picture(8, 9).save(tmp_path / "p.png")
    (tmp_path / "new").touch()
    assert again(tmp_path / "p.png").stat().st_mode == (tmp_path / "new").stat().st_mode


@pytest.mark.parametrize("error", [AssertionError(), AttributeError("no such thing"), OverflowError("too large")])
def test_whatever_a_decoder_raises_names_the_file(tmp_path, monkeypatch, error):
    def fail(*_):
        raise error

    picture(4, 5).save(tmp_path / "p.png")
    monkeypatch.setattr(Image.Image, "load", fail)
    with pytest.raises(ValueError, match=r"p\.png cannot be restored: (its data are damaged|no such thing|too large)"):
        read_image(tmp_path / "p.png")


def test_a_tag_of_another_type_than_its_own_is_left_out(tmp_path):
    picture(4, 5).save(tmp_path / "p.tif", description="four", software="five")
    data = bytearray((tmp_path / "p.tif").read_bytes())
    at = data.index(struct.pack("<HHI", 270, 2, 5))
    data[at : at + 8] = struct.pack("<HHI", 270, 5, 1)  # a fraction in place of a text
    (tmp_path / "p.tif").write_bytes(data)
    with Image.open(again(tmp_path / "p.tif")) as after:
        assert (after.tag_v2.get(270), after.tag_v2[305]) == (None, "five")


def test_memory_is_not_taken_for_what_stands_behind_a_png(tmp_path):
    path = tmp_path / "p.png"
    path.write_bytes(png_of_16_bits(values(4, 5, 3, np.uint16)) + struct.pack(">I", 2**32 - 1) + b"tEXt")
    tracemalloc.start()
    read_image(path)
    _, most = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert most < 2**24


def test_narrow_16_bits_are_written_in_few_pieces(tmp_path, monkeypatch):
    calls = []
    filtered = deep._filtered
    monkeypatch.setattr(deep, "_filtered", lambda *given: calls.append(given[1]) or filtered(*given))
    pixels = values(100_000, 2, 3, np.uint16)
    (tmp_path / "p.png").write_bytes(png_of_16_bits(pixels))
    assert np.array_equal(read_image(again(tmp_path / "p.png")).pixels, pixels)
    assert len(calls) == 2
