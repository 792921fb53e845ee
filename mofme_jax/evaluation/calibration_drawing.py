"""A picture of what calibrations are worth: expected against real error, and sparsification; held out, as the figures.

Axis glossary: `n` blocks of an image.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from mofme_jax.evaluation.calibration import Measured, expected_held_out, reliability
from mofme_jax.evaluation.sparsification import sparsification_curve

PICTURE = "uncertainty.png"
"""In the folder of a run, beside its calibrations."""

_SCALE = 2  # drawn larger, then reduced: Pillow's lines have no smooth edges
_WIDE, _TALL, _LEFT, _TOP, _BELOW, _RIGHT = 330, 270, 62, 34, 46, 24  # pixels of a panel and of what is around it
_SHARES = np.linspace(0.0, 0.99, 100)
_OURS, _ORACLE, _RANDOM = "#0072b2", "#009e73", "#777777"


def draw_calibrations(measured: Mapping[str, Sequence[Measured]], step: int, path: Path) -> None:
    """Writes a PNG with two panels a row: ten bins of expected error with the diagonal, and sparsification curves.

    Args:
      measured: by the name of a calibration, what it was fitted on. step: of the checkpoint.
      path: the image file.
    """
    width, height = 2 * (_LEFT + _WIDE + _RIGHT), _TOP + _TALL + _BELOW
    sheet = Image.new("RGB", (_SCALE * width, _SCALE * height * len(measured)), "white")
    draw = ImageDraw.Draw(sheet)
    for row, (name, images) in enumerate(measured.items()):
        expected = expected_held_out(images)
        where = "on photographs left out" if len({m.photograph for m in images}) > 1 else "on the fitted photograph"
        _draw_reliability(draw, (0, row * height), f"{name}, step {step}, {where}", expected, images)
        _draw_sparsification(draw, (width // 2, row * height), expected, images)
    sheet.resize((width, height * len(measured)), Image.Resampling.LANCZOS).save(path)


def mean_curves(expected: Sequence[np.ndarray], error: Sequence[np.ndarray]) -> dict[str, np.ndarray]:
    """Sparsification by expected error, by the true error and at random, (100,) each: at shares from 0 to 0.99, the
    mean over images of (n,) values each."""

    def mean(by: Sequence[np.ndarray]) -> np.ndarray:
        curves = [sparsification_curve(one, e) for one, e in zip(by, error, strict=True)]
        return np.mean([np.interp(_SHARES, np.arange(len(c)) / len(c), c) for c in curves], axis=0)

    return {"expected error": mean(expected), "true error": mean(error), "at random": mean([e * 0 for e in error])}


class _Panel:
    """Axes from 0 to (most x, most y), whose outer corner is at (left, top)."""

    def __init__(self, draw: ImageDraw.ImageDraw, corner: tuple[int, int], most: tuple[float, float]):
        self.draw, self.most = draw, most
        self.left, self.top = corner[0] + _LEFT, corner[1] + _TOP

    def axes(self, title: str, names: tuple[str, str]) -> None:
        """Draws the frame, four ticks an axis, the title and the axes' names; that of y stands in the panel."""
        right, base = self.left + _WIDE, self.top + _TALL
        self.line([(0, self.most[1]), (0, 0), (self.most[0], 0)], "#333333", 1)
        for quarter in range(5):
            x, y = (most * quarter / 4 for most in self.most)
            self.text(self.left + _WIDE * quarter / 4, base + 6, f"{x:.3g}", "ma")
            self.text(self.left - 6, base - _TALL * quarter / 4, f"{y:.3g}", "rm")
        self.text(self.left, self.top - 26, title, "la")
        self.text(right, base + 24, names[0], "ra")
        self.text(self.left + 8, self.top, names[1], "la")

    def line(self, points: Sequence[tuple[float, float]], colour: str, width: int = 2) -> None:
        """A line through points (x, y) of the axes."""
        self.draw.line([self.place(*point) for point in points], colour, _SCALE * width)

    def dot(self, x: float, y: float, colour: str) -> None:
        """A dot at (x, y) of the axes."""
        self.draw.circle(self.place(x, y), _SCALE * 4, colour)

    def place(self, x: float, y: float) -> tuple[float, float]:
        """(x, y) of the axes in pixels of the sheet."""
        across, up = (value / most for value, most in zip((x, y), self.most, strict=True))
        return _SCALE * (self.left + _WIDE * across), _SCALE * (self.top + _TALL * (1 - up))

    def text(self, x: float, y: float, text: str, anchor: str, colour: str = "#222222") -> None:
        """Text at (x, y) in pixels, `anchor` as Pillow has them."""
        self.draw.text((_SCALE * x, _SCALE * y), text, colour, ImageFont.load_default(_SCALE * 12), anchor)


def _draw_reliability(draw, corner, title: str, expected: Sequence[np.ndarray], images: Sequence[Measured]) -> None:
    bins = 255 * reliability(np.concatenate(expected), np.concatenate([m.error for m in images]))
    most = _round(bins.max())
    panel = _Panel(draw, corner, (most, most))
    panel.line([(0, 0), (most, most)], _RANDOM, 1)
    panel.line(bins.T.tolist(), _OURS)
    for x, y in bins.T.tolist():
        panel.dot(x, y, _OURS)
    panel.axes(f"expected and real error: {title}", ("expected, levels of 255", "real, levels"))


def _draw_sparsification(draw, corner, expected: Sequence[np.ndarray], images: Sequence[Measured]) -> None:
    curves = mean_curves(expected, [m.error for m in images])
    most = _round(max(255 * curve.max() for curve in curves.values()))
    panel = _Panel(draw, corner, (1.0, most))
    for row, ((name, curve), colour) in enumerate(zip(curves.items(), (_OURS, _ORACLE, _RANDOM), strict=True)):
        panel.line([(x, 255 * y) for x, y in zip(_SHARES, curve, strict=True)], colour)
        panel.text(panel.left + _WIDE, panel.top + 16 * row, f"dropped by {name}".replace("by at", "at"), "ra", colour)
    panel.axes("sparsification, mean over images", ("share of the blocks dropped", "error of the rest, levels"))


def _round(value: float) -> float:
    """The least round number, whose quarters are round as well, that is not below the value; 1 for 0."""
    if value <= 0:
        return 1.0
    power = 10.0 ** np.floor(np.log10(value))
    return next(float(step * power) for step in (1, 1.2, 1.6, 2, 3, 4, 6, 8, 10) if step * power >= value)
