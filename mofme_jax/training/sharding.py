"""Where arrays live: one mesh, and the rule for each kind of array. One device is the trivial mesh."""

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

DATA_AXIS = "data"


def make_mesh() -> Mesh:
    """All devices of all processes in one axis, over which batches are split."""
    return jax.make_mesh((jax.device_count(),), (DATA_AXIS,), axis_types=(AxisType.Auto,))


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: parameters, optimiser, metrics."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over the devices: images."""
    return NamedSharding(mesh, PartitionSpec(DATA_AXIS))


def put_batch(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """This process's part of a batch -> the global array, split over the batch."""
    return jax.make_array_from_process_local_data(split_over_batch(mesh), batch)
