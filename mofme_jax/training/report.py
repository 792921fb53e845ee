"""What a run ends with: a table, a picture, report.json."""

import platform
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np

from mofme_jax.evaluation.calibration import FILE, Measured, calibrate, measure, write_calibrations
from mofme_jax.evaluation.evaluator import PROTOCOL, Example, evaluate
from mofme_jax.evaluation.tiling import Observation, observe
from mofme_jax.files import write_json, writing
from mofme_jax.training import processes
from mofme_jax.training.folders import FOLDER
from mofme_jax.training.options import Options
from mofme_jax.training.sources import Sources
from mofme_jax.viz import duration, heat, picture_sheet, score_table


def write_report(workdir: Path, model, params, sources: Sources, options: Options, steps: int, seconds: float) -> dict:
    """Evaluates, prints the table and where things lie, writes report.json and the picture. Returns the report.

    Every process evaluates, the first writes: so all end together, and none waits longer than the others can bear.

    Raises:
      NotSaved: the picture, the report or the calibration cannot be written; the table is printed all the same.
    """
    processes.say("evaluating on photographs never trained on")
    measured: list[Measured] = []
    scores, examples = judge(
        model, params, sources, options, lambda example, seen: measured.append(measure(example.case, seen))
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
    processes.say(f"\n{score_table(scores)}\n{'mean gain over the weathers':<27}{report['mean_gain']:>+17.2f} dB\n"
                  f"protocol {PROTOCOL}, {steps} steps, {duration(seconds)} of training\n"
                  f"checkpoint  {workdir / FOLDER / str(steps)}\nlogs        {workdir / 'metrics.jsonl'}, "
                  f"{workdir / 'tensorboard'}")  # fmt: skip
    if processes.is_first():  # behind the table, which is known even where nothing can be written
        write_json(workdir / "report.json", report)
        with writing(picture):
            picture.parent.mkdir(exist_ok=True)
            draw_examples(examples, picture, "expected error, {} to {} levels" if model.error_head else DOUBT)
        processes.say(f"report      {workdir / 'report.json'}\npicture     {picture}")
        try:
            with writing(workdir / FILE):
                write_calibrations(workdir, {"routing": calibrate(measured, step=steps)})
        except ValueError as error:  # a network that went wrong still has its report
            processes.say(f"no calibration: {error}")
    return report


def judge(
    model,
    params,
    sources: Sources,
    options: Options,
    watch: Callable[[Example, Observation], None] = lambda example, seen: None,
) -> tuple[dict[str, dict[str, float]], list[Example]]:
    """Restores the validation images and scores them, as `evaluate` does; `watch` is shown each."""
    observed: list[Observation] = []

    def restored(image):
        seen = observe(model, params, image, tile=options.evaluation.tile)
        observed.append(seen)
        return seen.restored, seen.uncertainty if seen.error is None else 255.0 * seen.error

    return evaluate(restored, sources.cases(), lambda example: watch(example, observed.pop()))


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
