"""`mofme demo`: a page on this machine to try a trained network on."""

import argparse

from mofme_jax.commands.arguments import add_weights, load_weights


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    demo = groups.add_parser(
        "demo",
        help="open a local page to restore photographs on",
        description="Serves a page on which photographs are restored: before and after, the routers' uncertainty, the "
        "experts. Weather can be put on clean ones. Nothing leaves the machine. Needs the extra demo.",
        allow_abbrev=False,
    )
    demo.set_defaults(run=_demo)
    add_weights(demo)
    demo.add_argument("--host", default="127.0.0.1", help="where to listen (default: 127.0.0.1, this machine alone)")
    demo.add_argument("--port", type=int, default=7860, help="the port (default: 7860)")
    demo.add_argument(
        "--max-megapixels",
        type=float,
        default=24.0,
        metavar="N",
        help="the largest photograph taken (default: 24)",
    )


def _demo(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.restoring.demo import check, serve
    from mofme_jax.restoring.doubt import calibrations_of

    check(options.host, options.port, options.max_megapixels)  # before the weights are read
    model, params = load_weights(options)
    serve(
        model,
        params,
        calibrations=calibrations_of(options.weights),
        host=options.host,
        port=options.port,
        max_megapixels=options.max_megapixels,
    )
    return 0
