"""Scoring a restorer on photographs it was never trained on.

The protocol is `native-rgb`: images at their own size, restored in tiles, both rounded to 8 bits, PSNR over RGB, SSIM
with a Gaussian window of 11 and sigma 1.5, the mean over images.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np

from mofme_jax.data.weather import degrade
from mofme_jax.evaluation.metrics import psnr, ssim

PROTOCOL = "native-rgb"


@dataclass(frozen=True)
class Case:
    """One image to restore: `degraded` and `target` are (H, W, 3) uint8, `group` names its row in the table."""

    group: str
    name: str
    degraded: np.ndarray
    target: np.ndarray


@dataclass(frozen=True)
class Example:
    """One restored case, kept for the picture; `uncertainty` is (H, W) in nats."""

    case: Case
    restored: np.ndarray
    uncertainty: np.ndarray


def weather_cases(
    photographs: dict[str, np.ndarray], weathers: Sequence[str], *, repeats: int, max_side: int
) -> Iterable[Case]:
    """Synthesised weather over clean photographs, the same at every call: the keys are fixed.

    Args:
      photographs: (H, W, 3) uint8 by name.
      weathers: names for `degrade`; every photograph is also given clean, once.
      repeats: draws of each weather for each photograph.
      max_side: larger photographs are cut to their middle, pixels.
    """
    for index, (name, photograph) in enumerate(photographs.items()):
        target = cut_to_middle(photograph, max_side)
        for weather in (*weathers, "clean"):
            for repeat in range(repeats if weather != "clean" else 1):
                key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2024), index), repeat)
                yield Case(weather, name, _degrade_uint8(key, target, weather), target)


def cut_to_middle(image: np.ndarray, max_side: int) -> np.ndarray:
    """The middle of an (H, W, 3) image, at most max_side pixels high and wide."""
    tops = [max(0, (length - max_side) // 2) for length in image.shape[:2]]
    return image[tops[0] : tops[0] + max_side, tops[1] : tops[1] + max_side]


def _degrade_uint8(key: jax.Array, image: np.ndarray, weather: str) -> np.ndarray:
    pixels = jnp.asarray(image, jnp.float32) / 255.0
    return np.round(np.asarray(_degraded(key, pixels, weather)) * 255.0).astype(np.uint8)


@partial(jax.jit, static_argnames="weather")  # here, so that each weather is compiled once for each size
def _degraded(key: jax.Array, pixels: jax.Array, weather: str) -> jax.Array:
    return degrade(key, pixels, weather)[0]


def evaluate(
    restore: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]], cases: Iterable[Case]
) -> tuple[dict[str, dict[str, float]], list[Example]]:
    """Scores `restore` over cases.

    Args:
      restore: (H, W, 3) uint8 -> restored (H, W, 3) uint8 and uncertainty (H, W).
      cases: see `weather_cases`.

    Returns:
      For each group, in order: psnr_input, psnr (dB), ssim_input, ssim, images (their number); an input that equals
      its target has infinite PSNR. And the first case of each group as an example.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    examples: dict[str, Example] = {}
    for case in cases:
        restored, uncertainty = restore(case.degraded)
        examples.setdefault(case.group, Example(case, restored, uncertainty))
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
