"""What compiling costs and the program needs, by number of experts, depth and image size; nothing of it is run.

    python benchmarks/compiling.py     # some minutes a repeat, on two cores

The training step is that of configs/allweather_mofme.py without the perceptual loss, whose weights are an extra, in
batches of one image: `build_step` with its optimiser and average, on one device. Inference is the same network on one
image. Both are lowered from shapes. One of experts, depth and size is varied at a time about `base` with E = 4, K = 2,
2 blocks and 240 x 240 pixels. All programs are compiled in turns, round by round, in one process whose caches are
emptied before each (JAX's on disk is off), after one inference that is not counted. A row has medians: seconds to trace
and lower, seconds to compile with quartiles, seconds of CPU for both, and the ratios of the two to the first row of the
group, as medians over the rounds.

Memory and GFLOP are XLA's own, of the optimised program; in total are arguments, temporaries, and outputs that take no
argument's place (XLA's own peak leaves temporaries out on a CPU). Of its loops XLA counts one turn: in the products of
the dispatched experts one block of one expert's tokens, so GFLOP are almost those of the network without its experts.
"""

import argparse
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from experts import machine

from mofme_jax.config_file import read_config
from mofme_jax.models import Restorer
from mofme_jax.training import loop, sharding
from mofme_jax.training.build import abstract_arguments, build_optimiser, build_step, make_image_loss
from mofme_jax.training.options import Options, build_model, read_options

CONFIG = Path(__file__).parents[1] / "configs" / "allweather_mofme.py"


class Setting(NamedTuple):
    """What is varied: E, transformer blocks, pixels on a side."""

    experts: int = 4
    depth: int = 2
    size: int = 240


GROUPS = {
    "experts": [Setting(experts=n) for n in (4, 16, 64, 128)],
    "depth": [Setting(depth=n) for n in (2, 4, 8)],
    "size": [Setting(size=n) for n in (128, 240, 480)],
}
"""By field of `Setting`, which is varied."""


class Cost(NamedTuple):
    """Seconds to trace and lower, to compile, and of CPU for both; bytes of memory; FLOPs."""

    trace: float
    compile: float
    cpu: float
    arguments: int
    temporaries: int
    total: int
    flops: float


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--groups", nargs="+", default=list(GROUPS), choices=GROUPS, help="default: all")
    parser.add_argument("--repeats", type=int, default=3, help="compilations of each program (default: 3)")
    options = parser.parse_args()
    if options.repeats < 1:
        parser.error(f"--repeats={options.repeats} must be at least 1")
    jax.config.update("jax_enable_compilation_cache", False)
    print(f"{machine()}; {options.repeats} repeats", flush=True)
    settings = dict.fromkeys(setting for name in options.groups for setting in GROUPS[name])
    for what, lower in {"training step": lower_step, "inference": lower_inference}.items():
        rounds = list(in_turns({setting: partial(lower, setting) for setting in settings}, options.repeats))
        for name in options.groups:
            print_table(f"{what}, {name}", name, GROUPS[name], rounds)


def in_turns(programs: dict[Setting, Callable[[], Any]], repeats: int) -> Iterator[dict[Setting, Cost]]:
    """The cost of every program, round by round."""
    measure(partial(lower_inference, Setting()))  # the first of a process also starts the compiler
    for _ in range(repeats):
        yield {setting: measure(lower) for setting, lower in programs.items()}


def measure(lower: Callable[[], Any]) -> Cost:
    """Lowers a program and compiles it, as if for the first time."""
    jax.clear_caches()
    cpu, start = time.process_time(), time.perf_counter()
    lowered = lower()
    middle = time.perf_counter()
    compiled = lowered.compile()
    end, cpu_end = time.perf_counter(), time.process_time()
    memory = compiled.memory_analysis()
    return Cost(
        trace=middle - start,
        compile=end - middle,
        cpu=cpu_end - cpu,
        arguments=memory.argument_size_in_bytes,
        temporaries=memory.temp_size_in_bytes,
        total=memory.argument_size_in_bytes
        + memory.output_size_in_bytes
        - memory.alias_size_in_bytes
        + memory.temp_size_in_bytes,
        flops=compiled.cost_analysis()["flops"],
    )


def lower_step(setting: Setting) -> Any:
    """The training step on one device; the state is donated."""
    options, mesh = options_of(setting), sharding.make_mesh(1, devices=jax.devices()[:1])
    model = build_model(asdict(options.model))
    # the number of images decides on which step the learning rate changes, and on nothing else
    optimiser = build_optimiser(options, loop.plan(options, options.train.batch)[1])
    step = build_step(options, model, optimiser, make_image_loss(options), paired=True, mesh=mesh)
    return step.lower(*abstract_arguments(options, model, optimiser, paired=True, mesh=mesh))


def lower_inference(setting: Setting) -> Any:
    """The restorer on one image."""
    model: Restorer = build_model(asdict(options_of(setting).model))
    images = jax.ShapeDtypeStruct((1, setting.size, setting.size, 3), jnp.float32)
    params = jax.eval_shape(partial(model.init, jax.random.key(0)), images)
    return jax.jit(lambda params, images: model.apply(params, images)[0]).lower(params, images)


def options_of(setting: Setting) -> Options:
    """The config, without perceptual loss, with a batch of one."""
    changes = {
        "model.num_experts": setting.experts,
        "model.overrides.depth": setting.depth,
        "data.crop": setting.size,
        "train.batch": 1,
        "loss.perceptual": 0.0,
    }
    return read_options(
        read_config([f"--config={CONFIG}", *(f"--config.{name}={value}" for name, value in changes.items())])
    )


def print_table(title: str, name: str, settings: list[Setting], rounds: list[dict[Setting, Cost]]) -> None:
    """A line for every setting of a group; `name` is the field that differs."""
    print(f"\n{title:<24} {'trace s':>7} {'compile s':>9} {'quartiles':>13} {'ratio':>6} {'CPU s':>6} {'ratio':>6} "
          f"{'arguments MB':>12} {'temporaries':>11} {'total':>7} {'GFLOP':>7}")  # fmt: skip
    for setting in settings:
        costs = [costs[setting] for costs in rounds]
        first = [costs[settings[0]] for costs in rounds]
        low, median, high = np.percentile([cost.compile for cost in costs], (25, 50, 75))
        trace, cpu = (np.median([getattr(cost, field) for cost in costs]) for field in ("trace", "cpu"))
        ratio, cpu_ratio = (
            np.median([getattr(a, field) / getattr(b, field) for a, b in zip(costs, first, strict=True)])
            for field in ("compile", "cpu")
        )
        print(f"{getattr(setting, name):<24} {trace:>7.2f} {median:>9.2f} {low:>6.2f}-{high:<6.2f} {ratio:>6.2f} "
              f"{cpu:>6.2f} {cpu_ratio:>6.2f} {costs[0].arguments / 1e6:>12.1f} {costs[0].temporaries / 1e6:>11.1f} "
              f"{costs[0].total / 1e6:>7.1f} {costs[0].flops / 1e9:>7.1f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
