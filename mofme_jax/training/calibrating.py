"""Calibrating the uncertainty of a run that has ended: on the images it is judged on, with or without passes."""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mofme_jax.evaluation.calibration import Calibration, Measured, calibrate, measure, write_calibrations
from mofme_jax.evaluation.calibration_drawing import PICTURE, draw_calibrations
from mofme_jax.evaluation.tiling import check_passes, observe
from mofme_jax.training.checkpoint import load
from mofme_jax.training.folders import checkpoint_step
from mofme_jax.training.sources import open_sources
from mofme_jax.training.workdir import options_of_run, run_folder


def without_spread(m: Measured) -> Measured:
    """The same, for those who ask for no passes."""
    return replace(m, evidence={kind: values for kind, values in m.evidence.items() if kind != "spread"})


def calibrate_run(
    weights: str | Path, *, passes: int = 0, progress: Callable[[int], None] | None = None
) -> dict[str, Calibration]:
    """Measures what a run's doubt is worth, and writes it and a picture of it, `PICTURE`, into the run's folder.

    Args:
      weights: the folder of a run, or one of its checkpoints.
      passes: M, to calibrate with the spread of passes as well.
      progress: called with the number of images done.

    Returns:
      The calibrations, "routing" and, with passes, "passes".

    Raises:
      FileNotFoundError, ValueError: no run there, validation images that will not do, or passes of a network
        without routers.
    """
    folder = run_folder(weights)
    options = options_of_run(folder)
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{folder} cannot be written, and the calibration belongs there")
    # the images to train on are not read for this
    sources = open_sources(replace(options, data=replace(options.data, cache_gigabytes=0.0, workers=0, tfds="")))
    step = checkpoint_step(weights)
    model, params = load(weights)
    check_passes(model, passes)
    measured = []
    for done, case in enumerate(sources.cases(), start=1):
        seen = observe(model, params, case.degraded, tile=options.evaluation.tile, passes=passes)
        measured.append(measure(case, seen))
        if progress is not None:
            progress(done)
    plain = [without_spread(m) for m in measured]
    found = {"routing": calibrate(plain, step=step)}
    if passes:
        found["passes"] = calibrate(measured, step=step, passes=passes)
    write_calibrations(folder, found)
    draw_calibrations({"routing": plain, "passes": measured} if passes else {"routing": plain}, step, folder / PICTURE)
    return found
