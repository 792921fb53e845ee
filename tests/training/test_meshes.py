"""One run is the same run on any mesh: one device, eight in one process, four in each of two."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest

from mofme_jax.training.checkpoint import load
from tests.training.run_on_meshes import train_one_by_one

ROOT = Path(__file__).parents[2]
MESHES = {
    "both": {"data": 2, "fsdp": 4},
    "all": {"data": 2, "fsdp": 2, "expert": 2},
}


@pytest.fixture(scope="module")
def train(tmp_path_factory):
    """train(processes, devices, runs): `run_on_meshes` in that many processes of so many devices each.

    Returns what they printed, by process. All must end well.
    """
    folder = tmp_path_factory.mktemp("output")

    def train(processes, devices, runs):
        environment = os.environ | {
            "JAX_PLATFORMS": "cpu",
            "JAX_NUM_CPU_DEVICES": str(devices),
            "PYTHONPATH": str(ROOT),
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        script = ROOT / "tests" / "training" / "run_on_meshes.py"
        outputs = [folder / f"{port}-{i}" for i in range(processes)]
        running = []
        try:
            for i, output in enumerate(outputs):
                command = [sys.executable, script, str(port), str(i), str(processes), json.dumps(runs)]
                with output.open("w") as file:
                    running.append(
                        subprocess.Popen(command, cwd=ROOT, env=environment, stdout=file, stderr=subprocess.STDOUT)
                    )
            for process, output in zip(running, outputs, strict=True):
                assert process.wait(900) == 0, output.read_text()[-3000:]
        finally:
            for process in running:
                process.kill()
                process.wait()
        return [output.read_text() for output in outputs]

    return train


@pytest.fixture(scope="module")
def runs(train, tmp_path_factory):
    """The folder of all runs, each named after its processes and its mesh, and what two processes printed."""
    folder = tmp_path_factory.mktemp("runs")

    def run(place, mesh, begun=None):
        axes = MESHES["all"] if place == "2x4" else MESHES.get(mesh, {})
        return str(folder / f"{place}_{mesh}"), axes, begun and str(folder / begun)

    train_one_by_one([run("1x1", "one")])
    train(1, 8, [run("1x8", "both")])
    # the second goes on from step 10 of a run on other processes and another mesh
    outputs = train(
        2, 4, [run("2x4", "all"), run("2x4", "resumed", "1x8_both"), run("2x4", "judged"), run("2x4", "stopped")]
    )
    train_one_by_one([run("1x1", "resumed", "2x4_all")])
    return folder, outputs


@pytest.mark.parametrize("name", ["1x8_both", "2x4_all", "2x4_resumed", "2x4_stopped", "1x1_resumed"])
def test_every_mesh_trains_alike(name, runs, logged, saved_state):
    """Images, weather and dropout are the same; sums over images and features are taken in another order.

    That moves the last digits of float32 (1.2e-7 of a value): a loss by 4e-7 of itself, measured, and in 20 steps a
    parameter by 2e-6, where one step moves it by up to 1e-3. An image in the wrong place moves the loss by 1e-1.
    """
    folder, _ = runs
    one, other = logged(folder / "1x1_one"), logged(folder / name)
    assert [line["step"] for line in other] == list(range(1, 21))
    for a, b in zip(one, other, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], rel=1e-5)
        assert b["psnr_rgb_input"] == pytest.approx(a["psnr_rgb_input"], rel=1e-5)
    one, other = (saved_state(folder / run, 20) for run in ("1x1_one", name))
    for part in ("params", "ema"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(b, a, atol=5e-5), one[part], other[part])
    np.testing.assert_array_equal(one["key"], other["key"])


@pytest.mark.parametrize("name", ["2x4_resumed", "1x1_resumed"])
def test_a_damaged_checkpoint_is_set_aside_on_any_mesh(name, runs):
    folder, _ = runs
    assert [path.name for path in (folder / name / "damaged").iterdir()] == ["20"]


def test_of_two_processes_a_best_checkpoint_is_kept_while_another_is_being_written(runs, logged, saved_state):
    folder, _ = runs
    run = folder / "2x4_judged"
    assert [line["validation_gain"] for line in logged(run)[:-1]] == list(range(1, 20))
    (best,) = (run / "best").iterdir()
    assert best.name == "19"  # the report, whose judge is a real one, says less of the last
    jax.tree.map(np.testing.assert_array_equal, load(best)[1], load(run / "checkpoints" / "19")[1])
    jax.tree.map(np.testing.assert_array_equal, saved_state(run, 20), saved_state(folder / "2x4_all", 20))


def test_of_two_processes_the_first_writes_and_speaks_and_both_know_the_scores(runs):
    folder, (_, second) = runs
    run = folder / "2x4_all"
    assert sorted(p.name for p in run.iterdir()) == [
        "checkpoints", "config.json", "metrics.jsonl", "report.json", "samples", "tensorboard", "uncertainty.json",
    ]  # fmt: skip
    assert len(list((run / "tensorboard").iterdir())) == 1
    assert "step 1/20" not in second
    told = next(json.loads(line) for line in second.splitlines() if line.startswith("{"))
    assert told["scores"]["haze"] == json.loads((run / "report.json").read_text())["scores"]["haze"]


def test_two_processes_stop_at_the_same_step_though_one_was_told(runs, logged, saved_state):
    folder, outputs = runs
    stopped = [[json.loads(line)["stopped"] for line in text.splitlines() if '"stopped"' in line] for text in outputs]
    assert stopped[0] == stopped[1]
    assert 3 <= stopped[0][0] <= 5
    stopped, whole = folder / "2x4_stopped", folder / "2x4_all"
    assert logged(stopped) == logged(whole)
    jax.tree.map(np.testing.assert_array_equal, saved_state(stopped, 20), saved_state(whole, 20))
