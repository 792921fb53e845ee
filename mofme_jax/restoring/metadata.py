"""What an image file says beside its pixels, as options for Pillow's writer of the same format."""

from pathlib import Path
from typing import Any, BinaryIO

from PIL import ExifTags, Image, JpegImagePlugin, PngImagePlugin, TiffImagePlugin

from mofme_jax.data.photos import DAMAGED

_PNG_CHUNKS = (b"cHRM", b"cICP", b"gAMA", b"sRGB", b"iTXt", b"tEXt", b"zTXt")
"""The meaning of colours, and texts, XMP among them."""

_TIFF_TAGS = (
    *(ExifTags.Base[name] for name in ("ImageDescription", "Make", "Model", "Orientation", "Software", "DateTime")),
    *(ExifTags.Base[name] for name in ("Artist", "Copyright", "Rating")),
    *(ExifTags.Base[name] for name in ("XPTitle", "XPComment", "XPAuthor", "XPKeywords", "XPSubject")),
    700,  # XMP
)
"""What describes the photograph; the other tags of a TIFF describe how this file holds it."""

_TIFF_COMPRESSIONS = ("raw", "packbits", "tiff_lzw", "tiff_adobe_deflate", "lzma", "zstd")
"""The lossless ones that take every kind of pixels."""


def of(image: Image.Image, path: Path) -> dict[str, Any]:
    """The options with which Pillow writes the same kind of file with the same EXIF, XMP, ICC profile, resolution.

    For a TIFF, which `tiff.write_tiff` writes, they are `compression`, `tags`, `icc_profile` and `dpi`.

    Args:
      image: an open file; a PNG loaded, for what stands behind its pixels, a TIFF not, since loading turns it.
      path: that file.
    """
    options = {name: image.info[name] for name in ("dpi", "exif", "icc_profile") if image.info.get(name)}
    if image.format in ("JPEG", "MPO"):
        options |= _jpeg(image)
    elif image.format == "PNG":
        options["pnginfo"] = _png_chunks(path)
    elif image.format == "WEBP":
        lossless = {"lossless": True} if _is_lossless_webp(path) else {"quality": 95}
        # colours under transparency are kept, and alpha is, whatever happens to the colours
        options |= {"exact": True, "alpha_quality": 100, **_some(image, "xmp"), **lossless}
    elif image.format == "TIFF":
        compression = image.info.get("compression")
        options["compression"] = compression if compression in _TIFF_COMPRESSIONS else "tiff_adobe_deflate"
        options["tags"] = _tiff_tags(image)
        if ExifTags.Base.XResolution not in image.getexif():
            options.pop("dpi", None)  # Pillow says 1
    return options


def _some(image: Image.Image, *names: str) -> dict[str, Any]:
    return {name: image.info[name] for name in names if image.info.get(name)}


def _jpeg(image: Image.Image) -> dict[str, Any]:
    assert isinstance(image, JpegImagePlugin.JpegImageFile)
    options = _some(image, "xmp", "comment", "progressive")
    captions = [data for name, data in image.applist if name == "APP13"]  # IPTC, which Pillow does not write
    options["extra"] = b"".join(b"\xff\xed" + (2 + len(data)).to_bytes(2, "big") + data for data in captions)
    # where the sampling is none of those that Pillow knows, the finest: 0
    return options | {"qtables": image.quantization, "subsampling": max(0, JpegImagePlugin.get_sampling(image))}


def _png_chunks(path: Path) -> PngImagePlugin.PngInfo:
    kept = PngImagePlugin.PngInfo()
    with path.open("rb") as file:
        for name, length in _chunks(file, 8, "big"):
            if name == b"IEND":  # what a chunk behind it claims to hold was seen by nobody
                break
            if name in _PNG_CHUNKS:
                kept.add(name, file.read(length))
    return kept


def _is_lossless_webp(path: Path) -> bool:
    with path.open("rb") as file:
        return any(name == b"VP8L" for name, _ in _chunks(file, 12, "little"))


def _chunks(file: BinaryIO, start: int, order: str):
    """The names and lengths of a PNG's or a WebP's chunks; the file stands where a chunk's data begin."""
    while True:
        file.seek(start)
        head = file.read(8)
        if len(head) < 8:
            return
        name, number = (head[4:], head[:4]) if order == "big" else (head[:4], head[4:])
        length = int.from_bytes(number, "big" if order == "big" else "little")
        yield name, length
        start += 8 + (length + 4 if order == "big" else length + length % 2)  # a checksum there, here a filler


def _tiff_tags(image: Image.Image) -> dict[int, Any]:
    found = image.getexif()
    kept = _writable({tag: _as_read(found[tag]) for tag in _TIFF_TAGS if tag in found}, None)
    for folder in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
        if folder in found:
            kept[folder] = _writable({t: _as_read(value) for t, value in found.get_ifd(folder).items()}, folder)
    return kept


def _writable(tags: dict[int, Any], folder: int | None) -> dict[int, Any]:
    """Those that Pillow can write: of a damaged file a tag may have a value of another type than its own."""
    kept = {}
    for tag, value in tags.items():
        alone = TiffImagePlugin.ImageFileDirectory_v2(prefix=b"II", group=folder)
        try:
            alone[tag] = value
            alone.tobytes()
        except DAMAGED:
            continue
        kept[tag] = value
    return kept


def _as_read(value: Any) -> Any:
    """Text that is not ASCII as bytes: Pillow reads it as Latin-1, whatever it is, and would write question marks."""
    return value if not isinstance(value, str) or value.isascii() else value.encode("latin-1", "replace")
