"""Scoring a restorer on photographs it was never trained on.

The protocol is `native-rgb`: images at their own size, restored in tiles, both rounded to 8 bits, PSNR over RGB, SSIM
with a Gaussian window of 11 and sigma 1.5, the mean over images.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.metrics import psnr, ssim

PROTOCOL = "native-rgb"


@dataclass(frozen=True)
class Example:
    """One restored case, kept for the picture; `uncertainty` is (H, W) in nats."""

    case: Case
    restored: np.ndarray
    uncertainty: np.ndarray


def evaluate(
    restore: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    cases: Iterable[Case],
    watch: Callable[[Example], None] | None = None,
) -> tuple[dict[str, dict[str, float]], list[Example]]:
    """Scores `restore` over cases.

    Args:
      restore: (H, W, 3) uint8 -> restored (H, W, 3) uint8 and uncertainty (H, W).
      cases: see `weather_cases`.
      watch: is shown each case, restored.

    Returns:
      For each group, in order: psnr_input, psnr (dB), ssim_input, ssim, images (their number); an input that equals
      its target has infinite PSNR. And the first case of each group as an example.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    examples: dict[str, Example] = {}
    for case in cases:
        restored, uncertainty = restore(case.degraded)
        example = Example(case, restored, uncertainty)
        examples.setdefault(case.group, example)
        if watch is not None:
            watch(example)
        rows.setdefault(case.group, []).append((*_scores(case.degraded, case.target), *_scores(restored, case.target)))
    names = ("psnr_input", "ssim_input", "psnr", "ssim")
    scores = {
        group: dict(zip(names, map(float, np.mean(values, axis=0)), strict=True), images=len(values))
        for group, values in rows.items()
    }
    return scores, list(examples.values())


@jax.jit
def _compare(image, target):
    image, target = (a.astype(jnp.float32) / 255.0 for a in (image, target))
    # by levels: a compiler may fuse the division into the difference, and equal images then differ by 158 dB
    return psnr(image, target, "rgb-u8"), ssim(image, target, "rgb-u8")


def _scores(image: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    decibels, similarity = _compare(image, target)
    return float(decibels), float(similarity)
