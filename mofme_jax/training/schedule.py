"""Learning-rate schedules.

Two families: the published recipe's, stepped once an epoch and computed in Python floats so that it can be
compared to the last digit, and a plain warmup-cosine by step, which is optax's own.
"""

import math
from collections.abc import Callable

import jax.numpy as jnp
import optax


def reference_schedule(
    base_lr: float, epochs: int, warmup_epochs: int = 3, eta_min: float = 1e-6
) -> Callable[[int], float]:
    """The published recipe's learning rate as a function of the 1-based epoch t.

    With w warmup epochs out of n:
      t <= w: base_lr * t / w
      t > w:  eta_min + (base_lr - eta_min) * (1 + cos(pi * (t - w - 1) / (n - w))) / 2
    so epochs w and w + 1 both run at base_lr, and the last one stays one cosine step above eta_min.
    The recipe's base_lr is 2e-4 for a global batch of 32, in proportion for others (4e-4 at 64), n is 200.

    Args:
      base_lr: peak learning rate, > 0.
      epochs: n, the length of the training.
      warmup_epochs: w, 0 <= w < n.
      eta_min: what the cosine falls towards, 0 <= eta_min <= base_lr.

    Returns:
      A function of the epoch, 1 to n, giving the learning rate as a Python float; it raises ValueError for an
      epoch outside that range.

    Raises:
      ValueError: an argument is out of its range.
    """
    _check(base_lr, eta_min, epochs, warmup_epochs, unit="epochs")

    def lr(epoch: int) -> float:
        if not 1 <= epoch <= epochs:
            raise ValueError(f"epoch {epoch} is outside 1..{epochs}: epochs count from 1")
        if epoch <= warmup_epochs:
            return base_lr * epoch / warmup_epochs
        progress = (epoch - warmup_epochs - 1) / (epochs - warmup_epochs)
        return eta_min + (base_lr - eta_min) * (1 + math.cos(math.pi * progress)) / 2

    return lr


def reference_steps(
    base_lr: float, epochs: int, steps_per_epoch: int, warmup_epochs: int = 3, eta_min: float = 1e-6
) -> optax.Schedule:
    """`reference_schedule` as an optax schedule: constant within an epoch, steps counted from 0.

    Args:
      base_lr: see `reference_schedule`.
      epochs: see `reference_schedule`.
      steps_per_epoch: optimiser steps in an epoch, >= 1.
      warmup_epochs: see `reference_schedule`.
      eta_min: see `reference_schedule`.

    Returns:
      step -> learning rate; past the last epoch its rate is kept.
    """
    if steps_per_epoch < 1:
        raise ValueError(f"steps_per_epoch must be at least 1, got {steps_per_epoch}")
    lr = reference_schedule(base_lr, epochs, warmup_epochs, eta_min)
    table = [lr(epoch) for epoch in range(1, epochs + 1)]

    def schedule(step):
        return jnp.asarray(table)[jnp.clip(step // steps_per_epoch, 0, epochs - 1)]

    return schedule


def warmup_cosine(peak: float, steps: int, warmup_steps: int = 0, floor: float = 0.0) -> optax.Schedule:
    """Linear warmup to `peak`, then half a cosine down to `floor`, by step.

    Step s of the warmup runs at peak * (s + 1) / (warmup_steps + 1): no step is spent at zero, and step
    `warmup_steps` is the first at the peak. The floor is met at step `steps`, one past the last, and kept.

    Args:
      peak: highest learning rate, > 0.
      steps: length of the training, warmup included.
      warmup_steps: 0 <= warmup_steps < steps.
      floor: 0 <= floor <= peak.

    Returns:
      step, counted from 0 -> learning rate.

    Raises:
      ValueError: an argument is out of its range.
    """
    _check(peak, floor, steps, warmup_steps, unit="steps")
    if warmup_steps == 0:
        return optax.cosine_decay_schedule(peak, steps, alpha=floor / peak)
    return optax.warmup_cosine_decay_schedule(
        init_value=peak / (warmup_steps + 1),
        peak_value=peak,
        warmup_steps=warmup_steps,
        decay_steps=steps,
        end_value=floor,
    )


def _check(peak: float, floor: float, length: int, warmup: int, unit: str) -> None:
    if not (math.isfinite(peak) and peak > 0):
        raise ValueError(f"the peak learning rate must be positive and finite, got {peak}")
    if not 0 <= floor <= peak:
        raise ValueError(f"the lowest learning rate must lie between 0 and the peak {peak}, got {floor}")
    if warmup < 0:
        raise ValueError(f"warmup_{unit} must not be negative, got {warmup}")
    if length <= warmup:
        raise ValueError(f"{length} {unit} leave none after a warmup of {warmup} {unit}")
