"""Files from strangers: valid inputs made wrong, fed to the code that users' files reach.

    python benchmarks/fuzz.py --count 1000                      # of each kind
    python benchmarks/fuzz.py --only images torch --count 200 --seed 3 --keep found
    python benchmarks/fuzz.py --only images --seed 3 --first 17 --count 1   # input 17 of the second command again

An input is right, or is refused with the errors that the command lines print as a line (ValueError, OSError,
ImportError) and that name the file; anything else is broken: another error, more than 10 seconds, more than 1 GB beside
what the process held before, a command, a socket, a write outside of the process's own folder, the end of the process.
Then the input is kept, with what was said, and the exit status is 1.

images: read and written as `mofme restore` does, and read as the training does. checkpoints: folders of a tiny run.
configs: fields on a command line and config.json. safetensors: files of weights. torch: files of torch.save, pickles
that would run commands. folders: sets of images with links, pipes and odd names, packages and Qt containers. Inputs
follow from kind, seed and number alone. "slowest" is what reads an input; "s per 1000" counts making the inputs and
starting the process as well.
"""

import argparse
import contextlib
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path

from fuzz_worker import KINDS

ROOT = Path(__file__).parents[1]
SECONDS, BYTES = 10.0, 10**9
_START = 300.0  # seconds until a process has imported everything and read what is valid
_BROKEN = ("traceback", "hang", "memory", "forbidden", "died")


@dataclass
class Found:
    """What came of the inputs of a kind: how many by outcome, of those broken number and text; the worst figures."""

    counts: Counter = field(default_factory=Counter)
    broken: list[tuple[int, str, str]] = field(default_factory=list)
    slowest: float = 0.0
    most: int = 0
    seconds: float = 0.0


class Worker:
    """A process that is fed, see `fuzz_worker`.

    Args:
      kind: of inputs. run: folder of a tiny run. seed: of the inputs. folder: to write in.
      script: of the process.
    """

    def __init__(self, kind: str, run: Path, seed: int, folder: Path, script: str = "fuzz_worker.py"):
        (folder / "temporary").mkdir(parents=True, exist_ok=True)
        self._stderr = folder / "stderr"
        paths = [str(ROOT), str(ROOT / "benchmarks"), os.environ.get("PYTHONPATH", "")]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths)), "JAX_PLATFORMS": "cpu",
                       "JAX_DISABLE_MOST_OPTIMIZATIONS": "1", "TMPDIR": str(folder / "temporary")}  # fmt: skip
        command = [sys.executable, str(ROOT / "benchmarks" / script), kind, "--run", str(run), "--seed", str(seed)]
        command += ["--folder", str(folder)]
        with self._stderr.open("wb") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, env=environment, cwd=folder
            )
        said = self._wait(_START, None)
        if not said.get("ready"):
            self.stop()
            raise RuntimeError(f"{kind}: {said.get('error') or said}")

    def feed(self, number: int, seconds: float, most: int) -> dict:
        """The answer to an input; one that broke a bound of the process is of outcome hang, memory or died."""
        assert self.process.stdin
        self.process.stdin.write(f"{number}\n".encode())
        self.process.stdin.flush()
        answer = self._wait(seconds, most)
        return {**answer, "outcome": "memory"} if answer["bytes"] > most else answer

    def _wait(self, seconds: float, most: int | None) -> dict:
        assert self.process.stdout
        started, held = time.monotonic(), self._held()
        while True:
            taken, grown = time.monotonic() - started, self._held() - held
            if select.select([self.process.stdout], [], [], 0.02)[0]:
                if line := self.process.stdout.readline():
                    return json.loads(line)
                text = f"status {self.process.wait()}: {self._errors()}"
                self.stop()
                return dict(outcome="died", text=text, seconds=taken, bytes=grown)
            if taken > seconds or (most is not None and grown > most):
                self.process.send_signal(signal.SIGUSR1)
                time.sleep(0.5)  # until it has written its stack
                outcome, text = "hang" if taken > seconds else "memory", self._errors()
                self.stop()
                return dict(outcome=outcome, text=text, seconds=taken, bytes=grown)

    def _held(self) -> int:
        """Bytes of memory; 0 where no /proc says it."""
        try:
            return int(Path(f"/proc/{self.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        except OSError:
            return 0

    def _errors(self) -> str:
        """The end of what the process wrote to stderr."""
        return self._stderr.read_text(errors="replace")[-2000:]

    def stop(self) -> None:
        """Ends the process."""
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):
                pipe.close()  # type: ignore[union-attr]


def try_inputs(
    kind: str, numbers: range, seed: int, run: Path, folder: Path, keep: Path | None = None,
    *, seconds: float = SECONDS, most: int = BYTES, script: str = "fuzz_worker.py"
) -> Found:  # fmt: skip
    """Feeds inputs of a kind.

    Args:
      kind: one of `KINDS`. numbers: of the inputs. seed: of them all. run: folder of a tiny run.
      folder: to work in. keep: the folder for inputs that break something.
      seconds, most: what an input may take, in seconds and bytes. script: of the process that is fed.
    """
    found, worker, started = Found(), None, time.monotonic()
    try:
        for number in numbers:
            if worker is None or worker.process.poll() is not None:
                worker = Worker(kind, run, seed, folder, script)
            answer = worker.feed(number, seconds, most)
            found.counts[answer["outcome"]] += 1
            found.slowest = max(found.slowest, answer["seconds"])
            found.most = max(found.most, answer["bytes"])
            if answer["outcome"] in _BROKEN:
                found.broken.append((number, answer["outcome"], answer["text"]))
                if keep is not None:
                    _keep(folder / "in", keep / f"{kind}-seed{seed}-{number}", answer)
    finally:
        if worker is not None:
            worker.stop()
    found.seconds = time.monotonic() - started
    return found


def _keep(given: Path, place: Path, answer: dict) -> None:
    """Copies an input; links stay links, and pipes, which cannot be copied, are left out."""
    shutil.rmtree(place, ignore_errors=True)

    def pipes(folder: str, names: list[str]) -> list[str]:
        return [
            name for name in names if (path := Path(folder, name)).exists() and not (path.is_file() or path.is_dir())
        ]

    shutil.copytree(given, place, symlinks=True, ignore=pipes, dirs_exist_ok=True)
    (place / "said.json").write_text(json.dumps(answer, indent=1))


def make_run(folder: Path) -> Path:
    """Trains the least network for two steps; returns the run's folder."""
    fields = {"train.steps": 2, "train.warmup": 1, "train.batch": 2, "checkpoint_every": 1, "data.weathers": ("haze",),
              "data.crop": 16, "model.overrides.channels": (8,), "model.overrides.depth": 1,
              "model.overrides.blocks": 0, "evaluation.max_side": 24, "evaluation.tile": 16}  # fmt: skip
    command = [sys.executable, "train.py", "--config", "configs/smoke.py", "--workdir", str(folder)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    command += [f"--config.{name}={value}" for name, value in fields.items()]
    subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
    return folder


def main() -> int:
    """Feeds all kinds and prints the table; 1 where something broke."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=KINDS, default=list(KINDS), metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--count", type=int, default=100, help="inputs of each kind (default: 100)")
    parser.add_argument("--first", type=int, default=0, help="number of the first input (default: 0)")
    parser.add_argument("--seed", type=int, default=0, help="of all inputs (default: 0)")
    parser.add_argument("--run", type=Path, help="a small run for the checkpoints; one is trained otherwise")
    parser.add_argument("--keep", type=Path, help="a folder for inputs that break something")
    options = parser.parse_args()
    libraries = ("jax", "numpy", "pillow", "orbax-checkpoint", "safetensors", "ml-collections")
    print(f"{platform.platform()}; Python {platform.python_version()}, "
          + ", ".join(f"{name} {version(name)}" for name in libraries))  # fmt: skip
    print(f"seed {options.seed}, inputs {options.first} to {options.first + options.count - 1}; at most {SECONDS:.0f} "
          f"s and {BYTES / 1e6:.0f} MB an input\n")  # fmt: skip
    print(f"{'kind':<12}{'tried':>7}{'right':>7}{'refused':>9}{'traceback':>11}{'hang':>6}{'memory':>8}{'forbidden':>11}"
          f"{'died':>6}{'slowest s':>11}{'most MB':>9}{'s per 1000':>12}", flush=True)  # fmt: skip
    broken = []
    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        run = options.run
        if run is None and "checkpoints" in options.only:
            run = make_run(Path(work) / "run")
        for kind in options.only:
            numbers = range(options.first, options.first + options.count)
            folder = Path(work).resolve() / kind
            found = try_inputs(kind, numbers, options.seed, (run or Path(work)).resolve(), folder, options.keep)
            count = found.counts
            print(f"{kind:<12}{count.total():>7}{count['accepted']:>7}{count['refused']:>9}{count['traceback']:>11}"
                  f"{count['hang']:>6}{count['memory']:>8}{count['forbidden']:>11}{count['died']:>6}"
                  f"{found.slowest:>11.2f}{found.most / 1e6:>9.0f}"
                  f"{1000 * found.seconds / max(count.total(), 1):>12.0f}", flush=True)  # fmt: skip
            broken += [(kind, *one) for one in found.broken]
    for kind, number, outcome, text in broken:
        print(f"\n{outcome}: --only {kind} --seed {options.seed} --first {number} --count 1\n{text}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
