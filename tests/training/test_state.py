"""The optimiser and the averages, on numbers small enough to check by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mofme_jax.training.state import bad_steps_in_a_row, ema_decay, init_state, make_optimiser
from tests.fakes import Gain

PARAMS = {"w": jnp.array([1.0, -2.0]), "b": jnp.array([0.5])}


def optimiser(clip_norm=1.0, weight_decay=0.0):
    schedule = optax.constant_schedule(0.1)
    return make_optimiser(schedule, weight_decay=weight_decay, b2=0.999, clip_norm=clip_norm)


def updates_of(transformation, *gradients):
    """The updates of the last of several steps, from fresh."""
    state = transformation.init(PARAMS)
    for gradient in gradients:
        updates, state = transformation.update(gradient, state, PARAMS)
    return updates, state


def test_the_first_step_is_adamw_on_every_parameter():
    # Adam's first step is the gradient's sign; weight decay takes another 0.01 of the parameter, biases included
    gradient = {"w": jnp.array([0.3, -0.4]), "b": jnp.array([0.1])}
    updates, _ = updates_of(optimiser(weight_decay=0.01), gradient)
    np.testing.assert_allclose(updates["w"], [-0.1 * (1 + 0.01 * 1.0), 0.1 * (1 + 0.01 * 2.0)], rtol=1e-5)
    np.testing.assert_allclose(updates["b"], [-0.1 * (1 + 0.01 * 0.5)], rtol=1e-5)


def test_a_gradient_of_norm_100_is_clipped_to_norm_1():
    # Adam does not see the scale of its first gradient, but that of the second against it
    small = {"w": jnp.array([0.6, 0.0]), "b": jnp.array([0.8])}  # norm 1
    large = jax.tree.map(lambda x: 100.0 * x, small)
    clipped, _ = updates_of(optimiser(), small, large)
    same, _ = updates_of(optimiser(), small, small)
    unclipped, _ = updates_of(optimiser(clip_norm=None), small, large)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, same)
    assert not np.allclose(unclipped["w"], same["w"], rtol=1e-2)


def test_the_error_heads_gradients_are_neither_clipped_nor_counted():
    params = PARAMS | {"error_in": jnp.zeros(1)}
    first = {"w": jnp.array([0.6, 0.0]), "b": jnp.array([0.8]), "error_in": jnp.array([1.0])}
    second = first | {"error_in": jnp.array([1e3])}

    def last_of(transformation):
        _, state = transformation.update(first, transformation.init(params), params)
        return transformation.update(second, state, params)[0]

    clipped, unclipped = last_of(optimiser()), last_of(optimiser(clip_norm=None))  # all but the head's have norm 1
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), clipped, unclipped)


def test_a_state_has_the_structure_that_checkpoints_of_the_first_runs_have():
    adamw = optax.adamw(optax.constant_schedule(0.1), b2=0.999, weight_decay=0.0)
    first = optax.apply_if_finite(optax.chain(optax.clip_by_global_norm(1.0), adamw), 3)
    assert jax.tree.structure(optimiser().init(PARAMS)) == jax.tree.structure(first.init(PARAMS))


@pytest.mark.parametrize("bad", [jnp.nan, jnp.inf])
def test_a_gradient_that_is_not_finite_changes_nothing(bad):
    good = {"w": jnp.array([0.3, -0.4]), "b": jnp.array([0.1])}
    broken = {"w": jnp.array([0.3, bad]), "b": jnp.array([0.1])}
    transformation = optimiser()
    _, state = updates_of(transformation, good)
    updates, after = transformation.update(broken, state, PARAMS)
    assert all(np.all(x == 0) for x in jax.tree.leaves(updates))
    jax.tree.map(np.testing.assert_array_equal, after.inner_state, state.inner_state)
    assert int(after.notfinite_count) == 1
    for count in range(2, 20):  # however many there are
        updates, after = transformation.update(broken, after, PARAMS)
        assert all(np.all(x == 0) for x in jax.tree.leaves(updates))
        assert int(after.notfinite_count) == count
    _, after = transformation.update(good, after, PARAMS)
    assert int(after.notfinite_count) == 0


def test_the_average_forgets_the_start_and_then_keeps_its_decay():
    # min(0.998, (1 + n) / (10 + n)): 1/10 at the first step, 10/19 at the tenth, 0.998 from n = 4490 on
    np.testing.assert_allclose(ema_decay(jnp.array([0, 9, 4489, 4490, 10**6]), 0.998),
                               [0.1, 10 / 19, 4490 / 4499, 0.998, 0.998], rtol=1e-6)  # fmt: skip
    assert float(ema_decay(jnp.array(4489), 0.998)) < 0.998


def test_the_state_before_the_first_step():
    state = init_state(Gain(), optimiser(), jax.random.key(0), size=16)
    assert int(state.step) == 0
    assert int(bad_steps_in_a_row(state)) == 0
    jax.tree.map(np.testing.assert_array_equal, state.ema, state.params)
    assert state.key.dtype == jnp.uint32
    other = init_state(Gain(), optimiser(), jax.random.key(1), size=16)
    assert not np.array_equal(state.key, other.key)
