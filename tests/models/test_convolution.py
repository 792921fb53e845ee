"""The convolution and its gradients are XLA's. On several devices: test_shards.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models import convolution

SHAPES = {
    "one strip": (2, 5, 7, 3, 4),
    "rows that are left over": (1, 7, 300, 4, 4),
    "more channels in than out": (1, 9, 260, 6, 3),
    "images one after the other": (3, 4, 200, 2, 3),
    "one pixel": (1, 1, 1, 2, 5),
    "a row": (3, 1, 40, 2, 2),
}


@pytest.fixture
def x64():
    with jax.enable_x64(True):
        yield


def drawn(shape, dtype=np.float64):
    batch, height, width, channels, features = shape
    rng = np.random.default_rng(0)
    sizes = ((batch, height, width, channels), (3, 3, channels, features), (batch, height, width, features))
    return [rng.standard_normal(size).astype(dtype) for size in sizes]


def by_definition(x, g):
    """The sum, written out."""
    _, height, width, channels = x.shape
    padded = np.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    kernel = np.zeros((3, 3, channels, g.shape[-1]))
    for i in range(3):
        for j in range(3):
            kernel[i, j] = np.einsum("byzc,byzf->cf", padded[:, i : i + height, j : j + width], g)
    return kernel


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_the_gradient_to_the_kernel_is_its_definition(shape, x64):
    x, _, g = drawn(shape)
    np.testing.assert_allclose(convolution.kernel_gradient(x, g), by_definition(x, g), rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_values_and_gradients_are_those_of_xlas_convolution(shape, x64):
    x, kernel, g = drawn(shape)
    ours, pull = jax.vjp(convolution.conv3x3, x, kernel)
    theirs, pull_theirs = jax.vjp(convolution._convolve, x, kernel)
    np.testing.assert_array_equal(ours, theirs)
    for a, b in zip(pull(g), pull_theirs(g), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_half_precision_is_summed_in_single():
    x, _, g = (jnp.asarray(a, jnp.bfloat16) for a in drawn((1, 64, 64, 4, 4)))
    exact = by_definition(*(np.asarray(a, np.float64) for a in (x, g)))
    ours = convolution.kernel_gradient(x, g)
    assert ours.dtype == jnp.bfloat16
    np.testing.assert_allclose(np.asarray(ours, np.float64), exact, rtol=2**-8)
