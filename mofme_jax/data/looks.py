"""One look at an image file, and many at once: whether it can be read, what is odd about it, and what it shows.

Every file is read and decoded once; of its pixels a hash and a thumbnail are kept.
"""

import os
import stat
import warnings
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError

from mofme_jax.data.duplicates import digest, thumbnail
from mofme_jax.data.photos import read_photograph


@dataclass(frozen=True, slots=True)
class Look:
    """What one look at a file told.

    Attributes:
      error: why it cannot be read; "" where it can, and only then the rest is known.
      size: (H, W), upright.
      odd: what another reader may take for other pixels, and how it is read here; "" of plain RGB.
      format: what the file is, by its contents, where its name says otherwise; else "".
      digest: of its pixels. thumbnail: (S, S) uint8.
    """

    error: str = ""
    size: tuple[int, int] = (0, 0)
    odd: str = ""
    format: str = ""
    digest: bytes = b""
    thumbnail: np.ndarray | None = None


def look_at(path: Path) -> Look:
    """Reads a file as `read_photograph` does, to its end; whatever is wrong with it becomes `Look.error`."""
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # a pipe would keep its reader waiting
            return Look("no regular file")
        if not status.st_size:
            return Look("an empty file")
        pixels = read_photograph(path)
        odd, kind = _header(path, pixels.shape[:2])
        return Look("", pixels.shape[:2], odd, kind, digest(pixels), thumbnail(pixels))
    except OSError as error:
        return Look(error.strerror or str(error))
    except ValueError as error:
        unknown = isinstance(error.__cause__, UnidentifiedImageError)  # its message has Python's words for the path
        return Look("no image" if unknown else str(error.__cause__ or error))
    except Exception as error:  # a decoder's bug on a damaged file must not end a look at thousands
        return Look(f"{type(error).__name__}: {error}")


_THREADS = min(16, os.cpu_count() or 1)
"""Threads do as well as processes (8.6 and 8.2 ms an image of 720 x 480 on two cores): decoders let others run."""


_AT_ONCE = 1024
"""Files that wait for a thread: a set of 300,000 would fill the memory with those that wait."""


def look_at_all(paths: Sequence[Path], progress: Callable[[int, int], None] | None = None) -> dict[Path, Look]:
    """Looks at many files, with threads.

    Args:
      paths: the files. progress: called with (files done, files in all), at first with none done.

    Returns:
      The looks in the order of `paths`.
    """
    looks: dict[Path, Look] = {}
    report = progress or (lambda done, total: None)
    report(0, len(paths))
    with warnings.catch_warnings(), ThreadPoolExecutor(_THREADS) as pool:
        warnings.simplefilter("ignore")  # of decoders, which name no file
        for start in range(0, len(paths), _AT_ONCE):
            some = paths[start : start + _AT_ONCE]
            # an error in this loop, as when the user stops it, closes `map`: what has not begun is not waited for
            for done, (path, look) in enumerate(zip(some, pool.map(look_at, some), strict=True), start + 1):
                looks[path] = look
                report(done, len(paths))
    return looks


_FORMATS = {
    ".jpg": ("JPEG", "MPO"),  # MPO: a JPEG with more pictures behind it, as telephones write
    ".jpeg": ("JPEG", "MPO"),
    ".png": ("PNG",),
    ".webp": ("WEBP",),
    ".bmp": ("BMP",),
    ".tif": ("TIFF",),
    ".tiff": ("TIFF",),
}

_MODES = {
    "1": "black and white: read as RGB",
    "L": "grey: read as RGB",
    "LA": "grey with alpha: what is transparent becomes white",
    "P": "a palette: read as RGB",
    "PA": "a palette with alpha: what is transparent becomes white",
    "RGBA": "with alpha: what is transparent becomes white",
    "CMYK": "CMYK: read as RGB without a colour profile",
}


def _header(path: Path, size: Sequence[int]) -> tuple[str, str]:
    """What is odd about a file that was read as (H, W), and its format where its name says another; see `Look`."""
    with Image.open(path) as image:
        odd = [_mode(image)]
        # not a PNG's own getexif, which decodes it again to look behind the pixels: a quarter turn shows in the size
        turn = Image.Image.getexif(image).get(ExifTags.Base.Orientation, 1)
        if turn in range(2, 9) or image.size != (size[1], size[0]):
            odd.append("turned by its EXIF: read upright")
        frames = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # the others' readers take the first of these as well
            odd.append(f"{frames} frames: the first is read")
        kind = image.format or ""
        return "; ".join(text for text in odd if text), "" if kind in _FORMATS[path.suffix.lower()] else kind


def _mode(image: ImageFile.ImageFile) -> str:
    """What is odd about the pixels as they are stored; "" of RGB with 8 bits a channel."""
    if image.mode.startswith("I"):
        return "grey of 16 bits: read as RGB of 8"
    if image.mode == "RGB" and any(";16" in str(tile[3]) for tile in image.tile):  # Pillow reads these as RGB of 8
        return "16 bits a channel: read as 8"
    if image.mode in ("RGB", "L", "P") and image.has_transparency_data:
        return f"{'' if image.mode == 'RGB' else _MODES[image.mode] + ', '}a transparent colour: it becomes white"
    return "" if image.mode == "RGB" else _MODES.get(image.mode, f"{image.mode}: read as RGB")
