"""What a compiled program sends between devices, read from the text of its optimised HLO."""

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")

# "%name = TYPE kind(" and "%name = TYPE kind-start(", its asynchronous form, whose "-done" must not count again
_INSTRUCTION = re.compile(rf"^\s*(?:ROOT )?%?[\w.\-]+ = (.+?) (?:ragged-)?({'|'.join(KINDS)})(-start)?\(", re.M)
_ARRAY = re.compile(r"\b(pred|bf16|[sufc]\d+)(?:e\w+)?\[([\d,]*)\]")
_GROUPS_LISTED = re.compile(r"replica_groups=\{\{([\d,]*)\}")
_GROUPS_COUNTED = re.compile(r"replica_groups=\[\d+,(\d+)\]")
_GROUPS_BY_AXES = re.compile(r"replica_groups=mesh\[([^\]]*)\][^{\n]*\{([^}]*)\}")
_CHANNEL = re.compile(r"channel_id=(\d+)")
# the fused computation in which the TPU compiler sums and then keeps a part: a reduce-scatter, written as an all-reduce
_SCATTERED = re.compile(r"^%all-reduce-scatter[^\n]* \{\n.*?^\}", re.M | re.S)


@dataclass(frozen=True)
class Collective:
    """All of a kind in a program.

    Attributes:
      kind: one of KINDS.
      count: collectives in the program's text; one in a loop counts once, and so does one that the TPU compiler has
        spread over the operations that hide it.
      bytes: a device's arrays, each whole: the sum of an all-reduce, what an all-gather ends with, what a
        reduce-scatter starts with.
      sent: bytes that a device sends, by the algorithms that send least (rings).
    """

    kind: str
    count: int
    bytes: int
    sent: float


def find_collectives(hlo: str, devices: int) -> list[Collective]:
    """The collectives of a program, in the order of KINDS; those that send nothing (groups of one) are left out.

    Args:
      hlo: text of the optimised module.
      devices: of the program, the group where an instruction names none.
    """
    found = list(_instructions(hlo, devices))
    totals = []
    for kind in KINDS:
        sizes = [(size, sent) for name, size, sent in found if name == kind and sent]
        if sizes:
            totals.append(Collective(kind, len(sizes), sum(s for s, _ in sizes), sum(s for _, s in sizes)))
    return totals


def _instructions(hlo: str, devices: int) -> Iterator[tuple[str, int, float]]:
    """(kind, bytes, bytes sent) of each."""
    seen = set()
    scattered = [match.span() for match in _SCATTERED.finditer(hlo)]
    for match in _INSTRUCTION.finditer(hlo):
        result, kind, start = match.groups()
        line = hlo[match.start() : hlo.find("\n", match.end())]
        if channel := _CHANNEL.search(line):
            if channel[1] in seen:
                continue
            seen.add(channel[1])
        arrays = [_bytes(*array) for array in _ARRAY.findall(result)]
        if start and kind in ("all-gather", "collective-permute"):
            # the result is (operands, results, maybe two counters of four bytes)
            arrays = [_bytes(*array) for array in _ARRAY.findall(result) if array != ("u32", "")]
            arrays = arrays[len(arrays) // 2 :]
        group = _group(line, devices)
        size = sum(arrays) * (group if kind == "reduce-scatter" else 1)
        if any(begin < match.start() < end for begin, end in scattered):
            kind = "reduce-scatter"
        yield kind, size, size * _share_sent(kind, group)


def _share_sent(kind: str, group: int) -> float:
    if kind == "collective-permute":
        return 1.0
    passes = 2 if kind == "all-reduce" else 1  # a reduce-scatter, then an all-gather
    return passes * (group - 1) / group


def _group(line: str, devices: int) -> int:
    """Devices that take part in one instruction together."""
    if counted := _GROUPS_COUNTED.search(line):
        return int(counted[1])
    if axes := _GROUPS_BY_AXES.search(line):
        sizes = dict(re.findall(r"'(\w+)'=(\d+)", axes[1]))
        return math.prod(int(sizes[name]) for name in re.findall(r"'(\w+)'", axes[2]))
    if listed := _GROUPS_LISTED.search(line):
        return len(listed[1].split(","))
    return devices


def _bytes(dtype: str, shape: str) -> int:
    bits = 8 if dtype == "pred" else int(re.sub(r"\D", "", dtype))
    return -(-bits * math.prod(int(side) for side in shape.split(",") if side) // 8)
