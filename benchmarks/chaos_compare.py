"""What two finished runs of benchmarks/chaos.py do not have in common."""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from absl import logging
from chaos_run import logged_lines

TIMES = ("steps_per_second", "data_wait")
EARLY, EARLY_LOSS = 20, 1e-5
"""Of runs on other devices: losses of the first steps are equal but for this part, where another image would move them
by a tenth. Sums in another order differ in their last digits, and training makes ten times of that in twenty steps."""
TIMES_THE_USUAL = 3.0
"""Later on, a run that is killed and goes on on other devices may differ by so much more than undisturbed ones do."""


def figures(workdir: Path) -> list[dict[str, float]]:
    """metrics.jsonl without times."""
    lines = [json.loads(line) for line in logged_lines(workdir)]
    return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]


def states(workdir: Path, step: int) -> dict[str, np.ndarray]:
    """The arrays of a checkpoint by name, wherever they were saved from."""
    one = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    logging.set_verbosity(logging.ERROR)  # Orbax warns of the items that are not asked for
    handlers = {"state": ocp.StandardCheckpointHandler()}
    with ocp.CheckpointManager(workdir / "checkpoints", item_handlers=handlers) as manager:
        like = jax.tree.map(
            lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=one),
            manager.item_metadata(step)["state"].tree,
        )
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))).state
    return {jax.tree_util.keystr(path): np.asarray(leaf) for path, leaf in jax.tree_util.tree_leaves_with_path(state)}


def scores(workdir: Path) -> Any:
    """Of the report."""
    return json.loads((workdir / "report.json").read_text())["scores"]


def differences(a: Path, b: Path, steps: int) -> list[str]:
    """What two runs of as many steps differ in, to the last bit; for people."""
    found = skipped(b, steps)
    ours, theirs = figures(a), figures(b)
    found += [f"step {x['step']}: {x} and {y}" for x, y in zip(ours, theirs, strict=False) if x != y][:3]
    one, other = states(a, steps), states(b, steps)
    if one.keys() != other.keys():
        return [*found, "the states have other arrays"]
    found += [f"{name} differs" for name in one if not np.array_equal(one[name], other[name], equal_nan=True)]
    if scores(a) != scores(b):
        found.append("the reports' scores differ")
    return found


def apart(a: Path, b: Path, steps: int) -> dict[str, float]:
    """By how much two runs differ at most.

    Of a step's loss, relative, in the first `EARLY` steps and in all; of the arrays of parameters and averages and of
    those of the optimiser, the norm of the difference over the norm; of a PSNR of the report, dB. Infinite where the
    states have other arrays or differ in a whole number, as keys and counts.
    """
    one, other = states(a, steps), states(b, steps)
    numbers = [name for name in one if np.issubdtype(one[name].dtype, np.floating)]
    parameters = [name for name in numbers if "opt_state" not in name]
    pairs = [[x["loss"], y["loss"]] for x, y in zip(figures(a), figures(b), strict=False)]
    losses = np.array(pairs or [[np.nan, np.nan]], dtype=float)  # null is NaN
    losses = np.abs(losses[:, 1] - losses[:, 0]) / np.abs(losses[:, 0])
    judged = [[x["psnr"], y["psnr"]] for x, y in zip(scores(a).values(), scores(b).values(), strict=True)]
    exact = [name for name in one if name not in numbers]
    same = one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in exact)
    # NumPy's max, which of a NaN makes a NaN
    return {
        "early loss": float(np.max(losses[:EARLY])),
        "loss": float(np.max(losses)),
        "parameters": float(np.max([_apart(one[name], other[name]) for name in parameters])) if same else np.inf,
        "optimiser": float(np.max([_apart(one[name], other[name]) for name in numbers if name not in parameters]))
        if same
        else np.inf,
        "PSNR, dB": float(np.max(np.abs(np.diff(judged)))),
    }


def too_far(most: dict[str, float], usual: dict[str, float]) -> list[str]:
    """What differs by more than it may: see `apart`, of the killed run and of undisturbed ones on other devices."""
    allowed = {name: TIMES_THE_USUAL * value for name, value in usual.items()} | {"early loss": EARLY_LOSS}
    return [
        f"{name} differs by {value:.1e}, more than {allowed[name]:.1e}"
        for name, value in most.items()
        if not value <= allowed[name]
    ]


def _apart(one: np.ndarray, other: np.ndarray) -> float:
    """The norm of the difference over that of the first, which may be zero in both."""
    return float(np.linalg.norm(other - one)) / max(float(np.linalg.norm(one)), 1e-12)


def skipped(workdir: Path, steps: int) -> list[str]:
    """Whether the log does not have each of so many steps once; for people."""
    logged = [line["step"] for line in figures(workdir)]
    return [] if logged == list(range(1, steps + 1)) else ["the log does not have each step once"]
