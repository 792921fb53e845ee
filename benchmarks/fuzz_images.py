"""Images for `fuzz.py`: read and written back as `mofme restore` does it, read as the training and the doctor do."""

import io
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import tifffile
from fuzz_mutations import changed_bytes, changed_png, changed_tiff, some
from PIL import Image, ImageCms, PngImagePlugin

from mofme_jax.data.looks import look_at
from mofme_jax.data.photos import header_size, read_photograph
from mofme_jax.restoring.image_file import read_image, stored_size, write_image

_LOSSLESS = ("BMP", "PNG", "TIFF")


class Images:
    """Small images of every kind that is read, and some that are not."""

    one_line = names = True

    def __init__(self, kept: Path, run: Path):
        self._files = [*_pictures(), *_tiffs()]
        self._refused = [_saved("GIF", "P"), (".tif", _tiff(np.zeros((6, 5), np.float32)))]

    def valid(self) -> list[Callable[[Path], Path]]:
        """Writers of the images as they are."""
        return [lambda folder, one=one: _written(folder, *one) for one in self._files]

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes an image that was changed."""
        suffix, data = some(rng, [*self._files, *self._refused])
        others = [data for _, data in self._files]
        change = changed_bytes
        if rng.random() < 0.6:
            change = {".png": changed_png, ".tif": changed_tiff if data[2:4] in (b"*\0", b"\0*") else change}.get(
                suffix, change
            )
        return _written(folder, suffix, change(rng, data, others))

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        yield lambda: stored_size(path)
        yield lambda: _restored(path, out / path.name)
        yield lambda: header_size(path)
        yield lambda: read_photograph(path)
        yield lambda: look_at(path)


def _restored(path: Path, target: Path) -> None:
    """Reads and writes; what was written must be read as the same picture."""
    image = read_image(path)
    write_image(image, image.pixels, target)
    try:
        again = read_image(target)
    except ValueError as error:
        raise AssertionError(f"what was written is refused: {error}") from error
    lost = image.alpha is not None and again.alpha is None and image.alpha.min() < np.iinfo(image.alpha.dtype).max
    if again.pixels.shape != image.pixels.shape or lost:
        raise AssertionError(f"{image.pixels.shape} became {again.pixels.shape}{', without its alpha' if lost else ''}")
    # grey is written as luma, which of three equal values is exactly that value
    if image.format in _LOSSLESS and not np.array_equal(again.pixels, image.pixels):
        raise AssertionError("a lossless file came back with other pixels")


def _written(folder: Path, suffix: str, data: bytes) -> Path:
    path = folder / f"a{suffix}"
    path.write_bytes(data)
    return path


def _picture(mode: str, size: tuple[int, int] = (24, 18)) -> Image.Image:
    rng = np.random.default_rng(0)
    smooth = np.add.outer(np.arange(size[1]) * 5, np.arange(size[0]) * 3)[..., None] + rng.integers(0, 40, (1, 1, 4))
    colours = Image.fromarray((smooth % 256).astype(np.uint8), "RGBA")
    return colours if mode == "RGBA" else colours.convert("RGB").convert(mode)


def _saved(form: str, mode: str, suffix: str = "", **options) -> tuple[str, bytes]:
    file = io.BytesIO()
    _picture(mode).save(file, form, **options)
    return suffix or f".{form.lower()}", file.getvalue()


def _pictures() -> Iterator[tuple[str, bytes]]:
    """Everything but TIFF, by suffix."""
    exif = Image.Exif()
    exif[0x0112], exif[0x010E] = 6, "a tree"
    exif.get_ifd(0x8769)[0x9003] = "2024:01:01 00:00:00"
    told = dict(exif=exif.tobytes(), icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    xmp = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf tiff:Orientation="3"/></x:xmpmeta>'
    text = PngImagePlugin.PngInfo()
    text.add_text("Title", "a tree", zip=True)
    text.add_itxt("XML:com.adobe.xmp", xmp.decode())
    yield _saved("JPEG", "RGB", ".jpg", quality=80, dpi=(72, 72), comment=b"a", xmp=xmp, **told)
    yield _saved("JPEG", "RGB", ".jpg", progressive=True, subsampling=2)
    yield _saved("JPEG", "L", ".jpg")
    yield _saved("JPEG", "CMYK", ".jpg")
    second = _picture("RGB")
    yield _saved("MPO", "RGB", ".jpg", save_all=True, append_images=[second])
    for mode in ("RGB", "RGBA", "L", "LA", "P", "1"):
        yield _saved("PNG", mode)
    yield _saved("PNG", "RGB", pnginfo=text, dpi=(72, 72), **told)
    yield _saved("PNG", "RGB", transparency=(0, 0, 0))
    yield _saved("PNG", "L", bits=4, transparency=3)
    yield _saved("PNG", "P", transparency=b"\x00\x80")
    yield _saved("PNG", "I;16")
    yield ".png", _deep_png(2)
    yield ".png", _deep_png(6)
    yield _saved("WEBP", "RGB", xmp=xmp, **told)
    yield _saved("WEBP", "RGBA", lossless=True)
    yield _saved("WEBP", "RGBA")
    for mode in ("RGB", "L", "P", "1"):
        yield _saved("BMP", mode)


def _deep_png(colour: int) -> bytes:
    """16 bits a channel, which Pillow does not write."""
    channels = {2: 3, 6: 4}[colour]
    file = io.BytesIO()
    _picture("RGB").save(file, "PNG")
    pixels = np.random.default_rng(1).integers(0, 2**16, (9, 11, channels)).astype(">u2")
    import zlib

    rows = b"".join(b"\0" + row.tobytes() for row in pixels)

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    head = struct.pack(">IIBBBBB", 11, 9, 16, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def _tiffs() -> Iterator[tuple[str, bytes]]:
    for compression in ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "jpeg", "zstd"):
        yield _saved("TIFF", "RGB", ".tif", compression=compression)
    yield _saved("TIFF", "1", ".tif", compression="group4")
    yield _saved("TIFF", "CMYK", ".tif")
    yield _saved("TIFF", "RGBA", ".tif", description="a tree", dpi=(72, 72))
    yield _saved("TIFF", "P", ".tif")
    yield _saved("TIFF", "LA", ".tif")
    deep = np.random.default_rng(2).integers(0, 2**16, (32, 32, 3)).astype(np.uint16)
    yield ".tif", _tiff(deep, photometric="rgb")
    yield ".tif", _tiff(deep, photometric="rgb", byteorder=">", compression="zlib", predictor=True)
    yield ".tif", _tiff(deep[..., 0], tile=(16, 16))
    yield ".tif", _tiff(deep.astype(np.uint8), photometric="rgb", bigtiff=True)
    yield ".tif", _tiff(deep.astype(np.uint8).transpose(2, 0, 1).copy(), photometric="rgb", planarconfig="separate")


def _tiff(pixels: np.ndarray, **options) -> bytes:
    file = io.BytesIO()
    tifffile.imwrite(file, pixels, **options)
    return file.getvalue()
