"""The paper's network in PyTorch, written from the equations: what `benchmarks/pytorch.py` compares with.

Axis glossary: `B` images, `C` channels, `H W` pixels, `h w` rows and columns of tokens, `N = h w`, `T = B N`, `D`
width, `E` experts, `K` chosen a token.

Modules carry the names of ours, so that parameters can be copied from one network to the other. What
PyTorch has a fast function for is done with it: `scaled_dot_product_attention`, fused linear maps, one copy
between tokens and pixels. Parameters stay float32; everything but the router is computed in the input's dtype.
"""

import math
from typing import Literal

import torch
from torch import nn
from torch.nn import functional as F

from mofme_jax.models.restorer import Restorer

Form = Literal["loop", "dense", "top-k"]


class Linear(nn.Linear):
    """`nn.Linear` that computes in its input's dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., in) -> (..., out)."""
        return F.linear(x, self.weight.to(x.dtype), None if self.bias is None else self.bias.to(x.dtype))


class LayerNorm(nn.LayerNorm):
    """`nn.LayerNorm` that computes in its input's dtype."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(..., D) in and out."""
        return F.layer_norm(x, self.normalized_shape, self.weight.to(x.dtype), self.bias.to(x.dtype), self.eps)


class Conv3x3(nn.Conv2d):
    """3 x 3, zero-padded, in its input's dtype."""

    def __init__(self, channels_in: int, channels_out: int):
        super().__init__(channels_in, channels_out, 3, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in and out."""
        return F.conv2d(x, self.weight.to(x.dtype), self.bias.to(x.dtype), padding=1)


class ResBlock(nn.Module):
    """conv - ReLU - conv, added to its input."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv_in, self.conv_out = Conv3x3(channels, channels), Conv3x3(channels, channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, C, H, W) in and out."""
        return x + self.conv_out(F.relu(self.conv_in(x)))


class Attention(nn.Module):
    """Global self-attention."""

    def __init__(self, width: int, heads: int, head_dim: int):
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * heads * head_dim, bias=False)
        self.out = Linear(heads * head_dim, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) in and out."""
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return self.out(F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(b, n, -1))


class Router(nn.Module):
    """Our deterministic router, "softmax_topk"."""

    def __init__(self, width: int, experts: int, top_k: int, dropout_rate: float):
        super().__init__()
        self.linear, self.top_k = nn.Linear(width, experts, bias=False), top_k
        self.odds = dropout_rate / (1.0 - dropout_rate)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(T, D) -> float32 weights and int64 numbers of the chosen experts, (T, K) each."""
        x = x.float()
        variance = self.odds * F.linear(x.square(), self.linear.weight.square())
        return (self.linear(x) / (1.0 + math.pi / 8.0 * variance).sqrt()).softmax(-1).topk(self.top_k)


class Experts(nn.Module):
    """`sum_e r_e (gamma_e(x) * x + beta_e(x))` with linear generators of [gamma | beta], in one of three forms.

    - "loop": one expert after another, each for every token, as the published network does it.
    - "dense": every expert for every token in one product with all generators.
    - "top-k": tokens sorted by expert, each expert for the tokens that chose it.

    "loop" and "top-k" keep a module an expert, as PyTorch code does: slices of one large parameter would each
    bring a gradient of the whole's size, or a copy of it.
    """

    def __init__(self, width: int, experts: int, form: Form):
        super().__init__()
        self.experts, self.form = experts, form
        if form == "dense":
            self.generate: nn.Module = Linear(width, experts * 2 * width)
        else:
            self.generate = nn.ModuleList(Linear(width, 2 * width) for _ in range(experts))

    def forward(self, x: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        """x: (T, D), weights and chosen: (T, K). Returns (T, D)."""
        if self.form == "top-k":
            return self._top_k(x, weights, chosen)
        gates = torch.zeros(x.shape[0], self.experts, dtype=x.dtype, device=x.device).scatter(1, chosen, weights)
        if self.form == "dense":
            both = self.generate(x).view(*gates.shape, -1)
            gamma, beta = torch.einsum("te,tef->tf", gates, both).chunk(2, dim=-1)
            return gamma * x + beta
        y = torch.zeros_like(x)
        for e, generate in enumerate(self.generate):
            gamma, beta = generate(x).chunk(2, dim=-1)
            y = y + gates[:, e : e + 1] * (gamma * x + beta)
        return y

    # how many tokens chose an expert is known to Python alone, so no graph holds this
    @torch.compiler.disable
    def _top_k(self, x: torch.Tensor, weights: torch.Tensor, chosen: torch.Tensor) -> torch.Tensor:
        expert_of = chosen.flatten()
        order = expert_of.argsort()
        token = order // chosen.shape[1]
        runs = x.index_select(0, token).split(torch.bincount(expert_of, minlength=self.experts).tolist())
        both = torch.cat([generate(run) for generate, run in zip(self.generate, runs, strict=True) if len(run)])
        both = both * weights.flatten().index_select(0, order)[:, None]
        mixed = torch.zeros(x.shape[0], both.shape[1], dtype=x.dtype, device=x.device).index_add(0, token, both)
        gamma, beta = mixed.chunk(2, dim=-1)
        return gamma * x + beta


class Mixture(nn.Module):
    """Router, modulated experts, and the one network they share."""

    def __init__(self, model: Restorer, form: Form):
        super().__init__()
        self.router = Router(model.width, model.num_experts, model.top_k, model.router_dropout)
        self.modulation = Experts(model.width, model.num_experts, form)
        self.up = Linear(model.width, model.mlp_ratio * model.width)
        self.down = Linear(model.mlp_ratio * model.width, model.width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) in and out."""
        tokens = x.flatten(0, 1)
        weights, chosen = self.router(tokens)
        return self.down(F.gelu(self.up(self.modulation(tokens, weights.to(x.dtype), chosen)))).view_as(x)


class Block(nn.Module):
    """`x <- x + Attn(LN(x))`, then `x <- x + FF(LN(x))`."""

    def __init__(self, model: Restorer, form: Form):
        super().__init__()
        self.attention_norm, self.feed_forward_norm = LayerNorm(model.width), LayerNorm(model.width)
        self.attention = Attention(model.width, model.heads, model.head_dim)
        self.mixture = Mixture(model, form)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(B, N, D) in and out."""
        x = x + self.attention(self.attention_norm(x))
        return x + self.mixture(self.feed_forward_norm(x))


class TorchRestorer(nn.Module):
    """The network of `model`: `skip="none"`, `feed_forward="mofme"`, one convolutional level at full resolution.

    Attributes:
      dtype: what is computed in; may be set at any time.
      channels_last: whether pixels lie in memory with their channels together; set by `to_format`.
    """

    def __init__(self, model: Restorer, form: Form):
        super().__init__()
        self.patch, self.dtype, self.channels_last = model.patch, torch.float32, False
        channels, tail = model.channels[0], model.tail_channels
        self.head = nn.Sequential(Conv3x3(3, channels), *(ResBlock(channels) for _ in range(model.blocks)))
        self.embed, self.embed_norm = Linear(channels * model.patch**2, model.width), LayerNorm(model.width)
        self.layers = nn.Sequential(*(Block(model, form) for _ in range(model.depth)))
        self.unembed = Linear(model.width, tail * model.patch**2)
        self.tail = nn.Sequential(
            ResBlock(tail), Conv3x3(tail, tail // 2), ResBlock(tail // 2), Conv3x3(tail // 2, 3)
        )  # fmt: skip

    def to_format(self, channels_last: bool) -> "TorchRestorer":
        """Lays convolutions' kernels and pixels out in memory; returns itself."""
        self.channels_last = channels_last
        return self.to(memory_format=torch.channels_last if channels_last else torch.contiguous_format)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """(B, 3, H, W) in [0, 1] -> the same shape in (0, 1), float32. H and W are multiples of the patch."""
        b, p = images.shape[0], self.patch
        h, w = (side // p for side in images.shape[2:])
        x = self.head((2.0 * images - 1.0).to(self.dtype))
        x = x.view(b, -1, h, p, w, p).permute(0, 2, 4, 3, 5, 1).reshape(b, h * w, -1)
        x = self.layers(self.embed_norm(self.embed(x)))
        x = self.unembed(x).view(b, h, w, p, p, -1)
        if self.channels_last:
            x = x.transpose(2, 3).reshape(b, h * p, w * p, -1).permute(0, 3, 1, 2)
        else:
            x = x.permute(0, 5, 1, 3, 2, 4).reshape(b, -1, h * p, w * p)
        return self.tail(x).float().sigmoid()
