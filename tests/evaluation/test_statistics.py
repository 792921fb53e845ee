"""Means and their intervals."""

import numpy as np
import pytest

from mofme_jax.evaluation.statistics import mean_of, mean_over_seeds, mean_over_seeds_and_photographs


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


def test_seeds_have_students_interval():
    found = mean_over_seeds([0.1, 0.2, 0.3])
    # by a table: t(0.975, 2) = 4.303; the standard deviation is 0.1
    assert (found.mean, found.low, found.high) == pytest.approx((0.2, 0.2 - 0.2484, 0.2 + 0.2484), abs=1e-4)
    two = mean_over_seeds([1.0, 2.0])
    assert two.high - 1.5 == pytest.approx(12.706 * 0.7071 / 1.4142, abs=1e-3)
    assert mean_over_seeds(np.array([0.5])).mean == 0.5
    assert np.isnan(mean_over_seeds([0.5]).low)


def test_seeds_and_photographs_are_both_drawn_again():
    # two of each, 0 but for one corner: a draw's mean is a product of shares 0, 1/2, 1 (chances 1/4, 1/2, 1/4) of
    # either; 1 has a chance of 1/16 and 0 of 7/16
    corner = mean_over_seeds_and_photographs([[1.0, 0.0], [0.0, 0.0]])
    assert (corner.mean, corner.low, corner.high) == (0.25, 0.0, 1.0)
    assert corner == mean_over_seeds_and_photographs(np.array([[1.0, 0.0], [0.0, 0.0]]))  # the same at every call


@pytest.mark.parametrize("shape", [(200, 3), (3, 200)])
def test_photographs_are_the_same_for_every_seed(shape):
    # what differs is one axis alone: however many values the other axis has, they are no further evidence
    rng = np.random.default_rng(0)
    many, few = (0, 1) if shape[0] > shape[1] else (1, 0)
    effects = rng.normal(size=200)
    table = np.broadcast_to(np.expand_dims(effects, few), shape)
    found = mean_over_seeds_and_photographs(table)
    assert found.mean == pytest.approx(effects.mean())
    half = 1.96 * effects.std() / np.sqrt(shape[many])
    assert (found.high - found.low) / 2 == pytest.approx(half, rel=0.05)
    assert found.low < found.mean < found.high


def test_one_of_a_kind_has_no_interval():
    for table in ([[1.0, 2.0]], [[1.0], [2.0]]):
        found = mean_over_seeds_and_photographs(table)
        assert found.mean == 1.5
        assert np.isnan([found.low, found.high]).all()


@pytest.mark.parametrize("values", [[], [np.nan], [np.inf, 1.0], [[1.0]]])
def test_seeds_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="along 1 axes"):
        mean_over_seeds(values)


@pytest.mark.parametrize("values", [[], [[]], [1.0], [[1.0, np.nan]]])
def test_tables_without_a_mean_are_refused(values):
    with pytest.raises(ValueError, match="along 2 axes"):
        mean_over_seeds_and_photographs(values)
