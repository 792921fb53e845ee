"""The two layers that are computed in another way on CPUs, against XLA's own: time and temporary memory.

    python benchmarks/layers.py

A 3 x 3 convolution's gradient to its kernel, and attention forward and with its gradients. Arrays are drawn by NumPy
from seed 0; calls take turns, round by round. A row has the medians in milliseconds with the quartiles, and XLA's time
as a multiple of ours.
"""

import argparse
import time

import jax
import jax.numpy as jnp
import numpy as np
from experts import machine

from mofme_jax.models import attention, convolution

CONVOLUTIONS = {  # images, pixels on a side, channels in, channels out
    "paper's tail, 1 image": (1, 240, 128, 128),
    "paper's tail, 4 images": (4, 240, 128, 128),
    "paper's tail, narrow end": (1, 240, 64, 64),
    "paper's head": (1, 240, 32, 32),
    "default, finest level": (4, 48, 16, 16),
    "default, middle level": (4, 24, 32, 32),
    "default, coarsest level": (4, 12, 64, 64),
}
ATTENTIONS = {"paper, 1 image": (1, 900, 8, 64), "paper, 4 images": (4, 900, 8, 64)}  # images, tokens, heads, width


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9, help="timed calls of each (default: 9)")
    rounds = parser.parse_args().rounds
    if rounds < 1:
        parser.error(f"--rounds={rounds} must be at least 1")
    print(machine())
    print(f"\n{'gradient to the kernel':<40} {'XLA ms':>23} {'ours ms':>23} {'ratio':>5} {'MiB':>11}")
    for name, (images, side, channels, features) in CONVOLUTIONS.items():
        arrays = [drawn(images, side, side, count) for count in (channels, features)]
        ways = (convolution._kernel_gradient_by_xla, convolution.kernel_gradient)
        print_row(name, arrays, ways, rounds)
    print(f"\n{'attention':<40}")
    for name, shape in ATTENTIONS.items():
        arrays = [drawn(*shape) for _ in range(3)]
        ways = (attention._at_once, attention._in_parts)
        print_row(f"{name}, forward", arrays, ways, rounds)
        print_row(f"{name}, with gradients", arrays, [with_gradients(way) for way in ways], rounds)


def with_gradients(way):
    """The way's gradients to all three."""
    return jax.grad(lambda *arrays: jnp.square(way(*arrays)).sum(), (0, 1, 2))


def drawn(*shape: int) -> jax.Array:
    """Standard normal numbers."""
    return jnp.asarray(np.random.default_rng(0).standard_normal(shape, np.float32))


def print_row(name: str, arrays: list[jax.Array], ways, rounds: int) -> None:
    """Times two ways in turns, checks that they agree, and prints a line."""
    compiled = [jax.jit(way).lower(*arrays).compile() for way in ways]
    for a, b in zip(*(jax.tree.leaves(call(*arrays)) for call in compiled), strict=True):
        assert jnp.abs(a - b).max() < 1e-4 * jnp.abs(a).max(), name
    times = np.array([[taken(call, arrays) for call in compiled] for _ in range(rounds)])
    quartiles = [f"{m:.1f} ({low:.1f}-{high:.1f})" for low, m, high in np.percentile(times, (25, 50, 75), axis=0).T]
    memory = [f"{call.memory_analysis().temp_size_in_bytes / 2**20:.0f}" for call in compiled]
    ratio = np.median(times[:, 0]) / np.median(times[:, 1])
    print(f"{name:<40} {quartiles[0]:>23} {quartiles[1]:>23} {ratio:>5.2f} {' / '.join(memory):>11}", flush=True)


def taken(call, arrays: list[jax.Array]) -> float:
    """Milliseconds of one call."""
    start = time.perf_counter()
    jax.block_until_ready(call(*arrays))
    return 1e3 * (time.perf_counter() - start)


if __name__ == "__main__":
    main()
