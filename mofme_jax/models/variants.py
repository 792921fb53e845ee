"""Named sizes of the restorer."""

from mofme_jax.models.restorer import Restorer

VARIANTS: dict[str, dict] = {
    # for tests and for reading
    "tiny": dict(channels=(8, 16), blocks=1, patch=8, width=32, heads=2, head_dim=16),
    # trains on two CPU cores in minutes; the fields' defaults
    "small": dict(),
    # the paper's network
    "base": dict(
        channels=(32,),
        stem=1,
        blocks=2,
        patch=8,
        width=384,
        heads=8,
        head_dim=64,
        skip="none",
    ),
}
"""Fields of `Restorer` that differ from their defaults, by name of the variant."""


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
