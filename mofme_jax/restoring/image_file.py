"""Image files in and out: what a photograph carries beside its colours goes back into the restored file.

Kept are the format, the depth of 8 or 16 bits, grey, the alpha channel, EXIF with its orientation, XMP, the ICC
profile, the resolution, and how the file was compressed. The network sees the picture upright; the file keeps its
pixels turned as they were stored, so that its EXIF stays true.

Axis glossary: `H W` pixels.
"""

import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from PIL import ExifTags, Image

from mofme_jax.data.photos import DAMAGED, reason
from mofme_jax.restoring import bmp, deep, metadata, tiff

SUFFIXES = {
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".png": "PNG",
    ".webp": "WEBP",
    ".bmp": "BMP",
    ".tif": "TIFF",
    ".tiff": "TIFF",
}
"""What files of photographs are known by, in capitals or not, and the format that is meant."""

LARGEST = 128_000_000
"""Pixels of the largest photograph taken: 128 megapixels."""

_OPENED = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow would hand an EPS to Ghostscript

_CONVERTED = {"1": "L", "PA": "RGBA", "La": "LA", "RGBa": "RGBA", "RGBX": "RGB"}

_REFUSED = {
    "F": "its values are floats of unknown range: convert it to 8 or 16 bits",
    "I": "its values are integers of 32 bits, or with a sign, of unknown range: convert it to 8 or 16 bits",
    "LAB": "its colours are LAB: convert it to RGB",
}


@dataclass(frozen=True)
class ImageFile:
    """A photograph and what belongs to it.

    Attributes:
      pixels: (H, W, 3) uint8 or uint16, upright; of a grey photograph three times the same.
      alpha: (H, W) of that dtype, upright; None without transparency.
      grey: whether the file holds, and will hold, one channel of grey.
      format: "BMP", "JPEG", "PNG", "TIFF" or "WEBP".
      orientation: how the file's pixels lie, 1 to 8 as EXIF counts.
      options: what the file's writer takes beside the pixels: EXIF, ICC profile, resolution, compression.
      notes: what could not be kept, for people to read.
    """

    pixels: np.ndarray
    alpha: np.ndarray | None
    grey: bool
    format: str
    orientation: int
    options: dict[str, Any]
    notes: tuple[str, ...] = ()


def read_image(path: str | Path) -> ImageFile:
    """Reads a photograph of JPEG, PNG, WEBP, TIFF or BMP, whatever its name.

    Palettes become RGB, black and white becomes grey, a transparent colour an alpha channel; CMYK becomes RGB,
    through its ICC profile where it has one. Of a phone's JPEG with several pictures the first is taken.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no such image, is damaged, has more than `LARGEST` pixels, several pages or frames, or values
        that say no colour; the message names the file and, where there is one, the remedy.
    """
    path = Path(path)
    with _opened(path) as image:
        kept = metadata.of(image, path) if image.format == "TIFF" else {}  # loading a TIFF turns it and forgets that
        orientation = _orientation(image) if image.format == "TIFF" else 1
        colours, converted = _colours(image, path)
        if image.format != "TIFF":
            kept = metadata.of(image, path)  # loading finds what stands behind a PNG's pixels
            orientation = _orientation(image)
            colours = _turned(colours, orientation)
        notes = []
        if converted:
            for name in ("icc_profile", "qtables", "subsampling"):  # they are of four inks
                kept.pop(name, None)
            if image.format == "JPEG":
                kept["quality"] = 95
            notes.append("CMYK became RGB of 8 bits")
        if image.format == "MPO":
            notes.append("of several pictures in the file the first is taken")
        channels = colours.shape[-1]
        alpha = colours[..., -1] if channels in (2, 4) else None
        grey = channels < 3
        pixels = np.broadcast_to(colours[..., :1], (*colours.shape[:2], 3)) if grey else colours[..., :3]
        format_ = "JPEG" if image.format == "MPO" else str(image.format)
    return ImageFile(pixels, alpha, grey, format_, orientation, kept, tuple(notes))


def stored_size(path: str | Path) -> tuple[int, int]:
    """Pixels on the two sides of a photograph, as they are stored, from its header alone; raises as `read_image`."""
    with _opened(Path(path)) as image:
        return image.size


def write_image(image_file: ImageFile, pixels: np.ndarray, path: str | Path) -> None:
    """Writes other pixels as the file that they came from; whole or, when it fails, not at all.

    Args:
      image_file: from `read_image`.
      pixels: (H, W, 3), upright, of the shape and dtype of `image_file.pixels`. Of grey files the luma is written.
      path: the file, in an existing folder; one that is there is replaced.

    Raises:
      ValueError: pixels of another shape or dtype, or EXIF that is damaged so that it cannot be written.
      OSError: the file cannot be written.
    """
    was = image_file.pixels
    if pixels.shape != was.shape or pixels.dtype != was.dtype:
        raise ValueError(f"the file holds {was.dtype} {was.shape}: {pixels.dtype} {pixels.shape} is no picture of it")
    channels = [_luma(pixels)[..., None]] if image_file.grey else [pixels]
    if image_file.alpha is not None:
        channels.append(image_file.alpha[..., None])
    colours = channels[0] if len(channels) == 1 else np.concatenate(channels, -1)
    colours = np.ascontiguousarray(_turned(colours, {6: 8, 8: 6}.get(image_file.orientation, image_file.orientation)))
    try:
        _write(image_file, colours, Path(path))
    except DAMAGED as error:
        if isinstance(error, OSError):
            raise
        raise ValueError(f"{path} cannot be written: {reason(error)}") from error


def _write(image_file: ImageFile, colours: np.ndarray, path: Path) -> None:
    options = image_file.options
    with whole_file(path) as part, part.open("w+b") as file:
        if image_file.format == "PNG" and colours.dtype == np.uint16:
            deep.write_png(file, colours, options)
        elif image_file.format == "TIFF":
            tiff.write_tiff(file, colours, options)
        elif image_file.format == "BMP" and colours.shape[-1] == 4:
            bmp.write_transparent_bmp(file, colours, options)
        else:
            picture = Image.fromarray(colours[..., 0] if colours.shape[-1] == 1 else colours)
            picture.save(file, image_file.format, **options)


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A file to write in the place of `path`, which it becomes when the block ends without an error."""
    with tempfile.TemporaryDirectory(prefix=".mofme-", dir=path.parent) as folder:
        part = Path(folder) / "part"
        yield part
        part.replace(path)


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file opened by Pillow; whatever is wrong with it there or inside the block, as an error that names it."""
    if path.exists() and not path.is_file():
        raise ValueError(f"{path} is no file")
    try:
        with warnings.catch_warnings(action="ignore"), _by_pillow(path) as image:
            _check(image)
            yield image
    except (FileNotFoundError, PermissionError):
        raise
    except Image.DecompressionBombError as error:
        most = f"at most {LARGEST // 10**6} megapixels are taken"
        raise ValueError(f"{path} is too large to be restored: {most}. Make it smaller.") from error
    except MemoryError as error:
        raise ValueError(f"{path} is too large for this machine's memory. Make it smaller.") from error
    except Image.UnidentifiedImageError as error:
        raise ValueError(
            f"{path} is no JPEG, PNG, WEBP, TIFF or BMP, or of an unknown kind: convert it to PNG"
        ) from error
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be restored: {reason(error)}") from error


@contextmanager
def _by_pillow(path: Path) -> Iterator[Image.Image]:
    # a file and not its name: files that it opens itself Pillow maps into memory, and scrambles turned TIFFs so
    with path.open("rb") as file, Image.open(file, formats=_OPENED) as image:
        yield image


def _check(image: Image.Image) -> None:
    """Refuses by the header, before memory is taken for pixels."""
    if image.format == "GIF":
        raise ValueError("a GIF holds 256 colours: convert it to PNG")
    if image.width * image.height > LARGEST:
        raise Image.DecompressionBombError
    if image.mode in _REFUSED:
        raise ValueError(_REFUSED[image.mode])
    tags = getattr(image, "tag_v2", {})  # of a TIFF
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 6 and tags.get(ExifTags.Base.Compression) == 1:
        raise ValueError("its colours are YCbCr and not compressed: convert it to RGB")  # Pillow would read too far
    if tags and max(tile.extents[3] for tile in image.tile) < tags[ExifTags.Base.ImageLength]:  # type: ignore[attr-defined]
        raise ValueError("its lower part is missing")  # which Pillow would leave black
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise ValueError("it has several pages or frames: restore each as a file of its own")


def _colours(image: Image.Image, path: Path) -> tuple[np.ndarray, bool]:
    """The pixels (H, W, channels), of one to four channels, and whether they were CMYK."""
    kind = deep.kind(image)
    if kind:
        with _by_pillow(path) as again:
            return deep.read(image, again, kind), False
    key, scale = image.info.get("transparency"), {"L;2": 85, "L;4": 17}.get(deep.raw_mode(image), 1)
    image.load()
    if image.mode == "P":
        image = image.convert("RGBA" if key is not None or image.has_transparency_data else "RGB")
        key = None
    if image.mode == "CMYK":
        return np.asarray(_rgb_of_cmyk(image)), True
    if image.mode in _CONVERTED:
        image = image.convert(_CONVERTED[image.mode])
    colours = np.asarray(image)
    colours = colours if colours.ndim == 3 else colours[..., None]
    return deep.with_transparent_colour(colours, None if key is None else np.multiply(key, scale)), False


def _rgb_of_cmyk(image: Image.Image) -> Image.Image:
    from PIL import ImageCms

    profile = image.info.get("icc_profile")
    if profile:
        try:
            inks = ImageCms.ImageCmsProfile(BytesIO(profile))
            converted = ImageCms.profileToProfile(image, inks, ImageCms.createProfile("sRGB"), outputMode="RGB")
            assert converted is not None  # only in place it returns nothing
            return converted
        except (ImageCms.PyCMSError, OSError):  # a damaged profile is as good as none
            pass
    return image.convert("RGB")


def _orientation(image: Image.Image) -> int:
    try:
        found = image.getexif().get(ExifTags.Base.Orientation, 1)
    except DAMAGED:  # for which the photograph is not refused
        return 1
    return found if found in range(1, 9) else 1


def _turned(a: np.ndarray, orientation: int) -> np.ndarray:
    """Stored pixels (H, W, ...) made upright."""
    if orientation in (5, 6, 7, 8):
        a = a.swapaxes(0, 1)
    rows = slice(None, None, -1 if orientation in (3, 4, 7, 8) else 1)
    columns = slice(None, None, -1 if orientation in (2, 3, 6, 7) else 1)
    return a[rows, columns]


def _luma(pixels: np.ndarray) -> np.ndarray:
    """(H, W, 3) -> (H, W) of the same dtype; of three equal values, exactly that value."""
    red, green, blue = (np.float32(w) * pixels[..., i] for i, w in enumerate((0.299, 0.587, 0.114)))
    return np.round(red + green + blue).astype(pixels.dtype)
