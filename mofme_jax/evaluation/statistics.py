"""Means over images, and how far chance goes with them."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000
SEED = 0
LEAST = 5
"""Fewer values than this get no interval: drawn again, they are too often one and the same."""


@dataclass(frozen=True)
class Mean:
    """The mean of a figure over images.

    Attributes:
      mean: over the finite values; infinite if all are.
      low: lower end of the 95 % interval of the mean; NaN with fewer than `LEAST` values. high: the upper end.
      count: how many values the mean is over.
      infinite: how many values were infinite, and are left out.
    """

    mean: float
    low: float
    high: float
    count: int
    infinite: int


def mean_of(values: Sequence[float] | np.ndarray) -> Mean:
    """The mean of the finite values, and its 95 % interval by the bootstrap.

    The images are drawn again with replacement, `RESAMPLES` times from the seed `SEED`; the interval holds the middle
    95 % of the means (percentile bootstrap). It takes images for independent, which draws of weather over one
    photograph are not, and with a handful of images it is too narrow.

    Args:
      values: of one figure, one an image; infinite ones are PSNRs of images that equal their truth, or differences
        with them.

    Raises:
      ValueError: there are no values, or one is NaN.
    """
    every = np.asarray(values, np.float64)
    if not every.size or np.isnan(every).any():
        raise ValueError(f"a mean needs values that are numbers, not {every}")
    known = every[np.isfinite(every)]
    infinite = every.size - known.size
    if not known.size:
        return Mean(float(every.mean()), np.nan, np.nan, 0, infinite)
    low, high = _interval(known) if known.size >= LEAST else (np.nan, np.nan)
    return Mean(float(known.mean()), low, high, known.size, infinite)


def _interval(values: np.ndarray) -> tuple[float, float]:
    rng = np.random.default_rng(SEED)
    some = max(1, 2_000_000 // values.size)  # at once, so that memory does not grow with the images
    means = [
        values[rng.integers(values.size, size=(min(some, RESAMPLES - done), values.size))].mean(axis=1)
        for done in range(0, RESAMPLES, some)
    ]
    low, high = np.quantile(np.concatenate(means), [0.025, 0.975])
    return float(low), float(high)
