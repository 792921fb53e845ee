"""Layers every network of the package is made of.

Axis glossary: `B` images, `H W` pixels, `C` channels, `N` tokens of an image, `D` width.

The numerical conventions are PyTorch's, because the published network was defined there: GELU by the
error function, LayerNorm with epsilon 1e-5, convolutions zero-padded by one on each side.

`dtype` of a layer is what it computes in, whatever its parameters are kept in; None: what its input and they have.
Statistics of LayerNorm, scores and softmax stay float32 in any case.
"""

from functools import partial
from typing import Any

import einops
import jax
from flax import linen as nn

from mofme_jax.models.attention import attend
from mofme_jax.models.convolution import conv3x3

gelu = partial(nn.gelu, approximate=False)
LayerNorm = partial(nn.LayerNorm, epsilon=1e-5)


def cast(params: Any, dtype: str | None) -> Any:
    """Parameters as a layer of that dtype computes with them."""
    return params if dtype is None else jax.tree.map(lambda leaf: leaf.astype(dtype), params)


class Conv3x3(nn.Module):
    """A convolution with bias, zero-padded by one on each side. (B, H, W, C) in, (B, H, W, features) out."""

    features: int
    kernel_init: nn.initializers.Initializer = nn.linear.default_kernel_init
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,))
        x, kernel, bias = nn.dtypes.promote_dtype(x, kernel, bias, dtype=self.dtype)
        return conv3x3(x, kernel) + bias


class ResBlock(nn.Module):
    """conv - ReLU - conv, added to its input. (B, H, W, channels) in and out; no normalisation."""

    channels: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        y = Conv3x3(self.channels, dtype=self.dtype, name="conv_in")(x)
        return x + Conv3x3(self.channels, dtype=self.dtype, name="conv_out")(nn.relu(y))


class FeedForward(nn.Module):
    """The transformer's feed-forward: Dense D -> hidden, GELU, Dense hidden -> D."""

    hidden: int
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(..., D) in and out."""
        y = nn.Dense(self.hidden, dtype=self.dtype, name="up")(x)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="down")(gelu(y))


class SelfAttention(nn.Module):
    """Multi-head self-attention over the tokens of an image, (B, N, D) in and out.

    The queries, keys and values come from one projection without bias, whose columns are ordered
    (query | key | value), head-major inside each; scores are scaled by head_dim ** -0.5.

    Attributes:
      heads: number of heads.
      head_dim: width of a head; heads * head_dim need not be D.
      project: whether the heads' outputs go through a Dense (with bias) back to D.
    """

    heads: int
    head_dim: int
    project: bool = True
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, mask: jax.Array | None = None) -> jax.Array:
        """mask: (B or 1, N) booleans, False where a key is padding."""
        qkv = nn.Dense(3 * self.heads * self.head_dim, use_bias=False, dtype=self.dtype, name="qkv")(x)
        y = attend(*split_heads(qkv, self.heads), mask).reshape(*x.shape[:-1], self.heads * self.head_dim)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(y) if self.project else y


def split_heads(qkv: jax.Array, heads: int) -> tuple[jax.Array, jax.Array, jax.Array]:
    """(B, N, 3 * heads * head_dim), ordered (query | key | value) -> three of (B, N, heads, head_dim)."""
    q, k, v = einops.rearrange(qkv, "b n (qkv h d) -> qkv b n h d", qkv=3, h=heads)
    return q, k, v


def patchify(images: jax.Array, size: int) -> jax.Array:
    """(B, H, W, C) -> (B, H/size, W/size, size*size*C): space to depth, channel fastest."""
    return einops.rearrange(images, "b (h p) (w q) c -> b h w (p q c)", p=size, q=size)


def unpatchify(patches: jax.Array, size: int) -> jax.Array:
    """(B, h, w, size*size*C) -> (B, h*size, w*size, C), the inverse of `patchify`."""
    return einops.rearrange(patches, "b h w (p q c) -> b (h p) (w q) c", p=size, q=size)


def block_mean(images: jax.Array, size: int) -> jax.Array:
    """(B, H, W, C) -> (B, H/size, W/size, C): the mean of each block of size x size pixels."""
    return einops.reduce(images, "b (h p) (w q) c -> b h w c", "mean", p=size, q=size)


def enlarge(images: jax.Array, size: tuple[int, ...]) -> jax.Array:
    """(B, h, w, C) -> (B, H, W, C) with (H, W) = size, by linear interpolation between pixel centres."""
    return jax.image.resize(images, (images.shape[0], *size, images.shape[-1]), "linear")
