"""The reach that is reckoned is the reach that gradients have."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax import build

NETWORKS = {
    "windows": {"window": 2, "depth": 2},
    "no tokens": {"depth": 0},
    "wide windows": {"window": 3, "depth": 1},
    "the paper's way out": {"window": 2, "depth": 1, "skip": "none", "tail_channels": 4},
    "one level": {"window": 1, "depth": 2, "channels": (4,), "stem": 2, "blocks": 0},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_the_receptive_field_is_where_gradients_are(name):
    model = build("tiny", **{"channels": (4, 4), "width": 16, "dispatch": "dense"} | NETWORKS[name])
    reach = model.receptive_field()
    side = 2 * (reach // 16 + 3) * 8 + 48  # room on all sides, and places for every phase of patch and window
    side += -side % 48
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 16, 16, 3)))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    params = jax.tree.unflatten(
        tree, [leaf + 0.1 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    )
    image = jax.random.uniform(jax.random.key(2), (1, side, side, 3))

    @jax.jit
    def seen_by(pixel):
        value = lambda x: model.apply({"params": params}, x, train=True)[0][0, pixel, pixel].sum()  # noqa: E731
        return jnp.abs(jax.grad(value)(image)[0]).max(-1)

    middle, found = side // 2 // 48 * 48, 0
    for pixel in range(middle, middle + 48):
        rows, columns = np.nonzero(np.asarray(seen_by(pixel)))
        far = max(np.abs(rows - pixel).max(), np.abs(columns - pixel).max())
        assert far <= reach
        found = max(found, far)
    assert found >= reach - 1  # ReLUs may be shut at the very rim


def test_global_attention_sees_the_whole_image():
    assert build("tiny").receptive_field() is None
    assert build("tiny", window=4).receptive_field() is not None
