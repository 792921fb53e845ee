"""TPU chips: what they can do at most, and how to describe a slice of them to the compiler."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """Figures of one chip.

    Attributes:
      name: as topologies name it, "v5e".
      flops: peak a second, bfloat16, dense. It holds for float32 as well: by default JAX rounds the factors of a
        float32 product on a TPU to bfloat16 and takes one pass.
      memory: bytes of HBM that a program may use.
      memory_bandwidth: bytes a second, of HBM.
      link_bandwidth: bytes a second that a chip can send over all its links (half of what is published as
        "bidirectional").
      sides: of a topology, in its name.
      largest: chips of the largest slice.
    """

    name: str
    flops: float
    memory: int
    memory_bandwidth: float
    link_bandwidth: float
    sides: int
    largest: int


# Cloud TPU documentation, "System architecture" of each version (docs.cloud.google.com/tpu/docs/v4, v5e, v5p, v6e):
# peak compute a chip (bf16), HBM bandwidth, inter-chip interconnect bandwidth a chip. The memory is what the compiler
# of libtpu 0.0.42 says it has ("exceeds available HBM") where a program needs too much; published: 32, 16, 95, 32 GB.
CHIPS = {
    chip.name: chip
    for chip in (
        Chip("v4", 275e12, int(30.75 * 2**30), 1200e9, 300e9, 3, 4096),  # interconnect: 2400 Gbps
        Chip("v5e", 197e12, int(15.75 * 2**30), 819e9, 200e9, 2, 256),  # 400 GB/s bidirectional
        Chip("v5p", 459e12, int(95.74 * 2**30), 2765e9, 600e9, 3, 6144),  # 1200 GB/s bidirectional
        Chip("v6e", 918e12, int(31.25 * 2**30), 1640e9, 400e9, 2, 256),  # 800 GB/s bidirectional
    )
}

DEVICE_KINDS = {
    "TPU v4": "v4",
    "TPU v5 lite": "v5e",
    "TPU v5e": "v5e",
    "TPU v5": "v5p",
    "TPU v5p": "v5p",
    "TPU v6 lite": "v6e",
    "TPU v6e": "v6e",
}
"""What the runtime calls them."""

EXAMPLES = "v5e:1x1, v5e:4x4, v5e:16x16, v6e:8x8, v4:2x2x1, v5p:4x4x4"


def parse_topology(topology: str) -> tuple[Chip, tuple[int, ...]]:
    """ "v5e:16x16" -> the chip, and the chips on each side of the slice.

    Raises:
      ValueError: an unknown chip, or sides that no slice of it has.
    """
    name, _, layout = topology.partition(":")
    sides = layout.split("x")
    if (
        name not in CHIPS
        or not all(side.isdecimal() and int(side) for side in sides)
        or len(sides) != CHIPS[name].sides
    ):
        raise ValueError(f"topology {topology!r} is unknown; there are, for example, {EXAMPLES}")
    chip, shape = CHIPS[name], tuple(map(int, sides))
    if math.prod(shape) > chip.largest:
        raise ValueError(f"topology {topology!r} has {math.prod(shape)} chips; the largest {name} has {chip.largest}")
    return chip, shape


def description_options(chip: Chip, sides: tuple[int, ...]) -> dict:
    """What `get_topology_desc` has to be told besides the name."""
    told: dict = {}
    if all(side == 1 for side in sides):
        told["chips_per_host_bounds"] = [1, 1, 1]  # the default host has 2 x 2 and cannot be divided
    if chip.name == "v4":
        told["chip_config_name"] = "megacore"  # both cores of a chip as one device, as the runtime has it
    return told
