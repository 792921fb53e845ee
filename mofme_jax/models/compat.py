"""The network of the authors' released code, as it runs in evaluation ("compat" semantics).

It exists so that weights trained with the released code give the same images here; `reference.py` builds
one from such weights. The package's own network is `restorer.py`, which follows the paper instead. Where
the release departs from the paper, this file departs with it:

- routing: softmax over the top-k logits only (the paper takes the top k of a softmax, not renormalised),
  every logit tied with the k-th kept, k = 0 meaning all;
- "film" experts are off by one: routing slot 0 is a GELU without parameters, slot e >= 1 is modulation
  e - 1, and the last modulation is held but never used;
- a gate the paper does not have, GELU(A s) * (B s), stands before the film experts, while the router reads
  the un-normalised tokens;
- the position table and the film experts' LayerNorms are held but never used.

What is held but never used is a parameter here too and stays out of the computation: the published counts,
11.68 M (E = 4) and 85.29 M (E = 128) at the authors' sizes, count everything the state dict holds.

Nothing is random: the release's training-mode forward of the routed networks does not run, so `train` is
accepted, as by every network of the package, and changes nothing; fine-tuning uses the evaluation routing.

Axis glossary: `B` images, `H W` pixels, `C` channels, `h w` grid of patches, `N = h*w` tokens, `D` width,
`E` experts, `K` experts chosen a token.
"""

import flax.struct
import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.compat_experts import EXPERT_KERNELS, ModulationExperts, ParallelExperts, route
from mofme_jax.models.layers import Conv3x3, FeedForward, LayerNorm, ResBlock, SelfAttention, unpatchify

GATES = ("film", "complete", "baseline")


@flax.struct.dataclass
class CompatAux:
    """What one layer did to its tokens.

    Attributes:
      router_logits: (B, N, E), or None without experts.
      weights: (B, N, E) on the simplex, zero where not chosen, or None without experts.
      after_attention: (B, N, D), the input of the feed-forward half.
      mixed: (B, N, D), the weighted sum of the experts, or the dense feed-forward's output.
      output: (B, N, D), the layer's output.
    """

    router_logits: jax.Array | None
    weights: jax.Array | None
    after_attention: jax.Array
    mixed: jax.Array
    output: jax.Array


class CompatBlock(nn.Module):
    """x + attention, then x + feed-forward of one of three kinds; see `CompatRestorer` for the attributes."""

    gate: str
    heads: int
    head_dim: int
    hidden: int
    experts: int
    top_k: int
    expert_kind: str

    @nn.compact
    def __call__(self, x: jax.Array, grid: tuple[int, int]) -> CompatAux:
        """(B, N, D) tokens of a grid (h, w)."""
        project = not (self.heads == 1 and self.head_dim == x.shape[-1])
        attention = SelfAttention(self.heads, self.head_dim, project, name="attention")
        x = attention(LayerNorm(name="attention_norm")(x)) + x
        if self.gate == "baseline":
            mixed = FeedForward(self.hidden, name="feed_forward")(LayerNorm(name="norm")(x))
            return CompatAux(None, None, x, mixed, mixed + x)
        logits = nn.Dense(self.experts, name="router")(x)
        weights = route(logits, self.top_k)
        if self.gate == "film":
            mixed = ModulationExperts(self.experts, name="film")(x, weights)
            change = FeedForward(self.hidden, name="adaptor")(mixed)
        else:
            experts = ParallelExperts(self.expert_kind, self.experts, self.hidden, name="experts")
            change = mixed = experts(x, weights, grid)
        return CompatAux(logits, weights, x, mixed, change + x)


class CompatRestorer(nn.Module):
    """The released network. The defaults are the authors' sizes; 11,675,403 parameters (film, E = 4).

    Attributes:
      gate: "film" (MoFME), "complete" (parallel experts) or "baseline" (one feed-forward, no experts).
      image_size: (H, W) the released code was built for. It only sizes the unused position table: any image
        divisible by the patch can be restored.
      in_channels: channels of the images; the output has 3.
      patch: side of a patch, in pixels.
      width: D.
      depth: number of layers.
      heads, head_dim: attention heads and the width of each.
      mlp_ratio: hidden width of feed-forwards, in multiples of D.
      channels: channels of the head.
      channel_scale: channels of the tail's input, in multiples of `channels`; the product must be even.
      experts: E, at least 1.
      top_k: K of `route`, 0 for all experts.
      expert_kind: of "complete": "ffn", "sa", "detail_1357" or "detail_3333".
      residual: adds the image, normalised to [-1, 1], to the output.
    """

    gate: str = "film"
    image_size: tuple[int, int] = (240, 240)
    in_channels: int = 3
    patch: int = 8
    width: int = 384
    depth: int = 2
    heads: int = 8
    head_dim: int = 64
    mlp_ratio: int = 4
    channels: int = 32
    channel_scale: int = 4
    experts: int = 4
    top_k: int = 2
    expert_kind: str = "ffn"
    residual: bool = False

    def setup(self):
        """Creates the layers; see `check` for what is refused."""
        self.check()
        wide = self.channels * self.channel_scale
        size = (self.patch, self.patch)
        self.head_conv = Conv3x3(self.channels)
        self.head_blocks = [ResBlock(self.channels) for _ in range(2)]
        self.patch_embedding = nn.Conv(self.width, size, strides=size, padding="VALID")
        self.patch_norm = LayerNorm()
        tokens = (self.image_size[0] // self.patch) * (self.image_size[1] // self.patch)
        self.unused_positions = self.param("unused_positions", nn.initializers.zeros, (1, tokens, self.width))
        routing = (self.experts, self.top_k, self.expert_kind)
        hidden = self.mlp_ratio * self.width
        self.layers = [CompatBlock(self.gate, self.heads, self.head_dim, hidden, *routing) for _ in range(self.depth)]
        self.to_pixels = nn.Dense(wide * self.patch**2)
        self.tail_blocks = [ResBlock(wide), ResBlock(wide // 2)]
        self.tail_convs = [Conv3x3(wide // 2), Conv3x3(3)]

    def check(self):
        """Raises ValueError for a network that cannot be built."""
        if self.gate not in GATES:
            raise ValueError(f"gate must be one of {GATES}, not {self.gate!r}")
        if any(side < self.patch or side % self.patch for side in self.image_size):
            raise ValueError(f"image_size {self.image_size} is not divisible by the patch, {self.patch}")
        if self.residual and self.in_channels != 3:
            raise ValueError(f"residual needs images of 3 channels, not {self.in_channels}")
        if self.gate == "baseline":
            return
        if self.experts < 1:
            raise ValueError(f"experts must be at least 1, not {self.experts}")
        if not 0 <= self.top_k <= self.experts:
            raise ValueError(f"top_k must lie between 0 (all) and experts = {self.experts}, not {self.top_k}")
        if self.gate == "complete" and self.expert_kind not in EXPERT_KERNELS:
            raise ValueError(f"expert_kind must be one of {tuple(EXPERT_KERNELS)}, not {self.expert_kind!r}")

    def _grid(self, images: jax.Array) -> tuple[int, int]:
        """(h, w) of the patches; ValueError for images this network cannot take."""
        if images.ndim != 4 or images.shape[-1] != self.in_channels:
            raise ValueError(f"images must be (B, H, W, {self.in_channels}), not {images.shape}")
        if not jnp.issubdtype(images.dtype, jnp.floating):
            raise ValueError(f"images must be floats in [0, 1], not {images.dtype}")
        height, width = images.shape[1:3]
        if height < self.patch or width < self.patch or height % self.patch or width % self.patch:
            raise ValueError(f"images of {height}x{width} are not divisible by the patch, {self.patch}")
        grid = (height // self.patch, width // self.patch)
        if self.gate == "complete" and self.expert_kind.startswith("detail") and grid[0] != grid[1]:
            raise ValueError(
                f"{self.expert_kind} experts take square images only, as released; {height}x{width} makes a "
                f"{grid[0]}x{grid[1]} grid of patches"
            )
        return grid

    def embed(self, images: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Head and patch embedding: images (B, H, W, C) in [0, 1] -> (B, H, W, channels), (B, N, D)."""
        self._grid(images)
        features = self.head_conv(images * 2 - 1)
        for block in self.head_blocks:
            features = block(features)
        patches = self.patch_embedding(features)
        return features, self.patch_norm(patches.reshape(patches.shape[0], -1, self.width))

    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple[CompatAux, ...]]:
        """Restores images.

        Args:
          images: (B, H, W, C) floats in [0, 1], H and W divisible by the patch; the released code's
            normalisation to [-1, 1] happens inside.
          train: changes nothing, see the head of this file.

        Returns:
          The restored images (B, H, W, 3), in [0, 1] without `residual`, within [-1, 2] and unclipped with
          it; and one `CompatAux` a layer.

        Raises:
          ValueError: for another rank, another number of channels, sides not divisible by the patch, or a
            grid that is not square under the "detail" experts.
        """
        del train
        grid = self._grid(images)
        _, x = self.embed(images)
        aux = []
        for layer in self.layers:
            aux.append(layer(x, grid))
            x = aux[-1].output
        y = self.to_pixels(x)
        y = unpatchify(y.reshape(y.shape[0], *grid, -1), self.patch)
        for block, conv in zip(self.tail_blocks, self.tail_convs, strict=True):
            y = conv(block(y))
        y = nn.sigmoid(y)
        return (y + (images * 2 - 1) if self.residual else y), tuple(aux)
