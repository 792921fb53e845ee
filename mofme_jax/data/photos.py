"""Photographs: seven that come inside packages, and any file of a user's."""

import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What files of images are known by, in capitals or not."""

COMPANIONS = (".uncertainty.png", ".doubt.jpg", ".experts.jpg", ".compare.jpg")
"""Endings of the pictures that `mofme restore` writes beside a restored photograph: they are none themselves."""

_FORMATS = ("BMP", "GIF", "JPEG", "PNG", "TIFF", "WEBP")  # Pillow would hand an EPS to Ghostscript

DAMAGED = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error,
           ArithmeticError, AssertionError, AttributeError, RuntimeError)  # fmt: skip
"""What Pillow raises of damaged files."""

_TRAIN = ("astronaut", "chelsea", "coffee", "flower", "rocket")
_VALIDATION = ("china", "motorcycle")


def embedded_photographs(split: str = "train") -> dict[str, np.ndarray]:
    """Reads the photographs inside the scikit-image and scikit-learn packages; nothing is downloaded.

    Args:
      split: "train" (five photographs) or "validation" (two others: one outdoors, one indoors).

    Returns:
      uint8 arrays (H, W, 3) by name, 300 to 512 pixels high and 451 to 741 wide.

    Raises:
      ValueError: another split.
      ImportError: one of the two packages is missing.
    """
    splits = {"train": _TRAIN, "validation": _VALIDATION}
    if split not in splits:
        raise ValueError(f"The embedded photographs have no split {split!r}: take {' or '.join(splits)}.")
    return {name: _embedded_readers()[name]() for name in splits[split]}


def _embedded_readers() -> dict[str, Callable[[], np.ndarray]]:
    try:  # only who asks for these photographs needs the packages
        from skimage import data
        from sklearn.datasets import load_sample_image
    except ImportError as error:
        raise ImportError(
            "The embedded photographs are inside two packages: pip install scikit-image scikit-learn"
        ) from error
    return {
        "astronaut": data.astronaut,
        "chelsea": data.chelsea,
        "coffee": data.coffee,
        "rocket": data.rocket,
        "motorcycle": lambda: data.stereo_motorcycle()[0],
        "china": lambda: load_sample_image("china.jpg"),
        "flower": lambda: load_sample_image("flower.jpg"),
    }


def read_photograph(path: str | Path) -> np.ndarray:
    """Reads an image file as an upright RGB picture.

    The camera's orientation (EXIF) is applied; grey and palette become RGB, 16 bits become 8, transparent
    parts become white, CMYK is converted without a colour profile, and of an animation the first frame is
    taken.

    Args:
      path: the file.

    Returns:
      uint8 array (H, W, 3).

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no image, is damaged, has more than Pillow's limit of pixels (a decompression bomb),
        or holds values that say no colour; the message names the file.
    """
    with _photograph(Path(path)) as image:
        return np.array(_rgb(ImageOps.exif_transpose(image)))


def header_size(path: str | Path) -> tuple[int, int]:
    """(H, W) of an image file, upright, from its header alone.

    Raises:
      FileNotFoundError: there is no such file.
      ValueError: it is no image; the message names the file. Damage behind the header is not seen.
    """
    with _photograph(Path(path)) as image:
        width, height = image.size
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # whose size Pillow turns by itself, in some versions
            width, height = (image.tag_v2[tag] for tag in (ExifTags.Base.ImageWidth, ExifTags.Base.ImageLength))
        # not the PNG class's own getexif, which reads the pixels to look for EXIF behind them: that is passed over
        orientation = Image.Image.getexif(image).get(ExifTags.Base.Orientation)
        return (width, height) if orientation in _ON_ITS_SIDE else (height, width)


_ON_ITS_SIDE = (5, 6, 7, 8)
"""The EXIF orientations of pictures whose height and width change places."""


@contextmanager
def _photograph(path: Path) -> Iterator[Image.Image]:
    """The file opened by Pillow; whatever is wrong with it there or inside the block, as an error that names it."""
    if path.exists() and not (path.is_file() or path.is_dir()):  # a pipe would keep its reader waiting
        raise ValueError(f"{path} cannot be read as a photograph: it is no regular file. Replace or remove it.")
    try:
        # from an open file: one that Pillow opens it may map into memory, and then scrambles TIFFs on their side
        with path.open("rb") as file, Image.open(file, formats=_FORMATS) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            yield image
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large to be a photograph: {error}. Make it smaller.") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError as error:  # whose message has Python's words for the file
        raise ValueError(f"{path} cannot be read as a photograph: it is none, or of an unknown kind. Replace or remove "
                         "it.") from error  # fmt: skip
    except MemoryError as error:
        raise ValueError(f"{path} is too large for this machine's memory. Make it smaller.") from error
    except DAMAGED as error:
        raise ValueError(f"{path} cannot be read as a photograph: {reason(error)}. Replace or remove it.") from error


def reason(error: Exception) -> str:
    """What Pillow says of a damaged file, in a line; some of its errors say nothing."""
    return " ".join(str(error).split()) or "its data are damaged"


def _rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB of 8 bits."""
    if image.mode in ("F", "I"):
        kind = "floats" if image.mode == "F" else "integers of 32 bits"
        raise ValueError(f"its values are {kind} of unknown range")
    if image.mode.startswith("I;16"):  # grey, which Pillow would clip at 255 and not scale
        image = Image.fromarray(np.round(np.asarray(image) / 257).astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")
