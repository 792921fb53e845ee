"""Does a run that is killed again and again end as one that nobody disturbed?

    python benchmarks/chaos.py --kills 50
    python benchmarks/chaos.py --kills 20 --processes 2
    python benchmarks/chaos.py --kills 10 --devices 2 1 4

Trains configs/smoke.py twice with one seed, a checkpoint every ten steps: once undisturbed, and once killed by SIGKILL,
started again, killed again. Where each kill falls is drawn from --seed:

  start   some time after the command began: while Python, JAX and the data come up, or the step compiles; at the
          latest behind the first step
  step    some milliseconds after a step was logged
  save    some milliseconds after a save began to write, so that it is cut short

After every fourth kill the newest checkpoint is damaged as well, where there is one before it: one of its files is
cut at random, as by a machine that lost its power. Of several processes one, drawn too, is killed; the others have to
end by themselves, and how long that takes is the last column. They are all started again.

What must hold, or the exit status is 1: a run goes on from the newest whole checkpoint that there was when it was
killed ("lost" counts how often it did not), every figure logged is that of the undisturbed run to the last bit, each
step once, and so are the parameters, the optimiser's state and the averages at the end, and the scores of the report.

With several numbers of --devices, every start of the killed run draws one, and one run is left undisturbed on each.
Sums are taken in another order then, which changes their last digits, and training makes ten times of that in twenty
steps. So losses of the first twenty steps must be the same within one part in 100,000; later ones, the state's arrays
by their norms, and PSNRs may differ from those of the first number by up to three times as much as the undisturbed runs
do. Both differences are printed.
"""

import argparse
import os
import platform
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import median

from chaos_compare import apart, differences, skipped, too_far
from chaos_run import EVERY, Life, damage, kill, logged_lines, saved_steps

STEPS_A_KILL = 15
"""More than the steps that a life of the run adds in the mean, so that it does not end before the last kill."""
PATIENCE = 400.0
"""Seconds after which a process that neither goes on nor ends counts as hanging: more than the five minutes for which
JAX waits for a process that has not joined yet."""


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
        # a start may be quicker than the first was
        return wait_for(life, lambda: time.monotonic() >= moment or re.search("^step ", life.said(), re.M) is not None)
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


def disturb(
    workdir: Path, steps: int, count: int, devices: Sequence[int], kills: int, startup: float, rng: random.Random
) -> dict:
    """Kills a run again and again, then lets it end. Returns what was counted."""
    counts: Counter[str] = Counter()
    ends: list[float] = []
    lost: list[str] = []
    before: list[int] = []  # checkpoints at the last kill
    damaged = False
    while True:
        last = counts["kills"] == kills
        life = Life(workdir, steps, count, rng.choice(devices))
        try:
            if last:
                life.wait()
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


def main() -> None:
    """Parses the command line, trains both runs, and prints what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--kills", type=int, default=10, help="(default: %(default)s)")
    parser.add_argument("--processes", type=int, default=1, help="of the run (default: %(default)s)")
    parser.add_argument(
        "--devices", type=int, nargs="+", default=[2], metavar="N", help="of all processes together (default: 2)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the moments (default: %(default)s)")
    options = parser.parse_args()
    count, devices = options.processes, options.devices
    if options.kills < 1 or count < 1:
        parser.error("--kills and --processes must be at least 1")
    if any(number < 1 or number % count for number in devices):
        parser.error(f"--devices must be split evenly among {count} process(es)")
    steps = STEPS_A_KILL * options.kills + EVERY
    with tempfile.TemporaryDirectory() as folder:
        broken = Path(folder) / "killed"
        wholes = [Path(folder) / f"undisturbed on {number}" for number in dict.fromkeys(devices)]
        try:
            startups = [
                leave_alone(Life(whole, steps, count, number))
                for whole, number in zip(wholes, dict.fromkeys(devices), strict=True)
            ]
            print(f"undisturbed: {steps} steps, the first after {startups[0]:.1f} s", flush=True)
            counted = disturb(broken, steps, count, devices, options.kills, startups[0], random.Random(options.seed))
        except (ChildProcessError, TimeoutError) as error:
            sys.exit(f"chaos.py: {error}")
        most, usual = {}, {}
        if len(wholes) == 1:
            found = differences(wholes[0], broken, steps)
        else:
            others = [apart(wholes[0], other, steps) for other in wholes[1:]]
            usual = {name: max(other[name] for other in others) for name in others[0]}
            most = apart(wholes[0], broken, steps)
            found = skipped(broken, steps) + too_far(most, usual)

    print(f"\n{platform.machine()}, {os.cpu_count()} core(s), Python {platform.python_version()}, "
          f"JAX {version('jax')}, Orbax {version('orbax-checkpoint')}; seed {options.seed}")  # fmt: skip
    ends = counted["ends"] if count > 1 else []
    names = ("start", "step", "save", "damaged", "fell back")
    row = {
        "processes": count,
        "devices": " or ".join(map(str, devices)),
        "kills": options.kills,
        **{name: counted.get(name, 0) for name in names},
        "lost": len(counted["lost"]),
        "different": len(found),
        "others ended": f"{median(ends):.1f} s, at most {max(ends):.1f} s" if ends else "-",
    }
    width = {name: max(len(name), len(str(value))) for name, value in row.items()}
    print("  ".join(name.rjust(width[name]) for name in row))
    print("  ".join(str(value).rjust(width[name]) for name, value in row.items()))
    for name, value in most.items():
        print(f"largest difference of {name}: {value:.1e}; of undisturbed runs {usual[name]:.1e}")
    for line in (*counted["lost"], *found):
        print(line)
    sys.exit(1 if found or counted["lost"] else 0)


def leave_alone(life: Life) -> float:
    """Lets a run end undisturbed. Returns after how many seconds it had taken a step; raises ChildProcessError."""
    try:
        wait_for(life, lambda: bool(logged_lines(life.workdir)))
        startup = time.monotonic() - life.began
        life.wait()
        return startup
    finally:
        life.end()


if __name__ == "__main__":
    main()
