"""Sparsification by hand."""

import itertools

import numpy as np
import pytest

from mofme_jax.evaluation.sparsification import ause, sparsification_curve

ERROR = np.array([1.0, 4.0, 2.0, 1.0])


def test_curves_by_hand():
    np.testing.assert_allclose(sparsification_curve(ERROR, ERROR), [2.0, 4 / 3, 1.0, 1.0])
    # dropped are 1, then 2, then 4
    np.testing.assert_allclose(sparsification_curve(np.array([9.0, 2.0, 3.0, 1.0]), ERROR), [2.0, 7 / 3, 2.5, 1.0])
    np.testing.assert_allclose(sparsification_curve(np.zeros(4), ERROR), [2.0, 2.0, 2.0, 2.0])


def test_areas_by_hand():
    # the oracle's curve above; at random it is 2 everywhere: 2/3 + 1 + 1 more than the oracle
    chance = 8 / 3
    assert ause(ERROR, ERROR) == 0.0
    assert ause(ERROR**3 + 5, ERROR) == 0.0
    assert ause(np.array([9.0, 2.0, 3.0, 1.0]), ERROR) == pytest.approx((1.0 + 1.5) / chance)
    assert ause(-ERROR, ERROR) == pytest.approx((1 + 2 + 3) / chance)  # 1, 1, 2 are dropped: 2, 7/3, 3, 4 are left
    assert ause(np.full(4, 0.3), ERROR) == pytest.approx(1.0)


def test_among_equals_no_order_is_favoured():
    expected = np.array([2.0, 2.0, 1.0, 1.0, 1.0])
    error = np.array([5.0, 1.0, 3.0, 0.0, 2.0])
    orders = [
        (*first, *second) for first in itertools.permutations([0, 1]) for second in itertools.permutations([2, 3, 4])
    ]
    curves = [[error[list(order[k:])].mean() for k in range(5)] for order in orders]
    np.testing.assert_allclose(sparsification_curve(expected, error), np.mean(curves, axis=0))
    shuffled = np.random.default_rng(0).permutation(5)
    assert ause(expected[shuffled], error[shuffled]) == pytest.approx(ause(expected, error))


def test_a_random_map_is_chance():
    rng = np.random.default_rng(0)
    found = [ause(rng.random(300), rng.random(300).astype(np.float32)) for _ in range(200)]
    assert np.mean(found) == pytest.approx(1.0, abs=0.03)


@pytest.mark.parametrize("error", [np.zeros(5), np.full(7, np.float32(0.1)), np.ones(1)])
def test_where_errors_are_the_same_no_map_is_better(error):
    assert ause(np.arange(len(error)), error) == 1.0
