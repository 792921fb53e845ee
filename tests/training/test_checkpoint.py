"""Checkpoints: whole or absent, and `load`."""

import errno
import gc
import json
import logging
import math
import os
import re
import shutil
import sys
import warnings
from types import SimpleNamespace

import absl.logging
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

import mofme_jax
from mofme_jax.evaluation.evaluator import evaluate
from mofme_jax.evaluation.tiling import restore_with_uncertainty
from mofme_jax.files import write_json, write_whole
from mofme_jax.training import folders, reading, retention, train_and_evaluate
from mofme_jax.training.checkpoint import Checkpoints, load
from mofme_jax.training.options import build_model, read_options
from mofme_jax.training.quiet import drop_late_ends, late_reads_dropped
from mofme_jax.training.sources import open_sources
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.workdir import options_of_run
from tests.fakes import Gain


def a_state(seed, step):
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=None)
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


def test_a_network_that_went_wrong_is_not_loaded(make_config, tmp_path):
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=None)
    state = init_state(build_model(make_config().model), optimiser, jax.random.key(0), size=16)
    first, *others = jax.tree.leaves(state.ema)
    wrong = jax.tree.unflatten(jax.tree.structure(state.ema), [first.at[0].set(jnp.nan), *others])
    checkpoints = Checkpoints(tmp_path, keep=1, config=make_config().to_dict())
    checkpoints.save(state.replace(ema=wrong), {})
    checkpoints.close()
    with pytest.raises(ValueError, match="has values that are not finite: its training went wrong"):
        load(tmp_path)


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


def cut_short(checkpoint):
    file = checkpoint / "state" / "_METADATA"
    file.write_bytes(file.read_bytes()[:1000])


def emptied(checkpoint):
    for file in (checkpoint / "state" / "d").iterdir():
        file.write_bytes(bytes(file.stat().st_size))


def flip_a_bit(checkpoint):
    """In every larger file of arrays, some of which are left over from saving: Orbax reads them as if nothing were."""
    for file in (checkpoint / "state" / "ocdbt.process_0" / "d").iterdir():
        if file.stat().st_size > 10_000:
            content = bytearray(file.read_bytes())
            content[len(content) // 2] ^= 1
            file.write_bytes(content)


def without_its_place(checkpoint):
    (checkpoint / "data" / "metadata").write_text("")


@pytest.mark.parametrize("damage", [cut_short, emptied, flip_a_bit, without_its_place])
def test_a_damaged_checkpoint_is_set_aside_for_the_one_before(
    damage, finished_run, make_config, saved_state, tmp_path, capsys
):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    damage(run / "checkpoints" / "6")
    report = train_and_evaluate(make_config(), run)
    said = capsys.readouterr().out
    assert re.search(rf"checkpoint 6 is damaged \(.+\): it lies in {run}/damaged/6 now, the one before is taken", said)
    assert "going on from step 3 of 6" in said
    assert report["scores"] == finished_run[1]["scores"]
    jax.tree.map(np.testing.assert_array_equal, saved_state(run, 6), saved_state(finished_run[0], 6))


def test_reads_that_end_after_a_failed_restore_are_not_shown_and_all_else_is(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    late, other = (SimpleNamespace(exc_value=RuntimeError(text)) for text in ("Event loop is closed", "something else"))
    with pytest.raises(ValueError, match="damage"), late_reads_dropped():
        raise ValueError("damage")
    sys.unraisablehook(late)
    sys.unraisablehook(other)
    assert seen == [other]
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with late_reads_dropped():
        pass
    sys.unraisablehook(late)
    assert seen == [other, late]


def test_what_others_log_is_shown_again_after_a_restore_and_an_array_that_was_never_written_is_not(monkeypatch):
    loggers = (absl.logging.get_absl_logger(), logging.getLogger("asyncio"))
    for logger in loggers:
        monkeypatch.setattr(logger, "filters", [])
    with late_reads_dropped():
        assert all(logger.filters for logger in loggers)
    assert not any(logger.filters for logger in loggers)

    async def async_serialize():
        pass

    with warnings.catch_warnings(record=True) as shown:
        warnings.simplefilter("always")
        drop_late_ends()
        async_serialize()
        gc.collect()
    assert not shown


@pytest.mark.parametrize("name", ["EIO", "ESTALE", "ETIMEDOUT", "EACCES", "EPERM", "EMFILE", "ENFILE", "ENOMEM"])
def test_a_checkpoint_that_does_not_let_itself_be_read_is_left_where_it_is(name, tmp_path, monkeypatch):
    checkpoints = Checkpoints(tmp_path, keep=2, config={})
    for step in (1, 2):
        checkpoints.save(a_state(seed=1, step=step), {})
    checkpoints.close()
    again, number = Checkpoints(tmp_path, keep=2, config={}), getattr(errno, name)
    said = re.escape(os.strerror(number))
    for error in (
        OSError(number, os.strerror(number)),
        ValueError(f"UNKNOWN: error reading a file [os_error_code='{number}'] [source locations='somewhere']"),
    ):
        with monkeypatch.context() as patch:

            def fail(*args, error=error, **kwargs):
                raise error

            patch.setattr(ocp.CheckpointManager, "restore", fail)
            with pytest.raises(OSError, match=rf"checkpoints/2 cannot be read \({said}\), and may be whole: "):
                again.restore(a_state(seed=2, step=0))
    assert int(again.restore(a_state(seed=2, step=0))[0].step) == 2


@pytest.mark.parametrize("left", [[], ["_CHECKPOINT_METADATA", "commit_success.txt"]])
def test_a_checkpoint_of_which_nothing_is_left_is_set_aside(left, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, config={})
    for step in (1, 2):
        checkpoints.save(a_state(seed=1, step=step), {})
    checkpoints.close()
    folder = tmp_path / "checkpoints" / "2"
    shutil.rmtree(folder)
    folder.mkdir()
    for name in left:
        (folder / name).touch()
    again = Checkpoints(tmp_path, keep=2, config={})
    state, _ = again.restore(a_state(seed=2, step=0))
    assert int(state.step) == 1
    assert [path.name for path in (tmp_path / "damaged").iterdir()] == ["2"]
    again.save(state.replace(step=jnp.int32(2)), {})
    again.close()
    assert folders.is_checkpoint(folder)


def test_a_folder_that_cannot_be_listed_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "listdir", fail)
    with pytest.raises(OSError, match="Too many open files"):
        folders.has_checkpoint(tmp_path)


def test_what_cannot_be_read_is_not_called_damaged(finished_run, monkeypatch):
    def fail(*args):
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr("mofme_jax.training.checkpoint.read_network", fail)
    with pytest.raises(OSError, match=r"checkpoints/6 cannot be read \(Input/output error\), and may be whole"):
        load(finished_run[0])


def test_someone_elses_folder_named_as_a_step_is_none_and_stays(tmp_path):
    theirs = tmp_path / "checkpoints" / "99"
    theirs.mkdir(parents=True)
    (theirs / "notes.txt").write_text("notes")
    assert not folders.has_checkpoint(tmp_path)
    checkpoints = Checkpoints(tmp_path, keep=1, config={})
    assert checkpoints.latest_step() is None
    for step in (1, 2):
        checkpoints.save(a_state(seed=1, step=step), {})
    checkpoints.close()
    again = Checkpoints(tmp_path, keep=1, config={})
    assert int(again.restore(a_state(seed=2, step=0))[0].step) == again.latest_step() == 2
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["2", "99"]
    assert (theirs / "notes.txt").read_text() == "notes"


def test_a_state_is_read_into_the_hosts_memory_alone_and_its_bits_are_counted_there(tmp_path):
    saved = a_state(seed=1, step=3)
    checkpoints = Checkpoints(tmp_path, keep=1, config={})
    checkpoints.save(saved, {})
    checkpoints.close()
    host = jax.tree.map(lambda x: np.zeros(x.shape, x.dtype), saved)
    with retention.open_alone(tmp_path / "checkpoints") as manager:
        state, _ = reading.read_state(manager, 3, host)
    assert all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(state))
    jax.tree.map(np.testing.assert_array_equal, state, saved)
    types = (jnp.float32, jnp.bfloat16, jnp.int32, jnp.uint8, bool)
    leaves = [jax.random.normal(jax.random.key(n), (50, 7)).astype(dtype) for n, dtype in enumerate(types)]
    leaves.append(jnp.int32(-5))
    assert reading.sums_of_bits(leaves) == reading.sums_of_bits([np.asarray(leaf) for leaf in leaves])


def test_where_no_checkpoint_is_whole_nothing_is_moved(finished_run, make_config, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    for step in ("3", "6"):
        cut_short(run / "checkpoints" / step)
    with pytest.raises(OSError, match=r"no checkpoint in .* can be read \(6: .*; 3: .*\): move that folder away"):
        train_and_evaluate(make_config(), run)
    assert {path.name for path in (run / "checkpoints").iterdir()} == {"3", "6"}


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


def damages(run, step):
    """What is done to a run's newest checkpoint, by what is said of it."""
    state, config = (run / "checkpoints" / str(step) / name for name in ("state", "config"))
    section = json.loads((config / "metadata").read_text())

    def with_model(**fields):
        changed = section | {"model": {**section["model"], **fields}}
        return lambda: (config / "metadata").write_text(json.dumps(changed))

    overrides = section["model"]["overrides"]
    yield "", lambda: shutil.rmtree(state)
    yield "no file", lambda: ((config / "metadata").unlink(), os.mkfifo(config / "metadata"))
    yield "", lambda: (config / "metadata").write_text("[" * 100_000)
    yield "NoneType", lambda: (config / "metadata").write_text('{"model": null}')
    yield "depth=1000000000", with_model(overrides=overrides | {"depth": 10**9})
    yield "more layers than", with_model(overrides=overrides | {"depth": 64})
    yield "shape", with_model(overrides=overrides | {"width": 2**15})
    yield "", lambda: [file.write_bytes(b"no array") for file in state.rglob("d/*")]


@pytest.mark.parametrize("which", range(8))
def test_a_damaged_checkpoint_is_named_in_a_line(finished_run, tmp_path, which):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    said, damage = list(damages(run, 6))[which]
    damage()
    with pytest.raises(
        ValueError, match=rf"^{run}/checkpoints/6 is damaged or no checkpoint of a run .*{said}"
    ) as raised:
        load(run)
    assert "\n" not in str(raised.value)


def test_few_bytes_that_unpack_to_many_are_refused(finished_run, monkeypatch):
    monkeypatch.setattr(reading, "_MOST_UNPACKED", 0)
    with pytest.raises(ValueError, match=r"parameters in files of \d+ bytes"):
        load(finished_run[0])


@pytest.mark.parametrize("name", ["²", "٣", "007", "9" * 30])
def test_a_folder_that_is_named_otherwise_than_a_step_is_none(finished_run, tmp_path, name):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    shutil.copytree(run / "checkpoints" / "3", run / "checkpoints" / name)
    assert folders.checkpoint_step(run) == 6
    load(run)


@pytest.mark.parametrize("text", ["[" * 100_000, '{"model": {"a\\n\\u001bb": 1}}', "null"])
def test_a_config_that_is_damaged_is_named_in_a_line(tmp_path, text):
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(ValueError, match=r"config\.json is not the config of a run") as raised:
        options_of_run(tmp_path)
    assert str(raised.value).isprintable()


def test_a_config_that_is_a_pipe_does_not_keep_its_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(ValueError, match="no file"):
        options_of_run(tmp_path)
