"""The command `mofme`. Each subcommand is a thin layer over a function that can be called from Python as well."""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import mofme_jax


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: of the command line; None takes those of this process.

    Returns:
      The exit status: 0, 1 where something was examined and found wrong, 2 where the command could not be done,
      130 where it was interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "takes_config") and all(word.startswith("--config") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return options.run(options, rest)
    except (ValueError, OSError, ImportError) as error:
        print(f"mofme: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mofme: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mofme", description="Rain, raindrops, snow and haze removed from photographs.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mofme_jax {mofme_jax.__version__}")
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    data = groups.add_parser("data", help="look at, fetch, check and build sets of images")
    commands = data.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def command(name: str, run, summary: str, description: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=summary, description=description, allow_abbrev=False)
        added.set_defaults(run=run)
        return added

    doctor = command(
        "doctor",
        _doctor,
        "say what is wrong with a folder of images",
        "Finds the layout of a folder, counts, and names every file that is missing, unreadable, odd, doubled or "
        "known from another split. Exit status 1 when something is wrong.",
    )
    doctor.add_argument("folder", type=_path, metavar="DIR", help="the set's folder")
    doctor.add_argument("--layout", help="the layout it has to have; found by itself otherwise")
    doctor.add_argument("--json", action="store_true", help="print all findings as JSON")

    fetch = command(
        "fetch-photos",
        _fetch,
        "fetch 95 freely licensed photographs to train on",
        "Takes 91 photographs to train on and 4 to be judged by out of the Debian package gcompris-qt-data, into the "
        "user's cache, with their licences. configs/photos.py trains on them.",
    )
    fetch.add_argument(
        "--source", type=_path, metavar="PATH", help="the package, a .deb or unpacked; fetched by apt otherwise"
    )
    fetch.add_argument("--to", type=_path, metavar="DIR", help="where to; the user's cache otherwise")

    build = command(
        "build",
        _build,
        "build a TFDS set in array_record files from a folder",
        "Builds a set that TFDS and Grain read, without TensorFlow; config.data.tfds=DATA_DIR "
        "beside config.data.pairs=DIR (or photographs) trains from it.",
    )
    build.add_argument("folder", type=_path, metavar="DIR", help="the set's folder, in any layout known")
    build.add_argument("--to", type=_path, metavar="DATA_DIR", required=True, help="the folder of TFDS sets")
    build.add_argument("--layout", help="the layout it has to have; found by itself otherwise")

    preview = command(
        "preview",
        _preview,
        "draw a contact sheet of what training sees",
        "Draws input | target with weather and severity, exactly as a run of the config sees them. Fields are set as "
        "--config.field=value.",
    )
    preview.add_argument("--config", metavar="FILE", help="the config (default: configs/default.py)")
    preview.add_argument(
        "--out", type=_path, default="preview.png", metavar="FILE", help="the picture (default: preview.png)"
    )
    preview.add_argument("--step", type=int, default=0, help="steps of training before it (default: 0)")
    preview.add_argument("--count", type=int, default=16, help="examples (default: 16)")
    preview.set_defaults(takes_config=True)

    plan = groups.add_parser(
        "plan",
        help="say whether training fits a device and how fast it can be",
        description="Compiles the training step of a config ahead of time, for a slice of TPUs that need not be there "
        "(with the extra tpu) or for this machine, and prints memory, work, communication, the roofline and the "
        "largest batch. Reads no photographs. Exit status 1 when the step does not fit. Fields are set as "
        "--config.field=value.",
        allow_abbrev=False,
    )
    plan.set_defaults(run=_plan, takes_config=True)
    plan.add_argument("--config", metavar="FILE", help="the config (default: configs/default.py)")
    target = plan.add_mutually_exclusive_group()
    target.add_argument("--topology", metavar="NAME", help="a TPU slice: v5e:1x1, v5e:16x16, v4:2x2x1, v6e:8x8 ...")
    target.add_argument("--devices", choices=["local"], default="local", help="this machine's (default)")
    plan.add_argument(
        "--largest-batch",
        action="store_true",
        help="compile a few times more to find it, instead of an estimate",
    )
    plan.add_argument("--json", action="store_true", help="print all figures as JSON")
    return parser


def _path(text: str) -> Path:
    try:
        return Path(text or os.devnull).expanduser()  # "" is no way to say the current folder
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


# The imports are in the commands: each waits for its own libraries only.


def _doctor(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.data.doctor import examine
    from mofme_jax.viz import ProgressBar

    with ProgressBar(0, "reading images") as bar:

        def tell(done: int, total: int) -> None:
            bar.total = total
            bar.update(done)

        diagnosis = examine(options.folder, options.layout, tell)
    print(json.dumps(diagnosis.to_json(), indent=2) if options.json else diagnosis.report())
    return 1 if diagnosis.problems else 0


def _fetch(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.data.fetch import fetch_photographs

    folder = fetch_photographs(options.source, options.to)
    where = "" if options.to is None else f" --config.data.photographs={folder}/train"
    where += "" if options.to is None else f" --config.data.validation={folder}/validation"
    print(f"train on them: python train.py --config configs/photos.py --workdir runs/photos{where}")
    return 0


def _build(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.data.prepared import build

    print(build(options.folder, options.to, options.layout))
    return 0


def _preview(options: argparse.Namespace, rest: list[str]) -> int:
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.config_file import read_config
    from mofme_jax.training.preview import preview

    keep_compiled()
    config = read_config([*([f"--config={options.config}"] if options.config else []), *rest])
    preview(config, options.out, step=options.step, count=options.count)
    print(options.out)
    return 0


def _plan(options: argparse.Namespace, rest: list[str]) -> int:
    from mofme_jax.config_file import read_config

    config = read_config([*([f"--config={options.config}"] if options.config else []), *rest])
    from mofme_jax.training.plan import DoesNotFit, plan_step  # a config that will not do is said before JAX loads

    try:
        plan = plan_step(config, options.topology, find_largest=options.largest_batch)
    except DoesNotFit as error:
        print(f"mofme: {error}", file=sys.stderr)
        return 1
    print(json.dumps(plan.to_json(), indent=2) if options.json else plan.report())
    return 0 if plan.fits else 1
