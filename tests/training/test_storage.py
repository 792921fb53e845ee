"""A disk that is full, read-only, slow or gone, and what others keep in the folder of a run."""

import errno
import json
import re
import resource
import shutil
import signal
import threading
import time
from contextlib import contextmanager
from functools import partial
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint as ocp
import pytest

from mofme_jax.files import NotSaved, append, write_whole
from mofme_jax.training import loop, report, sharding, train_and_evaluate
from mofme_jax.training.checkpoint import Checkpoints, load
from mofme_jax.training.logs import MetricsLog
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.stopping import Stopped
from mofme_jax.training.workdir import only_run
from tests.fakes import Gain
from tests.training.test_workdir import scalars


@pytest.fixture
def disk(capsys):
    """with disk(room): no file grows beyond `room` bytes, or, where that is None, does from `.fill()` to `.free()`.

    With capsys, so that what is shown goes to no file, and never for longer than that: pytest writes files as well.
    """
    found = resource.getrlimit(resource.RLIMIT_FSIZE)  # Python ignores the signal that comes with it

    def limit(room):
        wait_for_save()
        resource.setrlimit(resource.RLIMIT_FSIZE, (room, found[1]))

    @contextmanager
    def disk(room=None):
        try:
            if room is not None:
                limit(room)
            yield
        finally:
            limit(found[0])

    disk.fill, disk.free = partial(limit, 0), partial(limit, found[0])
    return disk


@pytest.fixture
def before_step(monkeypatch):
    """before_step({step: what is called before a run takes it, counted from where it begins})."""

    def before_step(calls):
        taken = []

        def put_batch(batch, mesh):
            taken.append(batch)
            calls.get(len(taken), lambda: None)()
            return sharding.put_batch(batch, mesh)

        monkeypatch.setattr(loop, "sharding", SimpleNamespace(**vars(sharding) | {"put_batch": put_batch}))

    return before_step


def wait_for_save():
    for thread in threading.enumerate():
        while thread.name == "save_finalize" and thread.is_alive():  # to join it would take its error away
            time.sleep(0.01)


def steps_in(run):
    return sorted(path.name for path in (run / "checkpoints").iterdir())


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)


@pytest.fixture
def save_states(tmp_path):
    """save_states(checkpoints, *steps): a small state of each, one after the other, each waited for."""
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=None)
    state = init_state(Gain(), optimiser, jax.random.key(0), size=16)

    def save_states(checkpoints, *steps):
        for step in steps:
            checkpoints.save(state.replace(step=jnp.int32(step)), {})
            wait_for_save()

    return save_states


def test_a_disk_that_is_full_for_a_while_costs_a_checkpoint_and_nothing_else(
    disk, before_step, finished_run, make_config, logged, saved_state, tmp_path, capsys
):
    before_step({4: disk.fill, 6: disk.free})
    with disk():
        train_and_evaluate(make_config(checkpoint_every=2), tmp_path)
    assert steps_in(tmp_path) == ["2", "6"]
    assert_same_bits(saved_state(tmp_path, 6), saved_state(finished_run[0], 6))
    assert [line["step"] for line in logged(tmp_path)] == [2, 4, 6]
    assert [step for tag, step in scalars(tmp_path) if tag == "train/loss"] == [2, 4, 6]
    said = [line for line in capsys.readouterr().out.splitlines() if "written" in line or "saved" in line]
    events = rf"{tmp_path}/tensorboard/events\S+"
    for line, pattern in zip(
        said,
        [
            rf"{tmp_path}/metrics.jsonl cannot be written \(File too large\): make room there; training goes on, .*",
            rf"{events} cannot be written \(File too large\): make room there; training goes on, .*",
            rf"{tmp_path}/metrics.jsonl is written again, with the 1 entries that were missing",
            rf"{events} is written again, .*",
            rf"checkpoint {tmp_path}/checkpoints/4 cannot be written \(File too large\): make room there; training "
            "goes on, and tries at the next; a stopped run goes on from step 2, which is saved",
            "checkpoint 6 is saved",
        ],
        strict=True,
    ):
        assert re.fullmatch(pattern, line)


def test_a_disk_that_stays_full_ends_the_run_which_goes_on_later(
    disk, before_step, finished_run, make_config, logged, saved_state, tmp_path
):
    lost = []
    before_step({2: disk.fill, 5: lambda: lost.append(5)})
    config = make_config(checkpoint_every=1)
    with disk(), pytest.raises(NotSaved) as raised:
        train_and_evaluate(config, tmp_path)
    assert str(raised.value) == (
        f"checkpoint {tmp_path}/checkpoints/4 cannot be written (File too large): make room there; the same command "
        "goes on from step 1, which is saved"
    )
    assert not lost  # once one has failed, the run knows at once of the next
    assert [step for step in steps_in(tmp_path) if step.isdigit()] == ["1"]
    before_step({})
    train_and_evaluate(config, tmp_path)
    assert [line["step"] for line in logged(tmp_path)] == [1, 2, 3, 4, 5, 6]
    assert steps_in(tmp_path) == ["5", "6"]
    assert_same_bits(saved_state(tmp_path, 6), saved_state(finished_run[0], 6))


def test_where_the_last_step_cannot_be_saved_the_run_ends(disk, before_step, make_config, tmp_path, capsys):
    before_step({6: disk.fill})
    with (
        disk(),
        pytest.raises(NotSaved, match=r"checkpoints/6 cannot be written .* goes on from step 3, which is saved"),
    ):
        train_and_evaluate(make_config(), tmp_path)
    said = capsys.readouterr().out
    assert "tries at the next" not in said
    assert "evaluating" not in said


def test_a_stop_does_not_say_that_a_step_is_saved_that_is_not(disk, before_step, make_config, tmp_path):
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_step({4: lambda: (disk.fill(), signal.raise_signal(signal.SIGINT))})
    with (
        disk(),
        pytest.raises(NotSaved, match=r"checkpoints/4 cannot be written .* goes on from step 3, which is saved"),
    ):
        train_and_evaluate(make_config(), tmp_path)
    signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize("removed", ["checkpoints", "."])
def test_a_folder_that_is_removed_is_made_again(
    removed, before_step, finished_run, make_config, saved_state, tmp_path, capsys
):
    run = tmp_path / "run"
    before_step({5: lambda: (wait_for_save(), shutil.rmtree(run / removed))})
    train_and_evaluate(make_config(), run)
    assert steps_in(run) == ["6"]
    assert_same_bits(saved_state(run, 6), saved_state(finished_run[0], 6))
    assert (run / "config.json").exists()
    load(run)
    said = capsys.readouterr().out
    assert ("was removed: it is made again" in said) == (removed == ".")
    assert "cannot be written" not in said


def test_what_another_run_has_in_the_place_of_a_removed_folder_is_left_alone(make_config, tmp_path, save_states):
    run, config = tmp_path / "run", make_config()
    run.mkdir()
    with only_run(run) as hold:
        log = MetricsLog(run, 0, lambda: hold(config))
        checkpoints = Checkpoints(run, 2, {}, lambda: hold(config))
        shutil.rmtree(run)
        run.mkdir()
        with only_run(run):
            log.write(2, {"loss": 1.0})
            save_states(checkpoints, 2)
            assert list(run.iterdir()) == []
        with pytest.raises(NotSaved, match=f"another run is training in {run}"):
            checkpoints.close()


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (PermissionError(errno.EACCES, "Permission denied", "a"), r"\(Permission denied\): let it be written;"),
        (OSError(errno.ENOSPC, "No space left on device"), r"\(No space left on device\): make room there;"),
        (ValueError("RESOURCE_EXHAUSTED: a\n [os_error_code='28']"), r"\(No space left on device\): make room there;"),
        (FileNotFoundError(errno.ENOENT, "No such file"), r"\(No such file or directory\): bring its folder back;"),
        (OSError(errno.EIO, "Input/output error"), r"\(Input/output error\): see to that disk;"),
        (TimeoutError("too late\nmore"), r"\(too late\);"),
    ],
)
def test_a_save_that_fails_at_once_is_told_and_the_next_is_tried(
    error, told, save_states, tmp_path, monkeypatch, capsys
):
    def fail(*args, **kwargs):
        raise error

    checkpoints = Checkpoints(tmp_path, 2, {})
    save_states(checkpoints, 1)
    with monkeypatch.context() as patch:
        patch.setattr(ocp.CheckpointManager, "save", fail)
        save_states(checkpoints, 2, 3)
    save_states(checkpoints, 4, 5)
    checkpoints.close()
    said = capsys.readouterr().out.splitlines()
    assert [
        line for line in said if re.match(rf"checkpoint {tmp_path}/checkpoints/[23] cannot be written {told}", line)
    ]
    assert said[2:] == ["checkpoint 4 is saved"]
    assert steps_in(tmp_path) == ["4", "5"]


def test_three_failures_in_a_row_are_too_many_and_two_twice_are_not(save_states, tmp_path, monkeypatch):
    real, fails = ocp.CheckpointManager.save, {2, 3, 5, 6, 8, 9, 10}

    def save(manager, step, **kwargs):
        if step in fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(manager, step, **kwargs)

    monkeypatch.setattr(ocp.CheckpointManager, "save", save)
    checkpoints = Checkpoints(tmp_path, 2, {})
    save_states(checkpoints, 1, 2, 3, 4, 5, 6, 7, 8, 9)
    with pytest.raises(NotSaved, match=r"checkpoints/10 .* goes on from step 7, which is saved"):
        save_states(checkpoints, 10)
    with pytest.raises(NotSaved):
        checkpoints.close()


def test_an_older_checkpoint_that_cannot_be_removed_is_no_failure(save_states, tmp_path, monkeypatch, capsys):
    def in_use(deleter, step):
        raise OSError(errno.ENOTEMPTY, "Directory not empty")

    checkpoints = Checkpoints(tmp_path, 1, {})
    save_states(checkpoints, 1)
    with monkeypatch.context() as patch:
        patch.setattr("orbax.checkpoint._src.path.deleter.StandardCheckpointDeleter.delete", in_use)
        save_states(checkpoints, 2, 3, 4, 5)
    assert steps_in(tmp_path) == ["1", "2", "3", "4", "5"]
    save_states(checkpoints, 6)
    checkpoints.close()
    assert steps_in(tmp_path) == ["6"]
    assert capsys.readouterr().out.splitlines()[0] == (
        "checkpoint 2 is saved, but an older one stays (Directory not empty): move away what is there"
    )


def test_an_error_that_is_none_of_the_disk_is_none_of_a_checkpoint(save_states, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise jax.errors.JaxRuntimeError("out of memory")

    monkeypatch.setattr(ocp.CheckpointManager, "save", fail)
    with pytest.raises(jax.errors.JaxRuntimeError):
        save_states(Checkpoints(tmp_path, 2, {}), 1)


def test_a_slow_disk_holds_no_step_up_is_one_save_behind_and_a_stop_still_saves(
    before_step, finished_run, make_config, saved_state, tmp_path, monkeypatch
):
    write, seen = ocp.JsonCheckpointHandler._save_fn, {}

    async def slowly(self, x, directory):
        time.sleep(0.5)
        await write(self, x, directory)

    def look(step):
        seen[step] = [name for name in steps_in(tmp_path) if name.isdigit()]

    monkeypatch.setattr(ocp.JsonCheckpointHandler, "_save_fn", slowly)
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    before_step({2: lambda: look(2), 3: lambda: (look(3), signal.raise_signal(signal.SIGINT))})
    with pytest.raises(Stopped, match="stopped at step 3, which is saved"):
        train_and_evaluate(make_config(checkpoint_every=1), tmp_path)
    signal.signal(signal.SIGINT, found)
    assert seen == {2: [], 3: ["1"]}
    assert steps_in(tmp_path) == ["2", "3"]
    assert_same_bits(saved_state(tmp_path, 3), saved_state(finished_run[0], 3))


def test_a_line_that_does_not_fit_waits_whole(disk, tmp_path):
    log = MetricsLog(tmp_path, 0)
    log.write(1, {"loss": 1.0})
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with disk(min(map(len, before.values())) + 5):
        log.write(2, {"loss": 2.0})
        log.write(3, {"loss": 3.0})
    assert {path: path.read_bytes() for path in before} == before
    log.write(4, {"loss": 4.0})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": step, "loss": float(step)} for step in (1, 2, 3, 4)]
    assert scalars(tmp_path) == [("restart", 1), *(("train/loss", step) for step in (1, 2, 3, 4))]


def test_what_waits_for_a_disk_is_written_at_the_end_or_named(disk, before_step, make_config, logged, tmp_path, capsys):
    full, free = tmp_path / "full", tmp_path / "free"
    log = MetricsLog(full, 0)
    with disk(0):
        for step in (1, 2):
            log.write(step, {"loss": 1.0})
        log.close()
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == f"{full}/metrics.jsonl lacks the entries of steps 1, 2 (File too large): make room there"
    assert lines[3].startswith(f"{full}/tensorboard/events")
    log.close()
    assert [line["step"] for line in logged(full)] == [1, 2]

    before_step({6: disk.fill})
    with disk(), pytest.raises(NotSaved):  # whose last line is written when the run ends
        train_and_evaluate(make_config(), free)
    assert "metrics.jsonl lacks the entries of steps 6 (" in capsys.readouterr().out


def test_what_is_appended_is_there_as_a_whole_or_not_at_all(disk, tmp_path):
    file = tmp_path / "a"
    append(file, b"one", header=b"head ")
    append(file, b" two", header=b"head ")
    assert file.read_bytes() == b"head one two"
    with disk(15), pytest.raises(OSError, match="too large"):
        append(file, b" three")
    assert file.read_bytes() == b"head one two"


def test_a_file_that_cannot_be_written_is_named_and_the_old_one_stays(disk, tmp_path):
    write_whole(tmp_path / "a", "old")
    with (
        disk(1),
        pytest.raises(NotSaved, match=rf"^{tmp_path}/a cannot be written \(File too large\): make"),
    ):
        write_whole(tmp_path / "a", "new")
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == {"a": "old"}


@pytest.mark.parametrize("what", ["report.json", "samples/step_6.png", "uncertainty.json"])
def test_a_report_that_cannot_be_written_is_printed_and_named(
    what, finished_run, make_config, tmp_path, monkeypatch, capsys
):
    def full(*args, **kwargs):
        raise OSError(errno.ENOSPC, "No space left on device")

    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    if what == "report.json":
        (run / what).unlink()
        (run / (what + ".part")).mkdir()
    else:
        name = {"samples/step_6.png": "draw_examples", "uncertainty.json": "write_calibrations"}[what]
        monkeypatch.setattr(report, name, full)
    with pytest.raises(NotSaved, match=rf"^{run}/{what} cannot be written \("):
        train_and_evaluate(make_config(), run)
    assert "mean gain over the weathers" in capsys.readouterr().out
    assert_same_bits(load(run)[1], load(finished_run[0])[1])


def test_of_a_folder_only_what_the_run_wrote_is_ever_deleted(save_states, tmp_path, capsys):
    run, theirs = tmp_path / "run", tmp_path / "theirs"
    (run / "checkpoints" / "0" / "data").mkdir(parents=True)  # named as a step, and its folder as a part of one
    (run / "checkpoints" / "mine").mkdir()
    for path in ("0/notes.txt", "0/data/notes.txt", "mine/notes.txt", "notes.txt"):
        (run / "checkpoints" / path).write_text("notes")
    other = Checkpoints(theirs, 2, {})
    save_states(other, 1, 2)
    other.close()
    kept = {path: path.read_bytes() for path in [*theirs.rglob("*"), *run.rglob("*")] if path.is_file()}
    (run / "checkpoints" / "1").symlink_to(theirs / "checkpoints" / "1")

    checkpoints = Checkpoints(run, 1, {})
    save_states(checkpoints, 3, 4)
    (run / "checkpoints" / "5").symlink_to(theirs / "checkpoints" / "2")  # where a checkpoint is about to be
    save_states(checkpoints, 5, 6)
    checkpoints.close()
    assert steps_in(run) == ["0", "1", "5", "6", "mine", "notes.txt"]
    assert {path: path.read_bytes() for path in kept} == kept
    assert "checkpoints/5 cannot be written (File exists): move away what is there" in capsys.readouterr().out


def test_a_temporary_folder_of_a_failed_save_goes_and_a_link_named_as_one_does_not(save_states, tmp_path):
    theirs, folder = tmp_path / "theirs", tmp_path / "run" / "checkpoints"
    theirs.mkdir()
    (theirs / "notes.txt").write_text("notes")
    (folder / "7.orbax-checkpoint-tmp" / "state").mkdir(parents=True)
    (folder / "8.orbax-checkpoint-tmp").symlink_to(theirs)
    (folder / "mine.orbax-checkpoint-tmp").mkdir()
    checkpoints = Checkpoints(tmp_path / "run", 1, {})
    save_states(checkpoints, 9)
    checkpoints.close()
    assert steps_in(tmp_path / "run") == ["8.orbax-checkpoint-tmp", "9", "mine.orbax-checkpoint-tmp"]
    assert (theirs / "notes.txt").read_text() == "notes"
