"""The folder of a run: who owns it, what is written into it."""

import json
import os
import time
from pathlib import Path

import jax
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from mofme_jax.training.checkpoint import write_json


def prepare_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
    """Makes the folder, checks that it can be written and belongs to this config.

    Returns:
      Its absolute path.

    Raises:
      OSError: it cannot be made or written.
      ValueError: it belongs to a run with another config; the fields that differ are named.
    """
    path = Path(workdir).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{os.getpid()}"
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"the workdir {path} cannot be written ({error.strerror}): choose another with --workdir"
        ) from None
    mine = json.loads(config.to_json_best_effort())
    file = path / "config.json"
    if file.exists():
        try:
            theirs = json.loads(file.read_text())
        except ValueError:
            raise ValueError(f"{file} is not JSON: move the workdir away or choose another") from None
        if differing := _differences(theirs, mine):
            raise ValueError(
                f"the workdir {path} belongs to a run with another config ({'; '.join(differing)}): "
                "choose another --workdir, or run with the config it has"
            )
    elif jax.process_index() == 0:
        write_json(file, mine)
    return path


def _differences(old: dict, new: dict, where: str = "") -> list[str]:
    found = []
    for name in sorted(set(old) | set(new)):
        a, b = old.get(name), new.get(name)
        if isinstance(a, dict) and isinstance(b, dict):
            found += _differences(a, b, f"{where}{name}.")
        elif a != b:
            found.append(f"{where}{name} was {a!r}, is {b!r}")
    return found


class MetricsLog:
    """metrics.jsonl and TensorBoard events, one entry a log period.

    A resumed run drops the lines of steps that it is about to take again, so that every step stands there once.

    Args:
      workdir: the run's folder. start: steps already taken.
    """

    def __init__(self, workdir: Path, start: int):
        self._began = time.monotonic()
        self._file = workdir / "metrics.jsonl"
        if self._file.exists():
            kept = [line for line in self._file.read_text().splitlines(keepends=True) if _step_of(line) <= start]
            self._file.write_text("".join(kept))
        self._events = SummaryWriter(str(workdir / "tensorboard"), purge_step=start or None)

    @property
    def seconds(self) -> float:
        """Since the log was opened."""
        return time.monotonic() - self._began

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line and one set of scalars."""
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **figures}) + "\n")
        for name, value in figures.items():
            self._events.add_scalar(f"train/{name}", value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        self._events.close()


def _step_of(line: str) -> float:
    """The line's step; infinite for one that a kill cut short, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
