"""What people look at: the line of progress, the table and the picture of a run."""

import sys
import textwrap
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Self, TextIO

import numpy as np
from PIL import Image, ImageDraw, ImageFont, ImageOps


class Progress:
    """One line a log period: step, share, rate, time left, and the figures given.

    Args:
      total: steps of the whole run. start: steps already taken. batch: images a step.
      stream: where to; None is the standard output of the moment.
      silent: prints nothing, as all but one of several processes.
    """

    def __init__(self, total: int, start: int, batch: int, stream: TextIO | None = None, silent: bool = False):
        self.total, self.batch, self.stream, self.silent = total, batch, stream, silent
        self._step, self._time = start, time.monotonic()

    def report(self, step: int, figures: dict[str, float]) -> float:
        """Prints the line of `step`.

        Returns:
          The rate in steps a second since the clock was restarted or the last line printed; NaN without a step.
        """
        taken, seconds = step - self._step, time.monotonic() - self._time
        rate = taken / max(seconds, 1e-9) if taken else float("nan")
        self.restart_clock(step)
        if self.silent:
            return rate
        speed = f"{rate * self.batch:.1f} images/s  {duration((self.total - step) / rate)} left  " if taken else ""
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"step {step}/{self.total} ({step / self.total:4.0%})  {speed}{shown}", file=self.stream, flush=True)
        return rate

    def restart_clock(self, step: int) -> None:
        """Leaves what came before this moment, at which `step` is done, out of the rate: compilation, a save."""
        self._step, self._time = step, time.monotonic()


class ProgressBar:
    """How far a count has come: one line that is written over in a terminal, else a line every ten seconds.

    Nothing is shown of what takes less than a second. Use it as a context: leaving it ends the line.

    Args:
      total: what is counted, in all; 0 while that is not known. what: the work, as "checking files".
      stream: where to; None is the standard error of the moment.
    """

    def __init__(self, total: int, what: str, stream: TextIO | None = None):
        self.total, self.what, self.stream = total, what, stream or sys.stderr
        self._began = time.monotonic()
        self._terminal = self.stream.isatty()
        self._next = self._began + 1.0
        self._shown = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        if self._shown and self._terminal:
            print(file=self.stream, flush=True)

    def update(self, done: int) -> None:
        """Shows that `done` of the total are done, if it is time to."""
        now = time.monotonic()
        if now < self._next and not (self._shown and done == self.total):
            return
        self._next = now + (0.2 if self._terminal else 10.0)
        self._shown = True
        rate = done / max(now - self._began, 1e-9)
        shown = f"{rate:,.0f}/s" if rate >= 10 else f"{rate:.2g}/s"
        if self.total:
            left = duration((self.total - done) / rate) if rate else "?"
            line = f"{self.what} {done:,}/{self.total:,} ({done / self.total:4.0%})  {shown}  {left} left"
        else:
            line = f"{self.what} {done:,}  {shown}"
        if self._terminal:
            print(f"\r{line:<79}", end="", file=self.stream, flush=True)
        else:
            print(line, file=self.stream, flush=True)


def duration(seconds: float) -> str:
    """Seconds as people read them: 95 -> '1:35', 3700 -> '1:01:40'."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def score_table(scores: dict[str, dict[str, float]]) -> str:
    """The table of a report: a row a weather, PSNR in dB and SSIM of the degraded input and of the restored image."""
    head = f"{'weather':<14}{'PSNR input':>12}{'restored':>10}{'gain':>8}{'SSIM input':>13}{'restored':>10}"
    lines = [head, "-" * len(head)]
    for name, row in scores.items():
        known = np.isfinite(row["psnr_input"])
        lines.append(
            f"{name:<14}{row['psnr_input'] if known else float('inf'):>12.2f}{row['psnr']:>10.2f}"
            + (f"{row['psnr'] - row['psnr_input']:>+8.2f}" if known else f"{'':>8}")
            + f"{row['ssim_input']:>13.3f}{row['ssim']:>10.3f}"
        )
    return "\n".join(lines)


def picture_sheet(rows: list[list[np.ndarray]], titles: list[str], names: list[str], path: Path) -> None:
    """Writes a PNG: `rows` of (H, W, 3) float images in [0, 1], cut to one size, columns titled, rows named."""
    height, width = (min(image.shape[axis] for row in rows for image in row) for axis in (0, 1))
    margin = 18
    sheet = Image.new("RGB", (len(titles) * (width + 4), margin + len(rows) * (height + margin)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, title in enumerate(titles):
        draw.text((j * (width + 4) + 4, 3), title, fill="black")
    for i, (row, name) in enumerate(zip(rows, names, strict=True)):
        top = margin + i * (height + margin)
        for j, image in enumerate(row):
            pixels = np.round(np.clip(image[:height, :width], 0, 1) * 255).astype(np.uint8)
            sheet.paste(Image.fromarray(pixels), (j * (width + 4), top))
        draw.text((4, top + height + 3), name, fill="black")
    sheet.save(path)


def pair_sheet(pairs: Sequence[tuple[np.ndarray, np.ndarray]], captions: Sequence[str], path: Path) -> None:
    """Writes a picture of pairs, input | target, each with its caption below, in two columns.

    Args:
      pairs: two (H, W, 3) float images in [0, 1] each, all of one size; small ones are drawn larger.
      captions: one for each pair; a long one is broken into lines.
      path: the image file; its suffix is the format.

    Raises:
      ValueError: a suffix that is no image format.
    """
    height, width = pairs[0][0].shape[:2]
    scale = max(1, 224 // width)
    line, gap = 13, 6
    wide, tall = 2 * width * scale + 2, height * scale
    texts = ["\n".join(textwrap.wrap(caption, max(8, wide // 6))) for caption in captions]
    lines = 1 + max(text.count("\n") for text in texts)
    rows = -(-len(pairs) // 2)
    sheet = Image.new("RGB", (2 * (wide + 3 * gap) + gap, rows * (tall + lines * line + 2 * gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for i, (pair, text) in enumerate(zip(pairs, texts, strict=True)):
        left = gap + (i % 2) * (wide + 3 * gap)
        top = gap + (i // 2) * (tall + lines * line + 2 * gap)
        for j, image in enumerate(pair):
            pixels = Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8))
            drawn = pixels.resize((width * scale, height * scale), Image.Resampling.NEAREST)
            sheet.paste(drawn, (left + j * (width * scale + 2), top))
        draw.multiline_text((left, top + tall + 1), text, fill="black", spacing=2)
    sheet.save(path)


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) -> (H, W, 3) in [0, 1]: black at `low` through red and yellow to white at `high`."""
    x = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)[..., None]
    return np.clip(3.0 * x - np.arange(3.0), 0.0, 1.0)


def error_sheet(
    rows: Sequence[Sequence[np.ndarray]], titles: Sequence[str], captions: Sequence[str], judged: int, path: Path
) -> None:
    """Writes pictures beside the truth and maps of their errors, a row an image, each image scaled to fit its place.

    An error is the mean over the channels of the absolute difference to the truth, on one scale for all rows: from 0
    (black) through red and yellow to the 99.5th percentile of the row where that is largest (white).

    Args:
      rows: pictures and, last, the truth: (H, W, 3), uint8, or float in [0, 1], of one size in a row.
      titles: of these columns.
      captions: a line for each row.
      judged: how many of the pictures, the last ones, get a map.
      path: the image file; its suffix is the format.

    Raises:
      ValueError: a suffix that is no image format.
    """
    floats = [[image / 255.0 if image.dtype == np.uint8 else image for image in row] for row in rows]
    errors = [[np.abs(picture - row[-1]).mean(-1) for picture in row[-1 - judged : -1]] for row in floats]
    most = max(1 / 255, *(float(np.percentile(error, 99.5)) for row in errors for error in row))
    drawn = [[*row, *(heat(error, 0.0, most) for error in some)] for row, some in zip(floats, errors, strict=True)]
    scale = f"0 (black) to {most * 255:.0f} levels (white)"
    heads = [
        *titles,
        *(f"error of {title}, {scale}" if judged > 1 else f"error, {scale}" for title in titles[-1 - judged : -1]),
    ]

    width, tallest, line, gap = 320, 480, 18, 6
    font = ImageFont.load_default(13)
    fitted = []
    for images in drawn:
        pixels = [Image.fromarray(np.round(np.clip(image, 0, 1) * 255).astype(np.uint8)) for image in images]
        fitted.append([ImageOps.contain(image, (width, tallest)) for image in pixels])
    heights = [max(image.height for image in images) + line + 2 * gap for images in fitted]
    sheet = Image.new("RGB", (gap + len(heads) * (width + gap), line + gap + sum(heights)), "white")
    draw = ImageDraw.Draw(sheet)
    for j, head in enumerate(heads):
        draw.text((gap + j * (width + gap), 4), head, fill="black", font=font)
    top = line + gap
    for parts, caption, height in zip(fitted, captions, heights, strict=True):
        for j, part in enumerate(parts):
            sheet.paste(part, (gap + j * (width + gap), top))
        draw.text((gap, top + height - line - 2 * gap + 1), caption, fill="black", font=font)
        top += height
    sheet.save(path)
