"""Does a run that is killed again and again end as one that nobody disturbed?

    python benchmarks/chaos.py --kills 50
    python benchmarks/chaos.py --kills 20 --processes 2

Trains configs/smoke.py twice with one seed, a checkpoint every ten steps: once undisturbed, and once killed by SIGKILL,
started again, killed again. Where each kill falls is drawn from --seed:

  start   some time after the command began: while Python, JAX and the data come up, or the step compiles
  step    some milliseconds after a step was logged
  save    some milliseconds after a save began to write, so that it is cut short

After every fourth kill the newest checkpoint is damaged as well, where there is one before it: one of its files is
cut at random, as by a machine that lost its power. Of several processes one, drawn too, is killed; the others have to
end by themselves, and how long that takes is the last column. They are all started again.

What must hold, or the exit status is 1: a run goes on from the newest whole checkpoint that there was when it was
killed ("lost" counts how often it did not), every figure logged is that of the undisturbed run to the last bit, each
step once, and so are the parameters, the optimiser's state and the averages at the end, and the scores of the report.
"""

import argparse
import contextlib
import json
import os
import platform
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from statistics import median

ROOT = Path(__file__).parents[1]
EVERY = 10
"""Steps between checkpoints."""
STEPS_A_KILL = 15
"""More than the steps that a life of the run adds in the mean, so that it does not end before the last kill."""
PATIENCE = 300.0
"""Seconds after which a process that neither goes on nor ends counts as hanging."""
TIMES = ("steps_per_second", "data_wait")


class Life:
    """The processes of a run from one start to its end, and what the first of them said."""

    def __init__(self, workdir: Path, steps: int, count: int):
        self.workdir, self.output = workdir, tempfile.TemporaryFile("w+")  # noqa: SIM115, closed by end()
        command = [
            *(sys.executable, "train.py", "--config=configs/smoke.py", f"--workdir={workdir}"),
            *(f"--config.train.steps={steps}", "--config.log_every=1", f"--config.checkpoint_every={EVERY}"),
            *("--config.train.host_devices=2", "--config.evaluation.max_side=32", "--config.evaluation.tile=32"),
        ]
        place = free_address() if count > 1 else None
        self.processes = [
            subprocess.Popen(
                [*command, *(place_of(place, i, count) if place else ())],
                cwd=ROOT,
                stdin=subprocess.DEVNULL,
                stdout=self.output if i == 0 else subprocess.DEVNULL,
                stderr=subprocess.STDOUT if i == 0 else subprocess.DEVNULL,
                env=os.environ | ({"JAX_NUM_CPU_DEVICES": str(2 // count)} if count <= 2 else {}),
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


def wait_for(life: Life, reached) -> bool:
    """Waits until `reached()`, or the run has ended. Returns whether it still runs; raises TimeoutError."""
    until = time.monotonic() + PATIENCE
    while life.runs():
        if reached():
            return True
        if time.monotonic() > until:
            raise TimeoutError(f"nothing happened for {PATIENCE:.0f} s; it had said:\n{life.said()}")
        time.sleep(0.001)
    return False


def wait_for_moment(life: Life, kind: str, startup: float, rng: random.Random) -> bool:
    """Waits for the moment of a kill. Returns False where the run has ended before it."""
    if kind == "start":
        moment = life.began + rng.uniform(0.0, 1.2 * startup)
        return wait_for(life, lambda: time.monotonic() >= moment)
    if kind == "step":
        lines = len(logged_lines(life.workdir)) + rng.randint(1, 2 * EVERY)
        if not wait_for(life, lambda: len(logged_lines(life.workdir)) >= lines):
            return False
    else:
        folder = life.workdir / "checkpoints"
        if not wait_for(life, lambda: any("tmp" in path.name for path in folder.glob("*"))):
            return False
    time.sleep(rng.uniform(0.0, 0.03))
    return life.runs()


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


def disturb(workdir: Path, steps: int, count: int, kills: int, startup: float, rng: random.Random) -> dict:
    """Kills a run again and again, then lets it end. Returns what was counted."""
    counts: Counter[str] = Counter()
    ends: list[float] = []
    lost: list[str] = []
    before: list[int] = []  # checkpoints at the last kill
    damaged = False
    while True:
        last = counts["kills"] == kills
        life = Life(workdir, steps, count)
        try:
            if last:
                for process in life.processes:
                    process.wait()
                if status := [process.returncode for process in life.processes if process.returncode]:
                    raise ChildProcessError(f"the run ended with status {status[0]}:\n{life.said()}")
            else:
                kind = rng.choice(("start", "step", "step", "save"))
                if not wait_for_moment(life, kind, startup, rng):
                    raise ChildProcessError(f"the run ended before its last kill:\n{life.said()}")
                killed = rng.randrange(count)
                kill(life.processes[killed])
                counts["kills"] += 1
                counts[kind] += 1
                moment = time.monotonic()
                for process in life.processes:
                    process.wait(PATIENCE)
                ends.append(time.monotonic() - moment)
            found = re.search(r"going on from step (\d+)", life.said())
            if found is not None and before:
                expected = [before[-1], before[-2]] if damaged else [before[-1]]
                if int(found[1]) not in expected:
                    lost.append(f"checkpoints {before} were there, and it went on from {found[1]}")
                counts["fell back"] += damaged and int(found[1]) == before[-2]
            if found is not None or last:
                before, damaged = [], False
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"a process had not ended {PATIENCE:.0f} s after another was killed") from None
        finally:
            life.end()
        if last:
            return {**counts, "lost": lost, "ends": ends}
        if now := saved_steps(workdir):
            if not damaged:
                before = now
                if counts["kills"] % 4 == 0 and damage(workdir, rng):
                    damaged = True
                    counts["damaged"] += 1
            elif now[-1] > before[-1]:
                before = now
        print(f"{counts['kills']}/{kills} kills  {kind:<5}  checkpoints {saved_steps(workdir)}  "
              f"{len(logged_lines(workdir))} steps logged", flush=True)  # fmt: skip


def figures(workdir: Path) -> list[dict]:
    """metrics.jsonl without times."""
    lines = [json.loads(line) for line in logged_lines(workdir)]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def differences(a: Path, b: Path, step: int) -> list[str]:
    """What two finished runs do not have in common; for people."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp

    found = []
    ours, theirs = figures(a), figures(b)
    if [line["step"] for line in theirs] != list(range(1, step + 1)):
        found.append("the log does not have each step once")
    found += [f"step {x['step']}: {x} and {y}" for x, y in zip(ours, theirs, strict=False) if x != y][:3]
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    states = []
    for workdir in (a, b):
        with ocp.CheckpointManager(
            workdir / "checkpoints", item_handlers={"state": ocp.StandardCheckpointHandler()}
        ) as manager:
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one),
                manager.item_metadata(step)["state"].tree,
            )
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))).state
        states.append(dict(jax.tree_util.tree_leaves_with_path(state)))
    if states[0].keys() != states[1].keys():
        found.append("the states have other arrays")
    for name, array in states[0].items():
        if not np.array_equal(np.asarray(array), np.asarray(states[1].get(name)), equal_nan=True):
            found.append(f"{jax.tree_util.keystr(name)} differs")
    scores = [json.loads((workdir / "report.json").read_text())["scores"] for workdir in (a, b)]
    if scores[0] != scores[1]:
        found.append("the reports' scores differ")
    return found


def main() -> None:
    """Parses the command line, trains both runs, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of the run (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    if options.kills < 1 or options.processes < 1:
        parser.error("--kills and --processes must be at least 1")
    os.environ["PYTHONPATH"] = str(ROOT)
    steps, count = STEPS_A_KILL * options.kills + EVERY, options.processes
    with tempfile.TemporaryDirectory() as folder:
        whole, broken = Path(folder) / "undisturbed", Path(folder) / "killed"
        calm = Life(whole, steps, count)
        try:
            wait_for(calm, lambda: bool(logged_lines(whole)))
            startup = time.monotonic() - calm.began
            for process in calm.processes:
                process.wait()
            if any(process.returncode for process in calm.processes):
                sys.exit(f"chaos.py: the undisturbed run failed:\n{calm.said()}")
        finally:
            calm.end()
        print(f"undisturbed: {steps} steps, the first after {startup:.1f} s", flush=True)
        try:
            counted = disturb(broken, steps, count, options.kills, startup, random.Random(options.seed))
        except (ChildProcessError, TimeoutError) as error:
            sys.exit(f"chaos.py: {error}")
        found = counted["lost"] + differences(whole, broken, steps)

    print(f"\n{platform.machine()}, {os.cpu_count()} core(s), Python {platform.python_version()}, "
          f"JAX {version('jax')}, Orbax {version('orbax-checkpoint')}; seed {options.seed}")  # fmt: skip
    head = ("processes", "kills", "start", "step", "save", "damaged", "fell back", "lost", "different", "others ended")
    ends = counted["ends"] if count > 1 else []
    lost = len(counted["lost"])
    row = [count, *(counted.get(name, 0) for name in head[1:7]), lost, len(found) - lost]
    row.append(f"{median(ends):.1f} s, at most {max(ends):.1f} s" if ends else "-")
    print("  ".join(head))
    print("  ".join(str(value).rjust(len(name)) for value, name in zip(row, head, strict=True)))
    for line in found:
        print(line)
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
