"""What a plan says: figures of one compiled training step, as a record, as JSON, and as a table for people."""

import os
import platform
from dataclasses import asdict, dataclass
from typing import Any

import jax

from mofme_jax.training.collectives import Collective


@dataclass(frozen=True)
class Memory:
    """Bytes on one device.

    Attributes:
      parameters, ema, optimizer: of the state, by its shapes and shardings.
      images: the batch that the host sends.
      arguments, outputs, aliased, temporaries, program: as XLA says; outputs that take the place of arguments are
        aliased, temporaries are activations, gradients and workspace, and the program is the machine code.
      total: arguments + outputs - aliased + temporaries + program.
      capacity: the device's; None where it is not known.
    """

    parameters: int
    ema: int
    optimizer: int
    images: int
    arguments: int
    outputs: int
    aliased: int
    temporaries: int
    program: int
    total: int
    capacity: int | None


@dataclass(frozen=True)
class Roofline:
    """Seconds of a step at the chip's published rates, and what they imply.

    Attributes:
      compute, memory, network: seconds of each alone.
      seconds: the longest.
      bound: its name.
      images_per_second: over all devices.
    """

    compute: float
    memory: float
    network: float
    seconds: float
    bound: str
    images_per_second: float


@dataclass(frozen=True)
class LargestBatch:
    """Images on a device.

    Attributes:
      per_device: how many fit; 0 where not even one group of weathers does.
      total: over all devices.
      method: how it was found: "proportional": temporaries grow with the batch, from nothing; "line": a line through
        two compilations. verified: whether a compilation at this size has shown it to fit.
    """

    per_device: int
    total: int
    method: str
    verified: bool


@dataclass(frozen=True)
class Plan:
    """What `mofme plan` says; every figure but the batch and images_per_second is of one device and one step.

    Attributes:
      target: the topology, or "local".
      device_kind: as the runtime names it.
      devices: that the step uses.
      batch: images over all devices.
      compile_seconds, compile_cpu_seconds: that the compilation took here, by the clock and of all cores.
      memory: see `Memory`.
      flops, bytes_accessed: of XLA's cost analysis.
      collectives: see `Collective`.
      micro_batches: whose work is that of one alone, as XLA counts loops: then there is no roofline.
      roofline: None where the device's rates are not in `chips.CHIPS`.
      largest_batch: None where the device's memory is not known.
    """

    target: str
    device_kind: str
    devices: int
    batch: int
    micro_batches: int
    compile_seconds: float
    compile_cpu_seconds: float
    memory: Memory
    flops: float
    bytes_accessed: float
    collectives: list[Collective]
    roofline: Roofline | None
    largest_batch: LargestBatch | None

    @property
    def fits(self) -> bool:
        """Whether the device has the memory, as far as it is known."""
        return self.memory.capacity is None or self.memory.total <= self.memory.capacity

    def to_json(self) -> dict[str, Any]:
        """Plain values, with the versions that made them."""
        return {**asdict(self), "fits": self.fits, "versions": versions()}

    def report(self) -> str:
        """A table for people."""
        return "\n".join(_lines(self))


def versions() -> dict[str, str | None]:
    """Of what decides the figures, and the machine that compiled."""
    from importlib.metadata import PackageNotFoundError, version

    found: dict[str, str | None] = {"python": platform.python_version(), "jax": jax.__version__}
    for package in ("jaxlib", "libtpu"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {**found, "machine": f"{platform.machine()}, {cores} core(s)"}


def _lines(plan: Plan) -> list[str]:
    memory, v = plan.memory, versions()
    lines = [
        f"{plan.target}: {plan.devices} x {plan.device_kind}, batch {plan.batch} "
        f"({plan.batch // plan.devices} a device); "
        f"compiled in {plan.compile_seconds:.0f} s ({plan.compile_cpu_seconds:.0f} s of CPU)",
        f"jax {v['jax']}, jaxlib {v['jaxlib']}, libtpu {v['libtpu']}, Python {v['python']}, {v['machine']}",
        "",
        "memory of a device",
    ]
    lines += [
        f"  {name:<34} {_size(value):>12}"
        for name, value in [
            ("parameters", memory.parameters),
            ("their moving average", memory.ema),
            ("optimizer", memory.optimizer),
            ("images", memory.images),
            ("arguments (the four above, padded)", memory.arguments),
            ("outputs", memory.outputs),
            ("  in the place of arguments", -memory.aliased),
            ("activations and temporaries", memory.temporaries),
            ("program", memory.program),
        ]
    ]
    lines.append(f"  {'total':<34} {_size(memory.total):>12}" + _of_capacity(plan))
    lines += ["", "work of a device and " + ("step" if plan.micro_batches == 1 else "micro-batch")]
    lines.append(f"  {'arithmetic':<34} {f'{plan.flops / 1e9:.4g} GFLOP':>12}")
    lines.append(f"  {'memory traffic':<34} {_size(plan.bytes_accessed):>12}")
    lines += [
        f"  {c.kind:<34} {_size(c.bytes):>12} in {c.count}, {_size(c.sent).strip()} sent" for c in plan.collectives
    ]
    lines += ["", *_outlook(plan)]
    return lines


def _outlook(plan: Plan) -> list[str]:
    lines = [f"roofline: no published rates are known here for {plan.device_kind}"]
    if plan.micro_batches > 1:
        lines = [
            f"roofline: none for {plan.micro_batches} micro-batches, of which XLA counts one: plan one alone, with "
            f"config.train.batch={plan.batch // plan.micro_batches} and config.train.accumulate=1"
        ]
    if rates := plan.roofline:
        lines = [
            f"roofline: {rates.seconds * 1e3:.3g} ms a step, bound by {rates.bound} "
            f"(compute {rates.compute * 1e3:.3g}, memory {rates.memory * 1e3:.3g}, "
            f"network {rates.network * 1e3:.3g}): {rates.images_per_second:.0f} images/s"
        ]
    if largest := plan.largest_batch:
        how = {
            "proportional": "estimated in proportion to the temporaries; --largest-batch compiles to find out",
            "line": "by a line through two compilations",
        }[largest.method] + (", verified by a compilation" if largest.verified else "")
        lines.append(f"largest batch: {largest.per_device} a device, {largest.total} in all ({how})")
    return lines


def _of_capacity(plan: Plan) -> str:
    capacity = plan.memory.capacity
    if capacity is None:
        return ""
    share = f" of {_size(capacity).strip()}, {plan.memory.total / capacity:.1%}"
    return share if plan.fits else share + ": DOES NOT FIT"


def _size(count: float) -> str:
    """Bytes for people."""
    for unit, factor in (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if abs(count) >= factor:
            return f"{count / factor:.2f} {unit}"
    return f"{count:.0f} B  "
