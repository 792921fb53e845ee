"""Checkpoints: the state of the run, its place in the data, and its config, saved together by Orbax.

A checkpoint is complete or absent: Orbax writes into a temporary directory and renames it. In the workdir:
`checkpoints/<step>/{state,data,config}`. What happens to its files later (a machine that loses power with half of them
in its cache, a bad disk) is found out when it is restored: Orbax notices most damage, and sums over all bits the rest.
"""

import json
import math
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from mofme_jax.models.restorer import Restorer
from mofme_jax.training import processes
from mofme_jax.training.state import TrainState
from mofme_jax.weights.file import check_shapes, network_of

FOLDER = "checkpoints"
DAMAGED = "damaged"
"""Folder of the workdir for checkpoints that cannot be read."""

_MOST_UNPACKED = 16
"""Bytes of parameters for each byte of a checkpoint's files, in which there are their moments as well."""


@contextmanager
def _late_reads_dropped() -> Iterator[None]:
    """For a restore that may fail: Orbax leaves it at the first array that cannot be read.

    The reads of the others end later, in threads that tell an event loop which is closed by then, and Python would show
    a traceback for each. That alone is kept from it, from here on where the restore has failed.
    """
    shown = sys.unraisablehook

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            shown(unraisable)

    sys.unraisablehook = hook
    yield
    sys.unraisablehook = shown


class Checkpoints:
    """The checkpoints of one workdir.

    Args:
      workdir: absolute path. keep: how many of the newest stay. config: plain dict, saved with each.
    """

    def __init__(self, workdir: Path, keep: int, config: dict):
        # a killed run leaves the temporary directory of a save behind
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, create=True, cleanup_tmp_directories=True)
        self._workdir = workdir
        self._manager = ocp.CheckpointManager(workdir / FOLDER, options=options)
        self._config = config

    def latest_step(self) -> int | None:
        """Steps taken by the newest checkpoint; None without one."""
        return self._manager.latest_step()

    def save(self, state: TrainState, progress: dict) -> None:
        """Saves in the background; the next save, or `close`, waits for it. A step that is there is not saved again.

        Args:
          state: of the run.
          progress: what else a run needs to go on, such as its place in the data; JSON-able.
        """
        if int(state.step) in self._manager.all_steps():
            return
        self._manager.save(
            int(state.step),
            args=ocp.args.Composite(
                state=ocp.args.StandardSave(state),
                data=ocp.args.JsonSave(progress | {"sums": sums_of_bits(state)}),
                config=ocp.args.JsonSave(self._config),
            ),
        )

    def restore(self, like: TrainState) -> tuple[TrainState, dict]:
        """The newest whole checkpoint's state, with the shapes and shardings of `like`, and its `progress`.

        Damaged ones that are newer are set aside, with a line that says so. Of several processes the one that notices
        damage ends, and the others after it: some may have read their part well.

        Raises:
          OSError: none is whole, and nothing was moved; or one is not, of several processes.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        damaged: dict[int, str] = {}
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                with _late_reads_dropped():
                    found = self._manager.restore(
                        step,
                        args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
                    )
                sums = found.data.pop("sums", None)  # which older checkpoints lack
                if sums is not None and sums != sums_of_bits(found.state):
                    raise ValueError("its bits are not those that were saved")
            except (MemoryError, PermissionError, jax.errors.JaxRuntimeError):
                raise  # of this machine, and nothing about the files
            except Exception as error:  # Orbax, TensorStore and JSON have no type in common for damage
                damaged[step] = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                if jax.process_count() > 1:
                    folder = self._workdir / FOLDER / str(step)
                    raise OSError(
                        f"checkpoint {folder} is damaged ({damaged[step]}): move it away to go on from the one before"
                    ) from None
            else:
                self._set_aside(damaged)
                return found.state, found.data
        reasons = "; ".join(f"{step}: {reason}" for step, reason in damaged.items())
        raise OSError(
            f"no checkpoint in {self._workdir / FOLDER} can be read ({reasons}): move that folder away to begin anew"
        )

    def _set_aside(self, damaged: dict[int, str]) -> None:
        for step, reason in damaged.items():
            folder = self._workdir / DAMAGED
            folder.mkdir(exist_ok=True)
            names = (f"{step}.{n}" if n else str(step) for n in count())
            aside = next(folder / name for name in names if not (folder / name).exists())
            (self._workdir / FOLDER / str(step)).rename(aside)
            processes.say(f"checkpoint {step} is damaged ({reason}): it lies in {aside} now, the one before is taken")
        if damaged:
            self._manager.reload()

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()


@jax.jit
def _sums_of_bits(tree: Any) -> Any:
    def one(leaf):
        leaf = leaf.astype(jnp.uint8) if leaf.dtype == bool else leaf
        unsigned = jnp.dtype(f"uint{8 * leaf.dtype.itemsize}")
        return jax.lax.bitcast_convert_type(leaf, unsigned).astype(jnp.uint32).sum(dtype=jnp.uint32)

    return jnp.stack([one(leaf) for leaf in jax.tree.leaves(tree)])


def sums_of_bits(tree: Any) -> list[int]:
    """For each array the sum of its elements' bits, read as unsigned numbers, modulo 2^32.

    The sum does not depend on its order, so that it is the same on any mesh; one flipped bit always changes it.

    Args:
      tree: of arrays of at most 32 bits an element, of any shapes and shardings.
    """
    return [int(one) for one in jax.device_get(_sums_of_bits(tree))]


def load_state(workdir: Path, like: TrainState) -> tuple[TrainState, dict]:
    """The newest checkpoint of a run that may be training now: see `Checkpoints.restore`. Nothing is written.

    Raises:
      FileNotFoundError: there is none.
    """
    step = _checkpoint_folder(workdir)
    abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
    with ocp.CheckpointManager(step.parent) as manager, _late_reads_dropped():
        found = manager.restore(
            int(step.name),
            args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore()),
        )
    return found.state, found.data


def load(path: str | Path) -> tuple[Restorer, dict[str, Any]]:
    """Loads a trained restorer.

    Args:
      path: a workdir (its newest checkpoint is taken) or one checkpoint, `<workdir>/checkpoints/<step>`.

    Returns:
      The model and its averaged (EMA) parameters, on the default device.

    Raises:
      FileNotFoundError: where there is no checkpoint, saying what was looked for.
      ValueError: the checkpoint is damaged, or is not that of the network in its config.
    """
    folder = _checkpoint_folder(Path(path).expanduser().resolve())
    try:
        with _late_reads_dropped():
            return _read(folder)
    # a damaged checkpoint can fail in any way, and Orbax raises a plain Exception, whose first line says enough
    except Exception as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise ValueError(f"{folder} is damaged or no checkpoint of a run ({reason:.200}): take another one") from error


def _read(folder: Path) -> tuple[Restorer, dict[str, Any]]:
    """The model and averaged parameters in a checkpoint's folder, which may come from a stranger."""
    _check_files(folder)
    handlers = {"state": ocp.PyTreeCheckpointHandler(), "config": ocp.JsonCheckpointHandler(),
                "data": ocp.JsonCheckpointHandler()}  # fmt: skip
    with ocp.CheckpointManager(folder.parent, item_handlers=handlers) as manager:
        step = int(folder.name)
        config = manager.restore(step, args=ocp.args.Composite(config=ocp.args.JsonRestore())).config
        model = network_of(config["model"])
        stored = flatten_dict(manager.item_metadata(step)["state"].tree["ema"], sep="/")
        shapes = {name: tuple(array.shape) for name, array in stored.items()}
        check_shapes(shapes, model)
        _check_size(sum(map(math.prod, shapes.values())), folder)
        device = jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
        like = unflatten_dict(
            {name: jax.ShapeDtypeStruct(shape, jnp.float32, sharding=device) for name, shape in shapes.items()}, sep="/"
        )
        restored = manager.restore(
            step,
            args=ocp.args.Composite(
                state=ocp.args.PyTreeRestore(
                    {"ema": like},
                    restore_args=ocp.checkpoint_utils.construct_restore_args({"ema": like}),
                    partial_restore=True,
                )
            ),
        )
    return model, restored.state["ema"]


def _check_files(folder: Path) -> None:
    """Raises ValueError for anything but files and folders: a pipe would keep its reader waiting."""
    for path in folder.rglob("*"):
        if not (path.is_file() or path.is_dir()):
            raise ValueError(f"{path.relative_to(folder)} is no file")


def _check_size(parameters: int, folder: Path) -> None:
    """Raises ValueError for parameters that the files cannot hold: few bytes can unpack to all of the memory."""
    held = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    if 4 * parameters > _MOST_UNPACKED * held:
        raise ValueError(f"{parameters} parameters in files of {held} bytes")


def checkpoint_step(path: str | Path) -> int:
    """Steps taken by the checkpoint that `load` takes; raises as it does."""
    return int(_checkpoint_folder(Path(path).expanduser().resolve()).name)


def has_checkpoint(workdir: Path) -> bool:
    """Whether a run there has something to go on with."""
    return bool(_steps(workdir))


def _steps(workdir: Path) -> list[Path]:
    return [path for path in (workdir / FOLDER).glob("*") if _is_step(path.name)]


def _is_step(name: str) -> bool:
    """Whether a folder has the name of a step: not 007, which no run writes, nor ², which is a digit and no number."""
    return re.fullmatch("0|[1-9][0-9]{0,17}", name) is not None


def _checkpoint_folder(path: Path) -> Path:
    if _is_step(path.name) and (path / "config").is_dir():
        return path
    steps = _steps(path)
    if not steps:
        raise FileNotFoundError(
            f"no checkpoint in {path}: give the --workdir of a training run (with {FOLDER}/<step> inside) "
            "or one of its checkpoints; `make train` trains one in runs/default"
        )
    return max(steps, key=lambda p: int(p.name))


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole; numbers that are not finite, which JSON does not know, become null."""
    write_whole(path, json.dumps(finite_or_null(value), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, text: str) -> None:
    """Writes a file beside it first, then renames that over it: a kill leaves the old one or the new one."""
    beside = path.with_name(path.name + ".part")
    beside.write_text(text)
    beside.replace(path)


def finite_or_null(value: Any) -> Any:
    """A JSON-able value with None in the place of every infinity and NaN."""
    if isinstance(value, dict):
        return {name: finite_or_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
