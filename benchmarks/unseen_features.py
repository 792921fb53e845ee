"""What the scores of benchmarks/unseen.py, which defines them, are computed from: vectors of one image.

Axis glossary: `n` tiles, `H W` pixels.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp

from mofme_jax.models.layers import block_mean, enlarge, unpatchify

SMALL = 1e-3
"""A quarter of a level of eight bits, added before a logarithm is taken."""


@partial(jax.jit, static_argnums=0)
def measure(model, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """Scalars and vectors by name, over (n, H, W, 3) tiles of one image in [0, 1], whose sides are whole patches.

    A network without an error head has no "expected error", no "error against change", no "error and sign".
    """
    (restored, aux, *error), state = model.apply(
        {"params": params},
        images,
        method="with_error" if model.error_head else None,
        capture_intermediates=lambda module, _: module.name in ("feed_forward_norm", "detail"),
        mutable=["intermediates"],
    )
    read = state["intermediates"]
    detail = unpatchify(read.pop("detail")["__call__"][0], model.stem)
    detail -= enlarge(block_mean(detail, model.patch), images.shape[1:3])  # as the network does
    change = jnp.abs(restored - images).mean(axis=-1)

    def over_tokens(arrays: Sequence[jax.Array], *statistics: Callable) -> jax.Array:
        return jnp.concatenate([f(a.reshape(-1, a.shape[-1]), axis=0) for a in arrays for f in statistics])

    measured = {
        "mutual information": jnp.stack([layer.uncertainty for layer in aux]).mean(),
        "entropy": jnp.stack([layer.entropy for layer in aux]).mean(),
        "change": change.mean(),
        "routing profile": over_tokens([a for layer in aux for a in (layer.logits, layer.gates)], jnp.mean),
        "router input": over_tokens(jax.tree.leaves(read), jnp.mean, jnp.std),
        "pixels, no network": over_tokens([images], jnp.mean, jnp.std),
    }
    if error:
        against = agreement(error[0], change)
        measured["expected error"] = error[0].mean()
        measured["error against change"] = against
        measured["error and sign"] = jnp.append(against, balance(detail.mean(axis=-1)))
    return measured


def agreement(error: jax.Array, change: jax.Array) -> jax.Array:
    """Two (n, H, W), both at least 0 -> (2,): over all pixels, the correlation of the logarithm of the error expected
    with that of the change, 0 where either is the same everywhere, and the mean of the first less that of the second.
    """
    error, change = jnp.log(error + SMALL).ravel(), jnp.log(change + SMALL).ravel()
    ratio = error.mean() - change.mean()
    error, change = error - error.mean(), change - change.mean()
    norm = jnp.sqrt((error**2).mean() * (change**2).mean())
    return jnp.stack([(error * change).mean() / (norm + SMALL**2), ratio])


def balance(detail: jax.Array) -> jax.Array:
    """(n, H, W) -> (): the logarithm of the energy of what is made darker over that of what is made brighter."""
    darker, brighter = ((jnp.clip(side * detail, 0.0) ** 2).mean() + SMALL**2 / 10 for side in (-1, 1))
    return jnp.log(darker / brighter)
