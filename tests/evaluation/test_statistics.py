"""Means and their intervals."""

import numpy as np
import pytest

from mofme_jax.evaluation.statistics import mean_of


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(30, 3, 200)
    found = mean_of(values)
    assert found == mean_of(list(values))  # the same at every call
    assert found.mean == pytest.approx(values.mean())
    assert (found.count, found.infinite) == (200, 0)
    standard_error = values.std() / np.sqrt(200)
    assert found.low == pytest.approx(values.mean() - 1.96 * standard_error, abs=0.1 * standard_error)
    assert found.high == pytest.approx(values.mean() + 1.96 * standard_error, abs=0.1 * standard_error)


def test_large_samples_are_drawn_in_parts(monkeypatch):
    values = np.random.default_rng(0).normal(30, 3, 3000)  # 666 resamples at once
    found = mean_of(values)
    assert (found.high - found.low) / 2 == pytest.approx(1.96 * values.std() / np.sqrt(3000), rel=0.05)


def test_infinite_values_are_counted_and_left_out():
    found = mean_of([np.inf, 20, 30, 20, 30, 25, np.inf])
    assert (found.mean, found.count, found.infinite) == (25, 5, 2)
    assert 20 < found.low < 25 < found.high < 30
    every = mean_of([np.inf, np.inf])
    assert (every.mean, every.count, every.infinite) == (np.inf, 0, 2)
    assert np.isnan(every.low)


def test_too_few_values_have_no_interval():
    few = mean_of([1.0, 2.0, 3.0, 4.0])
    assert few.mean == 2.5
    assert np.isnan(few.low)
    assert np.isnan(few.high)


@pytest.mark.parametrize("values", [[], [1.0, np.nan]])
def test_what_has_no_mean_is_refused(values):
    with pytest.raises(ValueError, match="numbers"):
        mean_of(values)
