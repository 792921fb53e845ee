"""What more experts cost: the paper's network, and the experts' layer alone, by number of experts.

    python benchmarks/experts.py                  # the network: inference and training step, mofme, moe and dense
    python benchmarks/experts.py --layer          # one layer of modulated experts, by way of dispatch

The network is `build("base")` on a 240 x 240 image, T = 900 tokens of width D = 384. A training step is forward,
backward and AdamW's update in place, without clipping and averaging. All networks of one K are timed in turns, round
by round, so that a busy spell meets all of them; parameters are drawn by NumPy from seed 0. A row has the median
in milliseconds with the quartiles, and its ratio to the first row of its kind and K. Pin the process to idle cores
(`taskset -c 0,1`) to compare times. On a CPU a good part of a training step with many experts is the system's page
faults in fresh memory; with `GLIBC_TUNABLES=glibc.malloc.hugetlb=1` in the environment Linux hands out large pages.
"""

import argparse
import os
import platform
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from mofme_jax.models import build
from mofme_jax.models.dispatch import resolve
from mofme_jax.models.film import ModulatedExperts

SIZE, TOKENS, WIDTH = 240, 900, 384


def main() -> None:
    """Parses the command line and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--layer", action="store_true", help="the layer alone, by way of dispatch")
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 16, 64, 128], metavar="E")
    parser.add_argument("--top-k", type=int, nargs="+", default=[1, 2, 4], metavar="K")
    parser.add_argument("--kinds", nargs="+", default=["mofme", "moe", "dense"], choices=["mofme", "moe", "dense"])
    methods = ["block", "batch", "ragged", "dense"]
    parser.add_argument("--methods", nargs="+", default=methods, choices=methods, help="with --layer")
    parser.add_argument("--generator", default="linear", choices=["linear", "low_rank"], help="of gamma and beta")
    parser.add_argument("--batch", type=int, default=1, help="images of a training step (default: 1)")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each row (default: 7)")
    options = parser.parse_args()
    if options.rounds < 1:
        parser.error(f"--rounds={options.rounds} must be at least 1")
    if min(options.top_k) < 1 or max(options.top_k) > min(options.experts):
        parser.error(f"--top-k={options.top_k} experts cannot be chosen among --experts={options.experts}")
    print(machine())
    for top_k in options.top_k:
        print(f"\nK = {top_k}")
        if options.layer:
            layers(options, top_k)
        else:
            networks(options, top_k, "inference")
            networks(options, top_k, "training step")


def networks(options: argparse.Namespace, top_k: int, what: str) -> None:
    """Prints a table of the whole network."""
    prepare = inference if what == "inference" else partial(training, batch=options.batch)
    rows = {}
    for kind in options.kinds:
        for experts in options.experts[:1] if kind == "dense" else options.experts:
            model = build("base", feed_forward=kind, num_experts=experts, top_k=top_k, generator=options.generator)
            rows[f"{kind} E={experts}" if kind != "dense" else kind] = prepare(model)
    print_table(what, rows, options.rounds)


def layers(options: argparse.Namespace, top_k: int) -> None:
    """Prints a table of the layer's forward pass, and one of it with its gradients."""
    for what in ("forward", "forward and gradients"):
        rows = {}
        for method in options.methods:
            for experts in options.experts:
                layer = ModulatedExperts(experts, options.generator, dispatch=method)
                rows[f"{method} E={experts}"] = of_layer(layer, top_k, what != "forward")
        print_table(what, rows, options.rounds)


def inference(model) -> tuple[Callable[[], Any], float, float]:
    """A call that restores an image; seconds it took to compile; parameters in millions."""
    images = pixels(1)
    params = drawn(partial(model.init, jax.random.key(0)), images)
    restore, seconds = compiled(jax.jit(lambda params, images: model.apply(params, images)[0]), params, images)
    return lambda: restore(params, images), seconds, millions(params)


def training(model, batch: int) -> tuple[Callable[[], Any], float, float]:
    """A call that takes a training step, in place."""
    images, target = pixels(batch), 1.0 - pixels(batch)
    params = drawn(partial(model.init, jax.random.key(0)), images)
    optimiser = optax.adamw(1e-4)
    state = [params, jax.jit(optimiser.init)(params)]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, images, target):
        def loss(params):
            return jnp.square(model.apply(params, images, train=True)[0] - target).mean()

        updates, moments = optimiser.update(jax.grad(loss)(params), moments, params)
        return optax.apply_updates(params, updates), moments

    run, seconds = compiled(step, *state, images, target)

    def call():
        state[:] = run(*state, images, target)
        return state

    return call, seconds, millions(params)


def of_layer(layer: ModulatedExperts, top_k: int, gradients: bool) -> tuple[Callable[[], Any], float, float]:
    """A call of the layer on tokens that choose at random."""
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(TOKENS, WIDTH)), jnp.float32)
    chosen = jnp.asarray(np.argsort(rng.random((TOKENS, layer.num_experts)), axis=1)[:, :top_k])
    gates = jax.nn.one_hot(chosen, layer.num_experts).sum(1) / top_k
    # chosen is an argument like the others: XLA would sort a constant while it compiles
    args = (drawn(partial(layer.init, jax.random.key(0)), x, gates, chosen), x, gates, chosen)

    def output(params, x, gates, chosen):
        return layer.apply(params, x, gates, chosen)

    def summed(params, x, gates, chosen):
        return jnp.square(output(params, x, gates, chosen)).sum()

    call, seconds = compiled(jax.jit(jax.grad(summed, (0, 1, 2)) if gradients else output), *args)
    return lambda: call(*args), seconds, millions(args[0])


def compiled(function, *args) -> tuple[Callable, float]:
    """The compiled function, and the seconds that took."""
    lowered = function.lower(*args)
    start = time.perf_counter()
    return lowered.compile(), time.perf_counter() - start


def drawn(init: Callable, *args) -> Any:
    """Parameters of the shapes that `init` would make: normal, divided by the root of the fan-in."""
    rng = np.random.default_rng(0)

    def draw(leaf):
        return jnp.asarray(rng.standard_normal(leaf.shape, np.float32) / np.sqrt(leaf.shape[-2:][0]))

    return jax.tree.map(draw, jax.eval_shape(init, *args))


def pixels(batch: int) -> jax.Array:
    """(batch, SIZE, SIZE, 3) in [0, 1]."""
    return jnp.asarray(np.random.default_rng(1).random((batch, SIZE, SIZE, 3), np.float32))


def millions(params: Any) -> float:
    """Number of parameters."""
    return sum(leaf.size for leaf in jax.tree.leaves(params)) / 1e6


def print_table(what: str, rows: dict[str, tuple[Callable[[], Any], float, float]], rounds: int) -> None:
    """Times the calls in turns and prints a line each."""
    taken = np.array(list(in_turns(rows, rounds)))
    print(f"{what:<24} {'M params':>8} {'compile s':>9} {'ms':>8} {'quartiles':>15} {'ratio':>6}")
    first: dict[str, float] = {}
    for (name, (_, seconds, size)), times in zip(rows.items(), taken.T, strict=True):
        low, median, high = np.percentile(times, (25, 50, 75))
        ratio = median / first.setdefault(name.split()[0], median)
        figures = f"{size:>8.2f} {seconds:>9.1f} {median:>8.1f} {low:>7.1f}-{high:<7.1f} {ratio:>6.2f}"
        print(f"{name:<24} {figures}", flush=True)


def in_turns(rows: dict, rounds: int) -> Iterator[list[float]]:
    """Milliseconds of every row, round by round; the first round is not counted."""
    for n in range(rounds + 1):
        times = []
        for call, _, _ in rows.values():
            start = time.perf_counter()
            jax.block_until_ready(call())
            times.append(1e3 * (time.perf_counter() - start))
        if n:
            yield times


def machine() -> str:
    """What the figures rest on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{jax.devices()[0].device_kind}, {names[0] if names else platform.machine()}, {cores} core(s); "
        f"Python {platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__}; seed 0; "
        f'"auto" is "{resolve("auto", 4)}"'
    )


if __name__ == "__main__":
    main()
