"""What it costs to split the same training step over more devices and over two processes.

    taskset -c 0 python benchmarks/scaling.py        # one core: the overhead alone
    taskset -c 0,1 python benchmarks/scaling.py      # two: with what running side by side wins

The step is that of configs/default.py (`small`, AdamW, average) on pairs, without the weather, whose images have
nothing to do with each other. The batch is of random images, the same in every row, so that the arithmetic is the same:
rows differ in splitting, collectives, and gathers along fsdp. Along expert, images are not split: two devices compute
the same but for the experts. At the config's batch of 8 a device of eight has one image, and overhead weighs most.

Every row is a process of its own, or two that exchange over gloo on the loopback interface, all compiled before the
first step is timed. Rows take steps in turns, round by round, the others waiting at their stdin; the first step of a
turn is not timed. A row has milliseconds a step (in process 0, waiting for each step to end): median, quartiles, and
the median's ratio to one device's; the loss of the last step, with the largest relative difference of any step's from
one device's, which ends the benchmark with an error above 1e-5; and the part of the state that a device holds.

XLA's devices on a CPU are not cores. Those of a process share one pool of threads, of which there are as many as cores,
or as devices if those are more. One device alone uses the pool inside of large operations, one operation after the
other; eight work side by side, each on its eighth of every operation. A second process has a pool of its own on the
same cores. On one core, therefore, ratios are overhead; on several, they are overhead less what side by side wins.
"""

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

import jax
import numpy as np
from experts import machine

from mofme_jax.config_file import read_config
from mofme_jax.training import loop, sharding
from mofme_jax.training.build import build_init, build_optimiser, build_step, make_image_loss
from mofme_jax.training.options import build_model, read_options
from mofme_jax.training.processes import join

CONFIG = Path(__file__).parents[1] / "configs" / "default.py"
TOLERANCE = 1e-5
"""Of a loss: float32 and another order of sums."""
LARGEST_SPLIT = 8
"""Parts of the batch, in any row."""


@dataclass(frozen=True)
class Row:
    """Processes, XLA devices of each, and the mesh over all."""

    processes: int
    devices: int
    mesh: dict[str, int]

    def __str__(self) -> str:
        mesh = " x ".join(f"{axis}={size}" for axis, size in self.mesh.items())
        return f"{self.processes} x {self.devices}, {mesh}"


ROWS = [
    Row(1, 1, {"data": 1}),
    Row(1, 2, {"data": 2}),
    Row(1, 8, {"data": 8}),
    Row(1, 8, {"data": 2, "fsdp": 4}),
    Row(1, 8, {"data": 4, "expert": 2}),
    Row(2, 4, {"data": 8}),
    Row(2, 4, {"data": 2, "fsdp": 4}),
]


@dataclass
class Workers:
    """The processes of a row, which take steps when they are told to, and what they have said."""

    running: list[subprocess.Popen]
    errors: list[IO[str]]
    milliseconds: list[float] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def listen(self) -> dict[str, Any]:
        """A line of every process; returns the first's."""
        lines = [process.stdout.readline() for process in self.running if process.stdout]
        for line, file in zip(lines, self.errors, strict=True):
            if not line:
                file.seek(0)
                sys.exit(f"a process ended before its work did:\n{file.read()[-3000:]}")
        return json.loads(lines[0])

    def take_turn(self, steps: int) -> None:
        """One step that is not timed, then `steps`."""
        for process in self.running:
            if process.stdin:
                print(steps, file=process.stdin, flush=True)
        said = self.listen()
        self.milliseconds += said["milliseconds"]
        self.losses += said["losses"]


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--batch", type=int, default=8, help="images a step over all devices (default: 8)")
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a turn (default: 3)")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each row (default: 7)")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        return work(**json.loads(options.worker))
    if options.batch < 1 or options.batch % LARGEST_SPLIT:
        parser.error(f"--batch={options.batch} must be a multiple of {LARGEST_SPLIT}, over which rows split it")
    if min(options.steps, options.rounds) < 1:
        parser.error("--steps and --rounds must be at least 1")
    with ExitStack() as stack:
        print("compiling all rows", file=sys.stderr, flush=True)
        rows = [start(row, options.batch, stack) for row in ROWS]
        said = [workers.listen() for workers in rows]
        print(
            f"{said[0]['machine']}; {options.rounds} rounds of {options.steps} steps, batch {options.batch}", flush=True
        )
        for n in range(options.rounds):
            print(f"round {n + 1} of {options.rounds}", file=sys.stderr, flush=True)
            for workers in rows:
                workers.take_turn(options.steps)
        print_table(rows, [line["share"] for line in said])


def start(row: Row, batch: int, stack: ExitStack) -> Workers:
    """Starts a row's processes; they are ended with the stack."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(row.devices)}
    workers = Workers([], [])
    for i in range(row.processes):
        workers.errors.append(stack.enter_context(tempfile.TemporaryFile("w+")))  # noqa: SIM115
        what = {"batch": batch, "mesh": row.mesh, "address": address, "process": i, "processes": row.processes}
        process = subprocess.Popen(
            [sys.executable, __file__, "--worker", json.dumps(what)],
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=workers.errors[-1],
            text=True,
        )
        stack.callback(process.wait)
        stack.callback(process.kill)
        workers.running.append(process)
    return workers


def print_table(rows: list[Workers], shares: list[float]) -> None:
    """A line for every row; leaves with an error where the losses are not the same."""
    print(f"{'processes x devices':<28} {'ms':>7} {'quartiles':>15} {'ratio':>6} {'loss':>9} {'differs by':>10} "
          f"{'state':>6}")  # fmt: skip
    one = np.array(rows[0].losses)
    differences = [np.max(np.abs(np.array(workers.losses) / one - 1.0)) for workers in rows]
    for row, workers, share, difference in zip(ROWS, rows, shares, differences, strict=True):
        low, median, high = np.percentile(workers.milliseconds, (25, 50, 75))
        ratio = median / np.median(rows[0].milliseconds)
        print(f"{row!s:<28} {median:>7.0f} {low:>7.0f}-{high:<7.0f} {ratio:>6.2f} {workers.losses[-1]:>9.7f} "
              f"{difference:>10.1e} {share:>6.1%}")  # fmt: skip
    if not max(differences) <= TOLERANCE:
        sys.exit(f"the losses differ by more than {TOLERANCE}: the rows did not do the same work")


def work(batch: int, mesh: dict[str, int], address: str, process: int, processes: int) -> None:
    """A process of a row: compiles, says what it holds, then takes as many steps as stdin says, line by line."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # gloo prints to what is stdout

    def say(**values: Any) -> None:
        print(json.dumps(values), file=answers, flush=True)

    options = read_options(read_config([f"--config={CONFIG}", f"--config.train.batch={batch}"]))
    if processes > 1:
        join(address, process, processes)
    places = sharding.make_mesh(batch, **mesh)
    model = build_model(asdict(options.model))
    optimiser = build_optimiser(options, loop.plan(options, batch)[1])
    state = build_init(options, model, optimiser, places)(np.uint32(options.seed))
    shape = (batch, options.data.crop, options.data.crop, 6)
    images = np.random.default_rng(0).integers(0, 256, shape, np.uint8)
    photographs = sharding.put_batch(np.split(images, processes)[process], places)
    step = build_step(options, model, optimiser, make_image_loss(options), paired=True, mesh=places)
    step = step.lower(state, photographs).compile()
    say(share=share(state), machine=machine())
    for line in sys.stdin:
        milliseconds, losses = [], []
        for _ in range(int(line) + 1):
            begun = time.perf_counter()
            state, metrics = jax.block_until_ready(step(state, photographs))
            milliseconds.append(1e3 * (time.perf_counter() - begun))
            losses.append(float(metrics["loss"]))
        say(milliseconds=milliseconds[1:], losses=losses)


def share(state: Any) -> float:
    """The part of a state that this process's first device holds."""
    leaves = jax.tree.leaves(state)
    return sum(leaf.addressable_shards[0].data.nbytes for leaf in leaves) / sum(leaf.nbytes for leaf in leaves)


if __name__ == "__main__":
    main()
