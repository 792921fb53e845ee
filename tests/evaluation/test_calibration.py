"""Expected error: on evidence made up, so that what is to be found is known."""

import json

import numpy as np
import pytest
from PIL import Image

from mofme_jax.evaluation import calibration
from mofme_jax.evaluation.calibration import (
    BLOCK,
    FILE,
    Measured,
    calibrate,
    evidence_of,
    measure,
    read_calibrations,
    reliability,
    write_calibrations,
)
from mofme_jax.evaluation.calibration_drawing import draw_calibrations, mean_curves
from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.tiling import Observation

RNG = np.random.default_rng(0)


def made_up(photograph, informative="change", n=400):
    """Errors that follow one kind of evidence, which the other knows nothing of."""
    error = RNG.uniform(0.01, 0.2, n)
    evidence = {kind: RNG.uniform(0.01, 0.2, n) for kind in ("change", "routing")}
    evidence[informative] = error**2 * RNG.uniform(0.9, 1.1, n)
    return Measured(photograph, evidence, error)


@pytest.mark.parametrize("informative", ["change", "routing"])
def test_the_evidence_that_tells_is_found_and_the_error_with_it(informative):
    found = calibrate([made_up("a", informative), made_up("b", informative)])
    other = {"change": "routing", "routing": "change"}[informative]
    assert found.curve.weights[informative] > 10 * found.curve.weights[other]
    assert found.held_out
    assert found.within > 0.95
    assert found.pooled > 0.95
    assert found.alone[informative] > 0.95 > 0.2 > abs(found.alone[other])
    assert found.gap < 0.005
    assert found.sparsification < 0.1
    unseen = made_up("c", informative)
    np.testing.assert_allclose(found.curve.expected(unseen.evidence).mean(), unseen.error.mean(), rtol=0.05)
    assert (found.curve.expected(unseen.evidence) > found.high).mean() == pytest.approx(0.1, abs=0.05)


def test_evidence_that_misleads_gets_no_weight():
    error = RNG.uniform(0.01, 0.2, 400)
    liar = Measured("a", {"change": RNG.uniform(0.1, 0.2, 400), "routing": 0.3 - error}, error)
    found = calibrate([liar])
    assert found.curve.weights["routing"] == pytest.approx(0, abs=1e-6)
    assert not found.held_out


def test_a_curve_judged_on_its_own_photograph_flatters_and_one_judged_on_another_does_not():
    # in one photograph the evidence means the contrary of what it means in the other
    error = np.linspace(0.01, 0.2, 300)
    ones = Measured("a", {"change": error}, error)
    other = Measured("b", {"change": error[::-1]}, error)
    assert calibrate([ones]).within > 0.99
    assert calibrate([ones]).sparsification == pytest.approx(0.0, abs=0.01)
    assert calibrate([ones, other]).within < 0.1
    assert calibrate([ones, other]).sparsification > 0.95


def test_inputs_of_one_scene_are_judged_by_other_scenes():
    error = np.linspace(0.01, 0.2, 300)
    one, other = Measured("a", {"change": error}, error), Measured("b", {"change": error[::-1]}, error)
    assert calibrate([one, one, one, other, other, other]).within < 0.1
    found = calibrate([made_up(str(i)) for i in range(12)])  # five parts of them
    assert found.photographs == 12
    assert found.within > 0.95


def test_the_time_goes_with_the_number_of_photographs_not_its_square(monkeypatch):
    fits = []
    fit = calibration._fit
    monkeypatch.setattr(calibration, "_fit", lambda measured: fits.append(len(measured)) or fit(measured))
    monkeypatch.setattr(calibration, "_MOST", 500)
    found = calibrate([made_up(str(i), n=50) for i in range(40)])
    assert len(fits) == 6
    assert found.within > 0.9


def test_values_that_are_not_finite_are_named():
    broken = made_up("a")
    broken.evidence["routing"][3] = np.nan
    with pytest.raises(ValueError, match="output for a is not finite"):
        calibrate([broken])


def test_no_evidence_at_all_is_the_mean_error():
    flat = Measured("a", {"routing": np.zeros(50)}, np.linspace(0, 0.2, 50))
    found = calibrate([flat])
    np.testing.assert_allclose(found.curve.expected({"routing": np.zeros((2, 3))}), 0.1, rtol=1e-6)
    assert found.within == 0.0
    assert found.sparsification == pytest.approx(1.0)
    with pytest.raises(ValueError, match="no image to calibrate on"):
        calibrate([])


@pytest.mark.parametrize("size", [(1, 1), (BLOCK, BLOCK), (40, 70)])
def test_blocks_of_error_and_of_evidence_are_the_same_blocks(size):
    image = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    restored = RNG.integers(0, 256, (*size, 3), dtype=np.uint8)
    case = Case("haze", "a", image, image)  # the truth is the input
    seen = measure(case, observation(restored, np.full(size, 0.25, np.float32)))
    np.testing.assert_allclose(seen.evidence["change"], seen.error, rtol=1e-4)
    np.testing.assert_allclose(seen.evidence["routing"], 0.25, rtol=1e-5)
    assert len(seen.error) == max(1, (size[0] // BLOCK) * (size[1] // BLOCK))


def observation(restored, uncertainty, spread=None, error=None):
    return Observation(restored, uncertainty, np.zeros((1, 1, 1), int), 16, spread, 0 if spread is None else 3, error)


def test_evidence_is_the_same_at_every_depth():
    image, restored = (RNG.integers(0, 256, (20, 30, 3), dtype=np.uint8) for _ in range(2))
    maps = RNG.random((3, 20, 30), np.float32)
    low = evidence_of(image, observation(restored, *maps))
    high = evidence_of(image.astype(np.uint16) * 257, observation(restored.astype(np.uint16) * 257, *maps))
    floats = evidence_of(image / np.float32(255), observation(restored / np.float32(255), *maps))
    assert set(low) == {"change", "routing", "spread", "error"}
    for kind, values in low.items():
        np.testing.assert_allclose(values, high[kind], atol=1e-5)
        np.testing.assert_allclose(values, floats[kind], atol=1e-5)


def test_what_is_written_is_read_back(tmp_path):
    assert read_calibrations(tmp_path) == {}
    found = {"routing": calibrate([made_up("a"), made_up("b")]), "passes": calibrate([made_up("a")], passes=4)}
    write_calibrations(tmp_path, found)
    assert read_calibrations(tmp_path) == found


def test_a_file_from_before_sparsification_is_read(tmp_path):
    file = write_calibrations(tmp_path, {"routing": calibrate([made_up("a")])})
    fields = json.loads(file.read_text())
    assert "; sparsification 0.0" in read_calibrations(tmp_path)["routing"].report()
    del fields["routing"]["sparsification"]
    file.write_text(json.dumps(fields))
    found = read_calibrations(tmp_path)["routing"]
    assert found.sparsification is None
    assert "sparsification" not in found.report()


def test_ten_bins_of_expected_error():
    order = RNG.permutation(40)
    expected, error = np.arange(40.0)[order], 2 * np.arange(40.0)[order]
    np.testing.assert_allclose(reliability(expected, error), [1.5 + 4 * np.arange(10), 3 + 8 * np.arange(10)])
    np.testing.assert_allclose(reliability(np.arange(3), np.ones(3)), [[0, 1, 2], [1, 1, 1]])


def test_the_picture_has_a_row_for_each_calibration(tmp_path):
    images = [made_up("a"), made_up("b"), made_up("b", n=1)]
    draw_calibrations({"routing": images}, 5, tmp_path / "one.png")
    draw_calibrations({"routing": images, "passes": images}, 5, tmp_path / "two.png")
    with Image.open(tmp_path / "one.png") as one, Image.open(tmp_path / "two.png") as two:
        assert (two.width, two.height) == (one.width, 2 * one.height)
    curves = mean_curves([m.error[::-1] for m in images], [m.error for m in images])
    np.testing.assert_allclose(curves["at random"], np.mean([m.error.mean() for m in images]))
    assert (curves["true error"] <= curves["at random"] + 1e-12).all()
    assert (curves["true error"] <= curves["expected error"] + 1e-12).all()


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:-30],
        lambda text: "[]",
        lambda text: text.replace('"score"', '"scare"'),
        lambda text: json.dumps({"routing": {**json.loads(text)["routing"], "high": None}}),
        lambda text: text.replace('"score": [', '"score": [1000,').replace('"error": [', '"error": [1,'),
    ],
)
def test_a_damaged_file_is_named(tmp_path, damage):
    file = write_calibrations(tmp_path, {"routing": calibrate([made_up("a")])})
    file.write_text(damage(file.read_text()))
    with pytest.raises(ValueError, match=rf"{FILE} is damaged or of another version .*: run mofme calibrate"):
        read_calibrations(tmp_path)
