"""Is MoFME as good as the mixture of networks it replaces, does an uncertain router beat a plain one, what trains best?

    mofme data fetch-photos
    python benchmarks/study.py --only routers --seeds 3 --jobs 2 --runs runs/study
    python benchmarks/study.py --print --markdown --plots docs --runs runs/study

Trains every arm of benchmarks/study_arms.py with seeds 0, 1, ... by train.py and configs/study.py, judges each run and
prints a table for each group of arms. A study that was stopped goes on when it is started again; what is finished and
judged is not touched. Arguments --config.field=value hold for all runs.

Protocol. Judged are the validation photographs and the embedded ones, none of which is trained on, their middle of
--side pixels, restored in tiles of 128: two draws of each of four weathers, from fixed keys, and the clean photograph;
PSNR and SSIM by the protocol native-rgb. A run's gain is the mean over weather images of the PSNR of the restored image
less that of the input. Tables give the mean over seeds +- the standard deviation over seeds. Minutes are those of
training, with as many runs side by side as there were jobs.

Differences. Arms share seeds, and with a seed the order of the data, the crops, the weather and the initial values of
what they have in common; they share the images that they are judged on. So differences are taken image by image, seed
by seed. Their mean has two 95 % intervals: Student's t over the seeds' means (would another training say the same, on
these photographs?), and a bootstrap that draws seeds and photographs again (would it on others?), in which all weather
on one photograph goes together; with few seeds this one is too narrow for what seeds do. Each interval stands for
itself: of twenty arms that change nothing, one is expected to exclude zero.
"""

import argparse
import fcntl
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO

from study_arms import GROUPS, JUDGED, Arm

ROOT = Path(__file__).parents[1]
SETTINGS, FLAGS, OUTPUT, FAILED = "settings.json", "flags.json", "output.txt", "failed.txt"


@dataclass(frozen=True)
class Settings:
    """What all runs in a folder have in common; kept in its settings.json."""

    steps: int = 3000
    side: int = 320
    overrides: tuple[str, ...] = ()

    def __str__(self) -> str:
        return " ".join((f"--steps {self.steps} --side {self.side}", *self.overrides))


@dataclass
class Jobs:
    """What runs at the moment, so that it can be stopped; cores that are free, None for any."""

    cores: queue.SimpleQueue
    running: set[subprocess.Popen] = field(default_factory=set)
    stopping: threading.Event = field(default_factory=threading.Event)


def main() -> None:
    """Parses the command line, trains what is missing, and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--only", nargs="+", choices=GROUPS, default=list(GROUPS), help="groups of arms (default: all)")
    parser.add_argument("--arms", nargs="+", metavar="ARM", help="of these groups, only these arms are trained")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm (default: %(default)s)")
    parser.add_argument("--without", type=int, default=0, metavar="N", help="leave the first N seeds out: what was\n"
                        "found on these is confirmed on the others")  # fmt: skip
    parser.add_argument(
        "--jobs", type=int, default=1, help="runs side by side, each on one core (default: %(default)s)"
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="folder (default: %(default)s)")
    parser.add_argument("--steps", type=int, help=f"of a run (default: {Settings.steps})")
    parser.add_argument("--side", type=int, help=f"pixels of the judged middle (default: {Settings.side})")
    parser.add_argument("--print", action="store_true", help="train nothing: print what is there")
    parser.add_argument("--markdown", action="store_true", help="tables for the documentation")
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write results_*.png there")
    parser.add_argument("--judge", type=Path, metavar="RUN", help=argparse.SUPPRESS)
    options, rest = parser.parse_known_args()
    if wrong := [flag for flag in rest if not flag.startswith("--config.") or "=" not in flag]:
        parser.error(f"unexpected argument {wrong[0]!r}; fields of all runs are set as --config.field=value")
    if options.judge:
        from study_judge import judge  # only who judges waits for JAX

        return judge(options.judge, read_settings(options.judge.parent).side)
    if min(options.seeds, options.jobs) < 1 or not 0 <= options.without < options.seeds:
        parser.error("--seeds and --jobs must be at least 1, and --without less than --seeds")
    if (options.steps or 2) < 2 or (options.side or 16) < 16:
        parser.error("--steps must be at least 2, --side at least 16")
    arms = {arm.name: arm for name in options.only for arm in GROUPS[name].arms}
    if unknown := set(options.arms or ()) - set(arms):
        parser.error(f"--arms: there is no {min(unknown)} in {', '.join(options.only)}, which have {', '.join(arms)}")
    runs = options.runs.expanduser().absolute()
    try:
        settings = agree(runs, options, tuple(rest))
        check_flags(runs, arms, settings)
        if not options.print:
            wanted = [arms[name] for name in options.arms or arms]
            train(runs, [(arm, seed) for seed in range(options.without, options.seeds) for arm in wanted], options.jobs)
        from study_tables import print_study, read_runs

        found = read_runs(runs, list(arms), options.without)
        print_study(found, options.only, asdict(settings), options.markdown)
        if options.plots:
            from study_plots import draw

            draw(found, options.only, options.plots)
    except (OSError, ValueError) as error:
        sys.exit(f"study.py: {error}")


def agree(runs: Path, options: argparse.Namespace, overrides: tuple[str, ...]) -> Settings:
    """The settings of a folder of runs; those of a new one are written down.

    Raises:
      FileNotFoundError: nothing is to be trained, and there is nothing.
      ValueError: the command says something else than the runs there were made with.
    """
    said = {name: value for name in ("steps", "side") if (value := getattr(options, name)) is not None}
    if overrides:
        said["overrides"] = overrides
    if not (runs / SETTINGS).exists():
        if options.print:
            raise FileNotFoundError(f"no study in {runs}: say with --runs where it is, or train it without --print")
        runs.mkdir(parents=True, exist_ok=True)
        settings = Settings(**said)
        (runs / SETTINGS).write_text(json.dumps(asdict(settings), indent=2) + "\n")
        return settings
    settings = read_settings(runs)
    wanted = settings if options.print and not said else Settings(**said)
    if wanted != settings:
        raise ValueError(f"the runs in {runs} were made with {settings}, not {wanted}: choose another --runs")
    return settings


def read_settings(runs: Path) -> Settings:
    """The settings of a folder of runs."""
    try:
        kept = json.loads((runs / SETTINGS).read_text())
        return Settings(kept["steps"], kept["side"], tuple(kept["overrides"]))
    except FileNotFoundError:
        raise FileNotFoundError(f"no {runs / SETTINGS}: {runs} is not the folder of a study") from None
    except (ValueError, KeyError, TypeError):
        raise ValueError(f"{runs / SETTINGS} cannot be read: move it and the runs beside it away") from None


def train_flags(arm: Arm, seed: int, settings: Settings) -> list[str]:
    """What train.py is told, but for the workdir: warmup and checkpoints in proportion to the run."""
    steps = settings.steps
    return [
        "--config=configs/study.py",
        f"--config.seed={seed}",
        f"--config.train.steps={steps}",
        f"--config.train.warmup={max(1, steps // 15)}",
        f"--config.checkpoint_every={-(-steps // 6)}",
        *arm.flags(),
        *settings.overrides,
    ]


def check_flags(runs: Path, arms: dict[str, Arm], settings: Settings) -> None:
    """Raises ValueError for a run that was made by an arm as it is no more."""
    for name, arm in arms.items():
        for file in runs.glob(f"{name}-*/{FLAGS}"):
            seed = file.parent.name.removeprefix(f"{name}-")
            if seed.isdigit() and json.loads(file.read_text()) != train_flags(arm, int(seed), settings):
                raise ValueError(f"{file.parent} was trained with other values than {name} has now: move it away")


def train(runs: Path, wanted: list[tuple[Arm, int]], count: int) -> None:
    """Trains and judges the runs that are not, `count` side by side; says how far it is after each."""
    settings = read_settings(runs)
    missing = [(arm, seed) for arm, seed in wanted if not (runs / f"{arm.name}-{seed}" / JUDGED).exists()]
    done = len(wanted) - len(missing)
    print(f"{done}/{len(wanted)} runs are there already", flush=True)
    jobs = Jobs(free_cores(count))

    def stop(number: int, frame: object) -> None:
        jobs.stopping.set()
        for process in list(jobs.running):
            process.send_signal(signal.SIGTERM)

    handlers = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    began = time.monotonic()
    with ThreadPoolExecutor(count) as pool:
        futures = [pool.submit(work, runs, arm, seed, settings, jobs) for arm, seed in missing]
        for n, future in enumerate(as_completed(futures), 1):
            said = future.result()
            if not jobs.stopping.is_set():
                each = (time.monotonic() - began) / n
                print(f"{done + n}/{len(wanted)} runs ({(done + n) / len(wanted):4.0%})  {3600 / each:.1f} runs/h  "
                      f"{(len(missing) - n) * each / 60:.0f} min left  {said}", flush=True)  # fmt: skip
    for number, handler in handlers.items():
        signal.signal(number, handler)
    if jobs.stopping.is_set():
        sys.exit("study.py: stopped; the same command goes on")


def free_cores(count: int) -> queue.SimpleQueue:
    """A core for each of several jobs; None for one alone, for more than there are cores, where none can be chosen."""
    cores: queue.SimpleQueue = queue.SimpleQueue()
    known = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    for n in range(count):
        cores.put(known[n] if 1 < count <= len(known) else None)
    return cores


def work(runs: Path, arm: Arm, seed: int, settings: Settings, jobs: Jobs) -> str:
    """Trains and judges one run. Returns a line about it."""
    name, run = f"{arm.name}-{seed}", runs / f"{arm.name}-{seed}"
    run.mkdir(exist_ok=True)
    core = jobs.cores.get()
    began = time.monotonic()
    try:
        with (run / OUTPUT).open("a") as output:
            # the processes have the file open as well: whoever finds it locked knows that they still run, though the
            # study that started them was killed
            while not jobs.stopping.is_set() and not locked(output):
                time.sleep(0.5)
            if (run / JUDGED).exists():
                return f"{name} was finished by another study"
            flags = train_flags(arm, seed, settings)
            (run / FLAGS).write_text(json.dumps(flags, indent=2) + "\n")
            (run / FAILED).unlink(missing_ok=True)
            judging = [__file__, f"--judge={run}"]
            for command in (["train.py", f"--workdir={run}", *flags], judging):
                if jobs.stopping.is_set():
                    return ""
                status = call([sys.executable, *command], output, core, jobs)
                if status and not jobs.stopping.is_set():
                    said = last_line(run / OUTPUT) if status > 0 else f"ended by signal {-status}"
                    (run / FAILED).write_text(said + "\n")
                    return f"{name} FAILED: {said}"
    finally:
        jobs.cores.put(core)
    return f"{name} in {(time.monotonic() - began) / 60:.1f} min"


def locked(output: IO[str]) -> bool:
    """Locks the file for this process and those that inherit it; False where another holds it."""
    try:
        fcntl.flock(output, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def call(command: list[str], output: IO[str], core: int | None, jobs: Jobs) -> int:
    """Runs a command in the repository, on one core where one is given. Returns its exit status."""
    # in a group of its own: Ctrl-C comes to this process alone, which ends the others
    process = subprocess.Popen(
        command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=output, stderr=output, process_group=0
    )
    jobs.running.add(process)
    if core is not None:
        os.sched_setaffinity(process.pid, {core})  # at once: the threads it will have inherit it
    if jobs.stopping.is_set():  # set while this process was started
        process.send_signal(signal.SIGTERM)
    status = process.wait()
    jobs.running.discard(process)
    return status


def last_line(file: Path) -> str:
    """What a process said last: its error."""
    lines = file.read_text(errors="replace").strip().splitlines()
    return lines[-1] if lines else "no output"


if __name__ == "__main__":
    main()
