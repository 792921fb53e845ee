"""What benchmarks/chaos.py finds between two runs."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.append(str(Path(__file__).parents[2] / "benchmarks"))

import chaos_compare

STATE = {".params['a']": np.ones(4, np.float32), ".opt_state.mu['a']": np.ones(4, np.float32), ".key": np.arange(2)}


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """runs(state, losses): the folders of a run of two steps and of one with that state and these losses."""
    kept = {}

    def run(name, state, losses):
        folder = tmp_path / name
        folder.mkdir()
        lines = [json.dumps({"step": step, "loss": loss}) for step, loss in enumerate(losses, 1)]
        (folder / "metrics.jsonl").write_text("".join(line + "\n" for line in lines))
        (folder / "report.json").write_text(json.dumps({"scores": {"haze": {"psnr": 20.0}}}))
        kept[folder] = STATE | state
        return folder

    monkeypatch.setattr(chaos_compare, "states", lambda folder, steps: kept[folder])
    return lambda state, losses: (run("whole", {}, [1.0, 0.5]), run("broken", state, losses))


@pytest.mark.parametrize(
    ("state", "losses", "name", "value"),
    [
        ({}, [1.0, 0.5], "loss", 0.0),
        ({}, [1.0, 0.6], "early loss", 0.2),
        ({}, [1.0, float("nan")], "loss", np.nan),
        ({}, [1.0, None], "loss", np.nan),
        ({}, [], "loss", np.nan),
        ({".params['a']": np.full(4, 1.5, np.float32)}, [1.0, 0.5], "parameters", 0.5),
        ({".params['a']": np.array([1, 1, np.nan, 1], np.float32)}, [1.0, 0.5], "parameters", np.nan),
        ({".opt_state.mu['a']": np.zeros(4, np.float32)}, [1.0, 0.5], "optimiser", 1.0),
        ({".key": np.arange(1, 3)}, [1.0, 0.5], "parameters", np.inf),
    ],
)
def test_how_far_runs_are_apart(state, losses, name, value, runs):
    whole, broken = runs(state, losses)
    assert chaos_compare.apart(whole, broken, 2)[name] == pytest.approx(value, nan_ok=True)
    if value:
        assert chaos_compare.differences(whole, broken, 2)
    assert chaos_compare.differences(whole, whole, 2) == []


def test_what_is_further_apart_than_undisturbed_runs_are_is_found():
    usual = {"early loss": 1e-3, "loss": 1e-3, "parameters": 1e-2}
    assert chaos_compare.too_far({"early loss": 9e-6, "loss": 2e-3, "parameters": 2e-2}, usual) == []
    found = chaos_compare.too_far({"early loss": 2e-5, "loss": 4e-3, "parameters": np.nan}, usual)
    assert [line.split(" differs")[0] for line in found] == ["early loss", "loss", "parameters"]


def test_a_log_with_a_step_left_out_is_found(runs):
    whole, broken = runs({}, [1.0])
    assert (chaos_compare.skipped(whole, 2), len(chaos_compare.skipped(broken, 2))) == ([], 1)
