"""Our network beside the same network in PyTorch: inference and training step, on a CPU or a GPU that both see.

    python benchmarks/pytorch.py                          # E = 4 and 128, K = 2
    python benchmarks/pytorch.py --dtype bfloat16         # a GPU's
    python benchmarks/pytorch.py --experts 16 --rows torch-top-k torch-dense-compiled

The network is `build("base")` on 240 x 240 images, ours with dispatch "auto", PyTorch's as in `torch_model.py`:
"loop" computes one expert after another, each for every token, as the published network does, "dense" all of them in
one product, "top-k" the chosen ones alone; "compiled" is torch.compile (of "top-k" all but the experts' loop).
Inference is of one image. A training step is forward, backward and AdamW's update (PyTorch's fused one).
Parameters and images are drawn by NumPy from fixed seeds and are the same in both; before anything is timed, outputs
and gradients are compared in full float32 and a difference is an error. PyTorch gets the faster of its two memory
formats, as many threads as there are cores to the process, and on a GPU, like JAX, products in TF32 where float32
is asked for. In bfloat16, parameters, routers and the output's sigmoid stay float32 in both.

All rows of a table are timed in turns, round by round. A row has the median in milliseconds with the quartiles, the
median over the rounds of its ratio to ours (above 1: ours is faster), and the share of the machine's peak: the
model's operations, those of chosen experts alone and counted from the kernels' shapes (a training step: three times
as many), a second, over those of the faster of JAX's and PyTorch's product of two large matrices in the same dtype.
"first s" is what the first call took, compilation included; "differs" how far the restored image, or the first loss,
is from ours in the dtype that is timed.
"""

import argparse
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
from experts import SIZE, in_turns, machine, pixels

from mofme_jax.models import build
from mofme_jax.models.restorer import Restorer

try:
    import torch
    from torch.nn import functional as F
    from torch_agreement import agreeing, drawn, loss_of, precise, state_dict_of, to_torch
    from torch_model import Form, TorchRestorer
except ImportError as error:
    raise SystemExit(f"{error}: install torch beside mofme_jax to compare with it") from error

ROWS = ("torch-loop", "torch-dense", "torch-top-k", "torch-dense-compiled", "torch-top-k-compiled")
RATE, DECAY = 1e-4, 1e-4


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--experts", type=int, nargs="+", default=[4, 128], metavar="E")
    parser.add_argument("--top-k", type=int, default=2, metavar="K")
    parser.add_argument("--batch", type=int, default=1, help="images of a training step (default: 1)")
    parser.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help="what is computed in")
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=ROWS, help="beside ours (default: all)")
    parser.add_argument("--rounds", type=int, default=7, help="timed calls of each row (default: 7)")
    options = parser.parse_args()
    if min(options.batch, options.rounds) < 1:
        parser.error("--batch and --rounds must be at least 1")
    # JAX would take most of the GPU's memory for itself; read when it first looks for devices
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    try:
        models = {e: build("base", num_experts=e, top_k=options.top_k) for e in options.experts}
        device = shared_device()
    except ValueError as error:
        parser.error(str(error))
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    print(f"{machine()}\nPyTorch {torch.__version__} on {device} with {torch.get_num_threads()} thread(s); "
          f"{options.dtype}, training batch {options.batch}, {options.rounds} rounds")  # fmt: skip
    rates = peaks(device, options.dtype)
    print(", ".join(f"{name} {rate / 1e9:.0f}" for name, rate in rates.items()) + " GFLOP/s in a product of matrices")
    for model in models.values():
        params = drawn(model)
        networks = agreeing(model, params, list(dict.fromkeys(map(form_of, options.rows))), device)
        for network in networks.values():
            network.dtype = getattr(torch, options.dtype)
        for what, batch in (("inference", 1), ("training step", options.batch)):
            torch.compiler.reset()
            channels_last = faster_format(networks[form_of(options.rows[0])], batch, what)
            rows = {"ours": ours(model.clone(dtype=options.dtype), params, batch, what)}
            for name in options.rows:
                network = networks[form_of(name)].to_format(channels_last)
                network.load_state_dict(state_dict_of(params, model, form_of(name)))
                rows[name] = theirs(network, batch, what, name.endswith("-compiled"))
            operations = flops(model, params, batch) * (1 if what == "inference" else 3)
            print(f"\nE = {model.num_experts}, K = {model.top_k}, {what}: {operations / 1e9:.0f} GFLOP; "
                  f"PyTorch's channels {'last' if channels_last else 'first'}", flush=True)  # fmt: skip
            exact = (device, options.dtype) == ("cpu", "float32")
            print_table(rows, options.rounds, operations / max(rates.values()), exact)
            del rows


def form_of(row: str) -> Form:
    """The form of the experts in a row of PyTorch's."""
    return cast(Form, row.removeprefix("torch-").removesuffix("-compiled"))


def shared_device() -> str:
    """ "cpu" or "cuda". Raises ValueError where JAX computes on what PyTorch does not see."""
    backend = jax.default_backend()
    if backend == "cpu":
        return "cpu"
    if backend == "gpu" and torch.cuda.is_available():
        return "cuda"
    raise ValueError(f"JAX computes on a {backend} that this PyTorch does not see: "
                     "set JAX_PLATFORMS=cpu, or install PyTorch with CUDA")  # fmt: skip


def flops(model: Restorer, params: Any, batch: int) -> float:
    """Of a forward pass: products alone, a multiplication and an addition each; K experts a token, not E."""
    pixel_count = batch * SIZE**2
    tokens = pixel_count / model.patch**2
    total = model.depth * 4.0 * tokens * (tokens / batch) * model.heads * model.head_dim
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        name = jax.tree_util.keystr(path)
        if "kernel" in name:
            each = 2.0 * leaf.size * (pixel_count if leaf.ndim == 4 else tokens)
            share = model.top_k / model.num_experts if "experts" in name else 2 if "router" in name else 1
            total += each * share
    return total


def peaks(device: str, dtype: str) -> dict[str, float]:
    """Operations a second of the product of two square matrices, the best of ten."""
    n = 8192 if device == "cuda" else 2048
    matrix = np.random.default_rng(0).standard_normal((n, n), np.float32)
    in_torch, in_jax = torch.from_numpy(matrix).to(device, getattr(torch, dtype)), jnp.asarray(matrix, dtype)
    product = jax.jit(jnp.matmul)
    precise(False)
    calls = {"JAX": lambda: product(in_jax, in_jax), "PyTorch": lambda: in_torch @ in_torch}
    best = np.min(list(in_turns({name: started(call) for name, call in calls.items()}, 10)), axis=0)
    return {name: 2.0 * n**3 / (1e-3 * ms) for name, ms in zip(calls, best, strict=True)}


def faster_format(network: TorchRestorer, batch: int, what: str) -> bool:
    """Whether PyTorch, uncompiled, is faster with channels last: the best of three calls each."""
    best = {}
    for channels_last in (False, True):
        rows = {"": theirs(network.to_format(channels_last), batch, what, compile_it=False)}
        best[channels_last] = np.min(list(in_turns(rows, 3)))
    return bool(best[True] < best[False])


def ours(model: Restorer, params: Any, batch: int, what: str) -> tuple[Callable, float, Any]:
    """A call that restores images or takes a training step in place; seconds of the first; what that returned."""
    images, target = pixels(batch), 1.0 - pixels(batch)
    if what == "inference":
        restore = jax.jit(lambda params, images: model.apply(params, images)[0])
        return started(lambda: restore(params, images))
    optimiser = optax.adamw(RATE, weight_decay=DECAY)
    state = [jax.tree.map(jnp.copy, params), jax.jit(optimiser.init)(params)]

    @partial(jax.jit, donate_argnums=(0, 1))
    def step(params, moments, images, target):
        loss, gradients = jax.value_and_grad(partial(loss_of, model))(params, images, target)
        updates, moments = optimiser.update(gradients, moments, params)
        return optax.apply_updates(params, updates), moments, loss

    def call():
        *state[:], loss = step(*state, images, target)
        return loss, state

    return started(call)


def theirs(network: TorchRestorer, batch: int, what: str, compile_it: bool) -> tuple[Callable, float, Any]:
    """The same of PyTorch's."""
    images, target = to_torch(pixels(batch), network), to_torch(1.0 - pixels(batch), network)
    maybe_compiled = torch.compile if compile_it else lambda function: function
    if what == "inference":
        restore = maybe_compiled(network)
        return started(torch.inference_mode()(lambda: restore(images)))
    optimiser = torch.optim.AdamW(network.parameters(), RATE, weight_decay=DECAY, fused=True)
    loss_of_network = maybe_compiled(lambda images, target: F.mse_loss(network(images), target))

    def call():
        optimiser.zero_grad()
        loss = loss_of_network(images, target)
        loss.backward()
        optimiser.step()
        return loss.detach()

    return started(call)


def started(call: Callable) -> tuple[Callable, float, Any]:
    """The call, the seconds of its first time, and the images or the loss that it gave."""

    def finished():
        result = jax.block_until_ready(call())
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        return result

    start = time.perf_counter()
    result = finished()
    seconds = time.perf_counter() - start
    if isinstance(result, torch.Tensor):
        result = result.float().cpu()
        result = result.movedim(1, -1) if result.ndim == 4 else result
    return finished, seconds, np.asarray(result[0] if isinstance(result, tuple) else result)


def print_table(rows: dict[str, tuple[Callable, float, Any]], rounds: int, seconds_at_peak: float, exact: bool) -> None:
    """Times the rows in turns and prints a line each.

    Raises SystemExit, if exact, where a row's first result differs from ours by more than 1e-4.
    """
    expected = rows["ours"][2]
    differences = {name: float(np.abs(result - expected).max()) for name, (_, _, result) in rows.items()}
    if exact and not all(difference <= 1e-4 for difference in differences.values()):
        raise SystemExit(f"results differ from ours: {differences}")
    taken = np.array(list(in_turns(rows, rounds)))
    print(f"{'':<22} {'first s':>7} {'ms':>8} {'quartiles':>17} {'ratio':>6} {'of peak':>7} {'differs':>8}")
    for (name, (_, first, _)), times in zip(rows.items(), taken.T, strict=True):
        low, median, high = np.percentile(times, (25, 50, 75))
        figures = f"{first:>7.1f} {median:>8.1f} {low:>8.1f}-{high:<8.1f} {np.median(times / taken[:, 0]):>6.2f}"
        print(f"{name:<22} {figures} {seconds_at_peak / (1e-3 * median):>7.1%} {differences[name]:>8.1e}", flush=True)


if __name__ == "__main__":
    main()
