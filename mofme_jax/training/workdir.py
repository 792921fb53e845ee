"""The folder of a run: who owns it, and for how long."""

import fcntl
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import jax
from absl import logging
from ml_collections import ConfigDict

from mofme_jax.data.diagnosis import printable
from mofme_jax.files import write_json
from mofme_jax.training import processes
from mofme_jax.training.folders import BEST, FOLDER
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
def only_run(workdir: Path) -> Iterator[Callable[[ConfigDict], None]]:
    """Keeps the folder for this run while it lasts; a kill frees it as well.

    Of several processes the first asks. File systems that know no locks, as some network ones, keep nothing.

    Yields:
      What is to be called, with the config, before anything is written later on. Where the folder was removed meanwhile
      it makes it again, and keeps it. It raises OSError where that cannot be done or another run has it now, and
      ValueError where that of another config had.

    Raises:
      OSError: another run has it.
    """
    if not processes.is_first():
        yield lambda config: None
        return
    folder: int | None = _lock(workdir)

    def hold(config: ConfigDict) -> None:
        nonlocal folder
        if folder is not None:
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(folder), workdir.stat()):
                    return
            os.close(folder)
            folder = None
        prepare_workdir(workdir, config)
        folder = _lock(workdir)
        claim_workdir(workdir, config)
        processes.say(f"{workdir} was removed: it is made again, for what the run leaves from here on")

    try:
        yield hold
    finally:
        if folder is not None:
            os.close(folder)


def _lock(workdir: Path) -> int:
    """Locks the folder until what is returned is closed; raises OSError where another run has it."""
    folder = os.open(workdir, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(folder)
        raise OSError(f"another run is training in {workdir}: wait for its end, or choose another --workdir") from None
    except OSError:
        logging.warning("the folder %s cannot be locked: see that no other run trains there", workdir)
    return folder


def claim_workdir(workdir: Path, config: ConfigDict) -> None:
    """Writes config.json: the folder belongs to the run of this config. Only then, so that a config that will not do
    does not keep the corrected one out."""
    if processes.is_first():
        write_json(workdir / CONFIG_FILE, _plain(config))


def run_folder(path: str | os.PathLike) -> Path:
    """The absolute folder of a run, from that, its folder `best`, or a checkpoint, `<workdir>/checkpoints/<step>`."""
    folder = Path(path).expanduser().resolve()
    if folder.name == BEST and not (folder / CONFIG_FILE).exists():
        return folder.parent
    return folder.parent.parent if folder.parent.name in (FOLDER, BEST) and folder.name.isdigit() else folder


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
