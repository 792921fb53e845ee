"""The folder of a run: who owns it, what is written into it."""

import fcntl
import json
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Self

import jax
from absl import logging
from ml_collections import ConfigDict
from tensorboardX import SummaryWriter

from mofme_jax.data.diagnosis import printable
from mofme_jax.training import processes
from mofme_jax.training.checkpoint import FOLDER, finite_or_null, write_json, write_whole
from mofme_jax.training.options import Options, read_options, with_later_fields

CONFIG_FILE = "config.json"


def prepare_workdir(workdir: str | os.PathLike, config: ConfigDict) -> Path:
    """Makes the folder, checks that it can be written and belongs to no other config.

    Returns:
      Its absolute path.

    Raises:
      OSError: it cannot be made or written.
      ValueError: it belongs to a run with another config; the fields that differ are named.
    """
    path = Path(workdir).expanduser().absolute()
    try:
        path.mkdir(parents=True, exist_ok=True)
        probe = path / f".write-{jax.process_index()}-{os.getpid()}"  # hosts may share folder and process number
        probe.touch()
        probe.unlink()
    except OSError as error:
        raise OSError(
            f"the workdir {path} cannot be written ({error.strerror}): choose another with --workdir"
        ) from None
    file = path / CONFIG_FILE
    if file.exists():
        try:
            theirs = json.loads(file.read_text())
        except (ValueError, RecursionError):
            theirs = None
        if not isinstance(theirs, dict):
            raise ValueError(f"{file} is not the config of a run: move it away, or choose another --workdir")
        # a run may go on on other devices
        theirs, ours = (
            {k: v for k, v in fields.items() if k != "mesh"} for fields in (with_later_fields(theirs), _plain(config))
        )
        if differing := _differences(theirs, ours):
            raise ValueError(
                f"the workdir {path} belongs to a run with another config ({'; '.join(differing)}): "
                "choose another --workdir, or run with the config it has"
            )
    return path


@contextmanager
def only_run(workdir: Path) -> Iterator[None]:
    """Keeps the folder for this run while it lasts; a kill frees it as well.

    Of several processes the first asks. File systems that know no locks, as some network ones, keep nothing.

    Raises:
      OSError: another run has it.
    """
    if not processes.is_first():
        yield
        return
    folder = os.open(workdir, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise OSError(
                f"another run is training in {workdir}: wait for its end, or choose another --workdir"
            ) from None
        except OSError:
            logging.warning("the folder %s cannot be locked: see that no other run trains there", workdir)
        yield
    finally:
        os.close(folder)


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json: the folder belongs to the run of this config. Only then, so that a config that will not do
    does not keep the corrected one out."""
    if processes.is_first():
        write_json(workdir / CONFIG_FILE, _plain(config))


def run_folder(path: str | os.PathLike) -> Path:
    """The absolute folder of a run, from that or one of its checkpoints, `<workdir>/checkpoints/<step>`."""
    folder = Path(path).expanduser().resolve()
    return folder.parent.parent if folder.parent.name == FOLDER and folder.name.isdigit() else folder


def options_of_run(folder: Path) -> Options:
    """The options that a run was begun with.

    Raises:
      FileNotFoundError: the folder is not that of a run.
      ValueError: its config.json is damaged, or of another version.
    """
    file = folder / CONFIG_FILE
    if file.exists() and not file.is_file():  # a pipe would keep its reader waiting
        raise ValueError(f"{file} is not the config of a run: it is no file")
    try:
        return read_options(ConfigDict(json.loads(file.read_text())))
    except (FileNotFoundError, NotADirectoryError):
        raise FileNotFoundError(f"no {file}: {folder} is not the folder of a training run") from None
    except (ValueError, TypeError, AttributeError, RecursionError) as error:  # the last two for JSON that is no section
        raise ValueError(f"{file} is not the config of a run: {printable(str(error))}") from None


def _plain(config: ConfigDict) -> dict:
    return json.loads(config.to_json_best_effort())


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

    A resumed run drops the lines of steps that it is about to take again, so that every step stands there once. A
    figure that is not finite is null, and no point in TensorBoard. Of several processes only the first writes.

    Args:
      workdir: the run's folder. start: steps already taken.
    """

    def __init__(self, workdir: Path, start: int):
        self._file = workdir / "metrics.jsonl"
        self._events: SummaryWriter | None = None
        if not processes.is_first():
            return
        if self._file.exists():
            kept = [line for line in self._file.read_text().splitlines(keepends=True) if _step_of(line) <= start]
            write_whole(self._file, "".join(kept))  # a kill here must not lose what an earlier run logged
        # files are named by the second: without the suffix a run killed at once would be written over
        self._events = SummaryWriter(
            str(workdir / "tensorboard"), purge_step=start + 1, filename_suffix=f".from_{start + 1}"
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Appends one line and one set of scalars."""
        if self._events is None:
            return
        with self._file.open("a") as file:
            file.write(json.dumps({"step": step, **finite_or_null(figures)}, allow_nan=False) + "\n")
        for name, value in figures.items():
            if math.isfinite(value):
                self._events.add_scalar(f"train/{name}", value, step)
        self._events.flush()

    def close(self) -> None:
        """Closes the event file."""
        if self._events is not None:
            self._events.close()


def _step_of(line: str) -> float:
    """The line's step; infinite for one that a kill cut short, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
