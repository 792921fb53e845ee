"""BMP files with alpha, which Pillow reads and does not write."""

import struct
from typing import Any, BinaryIO

import numpy as np


def write_transparent_bmp(file: BinaryIO, colours: np.ndarray, options: dict[str, Any]) -> None:
    """Writes (H, W, 4) uint8, with the header that says where alpha is; of `options`, `dpi` counts."""
    height, width = colours.shape[:2]
    resolution = [round(dots / 0.0254) for dots in options.get("dpi", (0, 0))]
    size = colours.size
    file.write(struct.pack("<2sIII", b"BM", 14 + 108 + size, 0, 14 + 108))
    file.write(struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, size, *resolution, 0, 0))
    file.write(struct.pack("<4I4s48x", 0xFF0000, 0xFF00, 0xFF, 0xFF000000, b"BGRs"))
    file.write(np.ascontiguousarray(colours[::-1, :, [2, 1, 0, 3]]).tobytes())
