"""PSNR and SSIM on the host: the figures of `metrics.py`, in float64 and without compiling anything.

Axis glossary: `H W` pixels. JAX compiles a metric anew for every size of image, and a folder of photographs may hold as
many sizes as files. `metrics.py` is for images of one size, in batches, on a device; this is for files. Tests hold the
two together, convention by convention.
"""

import numpy as np

from mofme_jax.evaluation.metrics import CONVENTIONS, Convention


def score(image: np.ndarray, truth: np.ndarray, convention: str) -> tuple[float, float]:
    """PSNR in dB and SSIM of an image.

    Args:
      image: (H, W, 3), uint8 or float in [0, 1].
      truth: same shape, uint8 or float in [0, 1].
      convention: a name in `metrics.CONVENTIONS`.

    Returns:
      As `metrics.psnr` and `metrics.ssim`: identical images have infinite PSNR, or 80 dB under "piq".

    Raises:
      ValueError: the shapes differ, or the image is smaller than SSIM's window.
    """
    rules = CONVENTIONS[convention]
    if image.shape != truth.shape:
        raise ValueError(f"an image of shape {image.shape} cannot be compared with one of shape {truth.shape}")
    if min(image.shape[:2]) < rules.window:
        raise ValueError(f"SSIM's window has {rules.window} pixels: an image of shape {image.shape} is too small")
    planes, truths = _planes(image, rules), _planes(truth, rules)
    error = np.mean([np.square(x - y).mean() for x, y in zip(planes, truths, strict=True)]) + rules.mse_floor
    decibels = -10 * np.log10(error) if error else np.inf
    if rules.pools:
        size = max(1, round(min(image.shape[:2]) / 256))
        planes, truths = ([_pool(plane, size) for plane in some] for some in (planes, truths))
    return float(decibels), float(np.mean([_ssim(x, y, rules) for x, y in zip(planes, truths, strict=True)]))


def _planes(image: np.ndarray, rules: Convention) -> list[np.ndarray]:
    """(H, W, 3) -> the channels compared, (H, W) float64 each."""
    pixels = image / 255.0 if image.dtype == np.uint8 else image.astype(np.float64)
    if rules.uint8:
        pixels = np.round(np.clip(pixels, 0, 1) * 255.0) / 255.0
    if rules.scrambled:
        pixels = np.moveaxis(pixels, -1, 0).reshape(pixels.shape)
    if rules.luma is None:
        return [np.ascontiguousarray(pixels[..., channel]) for channel in range(3)]
    red, green, blue = rules.luma
    return [red * pixels[..., 0] + green * pixels[..., 1] + blue * pixels[..., 2] + rules.black]


def _pool(plane: np.ndarray, size: int) -> np.ndarray:
    """Means of blocks of size x size pixels; what does not fill a block is dropped."""
    rows, columns = plane.shape[0] // size, plane.shape[1] // size
    return plane[: rows * size, : columns * size].reshape(rows, size, columns, size).mean((1, 3))


def _ssim(x: np.ndarray, y: np.ndarray, rules: Convention) -> float:
    """The mean of the SSIM map of one channel, (H, W) float64, where the window fits."""
    rows, columns = (side - rules.window + 1 for side in x.shape)
    total = 0.0
    for top in range(0, rows, _STRIP):
        strip = slice(top, top + _STRIP + rules.window - 1)
        total += _ssim_map(x[strip], y[strip], rules).sum()
    return float(total / (rows * columns))


_STRIP = 64
"""Rows of the map computed at once: few enough for a processor's cache."""


def _ssim_map(x: np.ndarray, y: np.ndarray, rules: Convention) -> np.ndarray:
    """(H, W) -> SSIM at the positions where the window fits."""
    mean_x, mean_y = _window_means(x, rules), _window_means(y, rules)
    product = mean_x * mean_y
    energy = mean_x * mean_x + mean_y * mean_y
    unbias = rules.window**2 / (rules.window**2 - 1) if rules.unbiased else 1.0
    variances = unbias * (_window_means(x * x + y * y, rules) - energy)  # only their sum is needed
    covariance = unbias * (_window_means(x * y, rules) - product)
    c1, c2 = (0.01 * rules.data_range) ** 2, (0.03 * rules.data_range) ** 2
    return (2 * product + c1) * (2 * covariance + c2) / ((energy + c1) * (variances + c2))


def _window_means(plane: np.ndarray, rules: Convention) -> np.ndarray:
    """Weighted means of (H, W) under SSIM's window, where it fits. The window is separable and symmetric."""
    offsets = np.arange(rules.window) - rules.window // 2
    weights = np.ones(rules.window) if rules.sigma is None else np.exp(-0.5 * (offsets / rules.sigma) ** 2)
    weights = weights / weights.sum()
    for _ in range(2):  # down the columns, then, turned, along the rows
        length = len(plane) - rules.window + 1
        half = rules.window // 2
        means = weights[half] * plane[half : half + length]
        for i in range(half):
            both = plane[i : i + length] + plane[rules.window - 1 - i : rules.window - 1 - i + length]
            both *= weights[i]
            means += both
        plane = means.T
    return plane
