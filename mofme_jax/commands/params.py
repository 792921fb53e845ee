"""`mofme params`: what a network costs."""

import argparse
import json

from mofme_jax.commands.arguments import add_config, config_of


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    params = groups.add_parser(
        "params",
        help="count a network's parameters, work and memory",
        description="Parameters in all and used a token, FLOPs as XLA counts them, memory, receptive field, of a named "
        "size (tiny, small, base) or of a config's network, whose fields are set as --config.model.field=value.",
        allow_abbrev=False,
    )
    params.set_defaults(run=_params)
    params.add_argument("variant", nargs="?", metavar="VARIANT", help="a size by name; otherwise the config's network")
    add_config(params)
    params.add_argument("--side", type=int, default=240, help="of the image, pixels (default: 240)")
    params.add_argument("--json", action="store_true", help="print all figures as JSON")


def _params(options: argparse.Namespace, rest: list[str]) -> int:
    if options.variant and options.config:
        raise ValueError("a VARIANT or a --config, not both; --config.model.field=value goes with either")
    model = _named(options.variant) if options.variant and not rest else _configured(options, rest)
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.models.summary import summarise

    keep_compiled()
    summary = summarise(model, options.side)
    print(json.dumps(summary.to_json(), indent=2) if options.json else summary.report())
    return 0


def _named(variant: str):
    """The network of a name alone, for which no config need be there."""
    from mofme_jax.models import build

    return build(variant)


def _configured(options: argparse.Namespace, rest: list[str]):
    config = config_of(options, rest)
    if options.variant:
        config.model.variant = options.variant
    from mofme_jax.training.options import build_model, read_options

    read_options(config)  # names what is wrong with any of its fields
    return build_model(config.model)
