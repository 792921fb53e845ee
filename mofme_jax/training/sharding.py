"""Where arrays live: one mesh, and the rule for each kind of array. One device is the trivial mesh.

The mesh always has three axes, of size 1 unless asked for:
- `data`: batches are split over it, parameters are the same along it;
- `fsdp`: batches are split over it as well, and so is every large parameter with its optimiser state and average;
- `expert`: stacked experts are split over it; along it, batches are the same.
"""

import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from absl import logging
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from mofme_jax.models.dispatch import BATCH_AXES
from mofme_jax.models.film import EXPERT_AXIS, axis_names

DATA_AXIS, FSDP_AXIS = BATCH_AXES

SPLIT_FROM = 2**14
"""Elements from which an array is split over `fsdp`. Gathering 64 KiB takes about as long as starting the exchange, a
few microseconds, on the links of a TPU or between GPUs; all smaller arrays together are below 1 % of `base`."""


def make_mesh(
    groups: int, *, data: int = -1, fsdp: int = 1, expert: int = 1, devices: Sequence[jax.Device] | None = None
) -> Mesh:
    """The mesh (data, fsdp, expert).

    Devices are taken process by process, so that the rows of a batch that a process's devices hold lie together, in
    the order of the processes: `training_stream` deals them out so. (`jax.make_mesh` may permute devices.)

    Args:
      groups: parts into which a batch can be split.
      data: size of that axis; -1: the rest of the devices. A lone process uses as many of them as divide `groups`.
      fsdp, expert: sizes of those axes.
      devices: to take; None: all.

    Raises:
      ValueError: sizes that do not fit the devices, the processes or the batch; the fields to change are named.
    """
    found = sorted(jax.devices() if devices is None else devices, key=lambda device: (device.process_index, device.id))
    processes = len({device.process_index for device in found})
    sizes = f"config.mesh.fsdp={fsdp} x config.mesh.expert={expert}"
    if data == -1:
        rest = len(found) // (fsdp * expert)
        fitting = [n for n in range(1, rest + 1) if groups % (n * fsdp) == 0]
        data = max(fitting, default=1) if processes == 1 else rest
    else:
        sizes = f"config.mesh.data={data} x {sizes}"
    count = data * fsdp * expert
    if not 0 < count <= len(found):
        raise ValueError(
            f"{sizes} need {max(1, data) * fsdp * expert} devices; there are {len(found)} "
            "(of a CPU as many as config.train.host_devices says, but no more than its cores): lower them"
        )
    if processes > 1 and count != len(found):
        raise ValueError(f"{sizes} use {count} of {len(found)} devices; {processes} processes must use all of theirs")
    if processes > 1 and len(found) // processes % expert:
        raise ValueError(f"config.mesh.expert={expert} must divide the {len(found) // processes} devices of a process")
    if groups % (data * fsdp):
        raise ValueError(
            f"config.train.batch can be split into {groups} parts (by weathers and config.train.accumulate), no "
            f"multiple of the {data * fsdp} of config.mesh: raise it"
        )
    places = np.array(found[:count]).reshape(data, fsdp, expert)
    return Mesh(places, (DATA_AXIS, FSDP_AXIS, EXPERT_AXIS), axis_types=(AxisType.Auto,) * 3)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same on every device: metrics, small parameters."""
    return NamedSharding(mesh, PartitionSpec())


def split_over_batch(mesh: Mesh) -> NamedSharding:
    """Leading axis over `data` and `fsdp`: images."""
    return NamedSharding(mesh, PartitionSpec(BATCH_AXES))


def state_shardings(state: Any, mesh: Mesh) -> Any:
    """The rule for parameters and all that is shaped like them: their average, Adam's moments.

    Stacked experts are split over `expert` along their first axis. Every array of `SPLIT_FROM` elements or more is
    split over `fsdp` along its largest other axis that can be.

    Args:
      state: a TrainState or a part of one, or their shapes.

    Returns:
      The same tree of shardings.
    """

    def place(leaf, names):
        axes = _expert_axes(leaf, names, mesh)
        free = [i for i, name in enumerate(names) if name is None and _divides(mesh.shape[FSDP_AXIS], leaf.shape[i])]
        if free and leaf.size >= SPLIT_FROM:
            axes[max(free, key=lambda i: leaf.shape[i])] = FSDP_AXIS
        return NamedSharding(mesh, PartitionSpec(*axes))

    return jax.tree.map(place, state, axis_names(state))


def gather(params: Any, mesh: Mesh, *, experts: bool = True) -> Any:
    """Inside a compiled step: the parameters whole, to compute the network with; their gradients come back split.

    Left to itself XLA may split activations the way a parameter is, and images then travel instead of parameters; or
    bring a parameter together anew for every use.

    Args:
      params: split as `state_shardings` says.
      mesh: the devices.
      experts: whether experts, too, are made whole along `expert`. Not so where every device computes its own experts
        for every token.
    """
    if mesh.shape[FSDP_AXIS] == 1 and (mesh.shape[EXPERT_AXIS] == 1 or not experts):
        return params
    split = state_shardings(params, mesh)

    def place(leaf, names):
        return NamedSharding(mesh, PartitionSpec(*([None] * leaf.ndim if experts else _expert_axes(leaf, names, mesh))))

    whole = jax.tree.map(place, params, axis_names(params))

    @jax.custom_vjp
    def together(params):
        return jax.lax.with_sharding_constraint(params, whole)

    # without this rule a gradient would be summed whole on every device, and then cut
    together.defvjp(
        lambda params: (together(params), None),
        lambda _, gradients: (jax.lax.with_sharding_constraint(gradients, split),),
    )
    return together(params)


def _expert_axes(leaf: Any, names: tuple[str | None, ...], mesh: Mesh) -> list[str | None]:
    """What each axis of a parameter is split over, `fsdp` apart."""
    return [name if name and _divides(mesh.shape[name], n) else None for n, name in zip(leaf.shape, names, strict=True)]


def _divides(parts: int, length: int) -> bool:
    return parts > 1 and length % parts == 0


def put_batch(batch: np.ndarray, mesh: Mesh) -> jax.Array:
    """This process's rows of a batch -> the global array, split over the batch."""
    return jax.make_array_from_process_local_data(split_over_batch(mesh), batch)


def on_one_device(params: Any, mesh: Mesh) -> Any:
    """The parameters on this process's first device alone, where images are restored one after the other."""
    gathered = jax.jit(lambda tree: tree, out_shardings=replicated(mesh))(params)
    return jax.device_put(jax.device_get(gathered), jax.local_devices()[0])


def use_host_devices(count: int) -> None:
    """On a CPU, splits it into `count` XLA devices (at most the cores of this process), if JAX has not started yet."""
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return  # the user has said how many
    # where it can be asked, the share of the machine that a container or taskset leaves us
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", min(count, cores))
    except RuntimeError:
        logging.info("JAX is already running; keeping its %d device(s)", jax.device_count())
