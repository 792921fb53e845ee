"""`mofme examine`: the next step of a run, layer by layer."""

import argparse

from mofme_jax.commands.arguments import RUN, path


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    parser = groups.add_parser(
        "examine",
        help="what the next step of a run computes, layer by layer",
        description="Computes the step after a run's newest checkpoint, without taking it: loss, and norms of "
        "parameters and gradients. A run that stopped for gradients that are not finite stopped before the first such "
        "step. Writes all of it, and the names of the step's images, into the run's folder. Status 1 where something "
        "is not finite.",
        allow_abbrev=False,
    )
    parser.set_defaults(run=_examine)
    parser.add_argument("--workdir", type=path, metavar="RUN", default=RUN, help=f"the run's folder (default: {RUN})")


def _examine(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.training.examine import write_examination

    keep_compiled()
    file, found = write_examination(options.workdir)
    layers = found["layers"]
    width = max(map(len, layers))
    print(f"step {found['step']}: " + ", ".join(f"{name} {value:.4g}" for name, value in found["metrics"].items()))
    print(f"{'array':<{width}}  parameters    gradient  not finite")
    counts = [one["parameter_not_finite"] + one["gradient_not_finite"] for one in layers.values()]
    for (name, one), count in zip(layers.items(), counts, strict=True):
        print(f"{name:<{width}}  {one['parameter']:10.4g}  {one['gradient']:10.4g}  {count or '':>10}".rstrip())
    bad = sum(map(bool, counts))
    print(f"not finite: {bad} of {len(layers)} arrays\nreport {file}")
    return 1 if bad else 0
