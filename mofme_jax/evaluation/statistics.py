"""Means over images and over training runs, and how far chance goes with them.

Axis glossary: `S` seeds of training, `P` photographs.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from scipy.stats import t as student

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


@dataclass(frozen=True)
class Interval:
    """A mean and its 95 % interval, from `low` to `high`: NaN where there are too few values for one."""

    mean: float
    low: float
    high: float


def mean_over_seeds(values: Sequence[float] | np.ndarray) -> Interval:
    """The mean over seeds, with Student's t interval: mean +- t(0.975, S - 1) sd / sqrt(S).

    It says what training again with other seeds would give on the same images, taking a seed's value for normally
    distributed. Of differences between two ways to train that share their seeds, it is that of the paired t test.

    Args:
      values: (S,), one a seed, such as a mean over images; one alone has no interval.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    seeds = _finite(values, 1)
    mean = float(seeds.mean())
    if seeds.size < 2:
        return Interval(mean, np.nan, np.nan)
    half = student.ppf(0.975, seeds.size - 1) * seeds.std(ddof=1) / np.sqrt(seeds.size)
    return Interval(mean, float(mean - half), float(mean + half))


def mean_over_seeds_and_photographs(values: Sequence[Sequence[float]] | np.ndarray) -> Interval:
    """The mean over seeds and photographs, with the interval of a bootstrap that draws both again.

    Every seed is judged on the same photographs, so both are drawn with replacement, independently, and a draw's mean
    is over all pairs of them (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1(2), 2007); photographs
    drawn anew for each seed would count as if each seed had photographs of its own. `RESAMPLES` draws from `SEED`, the
    middle 95 % of their means. It also covers the choice of photographs, and assumes no distribution; with a handful of
    seeds it is too narrow for what seeds do, since a sample's own spread is less than that of what it was drawn from.

    Args:
      values: (S, P), such as the mean over the images made from a photograph: weather drawn on one photograph is no
        independent evidence. With one seed or one photograph there is no interval.

    Raises:
      ValueError: there are no values, or one is not finite.
    """
    table = _finite(values, 2)
    mean = float(table.mean())
    if min(table.shape) < 2:
        return Interval(mean, np.nan, np.nan)
    rng = np.random.default_rng(SEED)
    shares = [rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES) / n for n in table.shape]
    means = np.einsum("rs,sp,rp->r", shares[0], table, shares[1], optimize=True)
    low, high = np.quantile(means, [0.025, 0.975])
    return Interval(mean, float(low), float(high))


def _finite(values: Sequence | np.ndarray, axes: int) -> np.ndarray:
    array = np.asarray(values, np.float64)
    if array.ndim != axes or not array.size or not np.isfinite(array).all():
        raise ValueError(f"a mean with an interval needs finite values along {axes} axes, not {array}")
    return array
