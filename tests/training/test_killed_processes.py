"""Two processes of a run, one of which is killed: the other ends soon and says why, and both go on together."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from mofme_jax.training import folders

ROOT = Path(__file__).parents[2]


def steps_in(run):
    return folders.steps_in(run / "checkpoints")


@pytest.fixture
def start(small_flags, tmp_path):
    """start() -> the two processes of one run, and the files of what they say."""
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "1"}
    started = []

    def start():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = f"--coordinator=127.0.0.1:{free.getsockname()[1]}"
        flags = [*small_flags, f"--workdir={tmp_path / 'run'}", "--config.train.steps=100000"]
        flags += ["--config.log_every=1", "--config.checkpoint_every=200", place, "--process_count=2"]
        said = [tmp_path / f"said by {i}" for i in range(2)]
        for i in range(2):
            with said[i].open("w") as file:
                started.append(
                    subprocess.Popen(
                        [sys.executable, "train.py", *flags, f"--process_id={i}"],
                        cwd=ROOT,
                        env=environment,
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        start_new_session=True,
                    )
                )
        return started[-2:], said

    yield start
    for process in started:
        process.kill()
        process.wait()


def wait_for(condition, processes, said, seconds=200.0):
    end = time.monotonic() + seconds
    while True:
        told = [file.read_text()[-2000:] for file in said]
        assert all(process.poll() is None for process in processes), told
        assert time.monotonic() < end, told
        if condition():
            return
        time.sleep(0.01)


def test_when_one_is_killed_the_other_ends_in_a_line_and_both_go_on(start, logged, tmp_path):
    run = tmp_path / "run"

    def has_saved(beyond):  # some steps ago: within a save it is JAX that notices, after a minute or two
        newest = max(steps_in(run), default=0)
        return newest > beyond and 20 < logged(run)[-1]["step"] - newest < 180

    processes, said = start()
    wait_for(lambda: has_saved(0), processes, said)
    processes[1].kill()
    assert processes[0].wait(50) == 75, said[0].read_text()[-2000:]
    ended_in_a_line(said[0].read_text())

    newest, steps = max(steps_in(run)), [line["step"] for line in logged(run)]
    assert steps == list(range(1, steps[-1] + 1))
    processes, said = start()
    wait_for(lambda: has_saved(newest), processes, said)
    assert f"going on from step {newest} of" in said[0].read_text()
    processes[0].kill()
    if processes[1].wait(50) == 75:
        ended_in_a_line(said[1].read_text())
    else:  # JAX notices at once that process 0 is gone, and may be the first to end another
        assert processes[1].returncode == -signal.SIGABRT
        assert "another task died" in said[1].read_text()


def ended_in_a_line(said):
    assert re.search(r"^train.py: another process of this run has ended \(.*: start all", said, re.MULTILINE)
    assert "Traceback" not in said
