"""Feature-modulated experts: what an expert is in MoFME.

Axis glossary: `T` tokens of a batch, `D` width, `E` experts, `R` rank of a low-rank generator.

An expert is a feature-wise linear modulation of its input, `FM_e(x) = gamma_e(x) * x + beta_e(x)`; all experts
share the feed-forward network behind them (paper, the MoFME layer). So a weighted sum of experts needs
only the weighted sums of their gammas and betas, and multiplies by x once.
"""

from typing import Any, Literal, get_args

import chex
import jax
import jax.numpy as jnp
from flax import linen as nn

from mofme_jax.models.dispatch import Dispatch, Product, resolve, through_chosen
from mofme_jax.models.layers import cast

Generator = Literal["linear", "static", "low_rank"]

EXPERT_AXIS = "expert"
"""Name of the leading axis of every stacked expert parameter, for sharding."""


def axis_names(params: Any) -> Any:
    """Names of the axes of parameters, for sharding: a tuple a leaf, with a name or None an axis.

    Every leaf below a module called "experts" is stacked over the experts: its first axis is `EXPERT_AXIS`.

    Args:
      params: parameters, or their shapes, of any module of the package.

    Returns:
      The same tree with tuples, ready for `jax.sharding.PartitionSpec(*names)`.
    """

    def names(path, leaf):
        stacked = any(getattr(entry, "key", None) == "experts" for entry in path)
        return ((EXPERT_AXIS,) if stacked else (None,) * (leaf.ndim > 0)) + (None,) * (leaf.ndim - 1)

    return jax.tree_util.tree_map_with_path(names, params)


def identity_bias(key: jax.Array, shape: tuple[int, ...], dtype=jnp.float32) -> jax.Array:
    """[gamma | beta] = [1 | 0]: an expert that changes nothing. shape: (..., 2 D)."""
    del key
    gamma, beta = (
        jnp.ones((*shape[:-1], shape[-1] // 2), dtype),
        jnp.zeros((*shape[:-1], shape[-1] // 2), dtype),
    )
    return jnp.concatenate([gamma, beta], axis=-1)


class FeatureModulation(nn.Module):
    """One expert's generator of gamma and beta. Starts as the identity: gamma 1, beta 0.

    Attributes:
      generator: "linear": a Dense D -> 2 D of the token, bias included (the paper's by its parameter
        count). "low_rank": the same through R features. "static": two vectors, the same for every token.
      rank: R, for "low_rank".
    """

    generator: Generator = "linear"
    rank: int = 8
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> tuple[jax.Array, jax.Array]:
        """x: (T, D). Returns gamma and beta, (T, D) each (for "static": (1, D))."""
        if self.generator not in get_args(Generator):
            raise ValueError(f"generator={self.generator!r} is unknown; choose one of {get_args(Generator)}")
        width = x.shape[-1]
        if self.generator == "static":
            both = self.param("bias", identity_bias, (1, 2 * width)).astype(self.dtype or x.dtype)
        else:
            if self.generator == "low_rank":
                x = nn.Dense(self.rank, use_bias=False, dtype=self.dtype, name="down")(x)
            zeros = nn.initializers.zeros
            generate = nn.Dense(
                2 * width, dtype=self.dtype, kernel_init=zeros, bias_init=identity_bias, name="generate"
            )
            both = generate(x)
        gamma, beta = jnp.split(both, 2, axis=-1)
        return gamma, beta


def mix_modulations(x: jax.Array, gates: jax.Array, gamma: jax.Array, beta: jax.Array) -> jax.Array:
    """`sum_e r_e (gamma_e * x + beta_e)`, computed as `(sum_e r_e gamma_e) * x + sum_e r_e beta_e`.

    Args:
      x: (T, D).
      gates: (T, E), zero where an expert was not chosen.
      gamma: (E, T, D) or (E, 1, D).
      beta: like gamma.

    Returns:
      (T, D).
    """
    chex.assert_shape(gates, (x.shape[0], gamma.shape[0]))  # else a (T, 1) or (1, E) would broadcast
    if gamma.shape[1] == 1:
        return (gates @ gamma[:, 0]) * x + gates @ beta[:, 0]
    return jnp.einsum("te,etd->td", gates, gamma) * x + jnp.einsum("te,etd->td", gates, beta)


def generate(params: Any, rows: jax.Array, product: Product) -> jax.Array:
    """[gamma | beta] of each row by its own expert: `FeatureModulation` with a linear or low-rank generator.

    Args:
      params: those of `FeatureModulation`, stacked over the experts.
      rows, product: see `mofme_jax.models.dispatch.Experts`.

    Returns:
      (R, 2 D).
    """
    if "down" in params:
        rows = product(rows, params["down"]["kernel"])
    return product(rows, params["generate"]["kernel"], params["generate"]["bias"])


def side_by_side(expert: type[nn.Module], num_experts: int) -> Any:
    """The module that is E experts: the same input to each, outputs and parameters stacked along a first axis."""
    return nn.vmap(
        expert,
        in_axes=None,
        out_axes=0,
        axis_size=num_experts,
        variable_axes={"params": 0},
        split_rngs={"params": True},
        metadata_params={nn.PARTITION_NAME: EXPERT_AXIS},
    )


class ModulatedExperts(nn.Module):
    """The weighted sum of E feature-modulated experts. (T, D) and (T, E) gates in, (T, D) out.

    `FeatureModulation` under `nn.vmap` owns the parameters and is the definition, `dispatch="dense"`. The other
    ways compute the chosen experts alone, from the same stacked parameters. Static generators have nothing
    to save: their sum is a product of the gates with a table.

    Attributes:
      num_experts: E.
      generator: see `FeatureModulation`.
      rank: see `FeatureModulation`.
      dispatch: see `mofme_jax.models.dispatch`.
      dtype: what is computed in, see `mofme_jax.models.layers`.
    """

    num_experts: int
    generator: Generator = "linear"
    rank: int = 8
    dispatch: Dispatch = "auto"
    dtype: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, gates: jax.Array, chosen: jax.Array | None = None) -> jax.Array:
        """chosen: (T, K) experts whose gates may differ from 0; None: all of them, which is computed densely."""
        bank = side_by_side(FeatureModulation, self.num_experts)
        method = resolve(self.dispatch, self.num_experts)
        if chosen is None or method == "dense" or self.generator == "static" or self.is_initializing():
            gamma, beta = bank(self.generator, self.rank, self.dtype, name="experts")(x)
            return mix_modulations(x, gates, gamma, beta)
        params = cast(self.variables["params"]["experts"], self.dtype)
        gamma, beta = jnp.split(through_chosen(generate, params, x, gates, chosen, method), 2, axis=-1)
        return gamma * x + beta
