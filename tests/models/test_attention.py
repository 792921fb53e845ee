"""Attention a few heads at a time is attention. On several devices: test_shards.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models import attention


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def drawn(batch=2, tokens=9, heads=3, width=4, dtype=np.float64):
    rng = np.random.default_rng(0)
    return [rng.standard_normal((batch, tokens, heads, width)).astype(dtype) for _ in range(3)]


def by_definition(q, k, v, mask):
    """One row of scores after the other."""
    out = np.zeros_like(v)
    for b, i, h in np.ndindex(*q.shape[:3]):
        keys = np.flatnonzero(mask[b])
        scores = np.array([q[b, i, h] @ k[b, j, h] for j in keys]) / np.sqrt(q.shape[-1])
        weights = np.exp(scores - scores.max())
        weights /= weights.sum()
        out[b, i, h] = weights @ v[b, keys, h]
    return out


@pytest.fixture(params=[1, 200, 1 << 20], ids=["a head", "some heads", "at once"])
def cached(request, monkeypatch):
    monkeypatch.setattr(attention, "CACHED", request.param)


@pytest.mark.parametrize("masked", [False, True])
def test_attend_is_its_definition(cached, masked, x64):
    arrays = drawn()
    mask = np.ones((2, 9), bool)
    if masked:
        mask[:, 7:] = mask[1, 2] = False
    ours = attention.attend(*arrays, jnp.asarray(mask) if masked else None)
    np.testing.assert_allclose(ours, by_definition(*arrays, mask), rtol=1e-10)


def test_one_mask_serves_all_images(cached, x64):
    arrays, mask = drawn(), np.arange(9) < 5
    ours = attention.attend(*arrays, jnp.asarray(mask)[None])
    np.testing.assert_allclose(ours, by_definition(*arrays, np.stack([mask, mask])), rtol=1e-10)


def test_gradients_do_not_depend_on_how_many_heads_are_computed_at_a_time(monkeypatch, x64):
    arrays = drawn()

    def gradients(cached):
        monkeypatch.setattr(attention, "CACHED", cached)
        return jax.grad(lambda *a: jnp.sin(attention.attend(*a)).sum(), (0, 1, 2))(*arrays)

    for a, b in zip(gradients(100), gradients(1 << 20), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


def test_large_scores_do_not_overflow(cached):
    q, k, v = drawn(dtype=np.float32)
    ours = attention.attend(100 * q, 100 * k, v)
    assert np.isfinite(ours).all()
    np.testing.assert_allclose(
        ours, by_definition(*(a.astype(float) for a in (100 * q, 100 * k, v)), np.ones((2, 9))), atol=1e-3
    )


def test_no_scores_are_kept_for_the_gradient(optimised):
    tokens = 2048
    arrays = [jax.ShapeDtypeStruct((2, tokens, 4, 8), np.float32)] * 3
    compiled = jax.jit(jax.grad(lambda *a: attention.attend(*a).sum(), (0, 1, 2))).lower(*arrays).compile()
    assert compiled.memory_analysis().temp_size_in_bytes < 4 * 4 * tokens**2  # of the 4 * 8 tokens^2 bytes of all heads
