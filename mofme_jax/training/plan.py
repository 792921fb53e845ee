"""What a run would need and could reach, before anyone pays for the devices.

The training step of a config is compiled ahead of time, by the function that compiles it for the run, for a slice of
TPUs that need not be there or for this machine's devices. No parameter is made and no photograph read.

The figures are XLA's own, per device: `memory_analysis()`, `cost_analysis()` and the text of the optimised program.
XLA counts the body of a loop once, whatever its number of turns. Its estimate of the time is negative for TPUs, so
the time here is a roofline: the longest of arithmetic, memory traffic and communication, each at the chip's published
rate. The traffic is what every fused operation reads and writes; arrays that the compiler keeps on the chip between two
of them are in it, so a step bound by memory may be a little faster than this, and by any other reason slower.
"""

import importlib.util
import math
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

import jax
import jax.experimental.topologies
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mofme_jax.models import vgg
from mofme_jax.training import sharding
from mofme_jax.training.build import abstract_arguments, build_optimiser, build_schedule, build_step, make_image_loss
from mofme_jax.training.chips import CHIPS, DEVICE_KINDS, EXAMPLES, Chip, description_options, parse_topology
from mofme_jax.training.collectives import find_collectives
from mofme_jax.training.options import Options, build_model, read_options
from mofme_jax.training.plan_figures import LargestBatch, Memory, Plan, Roofline
from mofme_jax.training.sources import batch_groups

TRIES = 4
"""Compilations at most that verify the largest batch."""


class DoesNotFit(ValueError):
    """The compiler found that the step needs more memory than a device has."""


def plan_step(config: ConfigDict, topology: str | None = None, *, find_largest: bool = False) -> Plan:
    """Compiles the training step of a config and says what it needs.

    Args:
      config: of the run.
      topology: a slice, such as "v5e:16x16"; None plans for this machine's devices.
      find_largest: verifies the largest batch by two more compilations or a few more; without it, it is an estimate.

    Raises:
      ValueError: a config or topology that will not do, or a batch that cannot be split over all chips.
      DoesNotFit: the compiler says so.
      ImportError: a topology without the TPU compiler.
    """
    if topology is not None:
        parse_topology(topology)
        _prepare_for_topologies()
    options = read_options(config)
    paired = bool(options.data.pairs)
    groups = batch_groups(options, paired)
    if topology is None:
        sharding.use_host_devices(options.train.host_devices)
        mesh = sharding.make_mesh(groups, **asdict(options.mesh))
        device = mesh.devices.flat[0]
        chip, capacity = CHIPS.get(DEVICE_KINDS.get(device.device_kind, "")), device_memory(device)
    else:
        chip, _ = parse_topology(topology)
        mesh, capacity = _topology_mesh(topology, groups, options), chip.memory
    plan = _compile(options, mesh, topology or "local", chip, capacity)
    if capacity is None:
        return plan
    step = options.train.batch // groups  # images of the least batch
    largest = fit_batch([plan], step)
    if find_largest:
        largest = _verify(plan, largest, step, options, mesh, chip)
    return replace(plan, largest_batch=largest)


def device_memory(device: jax.Device) -> int | None:
    """Bytes that a device has; on a CPU its share of the machine's. None where nobody says."""
    if device.platform != "cpu":
        return (device.memory_stats() or {}).get("bytes_limit")
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // jax.local_device_count()
    except (ValueError, OSError, AttributeError):
        return None


def _prepare_for_topologies() -> None:
    """Tells the TPU compiler, before it is loaded, not to look for TPUs, and JAX to leave any accelerator alone."""
    if importlib.util.find_spec("libtpu") is None:
        raise ModuleNotFoundError("--topology needs the TPU compiler: pip install 'jax[tpu]'")
    for name, value in {
        "TPU_SKIP_MDS_QUERY": "1",
        "TPU_ACCELERATOR_TYPE": "v5litepod-256",  # any: what is compiled for is said by the topology
        "TPU_WORKER_HOSTNAMES": "localhost",
        "TPU_WORKER_ID": "0",
        "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",  # nothing is run on a TPU, so several may plan at once
    }.items():
        os.environ.setdefault(name, value)
    jax.config.update("jax_platforms", "cpu")


def _topology_mesh(topology: str, groups: int, options: Options) -> Mesh:
    chip, sides = parse_topology(topology)
    try:
        devices = jax.experimental.topologies.get_topology_desc(
            platform="tpu", topology_name=topology, **description_options(chip, sides)
        ).devices
    except (jax.errors.JaxRuntimeError, NotImplementedError) as error:
        raise ValueError(
            f"the TPU compiler cannot describe topology {topology!r} (there are, for example, {EXAMPLES}): "
            f"{_one_line(error)}"
        ) from None
    parts = len(devices) // options.mesh.expert  # along the axis of the experts images are the same
    if groups % max(1, parts):
        least = options.train.batch // groups * parts
        raise ValueError(
            f"config.train.batch={options.train.batch} cannot be split over the {len(devices)} chips of {topology}: "
            f"make it a multiple of {least}"
        )
    return sharding.make_mesh(groups, **asdict(options.mesh), devices=devices)


def _compile(options: Options, mesh: Mesh, target: str, chip: Chip | None, capacity: int | None) -> Plan:
    paired, device = bool(options.data.pairs), mesh.devices.flat[0]
    model = build_model(asdict(options.model))
    # the number of images decides on which step the learning rate changes, and on nothing that is planned here
    optimiser = build_optimiser(options, build_schedule(options, options.train.batch)[1])
    # the weights' values do not matter here, so the extra that holds the real ones is not needed
    image_loss = make_image_loss(options, vgg.stand_in() if options.loss.perceptual else None)
    step = build_step(options, model, optimiser, image_loss, paired=paired, mesh=mesh)
    state, images = abstract_arguments(options, model, optimiser, paired=paired, mesh=mesh)
    _say(f"compiling the training step for {mesh.size} x {device.device_kind}, batch {options.train.batch}")
    began, cpu_began = time.monotonic(), time.process_time()
    try:
        compiled = step.lower(state, images).compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise ValueError(f"the step cannot be compiled for {target}: {_one_line(error)}") from None
        raise DoesNotFit(
            f"batch {options.train.batch} does not fit {mesh.size} x {device.device_kind}, lower config.train.batch: "
            f"{_one_line(error)}"
        ) from None
    seconds, cpu_seconds = time.monotonic() - began, time.process_time() - cpu_began
    _say(f"compiled in {seconds:.0f} s ({cpu_seconds:.0f} s of CPU)")
    cost = compiled.cost_analysis()
    plan = Plan(
        target=target,
        device_kind=device.device_kind,
        devices=mesh.size,
        batch=options.train.batch,
        micro_batches=options.train.accumulate,
        compile_seconds=seconds,
        compile_cpu_seconds=cpu_seconds,
        memory=_memory(compiled, state, images, capacity),
        flops=cost["flops"],
        bytes_accessed=cost["bytes accessed"],
        collectives=find_collectives(compiled.as_text(), mesh.size),
        roofline=None,
        largest_batch=None,
    )
    return replace(plan, roofline=roofline(plan, chip)) if chip and plan.micro_batches == 1 else plan


def _memory(compiled: Any, state: Any, images: jax.ShapeDtypeStruct, capacity: int | None) -> Memory:
    xla = compiled.memory_analysis()
    arguments, outputs = xla.argument_size_in_bytes, xla.output_size_in_bytes
    aliased, temporaries = xla.alias_size_in_bytes, xla.temp_size_in_bytes
    program = xla.generated_code_size_in_bytes
    return Memory(
        parameters=_shard_bytes(state.params),
        ema=_shard_bytes(state.ema),
        optimizer=_shard_bytes(state.opt_state),
        images=_shard_bytes(images),
        arguments=arguments,
        outputs=outputs,
        aliased=aliased,
        temporaries=temporaries,
        program=program,
        total=arguments + outputs - aliased + temporaries + program,
        capacity=capacity,
    )


def _shard_bytes(tree: Any) -> int:
    """Bytes of a tree of shapes on one device."""
    return sum(math.prod(x.sharding.shard_shape(x.shape)) * np.dtype(x.dtype).itemsize for x in jax.tree.leaves(tree))


def roofline(plan: Plan, chip: Chip) -> Roofline:
    """The time of a step on a chip, by its published rates."""
    times = {
        "compute": plan.flops / chip.flops,
        "memory": plan.bytes_accessed / chip.memory_bandwidth,
        "network": sum(c.sent for c in plan.collectives) / chip.link_bandwidth,
    }
    bound = max(times, key=lambda name: times[name])
    return Roofline(**times, seconds=times[bound], bound=bound, images_per_second=plan.batch / times[bound])


def fit_batch(plans: Sequence[Plan], step: int) -> LargestBatch:
    """The largest batch that the memory of one plan, or a line through the total memory of two, leaves room for.

    From one plan, all temporaries and images are taken to grow with the batch. Part of them, such as the gradients,
    does not, so this is on the small side.

    Args:
      plans: one, or two at different batches.
      step: images by which the batch on a device can grow: its weathers, in every micro-batch.
    """
    first, last = plans[0], plans[-1]
    capacity = first.memory.capacity
    assert capacity is not None
    batch = first.batch / first.devices
    slope = (first.memory.temporaries + first.memory.images) / batch
    if len(plans) == 2:
        slope = (last.memory.total - first.memory.total) / (last.batch / last.devices - batch)
    room = capacity - first.memory.total
    per_device = max(0, int((batch + room / max(slope, 1.0)) // step) * step)
    method = "line" if len(plans) == 2 else "proportional"
    return LargestBatch(per_device, per_device * first.devices, method, verified=False)


def _verify(
    plan: Plan, guess: LargestBatch, step: int, options: Options, mesh: Mesh, chip: Chip | None
) -> LargestBatch:
    """Compiles at another batch for a line, then at what the line says, going down until the compiler agrees."""
    now = plan.batch // plan.devices
    other = 2 * now if guess.per_device >= 2 * now else max(step, now // 2 // step * step)
    if other == now:
        return guess
    try:
        second = _compile(_with_batch(options, other * mesh.size), mesh, plan.target, chip, plan.memory.capacity)
        guess = fit_batch(sorted([plan, second], key=lambda p: p.batch), step)
    except DoesNotFit as error:
        _say(str(error))
    for _ in range(TRIES):
        if guess.per_device <= 0 or guess.per_device == now:
            return replace(guess, verified=guess.per_device == now)
        try:
            tried = _compile(_with_batch(options, guess.total), mesh, plan.target, chip, plan.memory.capacity)
            if tried.fits:
                return replace(guess, verified=True)
        except DoesNotFit as error:
            _say(str(error))
        fewer = (guess.per_device - max(step, guess.per_device // 20)) // step * step
        guess = replace(guess, per_device=fewer, total=fewer * mesh.size)
    return guess


def _with_batch(options: Options, batch: int) -> Options:
    return replace(options, train=replace(options.train, batch=batch))


def _say(text: str) -> None:
    """Progress: on stderr, so that stdout holds the result alone."""
    print(text, file=sys.stderr, flush=True)


def _one_line(error: Exception) -> str:
    """The compiler's message up to its first blank line or list, on one line."""
    return " ".join(str(error).split("\n\n")[0].split())[:300]
