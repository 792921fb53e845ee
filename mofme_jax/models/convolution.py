"""A 3 x 3 convolution whose kernel's gradient is fast on CPUs too.

Axis glossary: `B` images, `H W` pixels, `C` channels in, `F` channels out.

XLA computes the gradient of a kernel as a convolution with a window as large as the image. GPUs and TPUs have fast
algorithms for that, CPUs do not (`benchmarks/layers.py`): half of a training step at full resolution went there. On a
CPU it is computed as nine products of matrices, strip by strip of an image, so that what is read stays in cache.
"""

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from mofme_jax.models.dispatch import split_axes

STRIP = 512
"""Pixels of a strip: few enough for the caches, enough for a product to be worth it."""


@jax.custom_vjp
def conv3x3(x: jax.Array, kernel: jax.Array) -> jax.Array:
    """Convolution (cross-correlation) with stride 1, zero-padded by one on each side. To be differentiated backwards.

    Args:
      x: (B, H, W, C).
      kernel: (3, 3, C, F), of the same type.

    Returns:
      (B, H, W, F), of that type.
    """
    return _convolve(x, kernel)


def _convolve(x, kernel):
    return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))


def _forward(x, kernel):
    return _convolve(x, kernel), (x, kernel)


def _backward(residuals, g):
    x, kernel = residuals
    # the gradient to the input is the convolution with the kernel turned round
    d_x = _convolve(g, kernel[::-1, ::-1].swapaxes(2, 3))
    return d_x, jax.lax.platform_dependent(x, g, cpu=kernel_gradient, default=_kernel_gradient_by_xla)


conv3x3.defvjp(_forward, _backward)


def _kernel_gradient_by_xla(x, g):
    kernel = jax.ShapeDtypeStruct((3, 3, x.shape[-1], g.shape[-1]), x.dtype)
    return jax.linear_transpose(lambda kernel: _convolve(x, kernel), kernel)(g)[0]


def kernel_gradient(x: jax.Array, g: jax.Array) -> jax.Array:
    """`d_kernel[i, j, c, f] = sum_{b, y, z} x[b, y + i - 1, z + j - 1, c] g[b, y, z, f]`, with 0 outside of x.

    Whichever has fewer channels is the one that is shifted, as its nine copies are made. With a mesh in use whose axes
    split the images, every device sums over its own, and the sums are added once.

    Args:
      x: (B, H, W, C), input of the convolution.
      g: (B, H, W, F), gradient to its output, of the same type.

    Returns:
      (3, 3, C, F) of that type, summed in float32 at the least.
    """
    axes = split_axes(x.shape[0])
    if not axes:
        return _of_images(x, g).astype(x.dtype)

    def on_a_device(x, g):
        return jax.lax.psum(_of_images(x, g), axes)

    summed = jax.shard_map(
        on_a_device, in_specs=(P(axes), P(axes)), out_specs=P(), axis_names=set(axes), check_vma=False
    )
    return summed(x, g).astype(x.dtype)


def _of_images(x, g):
    """Of all images at a time; where their rows side by side are more than a strip, of one after the other."""
    if x.shape[0] * x.shape[2] <= STRIP:
        return _of_strips(x, g)

    def add(total, pair):
        x, g = pair
        return total + _of_strips(x[None], g[None]), None

    zero = jnp.zeros((3, 3, x.shape[-1], g.shape[-1]), jnp.promote_types(x.dtype, jnp.float32))
    return jax.lax.scan(add, zero, (x, g))[0]


def _of_strips(x, g):
    if x.shape[-1] > g.shape[-1]:
        # the same sum, in which g is shifted, the other way
        return _of_strips(g, x)[::-1, ::-1].swapaxes(2, 3)
    (batch, height, width, channels), out = x.shape, g.shape[-1]
    rows = min(height, max(2, STRIP // (batch * width)))
    strips = -(-height // rows)
    below = strips * rows - height
    x = jnp.pad(x, ((0, 0), (1, 1 + below), (1, 1), (0, 0)))
    g = jnp.pad(g, ((0, 0), (0, below), (0, 0), (0, 0)))
    wide = jnp.promote_types(x.dtype, jnp.float32)

    def add(total, i):
        ours = jax.lax.dynamic_slice_in_dim(x, i * rows, rows + 2, axis=1)
        theirs = jax.lax.dynamic_slice_in_dim(g, i * rows, rows, axis=1).reshape(-1, out)
        shifted = [ours[:, i : i + rows, j : j + width] for i in range(3) for j in range(3)]
        columns = jnp.concatenate(shifted, axis=-1).reshape(-1, 9 * channels)
        return total + jnp.matmul(theirs.T, columns, preferred_element_type=wide), None

    total, _ = jax.lax.scan(add, jnp.zeros((out, 9 * channels), wide), jnp.arange(strips))
    return total.reshape(out, 3, 3, channels).transpose(1, 2, 3, 0)
