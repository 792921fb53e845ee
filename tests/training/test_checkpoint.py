"""Checkpoints: whole or absent, and `load`."""

import json
import math
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mofme_jax
from mofme_jax.evaluation.evaluator import evaluate
from mofme_jax.evaluation.tiling import restore_with_uncertainty
from mofme_jax.training.checkpoint import Checkpoints, load, write_json, write_whole
from mofme_jax.training.options import build_model, read_options
from mofme_jax.training.sources import open_sources
from mofme_jax.training.state import init_state, make_optimiser
from tests.fakes import Gain


def a_state(seed, step):
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=None, max_bad_steps=3)
    return init_state(Gain(), optimiser, jax.random.key(seed), size=16).replace(step=jnp.int32(step))


def test_a_state_and_its_place_come_back_to_the_bit(tmp_path):
    saved = a_state(seed=1, step=7)
    checkpoints = Checkpoints(tmp_path, keep=2, config={"a": 1})
    assert checkpoints.latest_step() is None
    for step in (5, 6, 7):
        checkpoints.save(saved.replace(step=jnp.int32(step)), {"stream": {"next_index": step}, "seconds": 0.1})
    checkpoints.close()
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["6", "7"]

    again = Checkpoints(tmp_path, keep=2, config={"a": 1})
    assert again.latest_step() == 7
    state, progress = again.restore(a_state(seed=2, step=0))
    again.close()
    assert progress == {"stream": {"next_index": 7}, "seconds": 0.1}
    assert jax.tree.structure(state) == jax.tree.structure(saved)
    jax.tree.map(np.testing.assert_array_equal, state, saved)


def test_what_is_loaded_scores_as_the_run_did(finished_run, make_config):
    workdir, report = finished_run
    model, params = mofme_jax.load(workdir)
    assert model == build_model(make_config().model)
    tile = make_config().evaluation.tile
    cases = open_sources(read_options(make_config())).cases()
    scores, _ = evaluate(lambda image: restore_with_uncertainty(model, params, image, tile=tile), cases)
    assert scores == report["scores"]


def test_load_takes_the_averaged_parameters_of_the_newest_checkpoint_or_of_a_given_one(finished_run, saved_state):
    workdir, _ = finished_run
    for path, step in [(workdir, 6), (str(workdir), 6), (workdir / "checkpoints" / "3", 3)]:
        _, params = load(path)
        jax.tree.map(np.testing.assert_array_equal, params, saved_state(workdir, step)["ema"])


def test_load_takes_no_save_that_was_cut_short(finished_run, tmp_path):
    shutil.copytree(finished_run[0], tmp_path / "run")
    unfinished = tmp_path / "run" / "checkpoints" / "9.orbax-checkpoint-tmp"
    shutil.copytree(tmp_path / "run" / "checkpoints" / "3", unfinished)
    load(tmp_path / "run")
    assert unfinished.exists()  # it may be that a training run is writing it now


def test_load_where_there_is_nothing(finished_run, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "a file").touch()
    for path in (tmp_path, tmp_path / "no folder", tmp_path / "a file", finished_run[0] / "checkpoints" / "4"):
        with pytest.raises(FileNotFoundError, match=f"no checkpoint in {path}: give the --workdir of a training run"):
            load(path)


def test_json_knows_neither_nan_nor_infinity(tmp_path):
    write_json(tmp_path / "a.json", {"a": [math.inf, 1.5], "b": {"c": math.nan, "d": "text", "e": (1, None)}})
    assert json.loads((tmp_path / "a.json").read_text(), parse_constant=pytest.fail) == {
        "a": [None, 1.5], "b": {"c": None, "d": "text", "e": [1, None]},
    }  # fmt: skip


def test_a_file_is_written_whole_or_not_at_all(tmp_path):
    write_whole(tmp_path / "a", "old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(tmp_path / "a", "new \ud800")  # fails in the middle
    assert (tmp_path / "a").read_text() == "old"
