"""`mofme calibrate`: what a network's uncertainty is worth, in levels of error."""

import argparse

from mofme_jax.commands.arguments import add_run, check_run


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    calibrate = groups.add_parser(
        "calibrate",
        help="turn a run's uncertainty into expected errors",
        description="Compares uncertainty and error on the images that a run is judged on, and keeps the curve in the "
        "run's folder, for `mofme restore --uncertainty`, with a picture of how good it is. Training does this at its "
        "end, but for passes and the picture.",
        allow_abbrev=False,
    )
    calibrate.set_defaults(run=_calibrate)
    add_run(calibrate)
    calibrate.add_argument(
        "--passes", type=int, default=0, metavar="M", help="calibrate the spread of M passes as well"
    )


def _calibrate(options: argparse.Namespace, _: list[str]) -> int:
    check_run(options, "a calibration is learnt on what a run is judged on and kept in its folder")
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.evaluation.calibration_drawing import PICTURE
    from mofme_jax.training.calibrating import calibrate_run
    from mofme_jax.training.workdir import run_folder
    from mofme_jax.viz import ProgressBar

    keep_compiled()
    with ProgressBar(0, "images restored") as bar:
        found = calibrate_run(options.weights, passes=options.passes, progress=bar.update)
    for calibration in found.values():
        print(calibration.report())
    print(f"picture {run_folder(options.weights) / PICTURE}")
    if options.passes and found["passes"].curve.weights["spread"] < 0.01:
        print("the passes add nothing here: their spread has no weight")
    return 0
