"""Where the time of a training step goes: part by part, forward and backward, by XLA's profiler.

    python benchmarks/step.py          # the default run's step
    python benchmarks/step.py --config configs/allweather_mofme.py --config.train.batch=4 --config.loss.perceptual=0

The step is the one that training compiles, with the config's mesh and batch, on random images. It is timed first, and
then a few more are profiled. What XLA has fused is booked on the operation that it calls the fusion after; "rest" has
what bears no scope: copies, and zeros to begin with. Milliseconds of a part are those of all devices together, and they
may work side by side: only the shares compare with the step. Below, the slowest single operations, and what XLA counts.
"""

import argparse
import re
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from experts import machine

from mofme_jax.config_file import read_config
from mofme_jax.training import sharding
from mofme_jax.training.build import build_init, build_optimiser, build_step, make_image_loss
from mofme_jax.training.options import build_model, read_options
from mofme_jax.training.sharding import use_host_devices
from mofme_jax.training.sources import batch_groups

PARTS = {
    "sums over devices": r"^jit\(\w+\)/\(|/psum$|all_reduce",
    "weather and colours": r"/examples/",
    "head": r"Restorer\._head/",
    "embedding": r"Restorer\)*/embed",
    "attention": r"/attention(_norm)?/",
    "router": r"/router/",
    "experts": r"/modulation/|/experts/",
    "feed-forward": r"/shared/|/feed_forward(_norm)?/",
    "tail": r"Restorer\._(long_)?tail/",
    "loss": r"/image_loss/|\(image_loss\)",
    "update and average": r"/update/",
}
"""By the scopes in an operation's name; the first that matches."""


def main() -> None:
    """Parses the command line, compiles the step, times it, profiles it, and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7, help="steps that are timed (default: 7)")
    parser.add_argument("--profiled", type=int, default=3, help="steps that are profiled (default: 3)")
    parser.add_argument("--slowest", type=int, default=12, help="single operations that are shown (default: 12)")
    arguments, changes = parser.parse_known_args()
    if min(arguments.rounds, arguments.profiled) < 1:
        parser.error("--rounds and --profiled must be at least 1")
    try:
        config = read_config(changes)
        options = read_options(config)
    except (ValueError, OSError) as error:
        sys.exit(f"step.py: {error}")
    use_host_devices(options.train.host_devices)
    mesh = sharding.make_mesh(batch_groups(options, paired=False), **vars(options.mesh))
    model, optimiser = build_model(config.model), build_optimiser(options, optax.constant_schedule(1e-5))
    state = build_init(options, model, optimiser, mesh)(np.uint32(0))
    step = build_step(options, model, optimiser, make_image_loss(options), paired=False, mesh=mesh)
    shape = (options.train.batch, options.data.crop, options.data.crop, 3)
    images = sharding.put_batch(np.random.default_rng(0).integers(0, 256, shape, np.uint8), mesh)
    compiled = step.lower(state, images).compile()

    def run() -> float:
        nonlocal state
        start = time.perf_counter()
        state, _ = jax.block_until_ready(compiled(state, images))
        return 1e3 * (time.perf_counter() - start)

    run()
    low, median, high = np.percentile([run() for _ in range(arguments.rounds)], (25, 50, 75))
    print(machine())
    print(f"batch {shape}, {mesh.size} device(s): {median:.1f} ms a step (quartiles {low:.1f}-{high:.1f})\n")
    times = profiled(run, arguments.profiled)
    print_parts(times, scopes := names(compiled.as_text()))
    print_slowest(times, scopes, arguments.slowest)
    costs = compiled.cost_analysis()
    print(
        f"\nXLA counts, a device and step: {costs['flops'] / 1e9:.1f} GFLOP, {costs['bytes accessed'] / 1e9:.2f} GB "
        f"(the body of a loop once); {compiled.memory_analysis().temp_size_in_bytes / 2**20:.0f} MiB of temporaries"
    )


def profiled(run: Any, steps: int) -> Counter[str]:
    """Milliseconds of every operation, a step: its own, without those of operations that it calls."""
    with tempfile.TemporaryDirectory() as folder:
        with jax.profiler.trace(folder):
            for _ in range(steps):
                run()
        (file,) = Path(folder).rglob("*.xplane.pb")
        data = jax.profiler.ProfileData.from_file(str(file))
    times: Counter[str] = Counter()
    for plane in data.planes:
        for line in plane.lines:
            events = [(e.start_ns, -e.duration_ns, dict(e.stats).get("hlo_op")) for e in line.events]
            open_events: list[tuple[float, str]] = []
            for start, negative, name in sorted(e for e in events if e[2]):
                while open_events and open_events[-1][0] <= start:
                    open_events.pop()
                times[name] -= negative / 1e6 / steps
                if open_events:
                    times[open_events[-1][1]] += negative / 1e6 / steps
                open_events.append((start - negative, name))
    return times


def names(hlo: str) -> dict[str, str]:
    """The scoped name of every operation of the optimised program that has one."""
    return dict(re.findall(r'^\s*(?:ROOT )?%?([\w.-]+) = .*?op_name="([^"]*)"', hlo, re.MULTILINE))


def print_parts(times: Counter[str], scopes: dict[str, str]) -> None:
    """A line a part, in the order of the step."""
    sums: Counter[tuple[str, bool]] = Counter()
    for name, taken in times.items():
        scope = scopes.get(name, "")
        part = next((part for part, pattern in PARTS.items() if re.search(pattern, scope)), "rest")
        sums[part, "transpose(" in scope or "rematted" in scope] += taken
    total = sum(sums.values())
    print(f"{'part':<22} {'forward ms':>10} {'backward ms':>11} {'share':>6}")
    for part in (*PARTS, "rest"):
        forward, backward = sums[part, False], sums[part, True]
        if forward + backward:
            print(f"{part:<22} {forward:>10.1f} {backward:>11.1f} {(forward + backward) / total:>6.1%}")
    print(f"{'together':<22} {total:>22.1f}")


def print_slowest(times: Counter[str], scopes: dict[str, str], count: int) -> None:
    """The operations that take longest, under their scoped names."""
    sums: Counter[str] = Counter()
    for name, taken in times.items():
        sums[scopes.get(name) or name] += taken
    print("\nslowest operations" + " " * 14 + "ms")
    for scope, taken in sums.most_common(count):
        print(f"{taken:>34.1f}  {scope if len(scope) < 100 else scope[:96] + ' ...'}")


if __name__ == "__main__":
    main()
