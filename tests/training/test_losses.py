"""Losses on numbers worked out by hand, and on measured values."""

from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models import vgg
from mofme_jax.training.losses import (
    charbonnier,
    gradient_l1,
    importance_loss,
    load_loss,
    perceptual,
    smooth_l1,
    z_loss,
)

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"
IMAGE_LOSSES = [smooth_l1, charbonnier, gradient_l1]


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {key: archive[key] for key in archive.files}


def image(*rows: list[float]) -> jax.Array:
    """One image of one channel, (1, H, W, 1)."""
    return jnp.asarray(rows)[None, :, :, None]


def test_smooth_l1_by_hand():
    # Differences 0.5 and 3 with beta 1: 0.5 * 0.25 = 0.125 and 3 - 0.5 = 2.5; mean 1.3125.
    # With beta 2: 0.25 / 4 = 0.0625 and 3 - 1 = 2; mean 1.03125.
    restored, target = image([0.5, -3.0]), image([0.0, 0.0])
    np.testing.assert_allclose(smooth_l1(restored, target), [1.3125], rtol=1e-6)
    np.testing.assert_allclose(smooth_l1(restored, target, beta=2.0), [1.03125], rtol=1e-6)


def test_smooth_l1_equals_measured_values(golden):
    x, y = (np.stack([golden[f"pair{i}/{name}"].transpose(1, 2, 0) for i in range(3)]) for name in "xy")
    expected = [float(golden[f"pair{i}/smoothl1_beta1"]) for i in range(3)]
    np.testing.assert_allclose(jax.jit(smooth_l1)(x, y), expected, rtol=1e-5)


def test_smooth_l1_equals_measured_value_and_gradient_beyond_beta(golden):
    a, b = (jnp.asarray(golden[f"smoothl1_wide/{name}"]).transpose(0, 2, 3, 1) for name in "ab")
    assert (jnp.abs(a - b) > 1).any()
    value, gradient = jax.jit(jax.value_and_grad(lambda a: smooth_l1(a, b).mean()))(a)
    np.testing.assert_allclose(value, golden["smoothl1_wide/value"], rtol=1e-6)
    np.testing.assert_allclose(gradient, golden["smoothl1_wide/grad_a"].transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-9)


def test_charbonnier_by_hand():
    # Differences 0.3 and 0 with epsilon 0.4: sqrt(0.09 + 0.16) = 0.5 and 0.4; mean 0.45.
    np.testing.assert_allclose(charbonnier(image([0.3, 0.0]), image([0.0, 0.0]), 0.4), [0.45], rtol=1e-6)


def test_charbonnier_of_identical_images_is_epsilon_with_no_gradient():
    x = jnp.full((1, 2, 2, 3), 0.5)
    value, gradient = jax.value_and_grad(lambda x: charbonnier(x, jnp.full_like(x, 0.5)).sum())(x)
    np.testing.assert_allclose(value, 1e-3, rtol=1e-6)
    np.testing.assert_array_equal(gradient, 0)


def test_gradient_l1_by_hand():
    # [[0, 1], [3, 5]] against zeros: vertical steps 3 and 4, mean 3.5; horizontal steps 1 and 2, mean 1.5;
    # their average is 2.5.
    np.testing.assert_allclose(gradient_l1(image([0.0, 1.0], [3.0, 5.0]), jnp.zeros((1, 2, 2, 1))), [2.5])


def test_gradient_l1_ignores_brightness():
    target = jnp.asarray(np.random.default_rng(0).random((2, 5, 7, 3), np.float32))
    np.testing.assert_allclose(gradient_l1(target + 0.25, target), [0, 0], atol=1e-6)


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_image_losses_are_per_image(loss):
    rng = np.random.default_rng(0)
    restored, target = jnp.asarray(rng.random((2, 3, 5, 4, 3), np.float32))
    loss = jax.jit(loss)
    values = loss(restored, target)
    assert values.shape == (3,)
    alone = [loss(x, y) for x, y in zip(restored, target, strict=True)]
    np.testing.assert_allclose(values, alone, rtol=1e-6)


@pytest.mark.parametrize("loss", IMAGE_LOSSES)
def test_half_precision_images_are_compared_in_float32(loss):
    rng = np.random.default_rng(0)
    restored, target = jnp.asarray(rng.random((2, 1, 8, 8, 3), np.float32)).astype(jnp.bfloat16)
    loss = jax.jit(loss)
    value = loss(restored, target)
    assert value.dtype == jnp.float32
    expected = loss(restored.astype(jnp.float32), target.astype(jnp.float32))
    np.testing.assert_allclose(value, expected, rtol=1e-6)


@pytest.mark.parametrize("loss", [*IMAGE_LOSSES, partial(perceptual, params=())])
def test_image_losses_refuse_what_would_broadcast_or_wrap(loss):
    x = jnp.zeros((2, 4, 4, 3))
    with pytest.raises(ValueError, match=r"restored has shape \(2, 4, 4, 3\), target \(1, 4, 4, 3\)"):
        loss(x, x[:1])
    with pytest.raises(ValueError, match="target has dtype uint8"):
        loss(x, x.astype(jnp.uint8))
    with pytest.raises(ValueError, match="expected images"):
        loss(x[0, 0], x[0, 0])


def test_image_losses_refuse_parameters_out_of_range():
    x = jnp.zeros((1, 1, 4, 3))
    with pytest.raises(ValueError, match="beta must be positive, got 0"):
        smooth_l1(x, x, beta=0)
    with pytest.raises(ValueError, match="epsilon must be positive, got 0"):
        charbonnier(x, x, epsilon=0)
    with pytest.raises(ValueError, match="at least 2x2 pixels"):
        gradient_l1(x, x)


def mean_weights() -> vgg.Params:
    """Each convolution's output: the mean of its input's channels at the pixel, in every channel."""
    params, channels = [], 3
    for width in sum(vgg.LEVELS, ()):
        kernel = np.zeros((3, 3, channels, width), np.float32)
        kernel[1, 1] = 1 / channels
        params.append({"kernel": jnp.asarray(kernel), "bias": jnp.zeros(width)})
        channels = width
    return tuple(params)


def test_perceptual_by_hand():
    # Under these weights all features are the image's grey level. Rows of grey 0, 0, 0, 1 against black: of
    # level 1's 16 pixels 4 differ by 1: 1/4. Max-pooling keeps 1 in one of two rows: 1/2; and in the only
    # pixel left: 1. The mean is (1/4 + 1/2 + 1) / 3 = 7/12. The second image equals its target: 0.
    restored = jnp.zeros((2, 4, 4, 3)).at[0, 3].set(1.0)
    value = jax.jit(perceptual)(restored, jnp.zeros_like(restored), mean_weights())
    np.testing.assert_allclose(value, [7 / 12, 0], rtol=1e-5)


def test_perceptual_gives_the_target_no_gradient():
    rng = np.random.default_rng(0)
    pair = jnp.asarray(rng.random((2, 1, 4, 4, 3), np.float32))
    gradients = jax.jit(jax.grad(lambda *inputs: perceptual(*inputs).sum(), argnums=(0, 1)))
    ours, theirs = gradients(*pair, mean_weights())
    assert jnp.abs(ours).max() > 0
    np.testing.assert_array_equal(theirs, 0)


def test_importance_loss_by_hand():
    # Summed gates of three tokens over two experts: 2 and 1. Mean 1.5, variance 0.25; 0.25 / 2.25 = 1/9.
    gates = jnp.asarray([[1.0, 0.0], [0.5, 0.5], [0.5, 0.5]])
    np.testing.assert_allclose(importance_loss(gates), 1 / 9, rtol=1e-6)


def test_importance_loss_spans_zero_to_experts_less_one():
    # Everything on one of four: importances (8, 0, 0, 0), mean 2, variance (36 + 3 * 4) / 4 = 12; 12 / 4 = 3.
    np.testing.assert_allclose(importance_loss(jnp.full((8, 4), 0.25)), 0, atol=1e-7)
    np.testing.assert_allclose(importance_loss(jnp.zeros((8, 4)).at[:, 2].set(1.0)), 3, rtol=1e-6)


def test_load_loss_by_hand():
    # Two tokens, three experts, K = 2. Choices: expert 0 twice, 1 once, 2 once: f = (1/2, 1/4, 1/4).
    # P = mean of (0.5, 0.4, 0.1) and (0.6, 0.1, 0.3) = (0.55, 0.25, 0.2).
    # 3 * (0.275 + 0.0625 + 0.05) = 3 * 0.3875 = 1.1625.
    probs = jnp.asarray([[0.5, 0.4, 0.1], [0.6, 0.1, 0.3]])
    gates = jnp.asarray([[0.5, 0.4, 0.0], [0.6, 0.0, 0.3]])
    np.testing.assert_allclose(load_loss(probs, gates), 1.1625, rtol=1e-6)
    # The count carries no gradient; through P it is E f_e / T, equal for both tokens: 3 (1/2, 1/4, 1/4) / 2.
    for_probs, for_gates = jax.jit(jax.grad(load_loss, argnums=(0, 1)))(probs, gates)
    np.testing.assert_allclose(for_probs, [[0.75, 0.375, 0.375]] * 2, rtol=1e-6)
    np.testing.assert_array_equal(for_gates, 0)


def test_load_loss_spans_one_to_the_number_of_experts():
    np.testing.assert_allclose(load_loss(jnp.full((4, 4), 0.25), jnp.eye(4)), 1, rtol=1e-6)
    collapsed = jnp.zeros((4, 4)).at[:, 1].set(1.0)
    np.testing.assert_allclose(load_loss(collapsed, collapsed), 4, rtol=1e-6)


def test_load_loss_counts_signed_gates():
    probs = jnp.asarray([[0.75, 0.25]])
    np.testing.assert_allclose(load_loss(probs, jnp.asarray([[-0.3, 0.0]])), 2 * 0.75, rtol=1e-6)


def test_z_loss_by_hand():
    # log(e^0 + e^0) = log 2 and log(1 + 3) = 2 log 2: the mean of log^2 2 and 4 log^2 2 is 2.5 log^2 2.
    logits = jnp.asarray([[0.0, 0.0], [0.0, np.log(3.0)]])
    np.testing.assert_allclose(jax.jit(z_loss)(logits), 2.5 * np.log(2.0) ** 2, rtol=1e-6)
    assert np.isfinite(jax.jit(z_loss)(jnp.full((2, 2), 1e4)))


def test_router_losses_refuse_other_shapes():
    for loss in (importance_loss, z_loss, lambda probs: load_loss(probs, probs)):
        with pytest.raises(ValueError, match=r"must be \(T, E\), tokens by experts, got shape \(2, 3, 4\)"):
            loss(jnp.zeros((2, 3, 4)))
    with pytest.raises(ValueError, match="both are"):
        load_loss(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
