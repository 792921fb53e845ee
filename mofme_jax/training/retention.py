"""Which checkpoints stay, and the Orbax manager that keeps to it."""

import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import jax
import orbax.checkpoint as ocp
from orbax.checkpoint.checkpoint_managers import PolicyCheckpointInfo, PreservationContext

from mofme_jax.training import processes
from mofme_jax.training.folders import is_checkpoint
from mofme_jax.training.quiet import drop_late_ends


def open_manager(folder: Path, keep: int) -> ocp.CheckpointManager:
    """Orbax's manager of the checkpoints in a folder, which is made; `keep` of the newest stay.

    What a save that failed or was killed has left there is removed.
    """
    drop_late_ends()
    if processes.is_first():
        remove_unfinished(folder)
    options = ocp.CheckpointManagerOptions(
        preservation_policy=_NewestOfTheRun(folder, keep),
        create=True,
        # else threads of a save whose folder cannot be made wait ten minutes for it, and the process for them
        async_options=ocp.AsyncOptions(create_directories_asynchronously=False),
    )
    return ocp.CheckpointManager(folder, options=options)


def open_alone(folder: Path) -> ocp.CheckpointManager:
    """A manager with which one process of several reads states and progress by itself."""
    own = jax.process_index()
    options = ocp.options.MultiprocessingOptions(
        primary_host=own, active_processes={own}, barrier_sync_key_prefix=f"alone{own}"
    )
    handlers = {
        "state": ocp.StandardCheckpointHandler(multiprocessing_options=options),
        "data": ocp.JsonCheckpointHandler(multiprocessing_options=options),
        "config": ocp.JsonCheckpointHandler(multiprocessing_options=options),
    }
    return ocp.CheckpointManager(
        folder,
        options=ocp.CheckpointManagerOptions(create=False, multiprocessing_options=options),
        item_handlers=handlers,
    )


def remove_unfinished(folder: Path) -> None:
    """Removes what saves that came to no end have left, as far as it lets itself: threads of theirs may still write."""
    for path in folder.glob("*.orbax-checkpoint-tmp*"):
        if re.match(r"\d+\.", path.name) and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)


@dataclass
class _NewestOfTheRun:
    """Orbax's question which checkpoints are not to be deleted: all but the older ones that a run wrote."""

    folder: Path
    keep: int

    def should_preserve(
        self, checkpoints: Sequence[PolicyCheckpointInfo], *, context: PreservationContext
    ) -> Sequence[bool]:
        # the last is being saved, and is not there yet
        written = [info.step for info in checkpoints[:-1] if is_checkpoint(self.folder / str(info.step))]
        deleted = written[: max(0, len(written) + 1 - self.keep)]
        return [info.step not in deleted for info in checkpoints]
