"""`mofme evaluate`: PSNR and SSIM of any method's pictures, or of a run of ours, under named protocols."""

import argparse
import dataclasses
import heapq
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofme_jax.commands.arguments import config_of, path, weights

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from mofme_jax.evaluation.cases import Case
    from mofme_jax.evaluation.folders import Files, Judged
    from mofme_jax.training.options import Options

WORST = 6
"""Images on the contact sheet."""


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    command = groups.add_parser(
        "evaluate",
        help="score pictures against the ground truth",
        description="PSNR and SSIM of any method's output folder (--pred), of two of them side by side (--compare), or "
        "of a training run (--workdir), with 95 % intervals. The protocols are native-rgb, mofme, basicsr-y, "
        "weatherdiff-y, histoformer and centre16-rgb; docs/evaluation.md defines them. Fields of a run's config are "
        "changed as --config.field=value.",
        allow_abbrev=False,
    )
    command.set_defaults(run=_evaluate, takes_config=True)
    what = command.add_mutually_exclusive_group(required=True)
    what.add_argument("--pred", type=path, metavar="DIR", help="a folder of restored pictures")
    what.add_argument("--compare", type=path, nargs=2, metavar=("A", "B"), help="two such folders: B less A")
    what.add_argument(
        "--workdir",
        type=weights,
        metavar="RUN",
        help="a training run's folder (its newest checkpoint) or one of its checkpoints: on what the run was judged "
        "on, or on --input and --gt. Or a file of weights, or the name of shipped ones: on --input and --gt, or on "
        "what --config says",
    )
    command.add_argument("--gt", type=path, metavar="DIR", help="the ground truth, a file for each picture")
    command.add_argument("--input", type=path, metavar="DIR", help="the degraded pictures")
    command.add_argument("--protocol", default="native-rgb", metavar="NAME", help="a protocol, or all (native-rgb)")
    command.add_argument(
        "--match",
        choices=["stem", "sorted"],
        default="stem",
        help="which files belong together: of one name but for the suffix (default), or in sorted order",
    )
    command.add_argument("--csv", type=path, metavar="FILE", help="write the figures of every image")
    command.add_argument("--sheet", type=path, metavar="FILE.png", help=f"draw the {WORST} worst images")
    command.add_argument("--json", action="store_true", help="print all figures as JSON")
    command.add_argument("--force", action="store_true", help="write over --csv and --sheet")
    command.add_argument("--config", metavar="FILE", help="the config of --workdir (default: the run's own)")


def _evaluate(options: argparse.Namespace, rest: list[str]) -> int:
    _check(options, rest)
    from mofme_jax.evaluation import tables
    from mofme_jax.evaluation.protocols import named

    protocols = named(options.protocol)
    names, total, images = (_run if options.workdir else _folders)(options, rest, protocols)
    judged, worst = _collect(images, total, protocols[0], bool(options.compare))
    if options.json:
        print(json.dumps(tables.to_json(judged, names), indent=2, allow_nan=False))
    else:
        print(tables.report(judged, names))
    if options.csv:
        tables.write_csv(options.csv, judged, names)
        print("figures", options.csv, file=sys.stderr)
    if options.sheet:
        _draw(options.sheet, worst, names, protocols[0])
        print("picture", options.sheet, file=sys.stderr)
    return 0


def _check(options: argparse.Namespace, rest: list[str]) -> None:
    """Raises ValueError, FileExistsError or FileNotFoundError for what cannot be done, before any work."""
    if not options.workdir and not options.gt:
        raise ValueError("the pictures need a ground truth: say --gt DIR")
    if not options.workdir and (options.config or rest):
        raise ValueError("a config is of a run: --config goes with --workdir alone")
    if options.workdir and bool(options.gt) != bool(options.input):
        raise ValueError("--workdir takes --input DIR and --gt DIR together, or neither")
    if options.compare and options.input:
        raise ValueError("--compare takes two folders of restored pictures and --gt, no --input")
    for file in (options.csv, options.sheet):
        if file and file.exists() and not options.force:
            raise FileExistsError(f"{file} is there already: --force writes over it")
        if file and not file.parent.is_dir():
            raise FileNotFoundError(f"{file} cannot be written: there is no folder {file.parent}")
        if file and (file.is_dir() or not os.access(file.parent, os.W_OK)):
            raise OSError(f"{file} cannot be written: it is a folder, or in one that may not be written")
    if options.sheet and options.sheet.suffix.lower() != ".png":
        raise ValueError(f"--sheet {options.sheet} must end in .png")


Work = tuple[tuple[str, ...], int, "Iterable[Judged]"]
"""What the pictures are called, how many images there are (0: not known), and the images."""


def _folders(options: argparse.Namespace, _: list[str], protocols: list[str]) -> Work:
    from mofme_jax.evaluation.folders import judge_files
    from mofme_jax.evaluation.tables import COMPARED

    names: tuple[str, ...]
    if options.compare:
        names, folders = COMPARED, options.compare
    elif options.input:
        names, folders = ("input", "restored"), [options.input, options.pred]
    else:
        names, folders = ("restored",), [options.pred]
    files = _matched(options, folders, protocols)
    return names, len(files), judge_files(files, protocols)


def _matched(options: argparse.Namespace, folders: list[Path], protocols: list[str]) -> "list[Files]":
    from mofme_jax.evaluation.folders import check_sizes, match
    from mofme_jax.viz import ProgressBar

    files = match(folders, options.gt, options.match)
    if options.match == "sorted":  # an order that differs between folders is seen here only
        for one in (files[0], files[-1]):
            print("matched:", *one.pictures, one.truth, file=sys.stderr)
    with ProgressBar(len(files), "checking sizes") as bar:
        check_sizes(files, protocols, bar.update)
    return files


def _run(options: argparse.Namespace, rest: list[str], protocols: list[str]) -> Work:
    settings = _settings(options, rest)
    files = _matched(options, [options.input], protocols) if options.gt else []

    from mofme_jax import load
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.evaluation.evaluator import judge_cases
    from mofme_jax.training.sources import open_sources

    keep_compiled()
    model, params = load(options.workdir)
    cases: Iterable[Case]
    if settings is None or files:
        cases = _cases(files)
    else:  # of the photographs to train on only the headers are needed
        data = dataclasses.replace(settings.data, cache_gigabytes=0.0, workers=0, tfds="")
        cases = open_sources(dataclasses.replace(settings, data=data)).cases()
    images = judge_cases(model, params, cases, protocols, settings.evaluation.tile if settings else None)
    return ("input", "restored"), len(files), images


def _settings(options: argparse.Namespace, rest: list[str]) -> "Options | None":
    """The options of a run, with the changes of the command line; of a file of weights those of --config, or None.

    Raises:
      FileNotFoundError, ValueError: no run, or a change that is none, or of what the checkpoint has fixed.
    """
    from mofme_jax.training.options import read_options
    from mofme_jax.training.workdir import CONFIG_FILE, options_of_run, run_folder
    from mofme_jax.weights import weights_file

    if weights_file(options.workdir) is not None:
        if options.config or rest:
            return read_options(config_of(options, rest))
        if not options.gt:
            raise ValueError(f"{options.workdir} does not say what to judge it on: give --input and --gt, or --config")
        return None
    folder = run_folder(options.workdir)
    own = options_of_run(folder)
    plain = json.loads((folder / CONFIG_FILE).read_text())
    settings = read_options(config_of(options, rest) if options.config else _changed(plain, rest))
    if settings.model != own.model:
        raise ValueError(f"config.model differs from that of {options.workdir}: its checkpoint has the model it has")
    return settings


def _changed(plain: dict[str, Any], rest: list[str]) -> "ConfigDict":
    """A plain config with the fields that --config.field=value sets."""
    from absl import flags
    from ml_collections import ConfigDict, config_flags

    from mofme_jax.config_file import quote_folders, unknown_field

    def with_tuples(value: Any) -> Any:  # JSON has no tuples, and only those are read from a command line
        if isinstance(value, dict):
            return {name: with_tuples(entry) for name, entry in value.items()}
        return tuple(value) if isinstance(value, list) else value

    command = ["mofme", *quote_folders(rest)]
    try:
        values = flags.FlagValues()
        config_flags.DEFINE_config_dict(
            "config", ConfigDict(with_tuples(plain)), flag_values=values, lock_config=False, sys_argv=command
        )
        if left := values(command)[1:]:
            raise ValueError(f"unexpected argument {left[0]!r}; fields are set as --config.field=value")
        return values.config
    except flags.Error as error:
        raise ValueError(str(error)) from None
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(unknown_field(error)) from None


def _cases(files: "list[Files]") -> "Iterable[Case]":
    from mofme_jax.data.photos import read_photograph
    from mofme_jax.evaluation.cases import Case

    for one in files:
        yield Case("", one.name, read_photograph(one.pictures[0]), read_photograph(one.truth))


def _collect(
    images: "Iterable[Judged]", total: int, protocol: str, compare: bool
) -> "tuple[list[Judged], list[Judged]]":
    """All images without their pictures; and with them those of least PSNR, or where B is worst beside A."""
    from mofme_jax.evaluation.evaluator import differences
    from mofme_jax.viz import ProgressBar

    judged: list[Judged] = []
    worst: list[tuple[float, int, Judged]] = []
    with ProgressBar(total, "scoring images") as bar:
        for image in images:
            goodness = differences(image, protocol)[0] if compare else image.scores[protocol][-1][0]
            heapq.heappush(worst, (-goodness, -len(judged), image))  # of equal ones the first come first
            if len(worst) > WORST:
                heapq.heappop(worst)
            judged.append(dataclasses.replace(image, pictures=()))
            bar.update(len(judged))
    return judged, [image for *_, image in sorted(worst, reverse=True)]


def _draw(file: Path, worst: "list[Judged]", names: tuple[str, ...], protocol: str) -> None:
    """Draws the worst images with their figures."""
    from mofme_jax.evaluation.tables import COMPARED, caption
    from mofme_jax.viz import error_sheet

    captions = [caption(image, protocol, names) for image in worst]
    titles = [*names, "truth"]
    error_sheet([image.pictures for image in worst], titles, captions, 2 if names == COMPARED else 1, file)
