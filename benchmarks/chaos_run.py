"""A training run that benchmarks/chaos.py starts and kills: its processes, its folder, damage to its checkpoints."""

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
EVERY = 10
"""Steps between checkpoints."""


class Life:
    """The processes of a run from one start to its end, and what the first of them said.

    Args:
      workdir: of the run. steps: that it is to take. count: of processes. devices: of all of them together.
    """

    def __init__(self, workdir: Path, steps: int, count: int, devices: int):
        self.workdir, self.output = workdir, tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by end()
        command = [
            *(sys.executable, "train.py", "--config=configs/smoke.py", f"--workdir={workdir}"),
            *(f"--config.train.steps={steps}", "--config.log_every=1", f"--config.checkpoint_every={EVERY}"),
            *("--config.evaluation.max_side=32", "--config.evaluation.tile=32"),
        ]
        place = free_address() if count > 1 else None
        self.processes = [
            subprocess.Popen(
                [*command, *(place_of(place, i, count) if place else ())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=self.output if i == 0 else subprocess.DEVNULL,
                stderr=subprocess.STDOUT if i == 0 else subprocess.DEVNULL,
                env=os.environ | {"JAX_NUM_CPU_DEVICES": str(devices // count), "PYTHONPATH": str(ROOT)},
                process_group=0,
            )
            for i in range(count)
        ]
        self.began = time.monotonic()

    def runs(self) -> bool:
        """Whether all of its processes do."""
        return all(process.poll() is None for process in self.processes)

    def said(self) -> str:
        """What the first process has written so far."""
        self.output.seek(0)
        return self.output.read()

    def wait(self) -> None:
        """Until all of its processes have ended; raises ChildProcessError where one did not end well."""
        for process in self.processes:
            process.wait()
        if status := [process.returncode for process in self.processes if process.returncode]:
            raise ChildProcessError(f"the run ended with status {status[0]}:\n{self.said()}")

    def end(self) -> None:
        """Kills what still runs, with its children."""
        for process in self.processes:
            kill(process)
        self.output.close()


def place_of(place: str, number: int, count: int) -> tuple[str, ...]:
    """What tells a process of several where it belongs."""
    return f"--coordinator={place}", f"--process_id={number}", f"--process_count={count}"


def kill(process: subprocess.Popen) -> None:
    """SIGKILL to a process and its children; waits for its end."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def free_address() -> str:
    """HOST:PORT on this machine that nobody listens on."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{free.getsockname()[1]}"


def saved_steps(workdir: Path) -> list[int]:
    """Steps of the checkpoints that are there, whole or damaged."""
    return sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdigit())


def logged_lines(workdir: Path) -> list[str]:
    """The lines of metrics.jsonl, the last perhaps cut short."""
    file = workdir / "metrics.jsonl"
    return file.read_text().splitlines() if file.exists() else []


def damage(workdir: Path, rng: random.Random) -> bool:
    """Cuts a file of the newest checkpoint, where there is another. Returns whether one was cut."""
    steps = saved_steps(workdir)
    if len(steps) < 2:
        return False
    files = sorted(path for path in (workdir / "checkpoints" / str(steps[-1])).rglob("*") if path.is_file())
    # the others are notes of Orbax's that nobody reads, or left over from saving
    files = [path for path in files if path.name in ("_METADATA", "manifest.ocdbt") or path.parent.name == "d"]
    files = [path for path in files if path.parent.name != "ocdbt.process_0" and path.stat().st_size > 0]
    file = rng.choice(files)
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])
    return True
