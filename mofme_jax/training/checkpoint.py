"""Checkpoints: the state of the run, its place in the data, and its config, saved together by Orbax.

A checkpoint is complete or absent: Orbax writes into a temporary directory and renames it. In the workdir:
`checkpoints/<step>/{state,data,config}`. What happens to its files later (a machine that loses power with half of them
in its cache, a bad disk) is found out when it is restored: Orbax notices most damage, and sums over all bits the rest.
"""

import errno
import os
from collections.abc import Callable
from contextlib import closing, suppress
from itertools import count
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp

from mofme_jax.files import NotSaved, cannot_be_read, first_line, reason, why_not_written
from mofme_jax.models.restorer import Restorer
from mofme_jax.training import processes
from mofme_jax.training.folders import DAMAGED, FOLDER, checkpoint_folder, steps_in
from mofme_jax.training.quiet import late_reads_dropped
from mofme_jax.training.reading import read_network, read_state, sums_of_bits
from mofme_jax.training.retention import open_alone, open_manager, remove_unfinished
from mofme_jax.training.state import TrainState

_MOST_FAILED = 3
"""Saves that fail one after the other before a run gives up."""

OF_THE_MACHINE = (MemoryError, jax.errors.JaxRuntimeError)
"""Errors that say nothing about a disk."""


class Checkpoints:
    """The checkpoints of one workdir.

    A save that fails does not end the run: the one before is there, and the next is tried. `_MOST_FAILED` in a row, the
    last one, or one of several processes do, because what is trained from there on would be lost.

    Args:
      workdir: absolute path. keep: how many of the newest stay. config: plain dict, saved with each.
      hold: see `only_run`; called before anything is written.
    """

    def __init__(self, workdir: Path, keep: int, config: dict, hold: Callable[[], None] = lambda: None):
        self._workdir, self._keep, self._config, self._hold = workdir, keep, config, hold
        self._manager = open_manager(workdir / FOLDER, keep)
        self._saving: int | None = None
        self._failed = 0
        self._given_up: NotSaved | None = None

    def latest_step(self) -> int | None:
        """Steps taken by the newest checkpoint; None without one."""
        return max(self._steps(), default=None)

    def _steps(self) -> list[int]:
        """Of this run's checkpoints; what else is named as a step is none of them."""
        theirs = set(steps_in(self._workdir / FOLDER))
        return [step for step in self._manager.all_steps() if step in theirs]

    def save(self, state: TrainState, progress: dict) -> None:
        """Saves in the background; the next save, or `close`, waits for it. A step that is there is not saved again.

        Args:
          state: of the run.
          progress: what else a run needs to go on, such as its place in the data; JSON-able.

        Raises:
          NotSaved: it failed too often in a row.
        """
        self.wait()
        self._saving = step = int(state.step)
        try:
            processes.first_does(self._hold)
            if self._failed:
                self._manager = open_manager(self._workdir / FOLDER, self._keep)
            if processes.first_says(step in self._steps()):
                return
            begin_save(self._manager, self._workdir / FOLDER, state, progress, self._config)
        except OF_THE_MACHINE:
            raise
        except Exception as error:
            self._failure(error)
            return
        if self._failed:  # a run that is in danger of losing what it does knows at once
            self.wait()

    def wait(self, last: bool = False) -> None:
        """Waits for the save that goes on. Raises NotSaved as `save` does, and where the `last` one failed."""
        if self._saving is None:
            return
        try:
            self._manager.wait_until_finished()
        except OF_THE_MACHINE:
            raise
        except Exception as error:
            if not (self._workdir / FOLDER / str(self._saving)).exists():
                self._failure(error, last)
                return
            processes.say(f"checkpoint {self._saving} is saved, but an older one stays {why_not_written(error)}")
            self._manager.reload()
        if self._failed:
            processes.say(f"checkpoint {self._saving} is saved")
            remove_unfinished(self._workdir / FOLDER)  # what threads of the failed saves have written late
        self._saving, self._failed, self._given_up = None, 0, None

    def _failure(self, error: Exception, last: bool = False) -> None:
        """Tells of a save that failed. Raises NotSaved where the run has to end."""
        place, self._saving = self._workdir / FOLDER / str(self._saving), None
        if jax.process_count() == 1:  # else the run ends, and one of those for whom closing waits may be gone
            with suppress(Exception):  # the same error again
                self._manager.close()
        self._failed += 1
        newest = max(steps_in(self._workdir / FOLDER), default=None)
        then = "begins anew" if newest is None else f"goes on from step {newest}, which is saved"
        told = f"checkpoint {place} cannot be written {why_not_written(error)}"
        self._given_up = NotSaved(f"{told}; the same command {then}")
        if last or self._failed == _MOST_FAILED or jax.process_count() > 1:
            raise self._given_up
        processes.say(f"{told}; training goes on, and tries at the next; a stopped run {then}")

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest whole checkpoint's state, with the shapes and shardings of `like`, and its `progress`.

        Damaged ones that are newer are set aside, with a line that says so. Of several processes the first reads alone,
        into its host's memory, what all are going to read, as a part of it may be whole.

        Raises:
          OSError: none is whole, or one does not let itself be read; nothing was moved.
        """
        if jax.process_count() == 1:
            return self._newest_whole(self._manager, like)

        def look():
            host = jax.tree.map(lambda x: np.broadcast_to(np.zeros((), x.dtype), x.shape), like)
            with closing(open_alone(self._workdir / FOLDER)) as manager:
                self._newest_whole(manager, host)

        processes.first_does(look)
        self._manager.reload()  # some may have been set aside
        step = processes.first_says(self.latest_step() or 0)
        try:
            return read_state(self._manager, step, like)
        except OF_THE_MACHINE:
            raise
        except Exception as error:
            raise OSError(
                f"process 0 can read {self._workdir / FOLDER / str(step)}, and process {jax.process_index()} "
                f"cannot ({first_line(error)}): all have to see the same folder"
            ) from None

    def _newest_whole(self, manager: ocp.CheckpointManager, like: TrainState) -> tuple[TrainState, dict]:
        damaged: dict[int, str] = {}
        for step in sorted(self._steps(), reverse=True):
            try:
                found = read_state(manager, step, like)
            except OF_THE_MACHINE:
                raise
            except Exception as error:  # Orbax, TensorStore and JSON have no type in common for damage
                if cannot_be_read(error):
                    raise may_be_whole(self._workdir / FOLDER / str(step), error) from error
                damaged[step] = first_line(error)
            else:
                self._set_aside(damaged)
                manager.reload()
                return found
        reasons = "; ".join(f"{step}: {why}" for step, why in damaged.items())
        raise OSError(
            f"no checkpoint in {self._workdir / FOLDER} can be read ({reasons}): move that folder away to begin anew"
        )

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, why in damaged.items():
            folder = self._workdir / DAMAGED
            folder.mkdir(exist_ok=True)
            names = (f"{step}.{n}" if n else str(step) for n in count())
            aside = next(folder / name for name in names if not (folder / name).exists())
            (self._workdir / FOLDER / str(step)).rename(aside)
            processes.say(f"checkpoint {step} is damaged ({why}): it lies in {aside} now, the one before is taken")

    def close(self) -> None:
        """Waits until everything is on disk.

        Raises:
          NotSaved: the last save failed.
        """
        self.wait(last=True)
        if self._given_up:
            raise self._given_up
        self._manager.close()


def may_be_whole(place: Path, error: Exception) -> OSError:
    """What to raise for a checkpoint that does not let itself be read."""
    return OSError(
        f"checkpoint {place} cannot be read ({reason(error)}), and may be whole: see to that, or move it away to go on "
        "without it"
    )


def begin_save(manager: ocp.CheckpointManager, folder: Path, state: TrainState, progress: dict, config: dict) -> None:
    """Begins to save a step that is not there yet; `manager.wait_until_finished` ends it.

    Raises:
      Exception: of any kind, here or there, where that cannot be written.
    """
    place = folder / str(int(state.step))
    if os.path.lexists(place):  # Orbax would delete it
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(place))
    manager.save(
        int(state.step),
        force=True,  # else Orbax does nothing, and says so to nobody, where there is a later step
        args=ocp.args.Composite(
            state=ocp.args.StandardSave(state),
            data=ocp.args.JsonSave(progress | {"sums": sums_of_bits(state)}),
            config=ocp.args.JsonSave(config),
        ),
    )


def load_state(workdir: Path, like: TrainState) -> tuple[TrainState, dict]:
    """The newest checkpoint of a run that may be training now: see `Checkpoints.restore`. Nothing is written.

    Raises:
      FileNotFoundError: there is none.
    """
    step = checkpoint_folder(workdir)
    with ocp.CheckpointManager(step.parent) as manager:
        return read_state(manager, int(step.name), like)


def load(path: str | Path) -> tuple[Restorer, dict[str, Any]]:
    """Loads a trained restorer.

    Args:
      path: a workdir (its newest checkpoint is taken), its folder `best`, or one checkpoint,
        `<workdir>/checkpoints/<step>`.

    Returns:
      The model and its averaged (EMA) parameters, on the default device.

    Raises:
      FileNotFoundError: where there is no checkpoint, saying what was looked for.
      OSError: it does not let itself be read.
      ValueError: the checkpoint is damaged, or is not that of the network in its config.
    """
    folder = checkpoint_folder(Path(path).expanduser().resolve())
    try:
        with late_reads_dropped():
            return read_network(folder)
    # a damaged checkpoint can fail in any way, and Orbax raises a plain Exception, whose first line says enough
    except Exception as error:
        if cannot_be_read(error):
            raise may_be_whole(folder, error) from error
        raise ValueError(
            f"{folder} is damaged or no checkpoint of a run ({first_line(error)}): take another one"
        ) from error
