"""The step that a run stopped before, examined."""

import json

import jax
import numpy as np
import pytest

from mofme_jax.cli import main
from mofme_jax.training import train_and_evaluate
from mofme_jax.training.examine import examine


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_run_that_blows_up_stops_before_it_and_tells_where(dtype, make_config, saved_state, capsys, tmp_path):
    config = make_config(**{
        "train.learning_rate": 1e30, "train.floor": 1e29, "train.clip_norm": 0.0, "train.dtype": dtype,
        "train.warmup": 0, "train.steps": 40, "train.max_bad_steps": 3, "model.error_head": False,
    })  # fmt: skip
    for _ in range(2):  # the same command again comes to the same end
        with pytest.raises(FloatingPointError, match=r"[34] steps in a row") as error:
            train_and_evaluate(config, tmp_path)
        (checkpoint,) = (tmp_path / "checkpoints").iterdir()
        last = int(checkpoint.name)
        assert f"steps in a row, {last + 1} to " in str(error.value)
    jax.tree.map(lambda leaf: np.testing.assert_array_equal(np.isfinite(leaf), True), saved_state(tmp_path, last))

    found = examine(tmp_path)
    assert found["step"] == last + 1
    assert sum(layer["gradient_not_finite"] for layer in found["layers"].values()) > 0
    assert sum(layer["parameter_not_finite"] for layer in found["layers"].values()) == 0
    assert len(found["images"]) == config.train.batch

    assert main(["examine", "--workdir", str(tmp_path)]) == 1
    assert "not finite: " in capsys.readouterr().out
    assert json.loads((tmp_path / "examined.json").read_text())["images"] == found["images"]


def test_the_next_step_of_a_run_is_that_which_it_takes(finished_run, make_config, logged, tmp_path):
    """Stopped behind step 3, what is examined is what the log says of step 4."""
    import shutil

    shutil.copytree(finished_run[0], tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "checkpoints" / "6")
    found = examine(tmp_path / "run")
    line = next(line for line in logged(finished_run[0]) if line["step"] == 4)
    assert found["step"] == 4
    for name in ("loss", "psnr_rgb", "psnr_rgb_input", "grad_norm"):
        assert found["metrics"][name] == pytest.approx(line[name], rel=1e-5)
    total = np.sqrt(sum(layer["gradient"] ** 2 for name, layer in found["layers"].items() if "error_" not in name))
    assert total == pytest.approx(line["grad_norm"], rel=1e-4)
    assert (tmp_path / "run" / "checkpoints" / "3").exists()


def test_where_there_is_no_run(tmp_path, capsys):
    assert main(["examine", "--workdir", str(tmp_path)]) == 2
    assert "is not the folder of a training run" in capsys.readouterr().err
