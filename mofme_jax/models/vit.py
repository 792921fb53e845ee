"""Transformer blocks over a grid of tokens, with global or windowed attention.

Axis glossary: `B` images, `h w` rows and columns of tokens, `N = h w`, `D` width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from mofme_jax.models.attention import attend
from mofme_jax.models.layers import FeedForward, LayerNorm, SelfAttention, split_heads
from mofme_jax.models.moe import Mixture
from mofme_jax.models.router import Routing


def to_windows(x: jax.Array, size: int, shift: int) -> tuple[jax.Array, np.ndarray]:
    """Cuts a grid of tokens into windows.

    The grid is padded by `shift` before and by what is missing behind, so that any grid can be cut; padding is
    marked and no token attends to it.

    Args:
      x: (B, h, w, D).
      size: tokens on a window's side.
      shift: rows and columns by which the windows are moved, 0 to size - 1.

    Returns:
      windows (B * n, size * size, D), image by image, and inside (B * n, size * size), True for real tokens.
    """
    b, h, w, _ = x.shape
    pads = ((shift, -(h + shift) % size), (shift, -(w + shift) % size))
    x = jnp.pad(x, ((0, 0), *pads, (0, 0)))
    inside = np.pad(np.ones((1, h, w, 1), bool), ((0, 0), *pads, (0, 0)))
    return _cut(x, size), np.tile(_cut(inside, size)[..., 0], (b, 1))


def _cut(x, size):
    b, h, w, d = x.shape
    x = x.reshape(b, h // size, size, w // size, size, d).transpose(0, 1, 3, 2, 4, 5)
    return x.reshape(-1, size * size, d)


def from_windows(windows: jax.Array, grid: tuple[int, ...], size: int, shift: int) -> jax.Array:
    """The inverse of `to_windows`: (B * n, size * size, D) -> (B, h, w, D), padding dropped."""
    h, w = grid
    rows, columns = -(-(h + shift) // size), -(-(w + shift) // size)
    d = windows.shape[-1]
    x = windows.reshape(-1, rows, columns, size, size, d).transpose(0, 1, 3, 2, 4, 5)
    x = x.reshape(-1, rows * size, columns * size, d)
    return x[:, shift : shift + h, shift : shift + w]


class WindowAttention(nn.Module):
    """Self-attention inside the windows of a grid of tokens, (B, h, w, D) in and out.

    The same projections as `SelfAttention`, so the parameters of one serve the other. Linear in the number of tokens,
    and a window sees the same whatever the image's size.

    Attributes:
      heads, head_dim: see `SelfAttention`.
      window: tokens on a window's side. shift: see `to_windows`.
    """

    heads: int
    head_dim: int
    window: int
    shift: int = 0
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """See the class."""
        qkv = nn.Dense(3 * self.heads * self.head_dim, use_bias=False, dtype=self.dtype, name="qkv")(x)
        windows, inside = to_windows(qkv, self.window, self.shift)
        mask = None if inside.all() else jnp.asarray(inside)
        y = attend(*split_heads(windows, self.heads), mask)
        y = y.reshape(*y.shape[:2], self.heads * self.head_dim)
        y = from_windows(y, x.shape[1:3], self.window, self.shift)
        return nn.Dense(x.shape[-1], dtype=self.dtype, name="out")(y)


class Block(nn.Module):
    """`x <- x + Attn(LN(x))`, then `x <- x + FF(LN(x))` (paper, the block).

    Attributes:
      heads, head_dim: see `SelfAttention`.
      hidden: hidden width of a dense feed-forward.
      mixture: the routed feed-forward, or None for a dense one.
      window: tokens on the side of an attention window; None attends to the whole image.
      shift: see `to_windows`; every second block moves its windows by half, so that no seam stays one.
      dropout: rate, behind attention and feed-forward.
      dtype: what is computed in, see `mofme_jax.models.layers`.
    """

    heads: int
    head_dim: int
    hidden: int
    mixture: Mixture | None = None
    window: int | None = None
    shift: int = 0
    dropout: float = 0.0
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, train: bool, kept: jax.Array | None = None) -> tuple[jax.Array, Routing | None]:
        """x: (B, h, w, D). kept: see `Mixture`. Returns the same shape, and the Routing where there is a mixture."""
        drop = nn.Dropout(self.dropout, deterministic=not train)
        x = x + drop(self._attend(LayerNorm(dtype=self.dtype, name="attention_norm")(x)))
        y = LayerNorm(dtype=self.dtype, name="feed_forward_norm")(x)
        if self.mixture is None:
            y, routing = FeedForward(self.hidden, self.dtype, name="feed_forward")(y), None
        else:
            y, routing = self.mixture(y, kept)
        return x + drop(y), routing

    def _attend(self, x: jax.Array) -> jax.Array:
        if self.window is not None:
            return WindowAttention(self.heads, self.head_dim, self.window, self.shift, self.dtype, name="attention")(x)
        b, h, w, d = x.shape
        attention = SelfAttention(self.heads, self.head_dim, dtype=self.dtype, name="attention")
        return attention(x.reshape(b, h * w, d)).reshape(x.shape)
