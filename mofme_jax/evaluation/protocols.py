"""Protocols: everything that a PSNR and an SSIM depend on besides the images, by name.

Axis glossary: `S` windows, `H W` pixels. A protocol is a handling of sizes and a convention of `metrics.py`. Both are
applied to a network by `evaluator.restored_under`, and to pictures that any method has saved by `fit`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from PIL import Image

Size = tuple[int, int]
"""(H, W) in pixels."""


@dataclass(frozen=True)
class Protocol:
    """How an image, its degraded version and what a network makes of that come to be compared.

    Attributes:
      used_by: whose published figures follow it.
      convention: a name in `metrics.CONVENTIONS`.
      size: of an image's own size, the size that is compared; the same again for a size that it has given.
      filter: what Pillow resizes with; None cuts out the middle instead.
      saved: whether a network's output is rounded to 8 bits before it is compared, as when it was saved as PNG.
      window: side of the windows that the network sees, pixels; None leaves that to the network.
      stride: from one window to the next, pixels.
    """

    used_by: str
    convention: str
    size: Callable[[Size], Size]
    filter: Image.Resampling | None = None
    saved: bool = True
    window: int | None = None
    stride: int = 0


def native(size: Size) -> Size:
    """Its own size."""
    return size


def landscape(size: Size) -> Size:
    """480 x 720 pixels, whatever the image's own."""
    return 480, 720


def at_most_1024(size: Size) -> Size:
    """Sides of at most 1024 pixels, the shorter in proportion and rounded up; both then up to multiples of 16."""
    longer = max(1024, *size)
    height, width = (math.ceil(side * 1024 / longer) for side in size)
    return math.ceil(height / 16) * 16, math.ceil(width / 16) * 16


def multiples_of_16(size: Size) -> Size:
    """Both sides down to multiples of 16."""
    return size[0] // 16 * 16, size[1] // 16 * 16


PROTOCOLS: dict[str, Protocol] = {
    "native-rgb": Protocol("this package; NAFNet and others that compare saved RGB images", "rgb-u8", native),
    "mofme": Protocol("MoFME", "piq", landscape, Image.Resampling.BICUBIC, saved=False, window=240, stride=120),
    "basicsr-y": Protocol("BasicSR on saved images: MODEM, GridFormer", "y-u8", native),
    "weatherdiff-y": Protocol("WeatherDiffusion", "y-u8", at_most_1024, Image.Resampling.LANCZOS),
    "histoformer": Protocol("Histoformer, HOGformer", "histoformer", native),
    "centre16-rgb": Protocol("AirNet, PromptIR, AdaIR, DFPIR", "rgb-skimage", multiples_of_16, saved=False),
}
"""Every protocol by name; docs/evaluation.md says each in full."""


def named(name: str) -> list[str]:
    """The protocols that a user asks for: one, or "all".

    Raises:
      ValueError: there is none of this name.
    """
    if name != "all" and name not in PROTOCOLS:
        raise ValueError(f"protocol {name!r} is unknown; choose one of {', '.join(PROTOCOLS)}, or all")
    return list(PROTOCOLS) if name == "all" else [name]


def prepare(image: np.ndarray, protocol: Protocol) -> np.ndarray:
    """An image in the size that a protocol compares, before a network sees it.

    Args:
      image: (H, W, 3), uint8; or of another type, where it has that size already.
      protocol: the protocol.

    Returns:
      (H', W', 3) of the same type: resized in 8 bits, as the methods' own data loaders do, cut, or as it is.
    """
    height, width = protocol.size(image.shape[:2])
    if (height, width) == image.shape[:2]:
        return image
    if protocol.filter is not None:
        return np.asarray(Image.fromarray(image).resize((width, height), protocol.filter))
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return image[top : top + height, left : left + width]


def fits(size: Size, truth: Size, protocol: Protocol) -> bool:
    """Whether a picture of one size can be compared with a ground truth of another, see `fit`."""
    return size in (truth, protocol.size(truth))


def fit(image: np.ndarray, truth: np.ndarray, protocol: Protocol) -> tuple[np.ndarray, np.ndarray]:
    """A given picture and its ground truth in the size that a protocol compares.

    The truth is prepared as the protocol does. So is a picture of the truth's own size: what the protocol does before
    the network is then done after it, which is near the protocol, but not it. A picture that has the protocol's size
    already, because its network was given prepared images, is compared as it is, and the figure is the protocol's own
    but for the 8 bits of the file.

    Args:
      image: (H, W, 3) uint8, or float in [0, 1] if it has the protocol's size.
      truth: (H, W, 3) uint8.
      protocol: the protocol.

    Returns:
      Both, of one shape.

    Raises:
      ValueError: the picture has neither size.
    """
    if not fits(image.shape[:2], truth.shape[:2], protocol):
        raise ValueError(f"an image of shape {image.shape} does not fit a truth of shape {truth.shape}")
    return prepare(image, protocol), prepare(truth, protocol)


def average_windows(
    apply: Callable[[np.ndarray], np.ndarray], image: np.ndarray, window: int, stride: int
) -> np.ndarray:
    """Restores square windows of an image and averages them where they overlap.

    Args:
      apply: (S, window, window, 3) float32 in [0, 1] -> restored, same shape; S is the windows of a row.
      image: (H, W, 3) float32 in [0, 1]; its sides are the window and a multiple of the stride more.
      window: pixels on a window's side.
      stride: from one window to the next, at most `window`, pixels.

    Returns:
      (H, W, 3) float32, cut to [0, 1] after the average.

    Raises:
      ValueError: the windows do not end where the image does.
    """
    height, width = image.shape[:2]
    if min(height, width) < window or (height - window) % stride or (width - window) % stride:
        raise ValueError(f"windows of {window} every {stride} pixels do not fill an image of {width} x {height}")
    total, count = np.zeros_like(image), np.zeros((height, width, 1), np.float32)
    lefts = range(0, width - window + 1, stride)
    for top in range(0, height - window + 1, stride):
        restored = apply(np.stack([image[top : top + window, left : left + window] for left in lefts]))
        for left, part in zip(lefts, restored, strict=True):
            total[top : top + window, left : left + window] += part
            count[top : top + window, left : left + window] += 1
    return np.clip(total / count, 0.0, 1.0)
