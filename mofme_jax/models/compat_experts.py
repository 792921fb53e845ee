"""Routing and experts of the authors' released code; `compat.py` assembles the network from them.

Axis glossary: `B` images, `h w` grid of patches, `N = h*w` tokens, `D` width, `E` experts,
`K` experts chosen.
"""

import einops
import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.layers import LayerNorm, gelu

# Depthwise kernels of the parallel experts: expert e has the size at [e % len(sizes)], 0 being no kernel.
EXPERT_KERNELS = {"ffn": (0,), "sa": (0,), "detail_1357": (0, 3, 5, 7), "detail_3333": (3,)}

# The released code's initial values: uniform within 1/sqrt(fan_in), here for a stack of kernels (E, D, D).
_stacked_uniform = nn.initializers.variance_scaling(1 / 3, "fan_in", "uniform", batch_axis=(0,))


def route(logits: jax.Array, top_k: int) -> jax.Array:
    """Softmax over each token's `top_k` largest logits; ties with the k-th are all kept, 0 keeps every one.

    (..., E) in and out. With k = 1 and no tie the weight is the constant 1: the router gets no gradient.
    """
    if top_k == 0:
        return nn.softmax(logits)
    kth = jax.lax.top_k(logits, top_k)[0][..., -1:]
    return nn.softmax(jnp.where(logits >= kth, logits, -jnp.inf))


def mix_modulations(
    s: jax.Array, weights: jax.Array, product: tuple[jax.Array, jax.Array], add: tuple[jax.Array, jax.Array]
) -> jax.Array:
    """sum_e w_e ((G_e s + g_e) * s + (H_e s + h_e)), summed before the product with s.

    The experts' sum is linear in (G, H), so s multiplies it once; scanning over experts keeps one expert's
    activations alive instead of E.

    Args:
      s: (B, N, D) tokens.
      weights: (B, N, E).
      product: the kernels (E, D, D) and biases (E, D) of G.
      add: those of H.

    Returns:
      (B, N, D).
    """

    def accumulate(sums, expert):
        w, (kernel_g, bias_g), (kernel_h, bias_h) = expert
        gamma, beta = sums
        return (gamma + w * (s @ kernel_g + bias_g), beta + w * (s @ kernel_h + bias_h)), None

    by_expert = einops.rearrange(weights, "b n e -> e b n 1")
    zeros = jnp.zeros(s.shape, jnp.result_type(s, weights, *product, *add))
    (gamma, beta), _ = jax.lax.scan(accumulate, (zeros, zeros), (by_expert, product, add))
    return gamma * s + beta


class StackedDense(nn.Module):
    """The parameters of E Dense layers D -> D: kernel (E, D, D) and bias (E, D)."""

    experts: int
    width: int

    @nn.compact
    def __call__(self) -> tuple[jax.Array, jax.Array]:
        """Returns (kernel, bias)."""
        shape, limit = (self.experts, self.width), self.width**-0.5
        kernel = self.param("kernel", _stacked_uniform, (*shape, self.width))
        bias = self.param("bias", lambda key, shape: jax.random.uniform(key, shape, minval=-limit, maxval=limit), shape)
        return kernel, bias


class ModulationExperts(nn.Module):
    """The film experts behind their gate.

    s = GELU(A LN(x)) * (B LN(x));  y = w_0 GELU(s) + sum_{e=1}^{E-1} w_e (G_{e-1} s * s + H_{e-1} s).
    """

    experts: int

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array) -> jax.Array:
        """x (B, N, D), weights (B, N, E) -> (B, N, D)."""
        width = x.shape[-1]
        s = LayerNorm(name="norm")(x)
        s = gelu(nn.Dense(width, name="gate")(s)) * nn.Dense(width, name="value")(s)
        product = StackedDense(self.experts, width, name="product")()
        add = StackedDense(self.experts, width, name="add")()
        self.param("unused_norm_scale", nn.initializers.ones, (self.experts, width))
        self.param("unused_norm_bias", nn.initializers.zeros, (self.experts, width))
        product, add = jax.tree.map(lambda stack: stack[:-1], (product, add))  # the last is never routed to
        return weights[..., :1] * gelu(s) + mix_modulations(s, weights[..., 1:], product, add)


class ParallelExpert(nn.Module):
    """One expert of the "complete" layer with its own LayerNorm, (B, h, w, D) in and out.

    Attributes:
      kind: a key of EXPERT_KERNELS. "sa" takes its softmax over the batch axis, as released: what an image
        becomes depends on the images beside it.
      hidden: width between the two Dense layers.
      kernel: size of a depthwise convolution added to what is between them, before the GELU; 0 for none.
    """

    kind: str
    hidden: int
    kernel: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """(B, h, w, D) -> (B, h, w, D)."""
        y = LayerNorm(name="norm")(x)
        y = nn.Dense(self.hidden * (3 if self.kind == "sa" else 1), name="up")(y)
        if self.kind == "sa":
            q, k, v = jnp.split(y, 3, axis=-1)
            y = v * nn.softmax(q * k, axis=0)
        elif self.kernel:
            size, padding = (self.kernel, self.kernel), self.kernel // 2
            depthwise = nn.Conv(self.hidden, size, padding=padding, feature_group_count=self.hidden, name="depthwise")
            y = gelu(y + depthwise(y))
        else:
            y = gelu(y)
        return nn.Dense(x.shape[-1], name="down")(y)


class ParallelExperts(nn.Module):
    """sum_e w_e Expert_e(LN_e(x)): every expert for every token, as released.

    Experts with one kernel size are one stack, with a leading parameter axis.
    """

    kind: str
    experts: int
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array, weights: jax.Array, grid: tuple[int, int]) -> jax.Array:
        """x (B, N, D), weights (B, N, E), grid (h, w) -> (B, N, D)."""
        kernels = EXPERT_KERNELS[self.kind]
        x = einops.rearrange(x, "b (h w) d -> b h w d", h=grid[0])
        total = jnp.zeros((), x.dtype)
        for first, kernel in enumerate(kernels[: self.experts]):
            share = weights[..., first :: len(kernels)]
            stack = nn.vmap(
                ParallelExpert,
                variable_axes={"params": 0},
                split_rngs={"params": True},
                in_axes=None,
                axis_size=share.shape[-1],
                metadata_params={nn.PARTITION_NAME: "expert"},
            )
            y = stack(self.kind, self.hidden, kernel, name=f"stack_{first}")(x)
            total = total + jnp.einsum("bne,ebnd->bnd", share, einops.rearrange(y, "e b h w d -> e b (h w) d"))
        return total
