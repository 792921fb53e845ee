"""Judging during a run, and the best checkpoint kept apart."""

import json
import shutil
import signal

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import mofme_jax
from mofme_jax.evaluation.evaluator import evaluate
from mofme_jax.evaluation.tiling import restore_with_uncertainty
from mofme_jax.files import NotSaved
from mofme_jax.training import best, loop, processes, sharding, train_and_evaluate
from mofme_jax.training.best import Best
from mofme_jax.training.logs import MetricsLog
from mofme_jax.training.options import read_options
from mofme_jax.training.report import mean_gain
from mofme_jax.training.sources import open_sources
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.stopping import Stopped
from mofme_jax.training.workdir import run_folder
from tests.fakes import Gain


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


def kept(run):
    """The gain of the best checkpoint, by its step."""
    return {int(path.name): json.loads((path / "data" / "metadata").read_text())["gain"] for path in run.glob("best/*")}


@pytest.fixture
def offer():
    """offer(best, step, gain)."""
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=None)
    state = init_state(Gain(), optimiser, jax.random.key(0), size=16)
    return lambda best, step, gain: best.offer(gain, state.replace(step=jnp.int32(step)), {})


def open_best(run):
    return Best(run, {}, lambda: None)


def test_a_run_is_judged_as_it_is_by_the_report_and_trains_as_without(
    finished_run, make_config, logged, saved_state, tmp_path, capsys
):
    config = make_config(validate_every=2, checkpoint_every=2, keep_checkpoints=3)
    report = train_and_evaluate(config, tmp_path)
    assert_same_bits(saved_state(tmp_path, 6), saved_state(finished_run[0], 6))
    assert report["scores"] == finished_run[1]["scores"]

    gains = {line["step"]: line.get("validation_gain") for line in logged(tmp_path)}
    assert gains == {2: gains[2], 4: gains[4], 6: None}  # of the last step the report tells
    model, params = mofme_jax.load(tmp_path / "checkpoints" / "2")
    tile, cases = config.evaluation.tile, open_sources(read_options(config)).cases()
    scores, _ = evaluate(lambda image: restore_with_uncertainty(model, params, image, tile=tile), cases)
    assert gains[2] == mean_gain(scores)

    step, gain = max((gains | {6: report["mean_gain"]}).items(), key=lambda found: found[1])
    assert kept(tmp_path) == {step: np.float32(gain)}
    assert f"best        {tmp_path}/best/{step}, mean gain {gain:+.2f} dB" in capsys.readouterr().out
    for path in (tmp_path / "best", tmp_path / "best" / str(step)):
        assert_same_bits(mofme_jax.load(path)[1], mofme_jax.load(tmp_path / "checkpoints" / str(step))[1])
        assert run_folder(path) == tmp_path


def test_a_stop_waits_for_no_judge_who_judges_when_the_run_goes_on(make_config, logged, tmp_path, monkeypatch):
    config = make_config(validate_every=2)
    train_and_evaluate(config, tmp_path / "whole")
    put_batch, found = sharding.put_batch, signal.signal(signal.SIGINT, signal.default_int_handler)
    with monkeypatch.context() as patch:
        taken = []

        def put_and_interrupt(batch, mesh):
            taken.append(batch)
            if len(taken) == 4:
                signal.raise_signal(signal.SIGINT)
                patch.setattr(loop, "judge", lambda *args: pytest.fail("judged"))
            return put_batch(batch, mesh)

        patch.setattr(sharding, "put_batch", put_and_interrupt)
        with pytest.raises(Stopped, match="step 4"):
            train_and_evaluate(config, tmp_path / "stopped")
    signal.signal(signal.SIGINT, found)
    train_and_evaluate(config, tmp_path / "stopped")
    assert logged(tmp_path / "stopped") == logged(tmp_path / "whole")
    assert kept(tmp_path / "stopped") == kept(tmp_path / "whole")


# when the best so far is older than the checkpoint, and newer; by the end, it is the last, and not
@pytest.mark.parametrize(("stop", "last", "ends"), [(4, 1.3, {6: np.float32(1.3)}), (5, 1.1, {5: np.float32(1.2)})])
def test_a_killed_run_ends_with_the_best_of_an_undisturbed_one(stop, last, ends, make_config, tmp_path, monkeypatch):
    gains, judged = {1: 0.3, 2: 0.9, 3: 0.5, 4: 0.9, 5: 1.2, 6: last}, Best.offer
    monkeypatch.setattr(
        Best, "offer", lambda self, gain, state, progress: judged(self, gains[int(state.step)], state, progress)
    )
    config = make_config(validate_every=1)
    write = MetricsLog.write

    def kill_there(self, step, figures):
        if step == stop:
            raise KeyboardInterrupt
        write(self, step, figures)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", kill_there)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(config, tmp_path)
    assert kept(tmp_path) == {4: {2: np.float32(0.9)}, 5: {5: np.float32(1.2)}}[stop]
    shutil.rmtree(tmp_path / "checkpoints" / str(stop), ignore_errors=True)
    train_and_evaluate(config, tmp_path)
    assert kept(tmp_path) == ends


def test_the_best_stays_until_there_is_a_better_one(offer, tmp_path):
    found = open_best(tmp_path)
    assert (found.gain, found.place) == (-np.inf, None)
    for step, gain, stays in [(1, -2.0, 1), (2, float("nan"), 1), (3, 0.1, 3), (4, 0.1, 3), (5, 0.05, 3), (6, 0.2, 6)]:
        offer(found, step, gain)
        assert list(kept(tmp_path)) == [stays]
        again = open_best(tmp_path)
        assert (
            (again.gain, again.place)
            == (found.gain, found.place)
            == (kept(tmp_path)[stays], tmp_path / f"best/{stays}")
        )
        if step % 2:
            found = again  # a tie is one for a run that was gone on with as well


def test_a_best_that_cannot_be_written_ends_no_run(offer, tmp_path, monkeypatch, capsys):
    found = open_best(tmp_path)
    offer(found, 1, 1.0)
    with monkeypatch.context() as patch:

        def full(*args):
            raise OSError(28, "No space left on device")

        patch.setattr(best, "begin_save", full)
        offer(found, 2, 2.0)
        patch.setattr(jax, "process_count", lambda: 2)
        patch.setattr(processes, "first_says", lambda answer: answer)
        with pytest.raises(NotSaved, match="best/2, cannot be written"):  # the others would wait for ever
            offer(found, 2, 2.0)
    assert capsys.readouterr().out == (
        f"the best checkpoint, {tmp_path}/best/2, cannot be written (No space left on device): make room there; "
        "training goes on, and the best before stays\n"
    )
    assert kept(tmp_path) == {1: 1.0}
    offer(found, 3, 1.5)
    assert kept(tmp_path) == {3: 1.5}


def test_of_several_processes_the_gain_of_the_first_counts(offer, tmp_path, monkeypatch):
    found = open_best(tmp_path)
    offer(found, 1, 1.0)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(processes, "first_says", lambda answer: False)
    offer(found, 2, 2.0)
    assert kept(tmp_path) == {1: 1.0}


def test_a_step_that_is_judged_again_is_kept_where_it_is_better(offer, tmp_path, capsys):
    offer(open_best(tmp_path), 4, 1.0)
    offer(open_best(tmp_path), 4, 1.0001)  # on other devices
    assert kept(tmp_path) == {4: 1.0}
    offer(open_best(tmp_path), 2, 1.5)  # a run that went on from before that step
    assert kept(tmp_path) == {2: 1.5}
    assert not capsys.readouterr().out


def test_a_best_that_may_be_whole_is_not_given_up(offer, tmp_path, monkeypatch):
    offer(open_best(tmp_path), 1, 1.0)
    with monkeypatch.context() as patch:

        def fail(*args, **kwargs):
            raise OSError(5, "Input/output error")

        patch.setattr(best.ocp.CheckpointManager, "restore", fail)
        with pytest.raises(OSError, match=r"best/1 cannot be read \(Input/output error\), and may be whole"):
            open_best(tmp_path)
    assert open_best(tmp_path).gain == 1.0


def test_of_two_that_a_kill_has_left_the_better_counts(offer, tmp_path):
    for folder, step, gain in (("a", 1, 2.0), ("b", 2, 1.0)):
        (tmp_path / folder).mkdir()
        offer(open_best(tmp_path / folder), step, gain)
    (tmp_path / "b" / "best" / "2").rename(tmp_path / "a" / "best" / "2")
    found = open_best(tmp_path / "a")
    assert (found.gain, found.place) == (2.0, tmp_path / "a" / "best" / "1")


def test_a_best_that_cannot_be_read_is_told_and_the_next_is_kept(offer, tmp_path, capsys):
    offer(open_best(tmp_path), 1, 1.0)
    (tmp_path / "best" / "1" / "data" / "metadata").write_text("")
    found = open_best(tmp_path)
    assert f"{tmp_path}/best/1 cannot be read" in capsys.readouterr().out
    offer(found, 2, 0.5)
    assert kept(tmp_path) == {2: 0.5}
