"""PSNR and SSIM on the host are those of the device, and scikit-image's, at any size."""

import jax.numpy as jnp
import numpy as np
import pytest
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mofme_jax.evaluation.metrics import CONVENTIONS, psnr, ssim
from mofme_jax.evaluation.scoring import score
from tests.evaluation.test_metrics import GOLDEN, MEASURED


def saved_pair(height: int, width: int, noise: float = 12.0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(height * width)
    truth = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.clip(truth + rng.normal(0, noise, truth.shape), 0, 255).round().astype(np.uint8), truth


@pytest.fixture(scope="module")
def pair():
    return saved_pair(385, 387)  # large enough to be pooled, in blocks that it does not fill


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_the_host_says_what_the_device_says(pair, convention):
    image, truth = (jnp.asarray(part, jnp.float32) / 255 for part in pair)
    decibels, similarity = score(*pair, convention)
    assert decibels == pytest.approx(float(psnr(image, truth, convention)), abs=1e-4)
    assert similarity == pytest.approx(float(ssim(image, truth, convention)), abs=1e-5)


@pytest.mark.parametrize("convention", MEASURED)
def test_measured_values(convention):
    with np.load(GOLDEN) as golden:
        for i in range(3):
            image, truth = (golden[f"pair{i}/{name}"].transpose(1, 2, 0).astype(np.float64) for name in "xy")
            expected = [float(golden[f"pair{i}/{name}"]) for name in MEASURED[convention]]
            np.testing.assert_allclose(score(image, truth, convention), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("convention", ["rgb", "rgb-u8", "piq", "y-u8", "histoformer", "rgb-skimage"])
def test_floats_are_rounded_only_where_they_are_saved(convention):
    rng = np.random.default_rng(1)
    image = rng.random((20, 33, 3), np.float32)
    truth = rng.integers(0, 256, image.shape, dtype=np.uint8)
    decibels, similarity = score(image, truth, convention)
    expected = [float(metric(jnp.asarray(image), jnp.asarray(truth) / 255.0, convention)) for metric in (psnr, ssim)]
    assert decibels == pytest.approx(expected[0], abs=1e-4)
    assert similarity == pytest.approx(expected[1], abs=1e-5)
    as_saved = score(np.round(image * 255).astype(np.uint8), truth, convention)
    assert (as_saved == (decibels, similarity)) == CONVENTIONS[convention].uint8


@pytest.mark.parametrize("size", [(11, 11), (31, 23), (64, 90)])
def test_scikit_image_agrees(size):
    image, truth = saved_pair(*size)
    decibels, similarity = score(image, truth, "rgb-u8")
    assert decibels == pytest.approx(peak_signal_noise_ratio(truth, image), abs=1e-9)
    gaussian = structural_similarity(
        truth, image, channel_axis=-1, gaussian_weights=True, sigma=1.5, use_sample_covariance=False
    )
    assert similarity == pytest.approx(gaussian, abs=1e-9)
    uniform = structural_similarity(truth, image, channel_axis=-1)
    assert score(image, truth, "rgb-skimage")[1] == pytest.approx(uniform, abs=1e-9)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_identical_images(convention):
    _, truth = saved_pair(24, 31)
    for image in (truth, truth / 255.0):
        decibels, similarity = score(image, truth, convention)
        assert decibels == (pytest.approx(80.0) if convention.startswith("piq") else np.inf)
        assert similarity == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize(
    ("image", "truth", "message"),
    [((12, 12, 3), (12, 13, 3), r"\(12, 12, 3\).*\(12, 13, 3\)"), ((10, 40, 3), (10, 40, 3), "window has 11 pixels")],
)
def test_what_cannot_be_compared_is_refused(image, truth, message):
    with pytest.raises(ValueError, match=message):
        score(np.zeros(image, np.uint8), np.zeros(truth, np.uint8), "rgb-u8")
