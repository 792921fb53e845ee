"""Pictures of what a network did to a photograph.

Axis glossary: `H W` pixels, `h w` rows and columns of tokens, `E` experts. Pictures are (H, W, 3) uint8.
"""

import colorsys
from collections.abc import Callable

import numpy as np
from PIL import Image, ImageDraw

from mofme_jax.viz import heat

_PALETTE = np.array(
    [
        (230, 159, 0),
        (86, 180, 233),
        (0, 158, 115),
        (240, 228, 66),
        (0, 114, 178),
        (213, 94, 0),
        (204, 121, 167),
        (110, 110, 110),
    ],
    np.uint8,
)  # Okabe and Ito's colours, which the colour-blind tell apart; their black, which would hide a photograph, made grey

_DOUBT = np.array((255, 0, 200), np.float32)  # a colour that photographs seldom have


def uncertainty_picture(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) -> a picture: black at `low` through red and yellow to white at `high`."""
    return _in_strips(lambda strip: np.round(heat(strip, low, high) * 255), values)


def doubt_overlay(restored: np.ndarray, values: np.ndarray, low: float, high: float) -> np.ndarray:
    """A restored picture, painted over in magenta where it may be invented.

    Args:
      restored: (H, W, 3) uint8.
      values: (H, W), of an uncertainty.
      low, high: nothing is painted up to `low`; from `high` on the paint covers half.
    """

    def paint(restored, values):
        share = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)[..., None] / 2
        return np.round(restored * (1 - share) + _DOUBT * share)

    return _in_strips(paint, restored, values)


def expert_colours(num_experts: int) -> np.ndarray:
    """(E, 3) uint8: a colour for each expert. The first eight are told apart by the colour-blind too."""
    golden = (5**0.5 - 1) / 2
    more = [
        [
            round(255 * part)
            for part in colorsys.hsv_to_rgb(i * golden % 1.0, 0.35 + 0.5 * (i % 2), 0.95 - 0.3 * (i % 3 / 2))
        ]
        for i in range(max(0, num_experts - len(_PALETTE)))
    ]
    return np.concatenate([_PALETTE, np.array(more, np.uint8).reshape(-1, 3)])[:num_experts]


def expert_picture(image: np.ndarray, experts: np.ndarray, patch: int, num_experts: int) -> np.ndarray:
    """Which expert takes which token: their colours over the photograph in grey.

    Args:
      image: (H, W, 3) uint8.
      experts: (h, w) numbers of experts, of one layer; h and w count the patches that cover the image.
      patch: pixels on a token's side.
      num_experts: E.
    """
    height, width = image.shape[:2]
    of_pixels = experts.repeat(patch, axis=0).repeat(patch, axis=1)[:height, :width]
    palette = expert_colours(num_experts)

    def paint(image, experts):
        return np.round(0.5 * palette[experts] + 0.5 * image.mean(-1, keepdims=True, dtype=np.float32))

    return _in_strips(paint, image, of_pixels)


def expert_sheet(image: np.ndarray, experts: np.ndarray, patch: int, num_experts: int) -> Image.Image:
    """`expert_picture` of each layer, side by side, above the colours of the experts and their shares of the tokens.

    Args:
      image: (H, W, 3) uint8. experts: (L, h, w). patch, num_experts: see `expert_picture`.
    """
    layers = [expert_picture(image, layer, patch, num_experts) for layer in experts]
    height, width = image.shape[:2]
    width = max(width, 120)  # room for the words
    columns = max(1, width // 90)
    line = 16
    sheet = Image.new("RGB", (len(layers) * (width + 4), height + line * (1 + -(-num_experts // columns))), "white")
    draw = ImageDraw.Draw(sheet)
    for place, (layer, chosen) in enumerate(zip(layers, experts, strict=True)):
        left = place * (width + 4)
        sheet.paste(Image.fromarray(layer), (left, 0))
        draw.text((left + 2, height + 2), f"layer {place}: heaviest expert", fill="black")
        shares = np.bincount(chosen.reshape(-1), minlength=num_experts) / chosen.size
        for expert, (colour, share) in enumerate(zip(expert_colours(num_experts), shares, strict=True)):
            row, column = divmod(expert, columns)
            x, y = left + 90 * column + 2, height + line * (row + 1)
            draw.rectangle((x, y + 2, x + 11, y + 13), fill=tuple(colour.tolist()), outline="black")
            draw.text((x + 16, y + 2), f"{expert}: {share:.0%}", fill="black")
    return sheet


def eight_bits(pixels: np.ndarray) -> np.ndarray:
    """uint8 or uint16 as uint8."""
    return (pixels >> 8).astype(np.uint8) if pixels.dtype == np.uint16 else pixels


def _in_strips(paint: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """What `paint` makes of the arrays, as uint8, some rows at a time: floats of a large one take much memory."""
    strips = [paint(*(array[top : top + 256] for array in arrays)) for top in range(0, len(arrays[0]), 256)]
    return np.concatenate([strip.astype(np.uint8) for strip in strips])
