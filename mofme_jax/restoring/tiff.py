"""TIFF files of 8 and 16 bits, of which Pillow's writer takes EXIF or compression, and no colours of 16 bits."""

from io import BytesIO
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

_WITH_PREDICTOR = ("tiff_lzw", "tiff_adobe_deflate", "zstd", "lzma")
"""The compressions for which numbers may be replaced by their differences."""

_TAG = ExifTags.Base


def write_tiff(file: BinaryIO, colours: np.ndarray, options: dict[str, Any]) -> None:
    """Writes a TIFF.

    Args:
      file: open for writing.
      colours: (H, W, 1 to 4), uint8 or uint16: grey, grey and alpha, RGB, RGB and alpha.
      options: `compression` by Pillow's name for it; `tags`, what describes the photograph; if there are,
        `icc_profile` and `dpi`.
    """
    height, width, channels = colours.shape
    bits = 8 * colours.itemsize
    predicted = options["compression"] in _WITH_PREDICTOR
    if predicted:  # numbers less their left neighbours, modulo 256 or 65536
        colours = np.diff(colours, axis=1, prepend=np.zeros_like(colours[:, :1]))
    compression, rows, strips = _strips(colours, options["compression"])
    ifd = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II")
    _describe(ifd, options)
    ifd[_TAG.ImageWidth], ifd[_TAG.ImageLength] = width, height
    ifd[_TAG.BitsPerSample] = (bits,) * channels
    ifd[_TAG.SamplesPerPixel] = channels
    ifd[_TAG.PhotometricInterpretation] = 1 if channels < 3 else 2
    ifd[_TAG.PlanarConfiguration] = 1
    if channels in (2, 4):
        ifd[_TAG.ExtraSamples] = 2  # alpha, by which the colours are not multiplied
    ifd[_TAG.Compression] = compression
    if predicted:
        ifd[_TAG.Predictor] = 2
    lengths = [len(strip) for strip in strips]
    ifd[_TAG.RowsPerStrip] = rows
    ifd[_TAG.StripByteCounts] = tuple(lengths)
    ifd[_TAG.StripOffsets] = tuple(np.cumsum([0, *lengths[:-1]]).tolist())  # Pillow adds where the first begins
    ifd.tagtype[_TAG.StripByteCounts] = ifd.tagtype[_TAG.StripOffsets] = 4  # of 32 bits
    ifd.save(file)
    file.writelines(strips)


def _describe(ifd: TiffImagePlugin.ImageFileDirectory_v2, options: dict[str, Any]) -> None:
    for tag, value in options["tags"].items():
        ifd[tag] = value
    if "icc_profile" in options:
        ifd[_TAG.InterColorProfile] = options["icc_profile"]
    if "dpi" in options:
        ifd[_TAG.ResolutionUnit] = 2
        ifd[_TAG.XResolution], ifd[_TAG.YResolution] = options["dpi"]


def _strips(colours: np.ndarray, compression: str) -> tuple[int, int, list[bytes]]:
    """The compression's number, rows a strip, and the strips, packed by Pillow: to it all bytes are as good as grey."""
    rows = colours.astype(colours.dtype.newbyteorder("<"), copy=False).view(np.uint8).reshape(len(colours), -1)
    file = BytesIO()
    Image.fromarray(rows).save(file, "TIFF", compression=compression)
    file.seek(0)
    tags = TiffImagePlugin.TiffImageFile(file).tag_v2  # Image.open would take a large one for a bomb
    data = file.getbuffer()
    places = zip(tags[_TAG.StripOffsets], tags[_TAG.StripByteCounts], strict=True)
    return tags[_TAG.Compression], tags[_TAG.RowsPerStrip], [bytes(data[at : at + size]) for at, size in places]
