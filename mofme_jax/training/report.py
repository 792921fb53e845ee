"""What a run ends with: a table, a picture, report.json."""

import platform
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from mofme_jax.evaluation.calibration import Measured, calibrate, measure, write_calibrations
from mofme_jax.evaluation.evaluator import PROTOCOL, Example, evaluate
from mofme_jax.evaluation.tiling import Observation, observe
from mofme_jax.training import processes
from mofme_jax.training.checkpoint import FOLDER, write_json
from mofme_jax.training.options import Options
from mofme_jax.training.sources import Sources
from mofme_jax.viz import duration, heat, picture_sheet, score_table


def write_report(workdir: Path, model, params, sources: Sources, options: Options, steps: int, seconds: float) -> dict:
    """Evaluates, prints the table and where things lie, writes report.json and the picture. Returns the report.

    Every process evaluates, the first writes: so all end together, and none waits longer than the others can bear.
    """
    processes.say("evaluating on photographs never trained on")
    measured: list[Measured] = []
    observed: list[Observation] = []

    def restored(image):
        seen = observe(model, params, image, tile=options.evaluation.tile)
        observed.append(seen)
        return seen.restored, seen.uncertainty if seen.error is None else 255.0 * seen.error

    scores, examples = evaluate(
        restored, sources.cases(), lambda example: measured.append(measure(example.case, observed.pop()))
    )
    picture = workdir / "samples" / f"step_{steps}.png"
    report = {
        "scores": scores,
        "mean_gain": mean_gain(scores),
        "protocol": PROTOCOL,
        "steps": steps,
        "training_seconds": seconds,
        "parameters": sum(x.size for x in jax.tree.leaves(params)),
        "seed": options.seed,
        "machine": f"{jax.device_count()} {jax.devices()[0].platform} device(s), {platform.machine()}",
        "versions": {name: version(name) for name in ("jax", "flax", "optax", "orbax-checkpoint")},
    }
    if processes.is_first():
        picture.parent.mkdir(exist_ok=True)
        draw_examples(examples, picture, "expected error, {} to {} levels" if model.error_head else DOUBT)
        write_json(workdir / "report.json", report)
    processes.say(f"\n{score_table(scores)}\n{'mean gain over the weathers':<27}{report['mean_gain']:>+17.2f} dB\n"
                  f"protocol {PROTOCOL}, {steps} steps, {duration(seconds)} of training\n"
                  f"checkpoint  {workdir / FOLDER / str(steps)}\nlogs        {workdir / 'metrics.jsonl'}, "
                  f"{workdir / 'tensorboard'}\nreport      {workdir / 'report.json'}\n"
                  f"picture     {picture}")  # fmt: skip
    if processes.is_first():
        try:
            write_calibrations(workdir, {"routing": calibrate(measured, step=steps)})
        except ValueError as error:  # a network that went wrong still has its report
            processes.say(f"no calibration: {error}")
    return report


def mean_gain(scores: dict[str, dict[str, float]]) -> float:
    """dB: the mean over the groups of PSNR restored less PSNR input; groups whose input is the target are left out."""
    gains = [row["psnr"] - row["psnr_input"] for row in scores.values() if np.isfinite(row["psnr_input"])]
    return float(np.mean(gains)) if gains else float("nan")


DOUBT = "router uncertainty, {} to {} nats"
"""Of a network that does not say itself how far off it is."""


def draw_examples(examples: list[Example], path: Path, doubt: str = DOUBT) -> None:
    """The picture: a row a weather, degraded | restored | truth | uncertainty.

    Uncertainty is drawn on one scale for all rows, from the least seen (black) to what one pixel in a hundred exceeds
    in the row where that is most (white); `doubt` is its title, with two places for these.
    """
    least = min(float(example.uncertainty.min()) for example in examples)
    most = max(float(np.quantile(example.uncertainty, 0.99)) for example in examples)
    rows = [
        [
            example.case.degraded / 255.0,
            example.restored / 255.0,
            example.case.target / 255.0,
            heat(example.uncertainty, least, most),
        ]
        for example in examples
    ]
    titles = ["degraded", "restored", "truth", doubt.format(f"{least:.2g} (black)", f"{most:.2g}")]
    names = [f"{example.case.group} ({example.case.name})" for example in examples]
    picture_sheet(rows, titles, names, path)
