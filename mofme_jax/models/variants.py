"""Named sizes of the restorer."""

from mofme_jax.models.restorer import Restorer

VARIANTS: dict[str, dict] = {
    "tiny": dict(channels=(8, 16), blocks=1, width=32, depth=2, heads=2, head_dim=16),
    "small": dict(channels=(32, 64), blocks=2, width=128, depth=2, heads=4, head_dim=32),
    "base": dict(
        channels=(32,),
        stem=1,
        blocks=2,
        width=384,
        depth=2,
        heads=8,
        head_dim=64,
        window=None,
        skip="none",
        tail_channels=128,
    ),
}


def build(variant: str, **overrides) -> Restorer:
    """A named restorer, with any of its fields changed: `build("small", num_experts=16, top_k=4)`.

    Raises:
      ValueError: for an unknown variant or field, or fields that do not make a network.
    """
    if variant not in VARIANTS:
        raise ValueError(f"variant {variant!r} is unknown; choose one of {', '.join(VARIANTS)}")
    unknown = set(overrides) - set(Restorer.__dataclass_fields__) | set(overrides) & {"parent", "name"}
    if unknown:
        fields = [f for f in Restorer.__dataclass_fields__ if f not in ("parent", "name")]
        raise ValueError(f"unknown field(s) {', '.join(sorted(unknown))}; a Restorer has {', '.join(fields)}")
    model = Restorer(**{**VARIANTS[variant], **overrides})
    model.check()
    return model
