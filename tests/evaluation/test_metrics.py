"""PSNR and SSIM against measured values, scikit-image, and hand-worked numbers."""

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mofme_jax.evaluation.metrics import CONVENTIONS, MetricSums, psnr, ssim

GOLDEN = Path(__file__).parents[1] / "golden" / "metrics.npz"

# Convention -> measured PSNR and SSIM. Pairs of 64x64 pixels, which no convention pools.
MEASURED = {
    "rgb": ("sk_psnr_rgb", "piq_ssim_nodown"),
    "rgb-skimage": ("sk_psnr_rgb", "sk_ssim_rgb"),
    "piq": ("piq_psnr", "piq_ssim"),
    "piq-unpooled": ("piq_psnr", "piq_ssim_nodown"),
    "y": ("y_studio_psnr", "y_studio_basicsr_ssim"),
    "y-u8": ("y_studio_u8_psnr", "y_studio_u8_basicsr_ssim"),
    "y-skimage": ("y_studio_psnr", "y_studio_sk_ssim7"),
    "y-u8-skimage": ("y_studio_u8_psnr", "y_studio_u8_sk_ssim7"),
    "y-full": ("y_full_psnr", "y_full_sk_ssim_gauss"),
    "y-full-skimage": ("y_full_psnr", "y_full_sk_ssim7"),
    "transweather": ("transweather_literal_psnr", "transweather_literal_ssim"),
    "transweather-range2": ("transweather_literal_psnr", "transweather_literal_ssim_range2"),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as archive:
        return {key: archive[key] for key in archive.files}


@pytest.fixture(scope="module")
def pairs(golden):
    """Three measured pairs, (3, 64, 64, 3) each."""
    stack = (np.stack([golden[f"pair{i}/{name}"] for i in range(3)]) for name in "xy")
    return tuple(jnp.asarray(images.transpose(0, 2, 3, 1)) for images in stack)


def random_pair(*shape: int, noise: float = 0.1) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(sum(shape))
    target = rng.random(shape, np.float32)
    restored = np.clip(target + rng.normal(0, noise, shape), 0, 1).astype(np.float32)
    return restored, target


@pytest.mark.parametrize("convention", MEASURED)
def test_measured_values(golden, pairs, convention):
    for metric, name, tolerance in zip((psnr, ssim), MEASURED[convention], (1e-4, 1e-5), strict=True):
        expected = [float(golden[f"pair{i}/{name}"]) for i in range(3)]
        np.testing.assert_allclose(metric(*pairs, convention), expected, rtol=0, atol=tolerance)


def test_every_convention_has_an_oracle():
    assert set(MEASURED) | {"rgb-u8", "histoformer"} == set(CONVENTIONS)


def test_pooling_of_large_images(golden):
    restored, target = (jnp.asarray(golden[f"large/{name}_u8"].transpose(1, 2, 0)) / 255 for name in "xy")
    np.testing.assert_allclose(psnr(restored, target, "piq"), golden["large/piq_psnr"], atol=1e-4)
    np.testing.assert_allclose(ssim(restored, target, "piq"), golden["large/piq_ssim"], atol=1e-5)
    np.testing.assert_allclose(ssim(restored, target, "piq-unpooled"), golden["large/piq_ssim_nodown"], atol=1e-5)


def test_pooling_drops_what_does_not_fill_a_block():
    restored, target = random_pair(385, 387, 3)
    trimmed = ssim(restored[:384, :386], target[:384, :386], "piq")
    np.testing.assert_allclose(ssim(restored, target, "piq"), trimmed, atol=1e-6)


@pytest.mark.parametrize("shape", [(11, 11, 3), (61, 38, 3)])
def test_odd_shapes_against_scikit_image(shape):
    restored, target = random_pair(*shape)
    a, b = target.astype(np.float64), restored.astype(np.float64)
    np.testing.assert_allclose(psnr(restored, target), peak_signal_noise_ratio(a, b, data_range=1), atol=1e-4)
    gaussian = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    for convention, options in (("rgb", gaussian), ("rgb-skimage", {})):
        expected = structural_similarity(a, b, data_range=1, channel_axis=-1, **options)
        np.testing.assert_allclose(ssim(restored, target, convention), expected, atol=1e-5)


def test_saved_rgb_images_against_scikit_image():
    restored, target = (np.round(255 * image).astype(np.uint8) for image in random_pair(24, 19, 3))
    expected_psnr = peak_signal_noise_ratio(target, restored)
    expected_ssim = structural_similarity(
        target, restored, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    # Up to 0.4 of a level away from the saved values: rounding brings them back.
    off = np.random.default_rng(0).uniform(-0.4, 0.4, target.shape)
    floats = [((image + off) / 255).astype(np.float32) for image in (restored, target)]
    np.testing.assert_allclose(psnr(*floats, "rgb-u8"), expected_psnr, atol=1e-4)
    np.testing.assert_allclose(ssim(*floats, "rgb-u8"), expected_ssim, atol=1e-5)


def test_histoformer_against_scikit_image():
    restored, target = random_pair(31, 23, 3)
    weights = np.array([24.966, 128.553, 65.481]) / 255  # blue's weight meets red, and red's blue
    a, b = (image.astype(np.float64) @ weights + 16 / 255 for image in (target, restored))
    expected = peak_signal_noise_ratio(a, b, data_range=1)
    np.testing.assert_allclose(psnr(restored, target, "histoformer"), expected, atol=1e-4)
    expected = structural_similarity(a, b, data_range=1, win_size=11)
    np.testing.assert_allclose(ssim(restored, target, "histoformer"), expected, atol=1e-5)


@pytest.mark.parametrize("level", [0.03, 0.5, 0.97])
def test_float32_is_enough_for_nearly_flat_images(level):
    rng = np.random.default_rng(0)
    target = (level + rng.normal(0, 2e-3, (40, 50, 3))).astype(np.float32)
    restored = (target + rng.normal(0, 2e-3, target.shape)).astype(np.float32)
    expected = structural_similarity(
        *(image.astype(np.float64) for image in (target, restored)),
        data_range=1,
        channel_axis=-1,
        gaussian_weights=True,
        use_sample_covariance=False,
    )
    np.testing.assert_allclose(ssim(restored, target), expected, atol=5e-6)


def test_psnr_by_hand():
    # A difference of 0.1 everywhere: mse 0.01, 20 dB. Studio luma shrinks it by 219/255: 20 log10(255/219) =
    # 1.322 dB more.
    target = jnp.full((11, 11, 3), 0.5)
    np.testing.assert_allclose(psnr(target + 0.1, target), 20, atol=1e-4)
    np.testing.assert_allclose(psnr(target + 0.1, target, "y-full"), 20, atol=1e-4)
    np.testing.assert_allclose(psnr(target + 0.1, target, "y"), 20 + 20 * np.log10(255 / 219), atol=1e-4)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_identical_images(pairs, convention):
    images = pairs[0]
    np.testing.assert_allclose(ssim(images, images, convention), [1, 1, 1], rtol=1e-6)
    expected = 80.0 if convention.startswith("piq") else np.inf
    np.testing.assert_allclose(psnr(images, images, convention), [expected] * 3, rtol=1e-6)


@pytest.mark.parametrize("metric", [psnr, ssim])
@pytest.mark.parametrize("convention", ["y-u8", "transweather"])
def test_a_batch_is_its_images(pairs, metric, convention):
    restored, target = pairs
    values = metric(restored, target, convention)
    assert values.shape == (3,)
    alone = [metric(x, y, convention) for x, y in zip(restored, target, strict=True)]
    np.testing.assert_allclose(values, alone, rtol=1e-5, atol=1e-6)


def test_half_precision_images_are_compared_in_float32():
    restored, target = (jnp.asarray(image, jnp.bfloat16) for image in random_pair(16, 16, 3))
    for metric in (psnr, ssim):
        value = metric(restored, target)
        assert value.dtype == jnp.float32
        np.testing.assert_array_equal(value, metric(restored.astype("float32"), target.astype("float32")))


@pytest.mark.parametrize("metric", [psnr, ssim])
def test_clear_errors(metric):
    image = jnp.zeros((16, 16, 3))
    with pytest.raises(ValueError, match="unknown convention 'rbg': choose one of rgb, rgb-u8"):
        metric(image, image, "rbg")
    with pytest.raises(ValueError, match=r"restored has shape \(16, 16, 3\), target \(16, 15, 3\)"):
        metric(image, image[:, :15])
    with pytest.raises(ValueError, match=r"expected RGB images .* got shape \(16, 16, 1\)"):
        metric(image[..., :1], image[..., :1])
    with pytest.raises(ValueError, match="expected RGB images"):
        metric(image[0], image[0])
    with pytest.raises(ValueError, match="restored has dtype uint8"):
        metric(image.astype(jnp.uint8), image)


def test_images_below_the_window_are_refused():
    image = jnp.zeros((10, 40, 3))
    with pytest.raises(ValueError, match="window of 11x11 pixels: an image of 10x40 is too small"):
        ssim(image, image)
    assert ssim(image, image, "rgb-skimage") == 1  # its window is of 7


def test_metric_sums_mean_over_images_not_batches():
    # Batches {1, 2, 3} and {10}, padded with values that must not count: mean 16 / 4 = 4, where the mean of
    # the batch means would be (2 + 10) / 2 = 6.
    add = jax.jit(MetricSums.add)
    sums = add(MetricSums.empty(), jnp.asarray([1.0, 2.0, 3.0]), jnp.asarray([True, True, True]))
    sums = add(sums, jnp.asarray([10.0, jnp.nan, jnp.inf]), jnp.asarray([True, False, False]))
    assert (float(sums.total), int(sums.count), float(sums.mean())) == (16.0, 4, 4.0)


def test_metric_sums_merge_equals_adding():
    values = jnp.asarray([1.0, 5.0, 6.0])
    whole = MetricSums.empty().add(values)
    parts = MetricSums.empty().add(values[:1]).merge(MetricSums.empty().add(values[1:]))
    assert float(whole.mean()) == float(parts.mean()) == 4.0
    assert int(parts.count) == 3


def test_metric_sums_edge_cases():
    assert np.isnan(MetricSums.empty().mean())
    with pytest.raises(ValueError, match=r"mask has shape \(2,\), values \(3,\)"):
        MetricSums.empty().add(jnp.zeros(3), jnp.ones(2, bool))
