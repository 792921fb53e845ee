import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models.layers import SelfAttention, patchify, unpatchify
from mofme_jax.models.vit import WindowAttention, from_windows, to_windows

KEY = jax.random.key(0)
cut, join = jax.jit(to_windows, static_argnums=(1, 2)), jax.jit(from_windows, static_argnums=(1, 2, 3))


def test_patches_are_row_major_with_the_channel_fastest():
    image = jnp.arange(4 * 4 * 2).reshape(1, 4, 4, 2)
    patches = patchify(image, 2)
    np.testing.assert_array_equal(patches[0, 0, 1], image[0, :2, 2:].reshape(-1))
    np.testing.assert_array_equal(unpatchify(patches, 2), image)


@pytest.mark.parametrize("grid", [(8, 8), (5, 11), (1, 1), (3, 16)])
@pytest.mark.parametrize("shift", [0, 2])
def test_windows_come_back_whole(grid, shift):
    x = jax.random.normal(KEY, (2, *grid, 3))
    windows, inside = cut(x, 4, shift)
    assert windows.shape[1:] == (16, 3)
    assert inside.shape == windows.shape[:2]
    assert inside.sum() == 2 * grid[0] * grid[1]
    np.testing.assert_array_equal(join(windows, grid, 4, shift), x)


def test_one_window_is_global_attention():
    x = jax.random.normal(KEY, (2, 4, 4, 12))
    windowed = WindowAttention(heads=3, head_dim=5, window=4)
    params = jax.jit(windowed.init)(KEY, x)
    everywhere = jax.jit(SelfAttention(heads=3, head_dim=5).apply)(params, x.reshape(2, 16, 12))
    np.testing.assert_allclose(jax.jit(windowed.apply)(params, x).reshape(2, 16, 12), everywhere, atol=1e-5)


@pytest.mark.parametrize("shift", [0, 2])
def test_padding_is_not_attended_to(shift):
    x = jax.random.normal(KEY, (1, 5, 6, 12))
    attention = WindowAttention(heads=3, head_dim=4, window=4, shift=shift)
    params = jax.jit(attention.init)(KEY, x)
    windows, inside = map(np.asarray, cut(x, 4, shift))
    plain, expected = jax.jit(SelfAttention(heads=3, head_dim=4).apply), np.zeros_like(windows)
    for i, real in enumerate(inside):  # each window's own tokens, and nothing else
        expected[i, real] = plain(params, windows[i, real][None])[0]
    merged = join(expected, (5, 6), 4, shift)
    np.testing.assert_allclose(jax.jit(attention.apply)(params, x), merged, atol=1e-5)


def test_a_window_sees_nothing_outside_itself():
    x = jax.random.normal(KEY, (1, 8, 8, 12))
    attention = WindowAttention(heads=3, head_dim=4, window=4)
    params = jax.jit(attention.init)(KEY, x)
    apply = jax.jit(attention.apply)
    changed = apply(params, x.at[:, 4:].add(1.0))
    np.testing.assert_array_equal(changed[:, :4], apply(params, x)[:, :4])
    assert not np.allclose(changed[:, 4:], apply(params, x)[:, 4:])
