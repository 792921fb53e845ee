"""Where arrays live: one mesh, and the rule for each kind of array. One device is the trivial mesh."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh(groups: int) -> Mesh:
    """Devices in one axis, over which batches are split.

    Args:
      groups: parts into which a batch can be split. A lone process uses as many of its devices as divide it;
        several processes must use all of theirs.

    Raises:
      ValueError: several processes, whose devices do not divide `groups`.
    """
    count = jax.device_count()
    if jax.process_count() > 1 and groups % count:
        raise ValueError(f"config.train.batch makes {groups} groups, no multiple of the {count} devices: raise it")
    count = max(n for n in range(1, count + 1) if groups % n == 0)
    return jax.make_mesh((count,), (DATA_AXIS,), axis_types=(AxisType.Auto,), devices=jax.devices()[:count])


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: parameters, optimiser, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over the devices: images."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_batch(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """This process's part of a batch -> the global array, split over the batch."""
    return jax.make_array_from_process_local_data(split_over_batch(mesh), batch)
