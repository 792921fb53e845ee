"""`mofme data`: look at, fetch, check and build sets of images."""

import argparse
import json

from mofme_jax.commands.arguments import add_config, config_of, path


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
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
    doctor.add_argument("folder", type=path, metavar="DIR", help="the set's folder")
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
        "--source", type=path, metavar="PATH", help="the package, a .deb or unpacked; fetched by apt otherwise"
    )
    fetch.add_argument("--to", type=path, metavar="DIR", help="where to; the user's cache otherwise")

    build = command(
        "build",
        _build,
        "build a TFDS set in array_record files from a folder",
        "Builds a set that TFDS and Grain read, without TensorFlow; config.data.tfds=DATA_DIR "
        "beside config.data.pairs=DIR (or photographs) trains from it.",
    )
    build.add_argument("folder", type=path, metavar="DIR", help="the set's folder, in any layout known")
    build.add_argument("--to", type=path, metavar="DATA_DIR", required=True, help="the folder of TFDS sets")
    build.add_argument("--layout", help="the layout it has to have; found by itself otherwise")

    preview = command(
        "preview",
        _preview,
        "draw a contact sheet of what training sees",
        "Draws input | target with weather and severity, exactly as a run of the config sees them. Fields are set as "
        "--config.field=value.",
    )
    add_config(preview)
    preview.add_argument(
        "--out", type=path, default="preview.png", metavar="FILE", help="the picture (default: preview.png)"
    )
    preview.add_argument("--step", type=int, default=0, help="steps of training before it (default: 0)")
    preview.add_argument("--count", type=int, default=16, help="examples (default: 16)")


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
    from mofme_jax.training.preview import preview

    keep_compiled()
    config = config_of(options, rest)
    preview(config, options.out, step=options.step, count=options.count)
    print(options.out)
    return 0
