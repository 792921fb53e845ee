"""Clean photographs: seven that come inside packages, and any folder of a user's."""

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff")
"""What `folder_photographs` takes for a photograph, in capitals or not."""

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


def folder_photographs(folder: str | Path) -> list[Path]:
    """Lists the photographs in a folder and the folders in it, sorted by path.

    Args:
      folder: where to look. Hidden files and folders, whose names begin with a dot, are passed over.

    Returns:
      The files whose names end in one of `SUFFIXES`; none is opened.

    Raises:
      FileNotFoundError: the folder does not exist or holds no photograph.
      NotADirectoryError: it is a file.
    """
    folder = Path(folder).expanduser()
    kinds = ", ".join(SUFFIXES)
    if not folder.exists():
        raise FileNotFoundError(f"There is no folder {folder}: give one that holds photographs ({kinds}).")
    if not folder.is_dir():
        raise NotADirectoryError(f"{folder} is not a folder: give the folder that holds the photographs.")
    found = [
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES and path.is_file() and not _hidden(path.relative_to(folder))
    ]
    if not found:
        raise FileNotFoundError(f"No photograph in {folder} or the folders in it: put some there ({kinds}).")
    return sorted(found)


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
    path = Path(path)
    try:
        with Image.open(path) as image:
            if Image.MAX_IMAGE_PIXELS is not None and image.width * image.height > Image.MAX_IMAGE_PIXELS:
                raise Image.DecompressionBombError(f"{image.width}x{image.height} pixels")
            return np.array(_rgb(ImageOps.exif_transpose(image)))
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"{path} is too large to be a photograph: {error}. Make it smaller.") from error
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except (OSError, SyntaxError, ValueError, EOFError, IndexError, TypeError, struct.error) as error:
        # Pillow's decoders raise any of these on damaged files.
        raise ValueError(f"{path} cannot be read as a photograph: {error}. Replace or remove it.") from error


def _rgb(image: Image.Image) -> Image.Image:
    """Converts any mode to RGB of 8 bits."""
    if image.mode.startswith("I"):  # grey of 16 or 32 bits, which Pillow would clip at 255 and not scale
        values = np.asarray(image)
        if values.min() < 0 or values.max() > 65535:
            raise ValueError("its values are beyond 16 bits")
        image = Image.fromarray(np.round(values / 257).astype(np.uint8))
    if image.mode == "F":
        raise ValueError("its values are floats of unknown range")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def _hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)
