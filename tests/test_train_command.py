"""`train.py` as people run it: in a process of its own, which may be killed."""

import json
import os
import random
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest

import mofme_jax

ROOT = Path(__file__).parents[1]
STEPS = 8


@pytest.fixture(autouse=True)
def interruptible():
    """A process that is started can be interrupted, though this one, in the background, may ignore it."""
    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, found)


@pytest.fixture
def start(tmp_path):
    """start(*flags) -> the process, alone in its group; output is collected in files.

    `but`: Python that runs first, to put another thing in the place of one.
    """
    environment = os.environ | {"JAX_PLATFORMS": "cpu"}
    processes = []

    def start(*flags, but=""):
        program = (
            ["-c", f"{but}\nimport runpy\nrunpy.run_path('train.py', run_name='__main__')"] if but else ["train.py"]
        )
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            processes.append(
                subprocess.Popen(
                    [sys.executable, *program, *flags],
                    cwd=ROOT,
                    env=environment,
                    stdout=out,
                    stderr=err,
                    start_new_session=True,
                )
            )
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.wait()


@pytest.fixture
def fails(start, tmp_path):
    """fails(*flags) -> the one line that a run which must fail leaves on stderr."""

    def fails(*flags):
        assert start(*flags).wait(60) == 1
        lines = (tmp_path / "err").read_text().splitlines()
        assert len(lines) == 1, lines
        return lines[0]

    return fails


def wait_until(condition, process, seconds=120.0):
    """Polls often, because what is waited for may last a few milliseconds; False when the process ended first."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if condition():
            return True
        if process.poll() is not None:
            return False
        time.sleep(0.0005)
    raise TimeoutError


def test_killed_runs_end_as_an_undisturbed_one(start, small_flags, finished_run, logged, saved_state, tmp_path):
    flags = [*small_flags, "--config.train.host_devices=2", f"--config.train.steps={STEPS}"]
    flags += ["--config.log_every=3", "--config.checkpoint_every=2"]
    undisturbed, killed = tmp_path / "undisturbed", tmp_path / "killed"
    assert start(*flags, f"--workdir={undisturbed}").wait(300) == 0, (tmp_path / "err").read_text()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert f"on {min(2, cores)} cpu device(s)" in (tmp_path / "out").read_text()
    assert sorted(p.name for p in undisturbed.iterdir()) == [
        "checkpoints", "config.json", "metrics.jsonl", "report.json", "samples", "tensorboard", "uncertainty.json",
    ]  # fmt: skip

    checkpoints = killed / "checkpoints"
    process = start(*flags, f"--workdir={killed}")
    assert wait_until(lambda: any(checkpoints.glob("*tmp*")), process)  # in the middle of the first save
    process.kill()
    process.wait()
    assert not (checkpoints / str(STEPS)).exists()
    left = list(checkpoints.glob("*tmp*"))

    process = start(*flags, f"--workdir={killed}")
    assert wait_until(lambda: (checkpoints / "4").exists(), process)
    time.sleep(random.uniform(0.0, 0.2))
    process.kill()
    process.wait()
    assert not any(path.exists() for path in left)  # what the first kill left is swept up

    assert start(*flags, f"--workdir={killed}").wait(300) == 0, (tmp_path / "err").read_text()
    assert "going on from step" in (tmp_path / "out").read_text()
    assert logged(killed) == logged(undisturbed)
    assert [line["step"] for line in logged(killed)] == [2, 3, 4, 6, 8]
    jax.tree.map(np.testing.assert_array_equal, saved_state(killed, STEPS), saved_state(undisturbed, STEPS))
    scores = [json.loads((run / "report.json").read_text())["scores"] for run in (killed, undisturbed)]
    assert scores[0] == scores[1]
    assert not list(checkpoints.glob("*tmp*"))

    # What was trained on two devices loads on the one of this process.
    model, params = mofme_jax.load(killed)
    assert {len(x.sharding.device_set) for x in jax.tree.leaves(params)} == {1}
    jax.tree.map(np.testing.assert_array_equal, params, saved_state(killed, STEPS)["ema"])
    assert mofme_jax.restore(model, params, np.zeros((9, 7, 3), np.uint8), tile=16).shape == (9, 7, 3)

    # The first two steps, at the start of the same warmup, on two devices and (in `finished_run`) on one. The images
    # are the same to the bit; their mean and that of the gradients is summed in another order, which moves the last
    # of float32's seven digits, and Adam's first steps, all of one length, carry that on where a gradient is near 0.
    one, two = logged(finished_run[0])[0], logged(undisturbed)[0]
    assert two["step"] == one["step"] == 2
    assert two["psnr_rgb_input"] == pytest.approx(one["psnr_rgb_input"], rel=1e-6)
    assert two["loss"] == pytest.approx(one["loss"], rel=1e-4)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--config=configs/nope.py"], "No such file or directory: 'configs/nope.py': give --config the path"),
        (["--config=configs/nope.py", "--config.seed=1"], "'configs/nope.py': give --config the path"),
        (["--config.dta.crop=3"], "unknown field: 'dta'"),
        (["--config.data.crop=wide"], "--config.data.crop=wide: invalid literal for int()"),
        (["--config.data.crop.x=1"], "data.crop.x"),
        (["--confg=configs/smoke.py"], "Unknown command line flag 'confg'"),
        (["configs/smoke.py"], "unexpected argument 'configs/smoke.py'"),
    ],
)
def test_a_command_line_that_will_not_do_is_one_line(flags, message, fails, tmp_path):
    line = fails(*flags, f"--workdir={tmp_path / 'run'}")
    assert line.startswith("train.py: ")
    assert message in line
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--config.data.crp=3", "unknown field config.data.crp; config.data has photographs, "),
        ("--config.model.overrides.widht=64", "unknown field(s) widht; a Restorer has channels, "),
    ],
)
def test_an_unknown_field_is_one_line(flag, message, fails, small_flags, tmp_path):
    assert message in fails(*small_flags, flag, f"--workdir={tmp_path / 'run'}")


def test_a_workdir_that_cannot_be_made_is_one_line(fails, small_flags, tmp_path):
    (tmp_path / "file").touch()
    line = fails(*small_flags, f"--workdir={tmp_path / 'file' / 'run'}")
    assert line == f"train.py: the workdir {tmp_path}/file/run cannot be written (Not a directory): " \
        "choose another with --workdir"  # fmt: skip


def test_the_workdir_of_another_config_is_left_alone(fails, small_flags, finished_run):
    before = {path: path.stat().st_mtime_ns for path in finished_run[0].rglob("*")}
    line = fails(*small_flags, "--config.train.learning_rate=0.1", f"--workdir={finished_run[0]}")
    assert "another config (train.learning_rate was 0.001, is 0.1)" in line
    assert {path: path.stat().st_mtime_ns for path in finished_run[0].rglob("*")} == before


SIGNAL_IN_STEP = """
import os
from mofme_jax.training import loop
put, batches = loop.sharding.put_batch, []
def put_batch(batch, mesh):
    batches.append(batch)
    if len(batches) == {step}:
        os.kill(os.getpid(), {sent})
    return put(batch, mesh)
loop.sharding.put_batch = put_batch
"""
"""A signal in the middle of a step, the `step`-th that this process takes."""

HANG = """
import os, time
def hang(*args, **kwargs):
    os.close(os.open({there!r}, os.O_CREAT))
    while True:
        try:
            time.sleep(60)
        except BaseException:
            pass
from mofme_jax.training import loop
loop.{name} = hang
"""
"""A function that makes a file, never returns, and swallows exceptions."""


def test_a_stopped_run_is_saved_where_it_is_and_ends_as_an_undisturbed_one(
    start, small_flags, finished_run, logged, saved_state, tmp_path
):
    run = tmp_path / "run"
    # at the end of a log period; then, gone on with, in the middle of one
    for sent, step, reached in [(signal.SIGTERM, 2, 2), (signal.SIGINT, 3, 5)]:
        but = SIGNAL_IN_STEP.format(step=step, sent=int(sent))
        assert start(*small_flags, f"--workdir={run}", but=but).wait(300) == 75, (tmp_path / "err").read_text()
        line = f"train.py: stopped at step {reached}, which is saved; the same command goes on from there"
        assert said_beside_progress(tmp_path) == [line]
        assert (run / "checkpoints" / str(reached) / "state").is_dir()
    assert not (run / "report.json").exists()
    assert start(*small_flags, f"--workdir={run}").wait(300) == 0, (tmp_path / "err").read_text()
    assert "going on from step 5 of 6" in (tmp_path / "out").read_text()
    assert logged(run) == logged(finished_run[0])
    jax.tree.map(np.testing.assert_array_equal, saved_state(run, 6), saved_state(finished_run[0], 6))


@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_before_the_first_step_ends_the_run_at_once(sent, start, small_flags, tmp_path):
    compiling = tmp_path / "compiling"
    but = HANG.format(name="build_step", there=str(compiling))
    process = start(*small_flags, f"--workdir={tmp_path / 'run'}", but=but)
    assert wait_until(compiling.exists, process), (tmp_path / "err").read_text()
    process.send_signal(sent)
    assert process.wait(60) == -sent  # 143 and 130 in a shell
    assert not said_beside_progress(tmp_path)


def test_a_second_signal_ends_the_run_without_saving(start, small_flags, finished_run, saved_state, tmp_path):
    run, saving = tmp_path / "run", tmp_path / "saving"
    # the checkpoint of step 3 is whole; that of step 4, at which it stops, does not end
    but = HANG.format(name="unused", there=str(saving)) + SIGNAL_IN_STEP.format(step=4, sent=int(signal.SIGTERM))
    but += "save = loop.save\nloop.save = lambda *args: (hang if int(args[3].step) == 4 else save)(*args)\n"
    process = start(*small_flags, f"--workdir={run}", but=but)
    both = (saving, run / "checkpoints" / "3")  # which is saved in the background
    assert wait_until(lambda: all(path.exists() for path in both), process), (tmp_path / "err").read_text()
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == -signal.SIGINT
    assert [path.name for path in (run / "checkpoints").iterdir() if path.name.isdigit()] == ["3"]
    jax.tree.map(np.testing.assert_array_equal, saved_state(run, 3), saved_state(finished_run[0], 3))


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="looks for processes in /proc")
@pytest.mark.parametrize("sent", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_workers_end_with_the_run_however_it_ends(sent, start, small_flags, tmp_path):
    flags = ["--config.data.workers=1", "--config.train.steps=1000000", "--config.checkpoint_every=1000000"]
    process = start(*small_flags, *flags, f"--workdir={tmp_path}/run")
    assert wait_until(lambda: (tmp_path / "run" / "metrics.jsonl").exists(), process), (tmp_path / "err").read_text()
    workers = children(process.pid)
    assert workers
    if sent == signal.SIGKILL:
        process.kill()
    else:
        os.killpg(process.pid, sent)  # as a terminal sends Ctrl-C
    process.wait(120)
    end = time.monotonic() + 30
    while [pid for pid in workers if Path(f"/proc/{pid}").exists()]:
        assert time.monotonic() < end
        time.sleep(0.1)
    if sent != signal.SIGKILL:
        said = said_beside_progress(tmp_path)
        assert process.returncode == 75, said
        assert said[0].startswith("train.py: stopped at step ")
        assert "Traceback" not in "\n".join(said)


FULL_FROM_STEP = """
import resource, threading
from mofme_jax.training import loop
put, batches = loop.sharding.put_batch, []
def put_batch(batch, mesh):
    batches.append(batch)
    if len(batches) == {step}:
        for thread in threading.enumerate():
            if thread.name == "save_finalize":
                thread.join()
        # room for lines of logs, and for none of a checkpoint's arrays
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    return put(batch, mesh)
loop.sharding.put_batch = put_batch
"""
"""A disk that is full from the `step`-th step on."""


def test_a_run_whose_disk_stays_full_ends_in_a_line_with_a_status_of_its_own(
    start, small_flags, finished_run, saved_state, tmp_path
):
    run = tmp_path / "run"
    assert start(*small_flags, f"--workdir={run}", but=FULL_FROM_STEP.format(step=5)).wait(300) == 74
    assert said_beside_progress(tmp_path) == [
        f"train.py: checkpoint {run}/checkpoints/6 cannot be written (File too large): make room there; the same "
        "command goes on from step 3, which is saved"
    ]
    assert start(*small_flags, f"--workdir={run}").wait(300) == 0, (tmp_path / "err").read_text()
    jax.tree.map(np.testing.assert_array_equal, saved_state(run, 6), saved_state(finished_run[0], 6))


def test_a_run_whose_gradients_stay_bad_says_where_that_begins_and_examines_it(start, small_flags, tmp_path):
    run = tmp_path / "run"
    fields = {"learning_rate": 1e30, "floor": 1e29, "clip_norm": 0.0, "warmup": 0, "steps": 40, "max_bad_steps": 1}
    flags = [f"--config.train.{name}={value}" for name, value in fields.items()]
    assert start(*small_flags, *flags, f"--workdir={run}").wait(300) == 1
    (checkpoint,) = (run / "checkpoints").iterdir()
    first = int(checkpoint.name) + 1
    (line,) = said_beside_progress(tmp_path)
    assert line.startswith(f"train.py: the gradients of 1 steps in a row, {first} to {first}, were not finite")
    assert f"report {run}/examined.json" in (tmp_path / "out").read_text().splitlines()
    assert json.loads((run / "examined.json").read_text())["step"] == first


def said_beside_progress(tmp_path):
    """The lines on stderr, without those of progress, which a slow machine shows."""
    lines = (tmp_path / "err").read_text().splitlines()
    return [line for line in lines if not re.search(r"\d+/\d+ \( *\d+%\)", line)]


def children(pid):
    """The processes that `pid` has started, but for Python's own tracker of shared memory."""
    found = Path(f"/proc/{pid}/task").glob("*/children")
    started = {child for file in found for child in file.read_text().split()}
    return [child for child in started if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
