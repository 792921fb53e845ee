"""PSNR and SSIM under named conventions, and the sums an evaluation accumulates.

Axis glossary: `B` images, `H W` pixels, `C` channels.

The same pair of images scores up to 2 dB PSNR and 0.1 SSIM apart under conventions in ordinary use, so a
figure means nothing without the name of its convention. `CONVENTIONS` holds them all; each is plain data, and
one short path computes them. Images are RGB floats in [0, 1], (B, H, W, 3) or (H, W, 3); sizes, crops and
resizing belong to the protocol that prepares them.
"""

import dataclasses
from functools import partial
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

_FULL_LUMA = (0.299, 0.587, 0.114)  # BT.601 luma of R, G, B
_STUDIO_LUMA = (65.481 / 255, 128.553 / 255, 24.966 / 255)  # the same squeezed into 16..235 of 255
_STUDIO_BLACK = 16 / 255


@dataclasses.dataclass(frozen=True)
class Convention:
    """How a pair of RGB images becomes a figure.

    Attributes:
      used_by: whose published figures follow it.
      luma: weights of R, G and B in the one channel compared; None compares the three channels.
      black: added to that channel, which matters to SSIM only.
      uint8: whether images are clipped and rounded to 256 levels first, as when they were saved as PNG.
      mse_floor: added to the mean squared error, which bounds PSNR at -10 log10(mse_floor) dB.
      window: width in pixels of SSIM's window; its map keeps the positions where the window fits ("valid").
      sigma: standard deviation in pixels of a Gaussian window; None is a uniform one.
      unbiased: whether local (co)variances divide by the pixels in the window minus one.
      pools: whether SSIM first averages blocks of round(min(H, W) / 256) pixels.
      data_range: the range SSIM's constants are scaled by; the images' own range is always 1.
      scrambled: whether (C, H, W) memory is read as (H, W, C), see `transweather`.
    """

    used_by: str
    luma: tuple[float, float, float] | None = None
    black: float = 0.0
    uint8: bool = False
    mse_floor: float = 0.0
    window: int = 11
    sigma: float | None = 1.5
    unbiased: bool = False
    pools: bool = False
    data_range: float = 1.0
    scrambled: bool = False


_rgb = Convention("RGB as it comes out of the network; SSIM as first published (Gaussian 11, 1.5)")
_studio = dataclasses.replace(_rgb, luma=_STUDIO_LUMA, black=_STUDIO_BLACK)
_full = dataclasses.replace(_rgb, luma=_FULL_LUMA)
_skimage: dict[str, Any] = {
    "window": 7,
    "sigma": None,
    "unbiased": True,
}  # scikit-image's structural_similarity by default

CONVENTIONS: dict[str, Convention] = {
    "rgb": _rgb,
    "rgb-u8": dataclasses.replace(_rgb, used_by="NAFNet and most RGB leaderboards: saved images", uint8=True),
    "rgb-skimage": dataclasses.replace(
        _rgb, used_by="AirNet, PromptIR, AdaIR, DFPIR: scikit-image's defaults", **_skimage
    ),
    "piq": dataclasses.replace(
        _rgb, used_by="MoFME: piq.psnr, and piq.ssim with its pooling", mse_floor=1e-8, pools=True
    ),
    "piq-unpooled": dataclasses.replace(_rgb, used_by="piq with downsample=False", mse_floor=1e-8),
    "y": dataclasses.replace(_studio, used_by="BasicSR on float images: BT.601 Y, 16 to 235 (studio range)"),
    "y-u8": dataclasses.replace(
        _studio, used_by="BasicSR on saved images: WeatherDiffusion, MODEM, GridFormer", uint8=True
    ),
    "y-skimage": dataclasses.replace(_studio, used_by="studio Y through scikit-image's defaults", **_skimage),
    "y-u8-skimage": dataclasses.replace(
        _studio, used_by="studio Y of saved images through scikit-image's defaults", uint8=True, **_skimage
    ),
    "y-full": dataclasses.replace(_full, used_by="full-range luma, as OpenCV's and JPEG's YCbCr"),
    "y-full-skimage": dataclasses.replace(_full, used_by="full-range luma through scikit-image's defaults", **_skimage),
    "histoformer": Convention(
        "Histoformer, HOGformer: studio Y with the weights of R and B swapped, uniform window of 11",
        luma=_STUDIO_LUMA[::-1],
        black=_STUDIO_BLACK,
        sigma=None,
        unbiased=True,
    ),
    "transweather": Convention(
        "TransWeather's script as written: a view that shuffles pixels, R and B swapped, full-range luma",
        luma=_FULL_LUMA[::-1],
        scrambled=True,
        **_skimage,
    ),
    "transweather-range2": Convention(
        "the same under older scikit-image, which took the range of floats for 2",
        luma=_FULL_LUMA[::-1],
        scrambled=True,
        data_range=2.0,
        **_skimage,
    ),
}
"""Every convention by name; `used_by` says who follows it."""


@partial(jax.jit, static_argnames="convention")
def psnr(restored: jax.Array, target: jax.Array, convention: str = "rgb") -> jax.Array:
    """Peak signal-to-noise ratio, -10 log10(mse + mse_floor), of each image.

    Identical images give infinity, as in scikit-image and BasicSR, except under "piq" and "piq-unpooled",
    whose floor of 1e-8 makes it 80 dB. A mean over images, one of which scores infinity, is infinite.

    Args:
      restored: (B, H, W, 3) or (H, W, 3) float in [0, 1].
      target: same shape.
      convention: a name in `CONVENTIONS`.

    Returns:
      (B,) or scalar, in dB.

    Raises:
      ValueError: unknown convention, shapes differ, or images are not float RGB.
    """
    rules = _rules(convention)
    restored, target = _checked(restored, target)
    # The channels of a difference are the difference of the channels. Taken first, before any product that a
    # compiler may fuse into it, it is exactly zero for identical images.
    error = (_levels(restored) - _levels(target)) / 255 if rules.uint8 else restored - target
    mse = jnp.square(_channels(error, rules)).mean((-3, -2, -1))
    return -10 * jnp.log10(mse + rules.mse_floor)


@partial(jax.jit, static_argnames="convention")
def ssim(restored: jax.Array, target: jax.Array, convention: str = "rgb") -> jax.Array:
    """Structural similarity of each image: the mean of its SSIM map over positions and channels.

    Wang et al., "Image Quality Assessment: From Error Visibility to Structural Similarity", IEEE TIP 2004,
    equation 13, with K1 = 0.01 and K2 = 0.03. Identical images give 1.

    Args:
      restored: (B, H, W, 3) or (H, W, 3) float in [0, 1].
      target: same shape.
      convention: a name in `CONVENTIONS`.

    Returns:
      (B,) or scalar, in [-1, 1].

    Raises:
      ValueError: unknown convention, shapes differ, images are not float RGB, or they are smaller than the
        window.
    """
    rules = _rules(convention)
    restored, target = _checked(restored, target)
    if rules.uint8:
        restored, target = _levels(restored) / 255, _levels(target) / 255
    restored, target = (_channels(image, rules) + rules.black for image in (restored, target))
    if rules.pools:
        restored, target = _pool(restored), _pool(target)
    if min(restored.shape[-3:-1]) < rules.window:
        raise ValueError(
            f"SSIM under {convention!r} slides a window of {rules.window}x{rules.window} pixels: "
            f"an image of {restored.shape[-3]}x{restored.shape[-2]} is too small"
        )
    return _ssim_map(restored, target, rules).mean((-2, -1))


@flax.struct.dataclass
class MetricSums:
    """Sum and count of a metric's values, so that the mean is over images, never over batch means.

    Attributes:
      total: float32, sum of the values counted.
      count: int32, how many they are.
    """

    total: jax.Array
    count: jax.Array

    @classmethod
    def empty(cls) -> "MetricSums":
        """Nothing counted yet."""
        return cls(total=jnp.zeros((), jnp.float32), count=jnp.zeros((), jnp.int32))

    def add(self, values: jax.Array, mask: jax.Array | None = None) -> "MetricSums":
        """Counts (B,) values where the (B,) mask is true (everywhere if None); the others may be anything."""
        mask = jnp.ones(values.shape, bool) if mask is None else jnp.asarray(mask, bool)
        if mask.shape != values.shape:
            raise ValueError(f"mask has shape {mask.shape}, values {values.shape}: they must be equal")
        # Selected, not multiplied: a padding image may well score NaN or infinity.
        kept = jnp.where(mask, values, 0)
        return MetricSums(self.total + kept.sum(dtype=jnp.float32), self.count + mask.sum(dtype=jnp.int32))

    def merge(self, other: "MetricSums") -> "MetricSums":
        """The sums over both, from another batch, shard or host."""
        return MetricSums(self.total + other.total, self.count + other.count)

    def mean(self) -> jax.Array:
        """Mean of the values counted; NaN if there are none."""
        return self.total / self.count


def _rules(name: str) -> Convention:
    if name not in CONVENTIONS:
        raise ValueError(f"unknown convention {name!r}: choose one of {', '.join(CONVENTIONS)}")
    return CONVENTIONS[name]


def _checked(restored: jax.Array, target: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Checks a pair of RGB images; returns both in their common dtype, float32 at the least."""
    if restored.shape != target.shape:
        raise ValueError(f"restored has shape {restored.shape}, target {target.shape}: they must be equal")
    if restored.ndim not in (3, 4) or restored.shape[-1] != 3:
        raise ValueError(f"expected RGB images (B, H, W, 3) or (H, W, 3), got shape {restored.shape}")
    for name, image in (("restored", restored), ("target", target)):
        if not jnp.issubdtype(image.dtype, jnp.floating):
            raise ValueError(f"{name} has dtype {image.dtype}: metrics take float images, scaled to [0, 1]")
    dtype = jnp.promote_types(jnp.promote_types(restored.dtype, target.dtype), jnp.float32)
    return restored.astype(dtype), target.astype(dtype)


def _levels(image: jax.Array) -> jax.Array:
    """[0, 1] -> the whole numbers 0 to 255 it would be saved as, still float."""
    return jnp.round(jnp.clip(image, 0, 1) * 255)


def _channels(image: jax.Array, rules: Convention) -> jax.Array:
    """(..., H, W, 3) -> the channels compared, (..., H, W, 1 or 3). Linear in the image."""
    if rules.scrambled:
        image = jnp.moveaxis(image, -1, -3).reshape(image.shape)
    if rules.luma is None:
        return image
    red, green, blue = rules.luma
    # Written out: a matrix product may run in reduced precision on an accelerator.
    return red * image[..., :1] + green * image[..., 1:2] + blue * image[..., 2:]


def _pool(image: jax.Array) -> jax.Array:
    """Means of blocks of round(min(H, W) / 256) pixels; what does not fill a block is dropped."""
    height, width, channels = image.shape[-3:]
    size = max(1, round(min(height, width) / 256))
    rows, columns = height // size, width // size
    blocks = image[..., : rows * size, : columns * size, :]
    return blocks.reshape(*image.shape[:-3], rows, size, columns, size, channels).mean((-4, -2))


def _ssim_map(restored: jax.Array, target: jax.Array, rules: Convention) -> jax.Array:
    """(..., H, W, C) -> (..., H', W' C), H' and W' counting the positions where the window fits.

    W and C are one axis throughout: the innermost loop is then long, and XLA vectorises it on a CPU.
    """
    *shape, channels = restored.shape
    # Variance is a difference of moments: about mid-grey these are small, and float32 keeps its digits.
    x, y = (image.reshape(*shape[:-1], -1) - 0.5 for image in (restored, target))
    # SSIM needs only the sum of the two variances, so four maps are filtered, not five.
    mean_x, mean_y, squares, product = _window_means(
        jnp.stack([x, y, x * x + y * y, x * y]), channels, rules.window, rules.sigma
    )
    unbias = rules.window**2 / (rules.window**2 - 1) if rules.unbiased else 1.0
    variances = unbias * (squares - mean_x * mean_x - mean_y * mean_y)
    covariance = unbias * (product - mean_x * mean_y)
    mean_x, mean_y = mean_x + 0.5, mean_y + 0.5
    c1, c2 = (0.01 * rules.data_range) ** 2, (0.03 * rules.data_range) ** 2
    luminance = (2 * mean_x * mean_y + c1) / (mean_x * mean_x + mean_y * mean_y + c1)
    return luminance * (2 * covariance + c2) / (variances + c2)


def _window_means(maps: jax.Array, channels: int, window: int, sigma: float | None) -> jax.Array:
    """Weighted means of (..., H, W C) under SSIM's window, where it fits: (..., H', W' C).

    The window is separable, and each of its passes is a sum of shifted slices: one fused loop, where a
    depthwise convolution is slow on a CPU.
    """
    offsets = np.arange(window) - (window - 1) / 2
    weights = np.ones(window) if sigma is None else np.exp(-0.5 * (offsets / sigma) ** 2)
    weights = [float(weight) for weight in weights / weights.sum()]

    def slide(maps: jax.Array, axis: int, step: int) -> jax.Array:
        length = maps.shape[axis] - (window - 1) * step
        slices = (jax.lax.slice_in_dim(maps, i * step, i * step + length, axis=axis) for i in range(window))
        return sum(weight * part for weight, part in zip(weights, slices, strict=True))

    return slide(slide(maps, axis=-2, step=1), axis=-1, step=channels)
