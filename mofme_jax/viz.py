"""What people look at: the line of progress, the table and the picture of a run."""

import time
from pathlib import Path
from typing import TextIO

import numpy as np
from PIL import Image, ImageDraw


class Progress:
    """One line a log period: step, share, rate, time left, and the figures given.

    Args:
      total: steps of the whole run. start: steps already taken. batch: images a step.
      stream: where to; None is the standard output of the moment.
    """

    def __init__(self, total: int, start: int, batch: int, stream: TextIO | None = None):
        self.total, self.batch, self.stream = total, batch, stream
        self._step, self._time = start, time.monotonic()

    def report(self, step: int, figures: dict[str, float]) -> float:
        """Prints the line of `step`.

        Returns:
          The rate in steps a second since the clock was restarted or the last line printed; NaN without a step.
        """
        taken, seconds = step - self._step, time.monotonic() - self._time
        rate = taken / max(seconds, 1e-9) if taken else float("nan")
        self.restart_clock(step)
        left = duration((self.total - step) / rate) if taken else "?"
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        print(f"step {step}/{self.total} ({step / self.total:4.0%})  {rate * self.batch:.1f} images/s  "
              f"{left} left  {shown}", file=self.stream, flush=True)  # fmt: skip
        return rate

    def restart_clock(self, step: int) -> None:
        """Leaves what came before this moment, at which `step` is done, out of the rate: compilation, a save."""
        self._step, self._time = step, time.monotonic()


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


def heat(values: np.ndarray, low: float, high: float) -> np.ndarray:
    """(H, W) -> (H, W, 3) in [0, 1]: black at `low` through red and yellow to white at `high`."""
    x = np.clip((values - low) / max(high - low, 1e-12), 0.0, 1.0)[..., None]
    return np.clip(3.0 * x - np.arange(3.0), 0.0, 1.0)
