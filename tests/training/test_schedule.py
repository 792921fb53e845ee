"""The recipe's schedule against measured learning rates, and the step schedules' shape."""

import math
from pathlib import Path

import jax
import numpy as np
import pytest

from mofme_jax.training.schedule import reference_schedule, reference_steps, warmup_cosine

GOLDEN = Path(__file__).parents[1] / "golden" / "lr_schedule.npz"


def test_reference_schedule_equals_every_epoch_measured():
    with np.load(GOLDEN) as golden:
        cases = sorted({key.split("/")[0] for key in golden.files})
        assert cases
        for case in cases:
            epochs = int(golden[f"{case}/epochs"])
            lr = reference_schedule(float(golden[f"{case}/lr"]), epochs)
            ours = [lr(epoch) for epoch in range(1, epochs + 1)]
            np.testing.assert_allclose(ours, golden[f"{case}/lr_used"], rtol=0, atol=1e-17)


def test_reference_schedule_by_hand():
    # n = 7 epochs, w = 3, base 1, eta 0: thirds while warming up, then (1 + cos(pi i / 4)) / 2 for i = 0..3,
    # with cos 0, 45, 90, 135 degrees = 1, r, 0, -r and r = sqrt(1/2).
    lr = reference_schedule(1.0, 7, warmup_epochs=3, eta_min=0.0)
    r = math.sqrt(0.5)
    expected = [1 / 3, 2 / 3, 1.0, 1.0, (1 + r) / 2, 0.5, (1 - r) / 2]
    np.testing.assert_allclose([lr(t) for t in range(1, 8)], expected, rtol=0, atol=1e-15)


def test_reference_schedule_without_warmup_starts_at_the_peak():
    assert reference_schedule(0.1, 5, warmup_epochs=0)(1) == 0.1


@pytest.mark.parametrize("epoch", [0, -1, 11])
def test_epochs_outside_the_training_are_refused(epoch):
    with pytest.raises(ValueError, match=rf"epoch {epoch} is outside 1\.\.10"):
        reference_schedule(1e-3, 10)(epoch)


def test_reference_steps_hold_the_rate_of_their_epoch():
    per_epoch = 4
    lr = reference_schedule(1e-3, 6)
    schedule = jax.jit(reference_steps(1e-3, 6, steps_per_epoch=per_epoch))
    for step in range(6 * per_epoch):
        assert float(schedule(step)) == pytest.approx(lr(step // per_epoch + 1), rel=1e-6)
    assert float(schedule(1000)) == pytest.approx(lr(6), rel=1e-6)


def test_warmup_cosine_by_hand():
    # warmup 3: quarters 1/4, 2/4, 3/4, then the peak at step 3; the cosine covers steps 3 to 7 and falls from
    # 1 to 0.2, so its middle, step 5, is 0.6; from step 7 on the floor is kept.
    schedule = warmup_cosine(1.0, steps=7, warmup_steps=3, floor=0.2)
    values = [float(schedule(step)) for step in (0, 1, 2, 3, 5, 7, 20)]
    np.testing.assert_allclose(values, [0.25, 0.5, 0.75, 1.0, 0.6, 0.2, 0.2], atol=1e-6)


def test_warmup_cosine_without_warmup_is_a_half_cosine():
    schedule = warmup_cosine(2.0, steps=4)
    expected = [1 + math.cos(math.pi * step / 4) for step in range(5)]
    np.testing.assert_allclose([float(schedule(step)) for step in range(5)], expected, atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"base_lr": -1e-3}, "must be positive and finite, got -0.001"),
        ({"base_lr": 0.0}, "must be positive"),
        ({"base_lr": math.nan}, "must be positive and finite"),
        ({"eta_min": 1.0}, "between 0 and the peak 0.001, got 1.0"),
        ({"eta_min": -1e-6}, "between 0 and the peak"),
        ({"epochs": 3}, "3 epochs leave none after a warmup of 3 epochs"),
        ({"epochs": 0, "warmup_epochs": 0}, "0 epochs leave none"),
        ({"warmup_epochs": -1}, "warmup_epochs must not be negative, got -1"),
    ],
)
def test_reference_schedule_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        reference_schedule(**{"base_lr": 1e-3, "epochs": 10} | arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"peak": -1.0}, "must be positive"),
        ({"floor": 2.0}, "between 0 and the peak"),
        ({"warmup_steps": 10}, "10 steps leave none after a warmup of 10 steps"),
        ({"warmup_steps": -1}, "warmup_steps must not be negative"),
    ],
)
def test_warmup_cosine_refuses_nonsense(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(**{"peak": 1.0, "steps": 10} | arguments)


def test_reference_steps_refuse_empty_epochs():
    with pytest.raises(ValueError, match="steps_per_epoch must be at least 1, got 0"):
        reference_steps(1e-3, 10, steps_per_epoch=0)
