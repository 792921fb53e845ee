"""Scaled dot-product attention.

Axis glossary: `B` images (or windows), `N` tokens of one, `A` heads, `d` width of a head.

The scores, B A N^2 numbers, are what attention costs at the paper's size: more memory than all its arrays together. On
a CPU, a few heads are computed at a time, so that their scores stay in cache, and computed again for the gradient, so
that none are kept: less time, and memory that grows with N alone (`benchmarks/layers.py`).
"""

import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.dispatch import by_shard

CACHED = 1 << 20
"""Scores that are computed at a time on a CPU: 4 MiB of them."""


def attend(q: jax.Array, k: jax.Array, v: jax.Array, mask: jax.Array | None = None) -> jax.Array:
    """softmax(q k^T / sqrt(d)) v, head by head.

    Scores and softmax are kept in float32 or, where the operands are wider, in their own precision:
    `jax.nn.dot_product_attention` rounds its softmax to float32 even when everything else is float64.

    Args:
      q, k, v: (B, N, A, d).
      mask: (B or 1, N) booleans, False where a key is padding.

    Returns:
      (B, N, A, d), in the dtype of v.
    """
    batch, tokens, heads = q.shape[:3]
    masks = () if mask is None else (jnp.broadcast_to(mask, (batch, tokens)),)
    if batch * heads * tokens**2 <= CACHED:
        return _at_once(q, k, v, *masks)
    return jax.lax.platform_dependent(q, k, v, *masks, cpu=_in_parts, default=_at_once)


def _at_once(q, k, v, *masks):
    precision = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bqhd,bkhd->bhqk", q, k, preferred_element_type=precision) * q.shape[-1] ** -0.5
    for mask in masks:
        scores = jnp.where(mask[:, None, None, :], scores, jnp.finfo(precision).min)
    return jnp.einsum("bhqk,bkhd->bqhd", nn.softmax(scores).astype(v.dtype), v)


def _in_parts(q, k, v, *masks):
    def on_a_device(_, q, k, v, *masks):
        batch, tokens, heads, width = q.shape
        arrays = [a.swapaxes(1, 2).reshape(batch * heads, tokens, width) for a in (q, k, v)]
        arrays += [jnp.repeat(mask, heads, axis=0) for mask in masks]
        one_head = jax.checkpoint(_one_head)
        y = jax.lax.map(lambda of_head: one_head(*of_head), arrays, batch_size=max(1, CACHED // tokens**2))
        return y.reshape(batch, heads, tokens, width).swapaxes(1, 2)

    return by_shard(on_a_device, None, q, k, v, *masks)


def _one_head(q, k, v, *masks):
    """(N, d) of each. What the scores are divided by is divided by last, when N^2 numbers have become N d."""
    precision = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.matmul(q, k.T, preferred_element_type=precision) * q.shape[-1] ** -0.5
    for mask in masks:
        scores = jnp.where(mask, scores, jnp.finfo(precision).min)
    weights = jnp.exp(scores - jax.lax.stop_gradient(scores.max(-1, keepdims=True)))
    y = jnp.matmul(weights.astype(v.dtype), v, preferred_element_type=precision)
    return (y / weights.sum(-1, keepdims=True)).astype(v.dtype)
