"""`mofme restore`: photographs in, restored photographs out."""

import argparse
import sys
import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, TextIO

from mofme_jax.commands.arguments import add_weights, load_weights, path

if TYPE_CHECKING:
    from mofme_jax.restoring.files import Job

FEW = 20
"""So many files are listed as they are written; of more, their number is said at the end."""


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    restore = groups.add_parser(
        "restore",
        help="restore photographs",
        description="Restores photographs into files of the same format, depth, transparency, EXIF and colour profile. "
        "Exit status 1 when some file could not be restored; the others are.",
        allow_abbrev=False,
    )
    restore.set_defaults(run=_restore)
    restore.add_argument(
        "inputs", type=path, nargs="+", metavar="INPUT", help="a JPEG, PNG, WEBP, TIFF or BMP; a folder; a pattern"
    )
    restore.add_argument(
        "-o", "--out", type=path, required=True, metavar="OUT", help="a folder, or a file's name for one photograph"
    )
    add_weights(restore)
    restore.add_argument(
        "--tile",
        type=int,
        metavar="N",
        help="pixels on a tile's side (default: 240, or what holds the receptive field)",
    )
    restore.add_argument(
        "--uncertainty",
        action="store_true",
        help="write as well how far off each pixel may be: NAME.uncertainty.png, the numbers in NAME.uncertainty.npz, "
        "and NAME.doubt.jpg, in which magenta marks what may be invented",
    )
    restore.add_argument(
        "--passes", type=int, default=0, metavar="M", help="of the routers' dropout, to take into the uncertainty"
    )
    restore.add_argument(
        "--experts", action="store_true", help="write NAME.experts.jpg as well: which expert took which token"
    )
    restore.add_argument("--compare", action="store_true", help="write NAME.compare.jpg as well: before | after")
    restore.add_argument("--force", action="store_true", help="replace files that exist")


def _restore(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.evaluation.tiling import check_passes
    from mofme_jax.restoring.doubt import calibration_for, calibrations_of
    from mofme_jax.restoring.files import plan_jobs
    from mofme_jax.restoring.restore_file import check_experts, endings, run_job

    if options.tile is not None and options.tile < 16:
        raise ValueError(f"--tile={options.tile} is too small: take at least 16 pixels")
    if options.passes and not options.uncertainty:
        raise ValueError("--passes are for --uncertainty: ask for both")
    beside = endings(uncertainty=options.uncertainty, experts=options.experts, compare=options.compare)
    jobs = plan_jobs(options.inputs, options.out, beside=beside, force=options.force)
    model, params = load_weights(options)
    check_experts(model, options.experts)
    check_passes(model, options.passes)
    calibrations = calibrations_of(options.weights) if options.uncertainty else {}
    if options.uncertainty and calibration_for(calibrations, options.passes) is None:
        _say(f"mofme: the uncertainty is not calibrated; {_remedy(options)}", sys.stderr)

    from mofme_jax.viz import ProgressBar

    tiles = [_tiles(job, model, options.tile) for job in jobs]
    failed = done = 0  # files, tiles
    with ProgressBar(sum(tiles), "restoring tiles") as bar:
        for job, count in zip(jobs, tiles, strict=True):
            try:
                with warnings.catch_warnings(record=True) as notes:
                    warnings.simplefilter("always")
                    written = run_job(
                        job,
                        model,
                        params,
                        calibrations=calibrations,
                        tile=options.tile,
                        passes=options.passes,
                        progress=_shown_on(bar, done),
                    )
            except (ValueError, OSError) as error:
                failed += 1
                _say(f"mofme: {error}", sys.stderr)
            except (MemoryError, RuntimeError) as error:  # the latter is how JAX says it, in many lines
                failed += 1
                reason = str(error).partition("\n")[0] or "out of memory"
                remedy = " Take a smaller --tile." if "memory" in reason else ""
                _say(f"mofme: {job.source} cannot be restored: {reason}.{remedy}", sys.stderr)
            else:
                for note in notes:
                    _say(f"mofme: {note.message}", sys.stderr)
                if len(jobs) <= FEW:
                    for file in written:
                        _say(str(file), sys.stdout)
            done += count
    if len(jobs) > FEW:
        _say(f"{len(jobs) - failed} of {len(jobs)} photographs are restored, in {options.out}", sys.stdout)
    return 1 if failed else 0


def _remedy(options: argparse.Namespace) -> str:
    """How uncalibrated uncertainty becomes expected error."""
    from mofme_jax.weights import weights_file

    if weights_file(options.weights) is None:
        passes = f" --passes={options.passes}" if options.passes else ""
        return f"`mofme calibrate --weights {options.weights}{passes}` makes it expected error"
    passes = f"{options.passes} passes" if options.passes else "it"
    return f"{options.weights} has no calibration of {passes}, and a file is calibrated before `mofme export`"


def _tiles(job: "Job", model, tile: int | None) -> int:
    """Tiles of a photograph, by its header; 0 for one that has none to read, which is said in its turn."""
    from mofme_jax.evaluation.tiling import lay_out, tile_starts
    from mofme_jax.restoring.image_file import stored_size

    layout = lay_out(model, tile)
    try:
        sides = stored_size(job.source)
    except (ValueError, OSError):
        return 0
    rows, columns = (len(tile_starts(-(-side // layout.patch) * layout.patch, layout)) for side in sides)
    return rows * columns


def _shown_on(bar, before: int) -> Callable[[int, int], None]:
    return lambda done, total: bar.update(before + done)


def _say(text: str, stream: TextIO) -> None:
    """Prints a line, whatever bytes a file's name is made of; in a terminal, over the line of progress."""
    encoding = stream.encoding or "utf-8"
    line = text.encode(encoding, "backslashreplace").decode(encoding)
    print(f"\r{line:<79}" if stream.isatty() else line, file=stream, flush=True)
