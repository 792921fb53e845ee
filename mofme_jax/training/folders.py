"""The checkpoints in a run's folder, by their names alone."""

import os
import re
from pathlib import Path

FOLDER = "checkpoints"
BEST = "best"
"""Folder of the workdir for the checkpoint that validation found best."""
DAMAGED = "damaged"
"""Folder of the workdir for checkpoints that cannot be read."""

ITEMS = ("state", "data", "config")
"""What a checkpoint of a run consists of: a folder each."""


def steps_in(folder: Path) -> list[int]:
    """The steps whose checkpoints lie in a folder, whole or damaged, in order; what else lies there is none of them.

    Raises:
      OSError: the folder is there and cannot be listed.
    """
    try:
        names = os.listdir(folder)  # glob finds nothing where it may not look, which would begin a run anew
    except (FileNotFoundError, NotADirectoryError):
        return []
    return sorted(int(name) for name in names if is_step(name) and _may_be_checkpoint(folder / name))


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run there has something to go on with."""
    return bool(steps_in(workdir / FOLDER))


def is_checkpoint(folder: Path) -> bool:
    """Whether a run wrote the folder there: no link to one, whose target would be deleted, and nobody else's folder."""
    return not folder.is_symlink() and all((folder / item).is_dir() for item in ITEMS)


def _may_be_checkpoint(folder: Path) -> bool:
    """Whether a part of a checkpoint is in it, or nothing: a machine that loses its power may leave no more."""
    try:
        names = os.listdir(folder)
    except (FileNotFoundError, NotADirectoryError):
        return False
    return not names or not {*ITEMS, "_CHECKPOINT_METADATA"}.isdisjoint(names)


def is_step(name: str) -> bool:
    """Whether a folder has the name of a step: not 007, which no run writes, nor ², which is a digit and no number."""
    return re.fullmatch("0|[1-9][0-9]{0,17}", name) is not None


def checkpoint_step(path: str | Path) -> int:
    """Steps taken by the checkpoint that `load` takes; raises as `checkpoint_folder` does."""
    return int(checkpoint_folder(Path(path).expanduser().resolve()).name)


def checkpoint_folder(path: Path) -> Path:
    """The folder `<step>` of the checkpoint that is meant by a path: see `load`.

    Raises:
      FileNotFoundError: there is none, saying what was looked for.
    """
    if is_step(path.name) and (path / "config").is_dir():
        return path
    for folder in (path / FOLDER, path) if path.name == BEST else (path / FOLDER,):
        if steps := steps_in(folder):
            return folder / str(steps[-1])
    raise FileNotFoundError(
        f"no checkpoint in {path}: give the --workdir of a training run (with {FOLDER}/<step> inside) "
        "or one of its checkpoints; `make train` trains one in runs/default"
    )
