"""Colours of 16 bits, of which Pillow reads the higher byte and writes none; `tiff` writes them into TIFF.

Pillow's decoders can be told which byte of a number comes first, and take that one: told both, they give both bytes.

Axis glossary: `H W` pixels.
"""

import struct
import sys
import zlib
from typing import Any, BinaryIO

import numpy as np
from PIL import ExifTags, Image, TiffImagePlugin

_AT_ONCE = 2**20
"""Bytes compressed at once, or one row: what is held in memory beside the picture."""


def raw_mode(image: Image.Image) -> str:
    """How the file that is open, and not loaded, stores a pixel, in Pillow's words; "" where that is not said."""
    if not image.tile:  # type: ignore[attr-defined]
        return ""
    arguments = image.tile[0].args  # type: ignore[attr-defined]
    return str(arguments[0] if isinstance(arguments, tuple) and arguments else arguments)


def kind(image: Image.Image) -> str:
    """ "grey", "grey and alpha" or "colours" for an open file of 16 bits, "" for one of fewer.

    Raises:
      ValueError: of 16 bits in a way that cannot be read without loss.
    """
    raw, bits = raw_mode(image), 8
    if isinstance(image, TiffImagePlugin.TiffImageFile):
        tags = image.tag_v2
        bits = max(tags.get(ExifTags.Base.BitsPerSample, (1,)))
        if image.mode.startswith("I;16") and bits != 16:
            raise ValueError(f"its values are of {bits} bits: convert it to 8 or 16 bits")
        if bits == 16 and not image.mode.startswith(("I;16", "CMYK")):
            if tags.get(ExifTags.Base.PlanarConfiguration, 1) != 1:
                raise ValueError(
                    "it holds each colour of 16 bits in a plane of its own: save it with pixels interleaved"
                )
            if raw.startswith("RGBa"):
                raise ValueError("its colours of 16 bits are multiplied by alpha: save it with unassociated alpha")
    if image.mode.startswith("I;16"):
        return "grey"
    if raw == "LA;16B":
        return "grey and alpha"
    return "colours" if image.mode in ("RGB", "RGBA") and raw[:-1].endswith(";16") else ""


def read(image: Image.Image, again: Image.Image, kind: str) -> np.ndarray:
    """(H, W, channels) uint16 of a file that is opened twice, and not loaded."""
    if kind == "grey":
        tags = getattr(image, "tag_v2", {})
        white_is_zero = tags.get(ExifTags.Base.PhotometricInterpretation) == 0
        colours: np.ndarray = np.asarray(image).astype(np.uint16)[..., None]  # in this machine's order of bytes
        colours = ~colours if white_is_zero else colours
    elif kind == "grey and alpha":  # two numbers, whose four bytes are as good as four colours
        _load_as(image, "RGBA")
        bytes_ = np.asarray(image)
        return (bytes_[..., ::2].astype(np.uint16) << 8) | bytes_[..., 1::2]
    else:
        raw = raw_mode(image)
        first, second = {"B": "BL", "L": "LB", "N": "LB" if sys.byteorder == "little" else "BL"}[raw[-1]]
        _load_as(image, raw[:-1] + first)
        _load_as(again, raw[:-1] + second)
        colours = np.asarray(image).astype(np.uint16) << 8
        colours |= np.asarray(again)
    return with_transparent_colour(colours, image.info.get("transparency"))


def _load_as(image: Image.Image, raw: str) -> None:
    def told(tile):
        return tile._replace(args=(raw, *tile.args[1:]) if isinstance(tile.args, tuple) else raw)

    image.tile = [told(tile) for tile in image.tile]  # type: ignore[attr-defined]
    image.load()


def with_transparent_colour(colours: np.ndarray, key: Any) -> np.ndarray:
    """(H, W, channels), with an alpha channel that is 0 where the colour is `key`; as it is for None."""
    if key is None:
        return colours
    alpha = np.where((colours == key).all(-1, keepdims=True), 0, np.iinfo(colours.dtype).max)
    return np.concatenate([colours, alpha.astype(colours.dtype)], -1)


def write_png(file: BinaryIO, colours: np.ndarray, options: dict[str, Any]) -> None:
    """Writes (H, W, 1 to 4) uint16 as PNG, with what Pillow's writer takes as `options`."""

    def chunk(name: bytes, data: bytes) -> None:
        file.write(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)))

    height, width, channels = colours.shape
    file.write(b"\x89PNG\r\n\x1a\n")
    chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], 0, 0, 0))
    if "icc_profile" in options:
        chunk(b"iCCP", b"ICC Profile\0\0" + zlib.compress(options["icc_profile"]))
    for name, data, *_ in options["pnginfo"].chunks:
        if not (name == b"sRGB" and "icc_profile" in options):  # a file has one of the two
            chunk(name, data)
    if "dpi" in options:
        chunk(b"pHYs", struct.pack(">IIB", *(round(dots / 0.0254) for dots in options["dpi"]), 1))
    if "exif" in options:
        chunk(b"eXIf", options["exif"].removeprefix(b"Exif\0\0"))
    packer = zlib.compressobj(6)
    rows = max(1, _AT_ONCE // colours[:1].nbytes)
    for top in range(0, height, rows):
        data = packer.compress(_filtered(colours, top, rows))
        if data:
            chunk(b"IDAT", data)
    chunk(b"IDAT", packer.flush())
    chunk(b"IEND", b"")


def _filtered(colours: np.ndarray, top: int, rows: int) -> bytes:
    """Some rows as bytes less their neighbours' (the Paeth filter), which compress well."""
    some = colours[max(top - 1, 0) : top + rows].astype(">u2")
    x = some.view(np.uint8).reshape(len(some), some.shape[1], -1).astype(np.int16)
    above = x[:-1] if top else np.concatenate([np.zeros_like(x[:1]), x[:-1]])
    x = x[1:] if top else x
    left, corner = (np.pad(a, ((0, 0), (1, 0), (0, 0)))[:, :-1] for a in (x, above))
    to_left, to_above, to_corner = abs(above - corner), abs(left - corner), abs(left + above - 2 * corner)
    nearest = np.where(
        (to_left <= to_above) & (to_left <= to_corner), left, np.where(to_above <= to_corner, above, corner)
    )
    differences = (x - nearest).astype(np.uint8).reshape(len(x), -1)
    return np.pad(differences, ((0, 0), (1, 0)), constant_values=4).tobytes()  # 4: the Paeth filter, said of each row
