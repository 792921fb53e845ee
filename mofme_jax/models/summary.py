"""What a network costs: parameters, work, memory, reach.

Axis glossary: `H W` pixels, `E` experts, `K` experts chosen a token.
"""

from dataclasses import asdict, dataclass
from typing import Any

import jax
import jax.numpy as jnp

from mofme_jax.models.restorer import Restorer


@dataclass(frozen=True)
class Summary:
    """Costs of restoring one square image in float32.

    Attributes:
      parameters: all of them. used: those that one token and its pixels go through: of E experts K.
      experts: in the experts alone, what a bank of E has.
      side: of the image, pixels.
      flops: that XLA counts before it optimises, a multiplication and an addition each one, with every token going
        through its K experts alone. flops_all: with every expert computed for every token.
      weight_bytes: of the parameters. work_bytes: that the program needs beside them, its image and its result.
      receptive_field: pixels on each side that a restored one can depend on; None for the whole image.
      platform: XLA's, that the program was compiled for.
    """

    parameters: int
    used: int
    experts: int
    side: int
    flops: float
    flops_all: float
    weight_bytes: int
    work_bytes: int
    receptive_field: int | None
    platform: str

    def to_json(self) -> dict[str, Any]:
        """As a dict of plain values."""
        return asdict(self)

    def report(self) -> str:
        """A table for people."""
        share = f" ({self.used / self.parameters:.0%})" if self.experts else ""
        reach = "the whole image" if self.receptive_field is None else f"{self.receptive_field} pixels on each side"
        image = f"a {self.side} x {self.side} image"
        all_of_them = f" ({self.flops_all / 1e9:,.2f} G with every expert computed)" if self.experts else ""
        rows = [
            ("parameters", f"{self.parameters:,}"),
            ("used a token", f"{self.used:,}{share}"),
            ("in the experts", f"{self.experts:,}"),
            ("FLOPs", f"{self.flops / 1e9:,.2f} G{all_of_them}, {image}"),
            ("memory of weights", f"{self.weight_bytes / 2**20:,.1f} MiB"),
            ("memory of work", f"{self.work_bytes / 2**20:,.1f} MiB, {image}, {self.platform}"),
            ("receptive field", reach),
        ]
        return "\n".join(f"{name:<20}{value}" for name, value in rows)


def summarise(model: Restorer, side: int = 240) -> Summary:
    """Counts parameters and compiles the network for one image, on the default device; computes nothing.

    Args:
      model: the restorer.
      side: of the image, at least 1 pixel.

    Raises:
      ValueError: a side below 1.
    """
    if side < 1:
        raise ValueError(f"side={side}: an image has at least 1 pixel on each side")
    params = _shapes(model)
    compiled = _lower(model, side, jax.default_backend()).compile()
    total, experts = _size(params), _size(_banks(params))
    chosen = model if model.feed_forward == "dense" else model.clone(num_experts=model.top_k)
    return Summary(
        parameters=total,
        used=total - experts + experts * model.top_k // model.num_experts,
        experts=experts,
        side=side,
        flops=_flops(chosen, side),
        flops_all=_flops(model, side),
        weight_bytes=sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(params)),
        work_bytes=int(compiled.memory_analysis().temp_size_in_bytes),
        receptive_field=model.receptive_field(),
        platform=jax.default_backend(),
    )


def _shapes(model: Restorer) -> Any:
    images = jnp.zeros((1, model.patch, model.patch, 3))
    return jax.eval_shape(lambda: model.init(jax.random.key(0), images)["params"])


def _lower(model: Restorer, side: int, platform: str) -> Any:
    """The program that restores one image, for a platform that need not be there."""
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    restore = jax.jit(lambda params, images: model.apply({"params": params}, images)[0])
    return restore.trace(_shapes(model), images).lower(lowering_platforms=(platform,))


def _flops(model: Restorer, side: int) -> float:
    # as a GPU would do it: without loops over experts and heads, whose bodies XLA counts once, however often they run
    return float(_lower(model.clone(dispatch="dense"), side, "cuda").cost_analysis()["flops"])


def _banks(params: Any) -> list[jax.ShapeDtypeStruct]:
    """The parameters that are stacked over the experts."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [leaf for where, leaf in leaves if any(getattr(key, "key", None) == "experts" for key in where)]


def _size(tree: Any) -> int:
    return sum(leaf.size for leaf in jax.tree.leaves(tree))
