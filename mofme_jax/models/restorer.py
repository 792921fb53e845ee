"""The restorer: a photograph in bad weather in, the photograph and what the routers did out.

Axis glossary: `B` images, `H W` pixels, `C` channels, `h w` rows and columns of tokens, `D` width.

    head (convolutions) -> patches become tokens -> blocks (attention, experts) -> tokens become patches -> tail

Two tails. `skip="none"` is the paper's: everything passes through the tokens and ends in a sigmoid.
`skip="long"` is ours: the head may be a pyramid of convolutional levels, whose features skip the tokens to
the level's counterpart on the way back, and the network's last word is

    restored = image * (1 + gain) + offset + detail,

all zero at the start. Gain and offset come from the coarsest level and are smooth: lifting a veil,
`J = (I - A) / t + A`, is one multiplication. Detail comes from the finest level and has its mean over patches taken
out: streaks and flakes are its business, tone is not, and the error of the one does not disturb the learning of the
other.
"""

from typing import Literal, get_args

import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.dispatch import Dispatch, check_dispatch
from mofme_jax.models.film import Generator
from mofme_jax.models.layers import Conv3x3, LayerNorm, ResBlock, block_mean, enlarge, patchify, unpatchify
from mofme_jax.models.moe import FeedForwardKind, Mixture
from mofme_jax.models.receptive_field import receptive_field
from mofme_jax.models.router import NormOrder, RouterKind, Routing, check_router
from mofme_jax.models.vit import Block

Skip = Literal["none", "long"]

ERROR_HEAD = "error_"
"""How the names of the modules of the error head begin."""

_ERROR_CHANNELS = 16
_USUAL_ERROR = 0.05  # what the head says before it has learnt anything


class Restorer(nn.Module):
    """`model.apply({"params": params}, images, train=False) -> (restored, aux)`.

    Nothing in the parameters depends on the size of the images: any H x W goes in, is padded inside to whole
    patches by repeating its border, and comes out at the same size.

    Attributes:
      channels: channels of each convolutional level, the finest first; the next one has half the resolution.
      stem: the finest level's stride in pixels: 1 works at full resolution, 2 on 2 x 2 pixels at a time.
      blocks: residual blocks of a level, before the tokens and (long skip) again behind them.
      patch: a token's side in pixels; a multiple of the coarsest level's stride.
      width: D. depth: number of transformer blocks. heads, head_dim: see `SelfAttention`.
      mlp_ratio: hidden width of the feed-forward network(s), in D.
      window: tokens on the side of an attention window, shifted in every second block; None: global attention.
      feed_forward: "dense", "moe" or "mofme": the one field in which the compared networks differ.
      num_experts, top_k: E and K.
      router, norm_order, router_dropout, router_passes, router_temperature: see `Router`.
      generator, rank: see `FeatureModulation`.
      dispatch: how tokens get to their experts, see `mofme_jax.models.dispatch`; changes the time, not the output.
      skip: "none" or "long", see the module's text.
      tail_channels: channels at full resolution behind the tokens (`skip="none"` only).
      dropout: rate behind every attention and feed-forward, while training.
      dtype: what is computed in: "float32", "bfloat16" or None, see `mofme_jax.models.layers`. Parameters, routers, and
        the last sum or sigmoid stay float32.
      remat: whether a block's insides are computed again for the gradient, rather than kept: memory for time.
      error_head: whether the network also says how far off it is, see `with_error`.
    """

    channels: tuple[int, ...] = (16, 32, 64)
    stem: int = 2
    blocks: int = 1
    patch: int = 16
    width: int = 128
    depth: int = 2
    heads: int = 4
    head_dim: int = 32
    mlp_ratio: int = 4
    window: int | None = None
    feed_forward: FeedForwardKind = "mofme"
    num_experts: int = 4
    top_k: int = 2
    router: RouterKind = "deterministic"
    norm_order: NormOrder = "softmax_topk"
    router_dropout: float = 0.1
    router_passes: int = 5
    router_temperature: float = 1.0
    generator: Generator = "linear"
    rank: int = 8
    dispatch: Dispatch = "auto"
    skip: Skip = "long"
    tail_channels: int = 128
    dropout: float = 0.0
    dtype: str | None = None
    remat: bool = False
    error_head: bool = False

    def __call__(
        self, images: jax.Array, train: bool = False, kept: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Routing, ...]]:
        """Restores a batch.

        Args:
          images: (B, H, W, 3) floats in [0, 1], sRGB.
          train: whether dropout is on (it takes its key from the RNG stream "dropout") and the long skip's
            output is left unclipped, so that the loss sees how far outside [0, 1] a pixel lies.
          kept: (L, E) for L mixture layers, 0 for an expert that is switched off: its gate is 0, and another is chosen
            in its place where there is one. Its values may be traced: one program serves them all. None: none is off.

        Returns:
          restored (B, H, W, 3) in [0, 1], and a Routing for each mixture layer, in order (none when
          `feed_forward="dense"`), whose token axes are (B, h, w).

        Raises:
          ValueError: for fields that do not make a network, or arrays of another shape.
        """
        restored, aux, _ = self._forward(images, train, kept)
        return restored, aux

    def with_error(
        self, images: jax.Array, train: bool = False, kept: jax.Array | None = None
    ) -> tuple[jax.Array, tuple[Routing, ...], jax.Array]:
        """Restores a batch and says how far off each pixel may be; `apply(..., method="with_error")`.

        The head reads what the last convolutions know, the image and what became of it, and sends no gradient back: a
        network learns the same with it and without. It learns the scale of a Laplace distribution of the error (Kendall
        and Gal 2017, heteroscedastic regression).

        Args:
          images, train, kept: as for a call.

        Returns:
          What a call does, and (B, H, W): the mean absolute error of the three channels that is expected, > 0, in units
          of the images.

        Raises:
          ValueError: as a call does; a network without `error_head`.
        """
        restored, aux, error = self._forward(images, train, kept)
        if error is None:
            raise ValueError("this network was built without error_head: it does not know its error")
        return restored, aux, error

    @nn.compact
    def _forward(
        self, images: jax.Array, train: bool, kept: jax.Array | None
    ) -> tuple[jax.Array, tuple[Routing, ...], jax.Array | None]:
        self.check()
        if images.ndim != 4 or images.shape[-1] != 3:
            raise ValueError(f"images must be (B, H, W, 3), not {images.shape}")
        if kept is not None:
            self._check_kept(jnp.shape(kept))
            kept = jnp.asarray(kept)
        height, width = images.shape[1:3]
        pads = ((0, 0), (0, -height % self.patch), (0, -width % self.patch), (0, 0))
        padded = jnp.pad(images, pads, mode="edge")

        levels = self._head(2.0 * padded - 1.0)
        tokens = patchify(levels[-1], self.patch // self._strides()[-1])
        tokens = nn.Dense(self.width, dtype=self.dtype, name="embed")(tokens)
        tokens = LayerNorm(dtype=self.dtype, name="embed_norm")(tokens)
        aux = []
        for i in range(self.depth):
            tokens, routing = self._block(i)(tokens, train, None if kept is None else kept[i])
            if routing is not None:
                aux.append(routing)
        restored, features = self._tail(tokens) if self.skip == "none" else self._long_tail(tokens, levels, padded)
        error = self._error(features, padded, restored)[:, :height, :width] if self.error_head else None
        restored = restored[:, :height, :width]
        return restored if train else jnp.clip(restored, 0.0, 1.0), tuple(aux), error

    def receptive_field(self) -> int | None:
        """Pixels on each side that a restored pixel can depend on; None for the whole image."""
        return receptive_field(self)

    def check(self) -> None:
        """Raises ValueError, naming the field and the remedy, where the fields do not make a network."""
        if self.feed_forward not in get_args(FeedForwardKind):
            raise ValueError(
                f"feed_forward={self.feed_forward!r} is unknown; choose one of {get_args(FeedForwardKind)}"
            )
        if self.dtype not in (None, "float32", "bfloat16"):
            raise ValueError(f"dtype={self.dtype!r} is unknown; choose float32 or bfloat16")
        if self.skip not in get_args(Skip):
            raise ValueError(f"skip={self.skip!r} is unknown; choose one of {get_args(Skip)}")
        if self.generator not in get_args(Generator):
            raise ValueError(f"generator={self.generator!r} is unknown; choose one of {get_args(Generator)}")
        check_dispatch(self.dispatch)
        for name in ("stem", "patch", "width", "heads", "head_dim", "mlp_ratio", "rank", "num_experts", "top_k"):
            if (value := getattr(self, name)) < 1 or value != int(value):
                raise ValueError(f"{name}={value} must be a whole number of at least 1")
        if min(self.blocks, self.depth) < 0 or min(self.channels, default=1) < 1:
            raise ValueError(f"blocks={self.blocks}, depth={self.depth}, channels={self.channels}: no negative sizes")
        if self.window is not None and self.window < 1:
            raise ValueError(f"window={self.window} must be at least 1 token, or None for global attention")
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"dropout={self.dropout} is not a rate: choose one in [0, 1)")
        if not self.channels or self.patch % self._strides()[-1]:
            raise ValueError(
                f"patch={self.patch} pixels must be a multiple of the coarsest level's stride: "
                f"stem={self.stem} and {len(self.channels)} levels make {self._strides()[-1:]}"
            )
        if self.skip == "none" and self.tail_channels % 2:
            raise ValueError(f"tail_channels={self.tail_channels} must be even")
        if self.feed_forward != "dense":
            check_router(self.num_experts, self.top_k, self.router, self.norm_order,
                         self.router_dropout, self.router_passes, self.router_temperature)  # fmt: skip

    def _check_kept(self, shape: tuple[int, ...]) -> None:
        if self.feed_forward == "dense":
            raise ValueError(
                'kept switches experts off, and a network with feed_forward="dense" has none: leave it out'
            )
        if shape != (self.depth, self.num_experts):
            raise ValueError(
                f"kept must be (L, E) = ({self.depth}, {self.num_experts}), a row a mixture layer and a column an "
                f"expert, not {shape}"
            )

    def _strides(self) -> list[int]:
        return [self.stem * 2**i for i in range(len(self.channels))]

    def _head(self, images: jax.Array) -> list[jax.Array]:
        """(B, H, W, 3) in [-1, 1] -> the features of each level, finest first."""
        x = Conv3x3(self.channels[0], dtype=self.dtype, name="stem")(patchify(images, self.stem))
        levels = []
        for i, channels in enumerate(self.channels):
            if i:
                x = nn.Dense(channels, dtype=self.dtype, name=f"down_{i}")(patchify(x, 2))
            for j in range(self.blocks):
                x = ResBlock(channels, self.dtype, name=f"head_{i}_{j}")(x)
            levels.append(x)
        return levels

    def _block(self, i: int) -> Block:
        hidden = self.mlp_ratio * self.width
        mixture = None
        if self.feed_forward != "dense":
            mixture = Mixture(
                kind=self.feed_forward,
                hidden=hidden,
                num_experts=self.num_experts,
                top_k=self.top_k,
                router=self.router,
                norm_order=self.norm_order,
                router_dropout=self.router_dropout,
                router_passes=self.router_passes,
                router_temperature=self.router_temperature,
                generator=self.generator,
                rank=self.rank,
                dispatch=self.dispatch,
                dtype=self.dtype,
                parent=None,
            )
        shift = self.window // 2 if self.window is not None and i % 2 else 0
        block = nn.remat(Block, static_argnums=2) if self.remat else Block  # 2: `train`
        return block(self.heads, self.head_dim, hidden, mixture, self.window, shift, self.dropout, self.dtype,
                     name=f"block_{i}")  # fmt: skip

    def _tail(self, tokens: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The paper's way back: (B, h, w, D) -> (B, H, W, 3) in (0, 1), and the features it was made of."""
        channels = self.tail_channels
        x = nn.Dense(channels * self.patch**2, dtype=self.dtype, name="unembed")(tokens)
        x = unpatchify(x, self.patch)
        x = ResBlock(channels, self.dtype, name="tail_0")(x)
        x = Conv3x3(channels // 2, dtype=self.dtype, name="narrow")(x)
        x = ResBlock(channels // 2, self.dtype, name="tail_1")(x)
        return nn.sigmoid(_wide(Conv3x3(3, dtype=self.dtype, name="output")(x))), x

    def _long_tail(self, tokens: jax.Array, levels: list[jax.Array], images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Back up the pyramid, each level joined by its counterpart's features; also returns the finest level's."""
        factor = self.patch // self._strides()[-1]
        x = unpatchify(nn.Dense(self.channels[-1] * factor**2, dtype=self.dtype, name="unembed")(tokens), factor)
        for i in reversed(range(len(levels))):
            if i < len(levels) - 1:
                x = unpatchify(nn.Dense(4 * self.channels[i], dtype=self.dtype, name=f"up_{i}")(x), 2)
            x = x + levels[i]
            for j in range(self.blocks):
                x = ResBlock(self.channels[i], self.dtype, name=f"tail_{i}_{j}")(x)
            if i == len(levels) - 1:
                tone = _wide(Conv3x3(6, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="tone")(x))
        detail = Conv3x3(3 * self.stem**2, kernel_init=nn.initializers.zeros, dtype=self.dtype, name="detail")(x)
        detail = unpatchify(_wide(detail), self.stem)
        gain, offset = jnp.split(enlarge(tone, images.shape[1:3]), 2, axis=-1)
        smooth = enlarge(block_mean(detail, self.patch), images.shape[1:3])
        return images * (1.0 + gain) + offset + detail - smooth, x

    def _error(self, features: jax.Array, images: jax.Array, restored: jax.Array) -> jax.Array:
        """(B, H/s, W/s, C) features of stride s and two of (B, H, W, 3) -> (B, H, W), the error expected."""
        stride = images.shape[1] // features.shape[1]
        seen = [_wide(features), patchify(images, stride), patchify(jnp.clip(restored, 0.0, 1.0), stride)]
        x = jax.lax.stop_gradient(jnp.concatenate(seen, axis=-1))
        x = nn.relu(Conv3x3(_ERROR_CHANNELS, name=f"{ERROR_HEAD}in")(x))
        x = nn.relu(Conv3x3(_ERROR_CHANNELS, name=f"{ERROR_HEAD}middle")(x))
        x = Conv3x3(1, kernel_init=nn.initializers.zeros, name=f"{ERROR_HEAD}out")(x)
        # bounds from a tenth of a level to more than the whole range: a likelihood has none, and would run away
        return jnp.exp(jnp.clip(enlarge(x, images.shape[1:3])[..., 0] + jnp.log(_USUAL_ERROR), -8.0, 0.5))


def _wide(x: jax.Array) -> jax.Array:
    """float32 at the least: eight bits of an image do not fit the eight of bfloat16's mantissa."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
