"""Judging a run of the study: PSNR and SSIM of every image, what its routers do, written to the run's study.json.

Axis glossary: `B` images, `H W` pixels, `h w` rows and columns of tokens, `L` mixture layers.
"""

import hashlib
import itertools
import json
import os
import platform
import time
from collections import Counter
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from study_arms import JUDGED, WEATHERS

from mofme_jax.compiled import keep_compiled
from mofme_jax.data.fetch import cache_folder
from mofme_jax.data.folders import ArraySource, PhotographFolder
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation import routing_measures
from mofme_jax.evaluation.cases import Case, cut_to_middle, weather_cases
from mofme_jax.evaluation.evaluator import PROTOCOL, judge_cases
from mofme_jax.files import write_json
from mofme_jax.training.checkpoint import load
from mofme_jax.training.folders import FOLDER
from mofme_jax.training.options import DataOptions
from mofme_jax.training.sources import validation_photographs
from mofme_jax.training.workdir import options_of_run

LEADING = "leading.npy"
"""Beside it: (L, B, h, w) each token's heaviest expert, by the last checkpoint."""

DRAWS = 2
"""Of each weather for each photograph."""

TILE = 128
"""Pixels on the side of the tiles that images are restored in: twice the training crop. One tile of a whole image would
judge how attention takes to many more tokens than it learnt on, which costs a dB and is no question of the study's."""

ROUTING_SIDE = 128
"""Pixels on the side of the images of which routing is measured, at most: six checkpoints are measured."""


def judge(run: Path, side: int) -> None:
    """Judges a finished run.

    Args:
      run: its folder, with report.json.
      side: pixels; photographs are cut to their middle of at most so many.

    Raises:
      OSError, ValueError: the folder is not that of a finished run.
    """
    keep_compiled()
    began = time.monotonic()
    report = json.loads((run / "report.json").read_text())
    options = options_of_run(run)
    photographs = unseen_photographs(options.data)
    cases = list(
        weather_cases(photographs, WEATHERS, repeats=DRAWS, max_side=side, cache=cache_folder() / "evaluation")
    )
    model, params = load(run)
    images: list[dict[str, Any]] = []
    draws: Counter[tuple[str, str]] = Counter()
    for one in judge_cases(model, params, cases, [PROTOCOL], min(TILE, side)):
        (psnr_input, ssim_input), (psnr, ssim) = one.scores[PROTOCOL]
        images.append(
            {
                "photograph": one.name,
                "weather": one.group,
                "draw": draws[one.name, one.group],
                "psnr_input": psnr_input,
                "psnr": psnr,
                "ssim_input": ssim_input,
                "ssim": ssim,
            }
        )
        draws[one.name, one.group] += 1
    routing = []
    if model.feed_forward != "dense":
        routing = measure_checkpoints(run, cases, options.checkpoint_every, report["steps"])
    write_json(
        run / JUDGED,
        {
            "images": images,
            "protocol": PROTOCOL,
            "side": side,
            "tile": min(TILE, side),
            "seed": options.seed,
            "steps": report["steps"],
            "parameters": report["parameters"],
            "training_seconds": report["training_seconds"],
            "judging_seconds": time.monotonic() - began,
            "routing": routing,
            "machine": machine(),
            "versions": {**report["versions"], "python": platform.python_version(), "numpy": version("numpy")},
        },
    )


def unseen_photographs(data: DataOptions) -> dict[str, np.ndarray]:
    """The validation photographs and the embedded ones, less those that are trained on, under any name.

    Returns:
      (H, W, 3) uint8 by name.
    """
    validation = validation_photographs(data)
    photographs = {name: validation[i]["image"] for i, name in enumerate(validation.names)}
    photographs |= embedded_photographs("train") | embedded_photographs("validation")
    training = [PhotographFolder(folder) for folder in data.photographs]
    sources = training or [ArraySource(embedded_photographs("train"))]
    names = {Path(name).stem for source in sources for name in source.names}
    sizes = {image.shape[:2] for image in photographs.values()}  # others cannot be equal, and need not be decoded
    pixels = {_digest(source[i]["image"]) for source in sources for i in range(len(source)) if source.size(i) in sizes}
    unseen = {
        name: image
        for name, image in photographs.items()
        if Path(name).stem not in names and _digest(image) not in pixels
    }
    if not unseen:
        raise ValueError("every photograph that could be judged on is trained on: train on others")
    return unseen


def _digest(image: np.ndarray) -> bytes:
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).digest()


def measure_checkpoints(run: Path, cases: Sequence[Case], every: int, last: int) -> list[dict[str, Any]]:
    """What the routers do at each of the run's own checkpoints, by its step; writes LEADING for the last.

    A stop leaves one more, which other runs do not have. Measured on the middle of the first draw of every weather for
    every photograph; labels are weathers.
    """
    some = [next(group) for _, group in itertools.groupby(cases, lambda case: (case.name, case.group))]
    some = [case for case in some if case.group in WEATHERS]
    side = min(ROUTING_SIDE, *(length for case in some for length in case.degraded.shape[:2]))
    images = np.stack([cut_to_middle(case.degraded, side) for case in some]).astype(np.float32) / 255.0
    labels = np.array([WEATHERS.index(case.group) for case in some])
    measured = []
    for step in (*range(every, last, every), last):
        folder = run / FOLDER / str(step)
        model, params = load(folder)
        found = routing_measures.measure_routing(model, params, images, labels)
        measured.append({"step": step, **found})
    np.save(run / LEADING, np.asarray(routing_measures.leading_experts(model, params, images)))
    return measured


def machine() -> str:
    """What the times rest on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{jax.devices()[0].device_kind}, {names[0] if names else platform.machine()}, {cores} core(s) a run"
