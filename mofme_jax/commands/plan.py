"""`mofme plan`: whether training fits a device and how fast it can be."""

import argparse
import json
import sys

from mofme_jax.commands.arguments import add_config, config_of


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    plan = groups.add_parser(
        "plan",
        help="say whether training fits a device and how fast it can be",
        description="Compiles the training step of a config ahead of time, for a slice of TPUs that need not be there "
        "(with the extra tpu) or for this machine, and prints memory, work, communication, the roofline and the "
        "largest batch. Reads no photographs. Exit status 1 when the step does not fit. Fields are set as "
        "--config.field=value.",
        allow_abbrev=False,
    )
    plan.set_defaults(run=_plan)
    add_config(plan)
    target = plan.add_mutually_exclusive_group()
    target.add_argument("--topology", metavar="NAME", help="a TPU slice: v5e:1x1, v5e:16x16, v4:2x2x1, v6e:8x8 ...")
    target.add_argument("--devices", choices=["local"], default="local", help="this machine's (default)")
    plan.add_argument(
        "--largest-batch",
        action="store_true",
        help="compile a few times more to find it, instead of an estimate",
    )
    plan.add_argument("--json", action="store_true", help="print all figures as JSON")


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    config = config_of(options, rest)
    from mofme_jax.training.plan import DoesNotFit, plan_step  # a config that will not do is said before JAX loads

    try:
        plan = plan_step(config, options.topology, find_largest=options.largest_batch)
    except DoesNotFit as error:
        print(f"mofme: {error}", file=sys.stderr)
        return 1
    print(json.dumps(plan.to_json(), indent=2) if options.json else plan.report())
    return 0 if plan.fits else 1
