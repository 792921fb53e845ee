"""Does the network know a weather that it was not trained on: a tiny run judged, and the arithmetic by hand."""

import importlib
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from sklearn.metrics import roc_auc_score

from mofme_jax.training.checkpoint import Checkpoints, load
from mofme_jax.training.options import build_model
from mofme_jax.training.state import TrainState
from mofme_jax.training.workdir import claim_workdir
from tests.conftest import small_config

ROOT = Path(__file__).parents[2]


@pytest.fixture
def unseen(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("unseen")


@pytest.fixture
def scores(unseen):
    return importlib.import_module("unseen_scores")


@pytest.fixture
def features(unseen):
    return importlib.import_module("unseen_features")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with a made-up run without snow, one of all weathers, and one that did not end."""
    folder = tmp_path_factory.mktemp("study")
    for name, weathers in (
        ("without-snow-0", ("haze", "rain", "raindrop")),
        ("mofme-deterministic-0", ("haze", "rain", "snow", "raindrop")),
    ):
        make_run(folder / name, small_config(**{"data.weathers": weathers, "train.batch": len(weathers)}))
    (folder / "without-haze-0").mkdir()
    return folder


def make_run(run, config):
    """A run whose parameters are drawn."""
    run.mkdir()
    claim_workdir(run, config)
    like = jax.eval_shape(build_model(config.model).init, jax.random.key(0), np.zeros((1, 16, 16, 3), np.float32))
    rng = np.random.default_rng(0)  # what training begins with would leave every image as it is
    params = jax.tree.map(lambda leaf: 0.1 * rng.standard_normal(leaf.shape, np.float32), like["params"])
    checkpoints = Checkpoints(run, 1, config.to_dict())
    checkpoints.save(TrainState(np.int32(6), params, params, {"none": np.zeros(1)}, np.zeros(2, np.uint32)), {})
    checkpoints.close()
    (run / "report.json").write_text("{}")


def test_a_run_is_judged(unseen, scores, runs, monkeypatch, capsys):
    for name, value in {"SIDE": 64, "TILE": 32, "DRAWS": 1, "CROPS": 4}.items():
        monkeypatch.setattr(scores, name, value)
        monkeypatch.setattr(unseen, name, value, raising=False)
    asked = []
    degrade = scores.degrade
    monkeypatch.setattr(scores, "degrade", lambda *args: asked.append(args[2]) or degrade(*args))
    monkeypatch.setattr(sys, "argv", ["unseen.py", f"--runs={runs}", "--seeds=2", "--markdown"])
    unseen.main()
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "| AUROC against all others | without snow (1) | mean |"
    names = [*scores.MEANS, *scores.DISTANCES, *scores.DENSITIES]
    assert [line.split(" | ")[0] for line in said[2:14]] == [f"| {name}" for name in names]
    control = said.index("| the same of networks trained on all | without snow (1) | mean |")
    assert [line.split(" | ")[0] for line in said[control + 2 : control + 14]] == [f"| {name}" for name in names]
    assert said[control + 2 : control + 14] == said[2:14]  # made of the same parameters, and fitted without snow
    assert "| snow, never trained on, against | haze | rain | raindrop |" in said
    assert any(line.startswith("2 photographs, 8 images of 64 pixels in tiles of 32; 4 crops") for line in said)
    assert asked == ["haze", "rain", "snow", "raindrop"]  # traced once each


def test_the_weather_left_out_has_no_part_in_the_fit(scores, features, runs, monkeypatch):
    rng = np.random.default_rng(0)
    monkeypatch.setattr(scores, "TILE", 16)
    names = np.array(["haze", "rain", "snow", "raindrop"] * 3)
    images = [rng.integers(0, 256, (16, 32, 3), dtype=np.uint8) for _ in names]
    both = scores.Images(images, names, names)
    measured = []
    found = scores.judge_run(runs / "without-snow-0", ["snow"], both, both, lambda: measured.append(1))["snow"]
    assert len(measured) == 9 + 12
    assert list(found) == [*scores.MEANS, *scores.DISTANCES, *scores.DENSITIES]
    assert {values.shape for values in found.values()} == {(12,)}
    np.testing.assert_allclose(found["error, sign and routing"], found["error and sign"] + found["routing density"])
    # other snow to fit on changes nothing, whether it is measured or not; other rain does
    for name, same in (("snow", True), ("rain", False)):
        other = [255 - image if weather == name else image for image, weather in zip(images, names, strict=True)]
        crops = scores.Images(other, names, names)
        again = scores.judge_run(runs / "without-snow-0", ["rain", "snow"], both, crops, lambda: None)["snow"]
        for score in (*scores.DISTANCES, *scores.DENSITIES):
            assert np.allclose(again[score], found[score], rtol=1e-3) == same, score
    # every number is of its own image, whatever the others are
    few = scores.Images(images[5:6], names[5:6], names[5:6])
    alone = scores.judge_run(runs / "without-snow-0", ["snow"], few, both, lambda: None)["snow"]
    for name, values in found.items():
        np.testing.assert_allclose(alone[name], values[5:6], rtol=1e-3)
    # computed here
    model, params = load(runs / "without-snow-0")
    restore = jax.jit(lambda images: model.apply({"params": params}, images, method="with_error"))
    for i in (0, 7):
        halves = np.stack([images[i][:, :16], images[i][:, 16:]]).astype(np.float32) / 255
        restored, (routing,), error = restore(halves)
        wanted = [routing.uncertainty.mean(), routing.entropy.mean(), error.mean(), abs(restored - halves).mean()]
        np.testing.assert_allclose([found[name][i] for name in scores.MEANS], wanted, rtol=1e-4)
        measured = features.measure(model, params, halves)
        gates = np.concatenate([np.asarray(a).reshape(-1, 4).mean(0) for a in (routing.logits, routing.gates)])
        np.testing.assert_allclose(measured["routing profile"], gates, rtol=1e-4)
        assert measured["router input"].shape == (2 * model.width,)
        logs = [np.log(np.asarray(a) + 1e-3).ravel() for a in (error, abs(restored - halves).mean(-1))]
        wanted = [np.corrcoef(logs)[0, 1], logs[0].mean() - logs[1].mean()]
        np.testing.assert_allclose(measured["error against change"], wanted, rtol=1e-3)
    pixels = np.stack([np.concatenate([i.reshape(-1, 3).mean(0), i.reshape(-1, 3).std(0)]) / 255 for i in images])
    seen = names != "snow"
    fitted = scores.fit_gaussians(pixels[seen], names[seen])
    np.testing.assert_allclose(found["pixels, no network"], fitted.distance(pixels), rtol=1e-3)


def test_the_sign_is_of_the_detail_alone(features, runs, monkeypatch):
    model, params = load(runs / "without-snow-0")
    seen = []
    balance = features.balance
    monkeypatch.setattr(features, "balance", lambda detail: seen.append(detail) or balance(detail))
    images = np.random.default_rng(0).uniform(0.4, 0.6, (2, 16, 16, 3)).astype(np.float32)

    def look(params):
        seen.clear()
        with jax.disable_jit():
            measured = features.measure(model, params, images)
        return measured, model.apply({"params": params}, images)[0], seen[0]

    measured, restored, detail = look(params)
    assert measured["error and sign"].shape == (3,)
    np.testing.assert_array_equal(measured["error and sign"][:2], measured["error against change"])
    np.testing.assert_allclose(measured["error and sign"][2], balance(detail), rtol=1e-5)
    # without that layer, this is what is missing
    none, smooth, nothing = look({**params, "detail": jax.tree.map(np.zeros_like, params["detail"])})
    assert not nothing.any()
    assert none["error and sign"][2] == 0.0
    inside = np.all((restored > 0) & (restored < 1) & (smooth > 0) & (smooth < 1), axis=-1)
    assert inside.mean() > 0.3
    np.testing.assert_allclose(detail[inside], (restored - smooth).mean(axis=-1)[inside], atol=1e-5)


def test_features_by_hand(features):
    np.testing.assert_allclose(features.balance(np.array([[[0.2, -0.4]]], np.float32)), np.log(4), rtol=1e-3)
    assert features.balance(np.zeros((1, 2, 2), np.float32)) == 0.0

    change = np.array([[[0.1, 0.2, 0.4]]], np.float32)
    np.testing.assert_allclose(features.agreement(0.5 * change, change), [1.0, -np.log(2)], atol=0.01)
    np.testing.assert_allclose(features.agreement(0.01 / change, change)[0], -1.0, atol=0.01)
    assert abs(features.agreement(change, np.zeros_like(change))[0]) < 1e-6


def test_the_density_is_low_where_nothing_was(scores):
    points = np.array([[0.0, 7.0], [4.0, 7.0], [4.0, 7.0], [0.0, 7.0]])  # standard deviations 2 and 0
    density = scores.fit_density(points)
    found = density.surprise(np.array([[0.0, 7.0], [2.0, 7.0], [10.0, 7.0]]))
    kernels = [2 * (1 + np.exp(-2)), 4 * np.exp(-0.5), 2 * (np.exp(-4.5) + np.exp(-12.5))]
    np.testing.assert_allclose(found, -np.log(kernels))


def test_what_cannot_be_judged_is_named(unseen, runs, tmp_path, monkeypatch):
    assert unseen.find_runs(runs, 3) == {"snow": [runs / "without-snow-0"]}
    assert unseen.find_controls(runs, 3) == [runs / "mofme-deterministic-0"]
    assert unseen.find_controls(tmp_path, 3) == []
    with pytest.raises(FileNotFoundError, match=r"no finished run in .*: python benchmarks/study.py --only unseen"):
        unseen.find_runs(tmp_path, 3)
    for name in ("without-rain-0", "mofme-deterministic-0"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.json").write_text((runs / "without-snow-0" / "config.json").read_text())
        (folder / "report.json").write_text("{}")
    assert unseen.find_controls(tmp_path, 3) == []  # it was not trained on snow
    with pytest.raises(ValueError, match="without-rain-0 was trained on haze, rain, raindrop"):
        unseen.find_runs(tmp_path, 3)


def test_tiles_by_hand(scores, monkeypatch):
    monkeypatch.setattr(scores, "TILE", 2)
    image = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    found = scores.tiles(image)
    assert found.shape == (4, 2, 2, 3)
    for n, (top, left) in enumerate([(0, 0), (0, 2), (2, 0), (2, 2)]):
        np.testing.assert_allclose(found[n] * 255, image[top : top + 2, left : left + 2], rtol=1e-6)
    with pytest.raises(ValueError, match="a photograph of 1 x 5 pixels: 2 are needed"):
        scores.tiles(image[:, :1])


def test_distances_are_to_the_nearest_mean_in_standard_deviations(scores):
    rng = np.random.default_rng(0)
    spread = np.array([1.0, 100.0, 0.0])  # the third never changes
    centres = np.array([[0.0, 0.0, 5.0], [50.0, 0.0, 5.0]])
    names = np.array(["rain", "haze"] * 5000)
    features = centres[[0, 1] * 5000] + spread * rng.standard_normal((10000, 3))
    found = scores.fit_gaussians(features, names)
    wanted = np.array([[3.0, 0.0, 5.0], [48.0, 0.0, 5.0], [0.0, 400.0, 5.0], [25.0, 0.0, 5.0]])
    np.testing.assert_allclose(found.distance(wanted), [3.0, 2.0, 4.0, 25.0], rtol=0.03)


def test_wins_are_the_area_and_photographs_go_together(unseen):
    rng = np.random.default_rng(0)
    scores = rng.integers(0, 6, 60) / 5.0  # with ties
    left_out = np.arange(60) % 4 == 0
    photographs = np.array(list("abc"))[np.arange(60) // 20]
    table = unseen.wins(scores, left_out, photographs)
    assert table.shape == (2, 3, 3)
    assert table[0].sum() / table[1].sum() == pytest.approx(roc_auc_score(left_out, scores))
    inside = photographs == "b"
    assert table[0, 1, 1] / table[1, 1, 1] == pytest.approx(roc_auc_score(left_out[inside], scores[inside]))

    by_hand = unseen.wins(np.array([1.0, 1.0, 2.0, 0.0]), np.array([True, False, True, False]), np.array(list("aabb")))
    np.testing.assert_array_equal(by_hand, [[[0.5, 1.0], [1.0, 1.0]], [[1.0, 1.0], [1.0, 1.0]]])
    # both photographs 3.5 / 4, the first alone 0.5, the second alone 1
    assert unseen.interval([by_hand]) == (0.5, 1.0)
    assert unseen.interval([by_hand, by_hand]) == (0.5, 1.0)
    assert np.isnan(unseen.interval([by_hand[:, :1, :1]])).all()


def test_the_tables_by_hand(unseen, capsys):
    weathers = np.tile(["haze", "rain", "snow", "raindrop"], 3)
    images = unseen.Images([None] * 12, weathers, np.repeat(list("abc"), 4))
    # entropy puts haze above rain, snow and raindrop, and snow below haze alone; change knows nothing
    run = {"entropy": np.tile([3.0, 1.0, 2.0, 0.0], 3), "change": np.ones(12)}
    found = {"haze": [run, run], "snow": [run, {**run, "entropy": -run["entropy"]}, run]}
    unseen.print_tables((images, found, {"haze": [{**run, "entropy": -run["entropy"]}]}), True)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "| AUROC against all others | without haze (2) | without snow (3) | mean |"
    # snow: 2/3, 1/3, 2/3; the mean is over the first two seeds of both
    assert said[2].startswith("| entropy | 1.00 ± 0.00 [1.00, 1.00] | 0.56 ± 0.19 [0.56, 0.56] | 0.75 ± 0.12 ")
    assert said[3].startswith("| change | 0.50 ± 0.00 [0.50, 0.50] | 0.50 ± 0.00 [0.50, 0.50] | 0.50 ± 0.00 ")
    control = said.index("| the same of networks trained on all | without haze (1) | mean |")
    assert said[control + 2].startswith("| entropy | 0.00 ")
    assert "| snow, never trained on, against | haze | rain | raindrop |" in said
    assert "| entropy | 0.33 ± 0.58 [0.33, 0.33] | 0.67 ± 0.58 [0.67, 0.67] | 0.67 ± 0.58 [0.67, 0.67] |" in said
