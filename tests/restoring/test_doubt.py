"""The map of doubt: from its calibration, or as it is, and saved so that it can be read back."""

import io
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from mofme_jax.evaluation.calibration import Calibration, Curve, read_calibrations, write_calibrations
from mofme_jax.evaluation.tiling import Observation
from mofme_jax.restoring.doubt import calibrations_of, doubt_of, save_numbers, save_uncertainty

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 256, (48, 64, 3), dtype=np.uint8)


def seen(spread=False):
    uncertainty = np.linspace(0, 1, IMAGE[..., 0].size, dtype=np.float32).reshape(IMAGE.shape[:2])
    restored = IMAGE.copy()
    restored[:, 32:] //= 2
    return Observation(
        restored, uncertainty, np.arange(24).reshape(2, 3, 4), 16, *((uncertainty / 10, 8) if spread else ())
    )


def calibration(passes=0, **weights):
    curve = Curve(weights, (-10.0, 0.0), (0.0, 0.1))
    return Calibration(curve, 0.08, 4, 2, 10, passes, True, 0.5, 0.5, {}, 0.01, 0.03)


def test_expected_error_follows_the_evidence_that_the_calibration_weighs():
    doubt = doubt_of(IMAGE, seen(), {"routing": calibration(change=1.0)})
    assert doubt.values.shape == IMAGE.shape[:2]
    assert doubt.values[:, 48:].min() > doubt.values[:, :16].max()  # the right half was changed
    assert (doubt.low, doubt.high, doubt.paint_from) == (0.0, 0.08, 0.03)
    assert doubt.legend == "expected error, 0 (black) to 20.4 (white) of 255 levels"
    routed = doubt_of(IMAGE, seen(), {"routing": calibration(routing=1.0)})
    assert routed.values[-1].min() > routed.values[0].max()  # uncertainty rises downwards


@pytest.mark.parametrize(("spread", "unit"), [(False, "nats"), (True, "spread of passes")])
def test_without_a_calibration_it_is_shown_as_it_is_and_says_so(spread, unit):
    other = {
        "routing" if spread else "passes": calibration(change=1.0, passes=0 if spread else 8),
        "passes" if spread else "x": calibration(change=1.0, passes=4),  # for fewer passes than were made
    }
    doubt = doubt_of(IMAGE, seen(spread), other)
    assert unit in doubt.legend
    assert "not calibrated: see mofme calibrate" in doubt.legend
    np.testing.assert_array_equal(doubt.values, doubt.evidence["spread" if spread else "routing"])


def test_picture_and_numbers_are_read_back_and_the_same_each_time(tmp_path):
    doubt = doubt_of(IMAGE, seen(spread=True), {"passes": calibration(spread=1.0, passes=8)})
    for name in ("a", "b"):
        save_uncertainty(tmp_path / f"{name}.png", doubt)
        with (tmp_path / f"{name}.npz").open("wb") as file:
            save_numbers(file, doubt, seen(spread=True))
    for suffix in ("png", "npz"):
        assert (tmp_path / f"a.{suffix}").read_bytes() == (tmp_path / f"b.{suffix}").read_bytes()
    with Image.open(tmp_path / "a.png") as picture:
        assert picture.size == (64, 48)
        assert picture.info["Description"] == doubt.legend
    numbers = np.load(io.BytesIO((tmp_path / "a.npz").read_bytes()), allow_pickle=False)
    np.testing.assert_allclose(numbers["doubt"], doubt.values, rtol=1e-3, atol=1e-6)
    np.testing.assert_array_equal(numbers["experts"], seen().experts)
    assert numbers["spread"].shape == (12, 16)
    assert numbers["patch"] == 16
    assert str(numbers["legend"]) == doubt.legend


def test_a_calibration_is_of_its_checkpoint(tmp_path):
    for step in (3, 6):
        (tmp_path / "checkpoints" / str(step) / "config").mkdir(parents=True)
    write_calibrations(tmp_path, {"routing": calibration(change=1.0), "passes": calibration(change=1.0, passes=8)})
    assert calibrations_of(tmp_path) == {}  # they are of step 10
    write_calibrations(tmp_path, {"routing": replace(calibration(change=1.0), step=6)})
    assert set(read_calibrations(tmp_path)) == {"routing"}  # what is of another step is gone
    assert set(calibrations_of(tmp_path)) == {"routing"}
    assert calibrations_of(tmp_path / "checkpoints" / "3") == {}
    write_calibrations(tmp_path, {"passes": replace(calibration(change=1.0, passes=8), step=6)})
    assert set(calibrations_of(tmp_path)) == {"routing", "passes"}
