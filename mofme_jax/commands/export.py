"""`mofme export`: a run's weights as one file to keep, to give away, to restore with."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mofme_jax.commands.arguments import add_run, check_run, path

if TYPE_CHECKING:
    from mofme_jax.models import Restorer


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    export = groups.add_parser(
        "export",
        help="write a run's weights into one file",
        description="Writes the averaged parameters of a run's newest checkpoint into a .safetensors file, with all "
        "that is needed to use them: the network's description and the calibrations. Says what rounding them changes.",
        allow_abbrev=False,
    )
    export.set_defaults(run=_export)
    add_run(export)
    export.add_argument("--out", type=path, required=True, metavar="FILE.safetensors", help="the file")
    export.add_argument(
        "--dtype",
        choices=["float16", "float32"],
        default="float16",
        help="what the file keeps them in (default: float16); they are float32 again when they are read",
    )
    export.add_argument("--force", action="store_true", help="write over a file that is there")


def _export(options: argparse.Namespace, _: list[str]) -> int:
    check_run(options, "a file is exported already")
    _check_output(options.out, options.force)
    from dataclasses import asdict

    import jax

    from mofme_jax.compiled import keep_compiled
    from mofme_jax.restoring.doubt import calibrations_of
    from mofme_jax.training.checkpoint import load
    from mofme_jax.training.folders import checkpoint_step
    from mofme_jax.training.workdir import options_of_run, run_folder
    from mofme_jax.weights.file import load_weights, save_weights

    keep_compiled()
    section = asdict(options_of_run(run_folder(options.weights)).model)
    calibrations = calibrations_of(options.weights)
    model, params = load(options.weights)
    steps = checkpoint_step(options.weights)
    save_weights(options.out, section, params, steps=steps, calibrations=calibrations, dtype=options.dtype)
    what, largest, mean = _difference(model, params, load_weights(options.out)[1])
    count = sum(leaf.size for leaf in jax.tree.leaves(params))
    print(options.out)
    print(f"{count:,} parameters after {steps:,} steps, {options.dtype}, {options.out.stat().st_size / 1e6:.2f} MB")
    print(f"calibrated: {', '.join(calibrations) or 'nothing'}")
    print(
        f"rounding changes a restored picture by at most {largest:.3f} of 255 levels, {mean:.3f} in the mean ({what})"
    )
    return 0


def _check_output(file: Path, force: bool) -> None:
    """Raises ValueError or OSError where the file cannot be put, before any work."""
    from mofme_jax.restoring.atlas import check_output
    from mofme_jax.weights.file import SUFFIX

    if file.suffix != SUFFIX:
        raise ValueError(f"--out {file} must end in {SUFFIX}")
    check_output(file, force)


def _difference(model: "Restorer", params: dict[str, Any], rounded: dict[str, Any]) -> tuple[str, float, float]:
    """What was restored with both, and the largest and the mean difference of the two pictures, in levels of 255."""
    import numpy as np

    from mofme_jax.data.photos import embedded_photographs
    from mofme_jax.evaluation.cases import weather_cases
    from mofme_jax.evaluation.tiling import restore

    name, photograph = next(iter(embedded_photographs("validation").items()))
    case = next(weather_cases({name: photograph}, ["haze+rain"], repeats=1, max_side=480))
    image = case.degraded.astype(np.float32) / 255.0  # of eight bits, small differences would be rounded away
    one, other = (restore(model, given, image) for given in (params, rounded))
    off = 255.0 * np.abs(one - other)
    return f"{name}, {case.group}", float(off.max()), float(off.mean())
