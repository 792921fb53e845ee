"""Where a restored photograph may be wrong: pictures and numbers beside it.

Axis glossary: `H W` pixels, `L` mixture layers, `h w` rows and columns of tokens.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, PngImagePlugin

from mofme_jax.evaluation.calibration import Calibration, evidence_of, read_calibrations
from mofme_jax.evaluation.tiling import Observation
from mofme_jax.restoring.pictures import uncertainty_picture


@dataclass(frozen=True)
class Doubt:
    """How far off each pixel may be.

    Attributes:
      values: (H, W) float32: the mean absolute error expected, in [0, 1]; without a calibration the routers'
        uncertainty in nats, or the spread of passes in [0, 1].
      low, high: what a picture of it is drawn between, black and white.
      paint_from: up to here a photograph is not painted over.
      legend: what black and white are, for people.
      evidence: (H, W) by kind, what the values are made of, see `mofme_jax.evaluation.calibration.evidence_of`.
    """

    values: np.ndarray
    low: float
    high: float
    paint_from: float
    legend: str
    evidence: dict[str, np.ndarray]


def doubt_of(image: np.ndarray, seen: Observation, calibrations: Mapping[str, Calibration]) -> Doubt:
    """Makes a map of what is known about a restored image.

    Args:
      image: (H, W, 3) as it was given.
      seen: what came back; with a spread where passes were asked for.
      calibrations: of the network, by "routing" and "passes"; what there is none for, with as many passes, is
        drawn as it is.
    """
    evidence = evidence_of(image, seen)
    calibration = calibration_for(calibrations, seen.passes)
    if calibration is not None:
        high = max(calibration.high, 1e-6)
        # what is off by no more than is usual is not painted
        usual = min(calibration.typical, 0.8 * high)
        legend = f"expected error, 0 (black) to {255 * high:.1f} (white) of 255 levels"
        return Doubt(calibration.curve.expected(evidence), 0.0, high, usual, legend, evidence)
    values = evidence["routing"] if seen.spread is None else evidence["spread"]
    unit = "nats of the routers' uncertainty" if seen.spread is None else "spread of passes"
    low, usual, high = (float(np.quantile(values, share)) for share in (0.05, 0.75, 0.99))
    legend = f"{unit}, {low:.3g} (black) to {high:.3g} (white), not calibrated: see mofme calibrate"
    return Doubt(values, low, high, usual, legend, evidence)


def calibration_for(calibrations: Mapping[str, Calibration], passes: int) -> Calibration | None:
    """The one that was fitted with just as many passes, if there is one."""
    found = calibrations.get("passes" if passes else "routing")
    return found if found is not None and found.passes == passes else None


def calibrations_of(weights: str | Path) -> dict[str, Calibration]:
    """The calibrations of weights, given as `mofme_jax.load` takes them: those in a file; those that a run has of the
    checkpoint. Raises as it does."""
    from mofme_jax.weights import weights_file

    file = weights_file(weights)
    if file is not None:
        from mofme_jax.weights.file import read_facts

        return read_facts(file).calibrations

    from mofme_jax.training.folders import checkpoint_step
    from mofme_jax.training.workdir import run_folder

    step = checkpoint_step(weights)
    return {name: found for name, found in read_calibrations(run_folder(weights)).items() if found.step == step}


def save_uncertainty(path: str | Path, doubt: Doubt) -> None:
    """Writes the picture of it, a PNG that says in its description what black and white are."""
    text = PngImagePlugin.PngInfo()
    text.add_text("Description", doubt.legend)
    Image.fromarray(uncertainty_picture(doubt.values, doubt.low, doubt.high)).save(path, "PNG", pnginfo=text)


def save_numbers(file, doubt: Doubt, seen: Observation) -> None:
    """Writes an .npz: `doubt` (H, W) float16; its evidence by kind, float16, at every fourth row and column, as it is
    means over sixteen; `experts` (L, h, w), `patch` in pixels, `legend`.

    Args:
      file: a path or an open binary file.
    """
    arrays = {"doubt": doubt.values, **{kind: values[::4, ::4] for kind, values in doubt.evidence.items()}}
    numbers: dict[str, np.ndarray] = {name: values.astype(np.float16) for name, values in arrays.items()}
    numbers["experts"] = seen.experts.astype(np.uint8 if seen.experts.max(initial=0) < 256 else np.uint16)
    numbers |= {"patch": np.array(seen.patch), "legend": np.array(doubt.legend)}
    np.savez_compressed(file, allow_pickle=False, **numbers)
