"""What is read from a checkpoint's folder, which may be damaged or come from a stranger."""

import math
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax.traverse_util import flatten_dict, unflatten_dict

from mofme_jax.models.restorer import Restorer
from mofme_jax.training.quiet import late_reads_dropped
from mofme_jax.training.state import TrainState
from mofme_jax.weights.file import check_shapes, network_of

_MOST_UNPACKED = 16
"""Bytes of parameters for each byte of a checkpoint's files, in which there are their moments as well."""


def read_state(manager: ocp.CheckpointManager, step: int, like: TrainState) -> tuple[TrainState, dict]:
    """The state of a checkpoint, with the shapes and shardings of `like`, and its progress.

    Args:
      like: of arrays of JAX or, for what is to be read into the host's memory alone, of NumPy.

    Raises:
      Exception: of any kind, where it is damaged.
    """
    abstract = jax.tree.map(lambda x: x if isinstance(x, np.ndarray) else ocp.utils.to_shape_dtype_struct(x), like)
    with late_reads_dropped():
        found = manager.restore(
            step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        )
    sums = found.data.pop("sums", None)  # which older checkpoints lack
    if sums is not None and sums != sums_of_bits(found.state):
        raise ValueError("its bits are not those that were saved")
    return found.state, found.data


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
      tree: of arrays of at most 32 bits an element, of JAX (of any shardings) or of NumPy.
    """
    if all(isinstance(leaf, np.ndarray) for leaf in jax.tree.leaves(tree)):
        return [int(leaf.reshape(-1).view(f"u{leaf.itemsize}").sum(dtype=np.uint32)) for leaf in jax.tree.leaves(tree)]
    return [int(one) for one in jax.device_get(_sums_of_bits(tree))]


def read_network(folder: Path) -> tuple[Restorer, dict[str, Any]]:
    """The model and averaged parameters in a checkpoint's folder.

    Raises:
      Exception: of any kind, where it is damaged.
    """
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
    for path, array in jax.tree_util.tree_leaves_with_path(restored.state["ema"]):
        if not jnp.isfinite(array).all():
            raise ValueError(f"{jax.tree_util.keystr(path)} has values that are not finite: its training went wrong")
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
