"""The state of a training run, and the optimiser that moves it."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct

from mofme_jax.models.restorer import ERROR_HEAD

_NEVER = 2**31 - 1  # optax gives up skipping after so many steps in a row, and takes what is not finite


@struct.dataclass
class TrainState:
    """All that a training step changes.

    Attributes:
      step: () int32, steps taken.
      params: the parameters. ema: their exponential moving average, what is evaluated and loaded.
      opt_state: the optimiser's state.
      key: the run's JAX key (raw uint32 data); everything random in step n comes from it and n alone.
    """

    step: jax.Array
    params: Any
    ema: Any
    opt_state: Any
    key: jax.Array


def make_optimiser(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    b2: float,
    clip_norm: float | None,
) -> optax.GradientTransformation:
    """AdamW behind clipping by global norm; a step whose gradients are not finite changes nothing, however many do so.

    Args:
      schedule: step -> learning rate.
      weight_decay: decoupled, on every parameter (PyTorch's AdamW, which the published recipe used).
      b2: decay of the second moment; the first's is 0.9, epsilon 1e-8.
      clip_norm: largest global norm of the gradients, the error head's apart; None does not clip.
    """
    adamw = optax.adamw(schedule, b2=b2, weight_decay=weight_decay)
    if clip_norm is None:
        return optax.apply_if_finite(adamw, _NEVER)
    # by a norm with the head's gradients in it, the rest would be clipped harder than without a head
    masked = optax.masked(optax.clip_by_global_norm(clip_norm), outside_error_head)
    # its state is empty but has a structure, which checkpoints from before the head lack: those could not go on
    clip = optax.stateless(lambda grads, params: masked.update(grads, masked.init(grads), params)[0])
    chain = optax.chain(clip, adamw)
    return optax.apply_if_finite(chain, _NEVER)


def outside_error_head(params: Any) -> Any:
    """The same tree with True for what is no part of the error head."""
    outside = {name: not name.startswith(ERROR_HEAD) for name in params}
    return {name: jax.tree.map(lambda _, name=name: outside[name], part) for name, part in params.items()}


def bad_steps_in_a_row(state: TrainState) -> jax.Array:
    """() int32: how many of the last steps, without a good one between, had gradients that were not finite."""
    return state.opt_state.notfinite_count


def before_bad_steps(state: TrainState) -> TrainState:
    """The state as it was before the last steps, in a row, that were bad: they changed nothing but counts."""
    bad, counts = bad_steps_in_a_row(state), state.opt_state
    counts = counts._replace(
        notfinite_count=jnp.zeros_like(bad),
        last_finite=jnp.ones_like(counts.last_finite),
        total_notfinite=counts.total_notfinite - bad,
    )
    return dataclasses.replace(state, step=state.step - bad, opt_state=counts)


def keys_of_run(key: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The key of the parameters, and that which the keys of all steps come from."""
    params_key, run_key = jax.random.split(key)
    return params_key, run_key


def init_state(model: nn.Module, optimiser: optax.GradientTransformation, key: jax.Array, size: int) -> TrainState:
    """The state before the first step. size: pixels on a side of the image the parameters are made with."""
    params_key, run_key = keys_of_run(key)
    params = model.init(params_key, jnp.zeros((1, size, size, 3)))["params"]
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        ema=jax.tree.map(jnp.copy, params),
        opt_state=optimiser.init(params),
        key=jax.random.key_data(run_key),
    )


def ema_decay(step: jax.Array, decay: float) -> jax.Array:
    """The average's decay at a step: short at first, so that it does not remember the initial parameters."""
    return jnp.minimum(decay, (1.0 + step) / (10.0 + step))
