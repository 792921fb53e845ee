"""Dispatch: each token through the K experts chosen for it, and through no others.

Axis glossary: `T` tokens of a batch, `D` width in, `F` width out, `E` experts, `K` chosen a token, `R = T K` rows: the
assignments of tokens to experts, sorted by expert, so that each expert's rows are one run of them.

No assignment is ever dropped and every shape is static, whatever the router does. What differs is how the
product of the rows with their experts' kernels is computed; values and gradients are the same:

- `block`: one expert after another, each its rows in blocks, in loops that run as often as there are blocks. Each
  kernel is read once, and nothing grows with E but the kernels and their gradient. For CPUs.
- `batch`: all blocks at once, one batched product with a copy of the kernel for every block. For GPUs, on which a loop
  of small products is mostly waiting.
- `ragged`: `jax.lax.ragged_dot`, which TPUs have a kernel for; elsewhere XLA multiplies every row with every expert.
- `dense`: no dispatch: the caller computes every expert for every token. The definition, and what the others are tested
  against.

Gradients are taken backwards (`jax.grad`), and once: those of `dense` and `batch` can be differentiated again. All but
`ragged` can be mapped over images by `jax.vmap`.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, Protocol, get_args

import chex
import jax
import jax.numpy as jnp
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

Dispatch = Literal["auto", "dense", "block", "batch", "ragged"]

BATCH_AXES = ("data", "fsdp")
"""Names of the mesh axes over which batches are split, and so the tokens."""


class Product(Protocol):
    """Multiplies each row with the kernel of its expert and adds its bias."""

    def __call__(self, rows: jax.Array, kernel: jax.Array, bias: jax.Array | None = None) -> jax.Array:
        """rows: (R, D). kernel: (E, D, F). bias: (E, F). Returns (R, F) in their common type."""
        ...


Experts = Callable[[Any, jax.Array, Product], jax.Array]
"""`experts(params, rows, product)`: (R, D) rows -> (R, F), each through its own expert's parameters."""


def check_dispatch(method: str) -> None:
    """Raises ValueError, naming the field and the remedy, for an unknown method."""
    if method not in get_args(Dispatch):
        raise ValueError(f"dispatch={method!r} is unknown; choose one of {', '.join(get_args(Dispatch))}")


def resolve(method: Dispatch, num_experts: int, platform: str | None = None) -> Dispatch:
    """What "auto" stands for; any other method is itself.

    On CPUs "block" was the fastest for 2 to 128 experts (benchmarks/experts.py --layer). The choices for GPUs and TPUs
    are not measured: that for GPUs is reasoned, that for TPUs goes by what `mofme plan` says of few and of many experts
    (docs/plan.md). A lone expert needs no dispatch.

    Args:
      method: see the module.
      num_experts: E.
      platform: "cpu", "gpu" or "tpu"; None: JAX's default backend.

    Raises:
      ValueError: for an unknown method.
    """
    check_dispatch(method)
    if method != "auto":
        return method
    if num_experts == 1:
        return "dense"
    by_platform: dict[str, Dispatch] = {"cpu": "block", "tpu": "ragged" if num_experts > 16 else "dense"}
    return by_platform.get(platform or jax.default_backend(), "batch")


def through_chosen(
    experts: Experts, params: Any, x: jax.Array, gates: jax.Array, chosen: jax.Array, method: Dispatch
) -> jax.Array:
    """`sum_k gates[t, e_k] * expert_{e_k}(x_t)` with `e_k = chosen[t, k]`.

    Tokens are sorted shard by shard, see `by_shard`.

    Args:
      experts: what an expert does.
      params: its parameters, every leaf stacked over the experts.
      x: (T, D).
      gates: (T, E), of any sign; only those of chosen experts are read.
      chosen: (T, K), each token's different.
      method: "block", "batch" or "ragged".

    Returns:
      (T, F), in the type that x and params promote to; sums are made in float32 at the least.
    """
    chex.assert_shape(chosen, (x.shape[0], None))
    chex.assert_shape(gates, (x.shape[0], None))
    return by_shard(partial(_through_chosen, experts, method), params, x, gates, chosen)


def _through_chosen(experts, method, params, x, gates, chosen):
    tokens, top_k = chosen.shape
    expert_of, order = jax.lax.sort_key_val(chosen.reshape(-1), jnp.arange(chosen.size))
    sizes = jnp.bincount(expert_of, length=gates.shape[-1]).astype(jnp.int32)

    def product(rows, kernel, bias=None):
        y = grouped_matmul(rows, kernel, sizes, method)
        y = y if bias is None else y + bias[expert_of]
        return y.astype(jnp.result_type(rows, kernel))

    # tokens are repeated before the sort, so that its gradient, too, is a permutation and not a sum in any order
    rows = jnp.repeat(x, top_k, axis=0).at[order].get(unique_indices=True)
    y = experts(params, rows, product)
    y = y.at[jnp.argsort(order)].get(unique_indices=True).reshape(tokens, top_k, -1)
    weights = jnp.take_along_axis(gates, chosen, axis=-1)
    # a sum and no product of matrices, which accelerators would round to bfloat16
    return (weights[..., None] * y).sum(axis=1).astype(jnp.result_type(x, *jax.tree.leaves(params)))


def by_shard(function: Callable, whole: Any, *split: jax.Array) -> jax.Array:
    """`function(whole, *split)`, shard by shard where a mesh in use (`jax.set_mesh`) has some of `BATCH_AXES`.

    For what XLA would gather from all devices, as it does to sort or to choose: each shard keeps to its own tokens.

    Args:
      function: maps each token by itself; leading axis T in and out.
      whole: pytree of arrays that every shard has whole, such as parameters.
      split: arrays whose leading axis is T. If the axes do not divide T, nothing is done by shard.
    """
    axes = split_axes(split[0].shape[0])
    if not axes:
        return function(whole, *split)
    tokens = P(axes)
    mapped = jax.shard_map(
        function,
        in_specs=(P(), *(tokens for _ in split)),
        out_specs=tokens,
        axis_names=set(axes),
        check_vma=False,
    )
    return mapped(whole, *split)


def split_axes(count: int) -> tuple[str, ...]:
    """Which of `BATCH_AXES` a mesh in use (`jax.set_mesh`) splits an axis of that length over; none if it cannot."""
    mesh = jax.sharding.get_abstract_mesh()
    axes = tuple(
        name
        for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True)
        if name in BATCH_AXES and kind != AxisType.Manual and mesh.shape[name] > 1
    )
    return () if count % math.prod(mesh.shape[name] for name in axes) else axes


def grouped_matmul(rows: jax.Array, kernel: jax.Array, sizes: jax.Array, method: Dispatch) -> jax.Array:
    """Row r times the kernel of the expert whose run of rows it is in.

    Args:
      rows: (R, D), the runs one behind the other in the order of the experts.
      kernel: (E, D, F).
      sizes: (E,) int32, the length of each expert's run; they sum to R, and may be 0.
      method: "block", "batch" or "ragged".

    Returns:
      (R, F), summed and returned in float32 at the least.
    """
    chex.assert_shape(kernel, (sizes.shape[0], rows.shape[1], None))
    rows, kernel = (a.astype(jnp.result_type(rows, kernel)) for a in (rows, kernel))
    mean = -(-rows.shape[0] // sizes.shape[0])
    if method == "block":
        return _looped(rows, kernel, sizes, min(max(_power_of_two(mean), 16), 64))
    if method == "batch":
        # half the mean: the experts' padding is then at most half the rows, and the copies of kernels about 3 E
        return _batched(rows, kernel, sizes, max(_power_of_two(mean) // 2, 16))
    if method == "ragged":
        return jax.lax.ragged_dot(rows, kernel, sizes, preferred_element_type=_at_least_float32(rows.dtype))
    raise ValueError(f"method={method!r} multiplies no groups of rows; choose block, batch or ragged")


def _power_of_two(n: int) -> int:
    """The least power of two that is at least n >= 1."""
    return 1 << (n - 1).bit_length()


def _at_least_float32(dtype):
    return jnp.promote_types(dtype, jnp.float32)


def _batched(rows, kernel, sizes, block):
    """Runs padded to whole blocks, of which there are never more than ceil(R / block) + E; one batched product."""
    count, experts = rows.shape[0], sizes.shape[0]
    ends = jnp.cumsum(sizes)
    starts = ends - sizes
    blocks = -(-sizes // block)
    blocks_ends = jnp.cumsum(blocks)
    blocks_starts = blocks_ends - blocks
    number = jnp.arange(-(-count // block) + experts)
    owner = jnp.minimum(jnp.searchsorted(blocks_ends, number, side="right"), experts - 1)
    row = (starts[owner] + (number - blocks_starts[owner]) * block)[:, None] + jnp.arange(block)
    row = jnp.where(row < ends[owner][:, None], row, count)  # what is left of a block reads nothing
    padded = rows.at[row].get(mode="fill", fill_value=0)
    wide = _at_least_float32(rows.dtype)
    # an expert's gradient is the sum of those of its blocks' copies: not in half precision
    copies = kernel.astype(wide)[owner].astype(kernel.dtype)
    y = jnp.einsum("bnd,bdf->bnf", padded, copies, preferred_element_type=wide)
    row = jnp.arange(count)
    owner = jnp.searchsorted(ends, row, side="right")
    place = blocks_starts[owner] * block + row - starts[owner]
    return y.reshape(-1, y.shape[-1]).at[place].get(unique_indices=True)


@partial(jax.custom_vjp, nondiff_argnums=(3,))
def _looped(rows, kernel, sizes, block):
    """For each expert, for each block of its rows: one product.

    A block is read and written where it lies, in order: what its last rows have of the next expert's run is computed
    for nothing and overwritten by that expert.
    """
    dtype = _at_least_float32(rows.dtype)
    padded = jnp.pad(rows, ((0, block), (0, 0)))

    def expert(out, of_expert):
        w, start, size = of_expert

        def one_block(i, out):
            at = start + i * block
            y = jnp.matmul(_block_at(padded, at, block), w, preferred_element_type=dtype)
            return jax.lax.dynamic_update_slice_in_dim(out, y, at, axis=0)

        return jax.lax.fori_loop(0, -(-size // block), one_block, out), None

    out = jnp.zeros((rows.shape[0] + block, kernel.shape[-1]), dtype)
    out, _ = jax.lax.scan(expert, out, (kernel, jnp.cumsum(sizes) - sizes, sizes))
    return out[: rows.shape[0]]


def _looped_forward(rows, kernel, sizes, block):
    return _looped(rows, kernel, sizes, block), (rows, kernel, sizes)


def _looped_backward(block, residuals, g):
    """The same loops. A loop of unknown length has no automatic gradient, and a scan over blocks would write each
    kernel's gradient once a block; here it is summed in cache and written once."""
    rows, kernel, sizes = residuals
    padded, padded_g = (jnp.pad(a, ((0, block), (0, 0))) for a in (rows, g))

    def expert(d_rows, of_expert):
        w, start, size = of_expert

        def one_block(i, sums):
            d_rows, d_w = sums
            at = start + i * block
            own = (i * block + jnp.arange(block) < size)[:, None]
            x_block, g_block = (jnp.where(own, _block_at(a, at, block), 0) for a in (padded, padded_g))
            d_w += jnp.matmul(x_block.T, g_block, preferred_element_type=g.dtype)
            d_block = jnp.matmul(g_block, w.T, preferred_element_type=g.dtype)
            return jax.lax.dynamic_update_slice_in_dim(d_rows, d_block, at, axis=0), d_w

        zero = jnp.zeros(w.shape, g.dtype)
        d_rows, d_w = jax.lax.fori_loop(0, -(-size // block), one_block, (d_rows, zero))
        return d_rows, d_w.astype(kernel.dtype)

    d_rows, d_kernel = jax.lax.scan(
        expert, jnp.zeros(padded.shape, g.dtype), (kernel, jnp.cumsum(sizes) - sizes, sizes)
    )
    return d_rows[: rows.shape[0]].astype(rows.dtype), d_kernel, None


_looped.defvjp(_looped_forward, _looped_backward)


def _block_at(rows, at, block):
    return jax.lax.dynamic_slice_in_dim(rows, at, block, axis=0)
