"""How far off a restored pixel may be: evidence of doubt, made expected error where the truth is known.

Axis glossary: `H W` pixels, `n` blocks of an image. Four kinds of evidence, each with a value a pixel: how much the
network changed the place, the routers' uncertainty, the spread of passes where they were asked for, and the error that
the network expects where it has a head for it. Their logarithms are weighed by least squares, no weight below 0,
against the logarithm of the error; a curve that only rises (isotonic regression, Zadrozny and Elkan 2002) takes the sum
into levels of error. All of it is learnt on a validation set, over blocks of pixels, and judged on photographs left
out.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter
from scipy.optimize import lsq_linear
from scipy.stats import spearmanr
from sklearn.isotonic import IsotonicRegression

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.sparsification import ause
from mofme_jax.evaluation.tiling import Observation
from mofme_jax.files import write_whole

FILE = "uncertainty.json"
"""In the folder of a run: its calibrations, "routing" and, with passes, "passes"."""

BLOCK = 16
"""Pixels on the side of the blocks over which evidence and error are compared."""

_BINS = 64
_FOLDS = 5  # at most: parts of the photographs that are left out in turn
_MOST = 200_000  # blocks that a curve is fitted on
_LEVEL = 1 / 255
_LEAST = {
    "change": _LEVEL,
    "routing": 1e-3,
    "spread": 1e-4,
    "error": 1e-4,
}  # added before the logarithm: less than this is nothing


@dataclass(frozen=True)
class Measured:
    """Evidence and error of a restored image, a value a block.

    Attributes:
      photograph: what it shows: different weather on one photograph is no independent evidence.
      evidence: (n,) by kind, see `evidence_of`.
      error: (n,) mean absolute difference from the truth, in [0, 1].
    """

    photograph: str
    evidence: Mapping[str, np.ndarray]
    error: np.ndarray


@dataclass(frozen=True)
class Curve:
    """The learnt part: `error` expected at each `score`, both rising, flat beyond the ends; score = sum of weight times
    log(evidence + least)."""

    weights: dict[str, float]
    score: tuple[float, ...]
    error: tuple[float, ...]

    def expected(self, evidence: Mapping[str, np.ndarray]) -> np.ndarray:
        """Evidence of any shape -> float32 of that shape, mean absolute error expected, in [0, 1]."""
        parts = [weight * np.log(evidence[name] + _LEAST[name]) for name, weight in self.weights.items()]
        return np.interp(np.sum(parts, axis=0), self.score, self.error).astype(np.float32)


@dataclass(frozen=True)
class Calibration:
    """A curve, and how good it is.

    Attributes:
      curve: of all validation images.
      high: at most a tenth of the validation set's blocks are expected to be further off than this.
      images: restored images it rests on. photographs: different ones among them.
      step: of the checkpoint that it is of. passes: M of the spread; 0 where it is not used.
      held_out: whether the figures below are of photographs on which the curve that judges them was not fitted: of
        five parts of the photographs each is judged by the other four. There must be two photographs for that.
      within: Spearman's rank correlation of expected and real error over the blocks of an image, mean over images:
        whether the map tells a picture's bad places from its good ones.
      pooled: the same over the blocks of all images, which also counts bad pictures told from good ones.
      alone: `within` of each kind of evidence by itself.
      gap: mean distance of expected and real error over ten bins of expected error, in [0, 1].
      typical: mean error of the blocks, in [0, 1]: what `gap` is to be held against.
      sparsification: `ause` of the map, mean over images: 0 is the order of the true errors, 1 is chance. None in files
        that were written before it was measured.
    """

    curve: Curve
    high: float
    images: int
    photographs: int
    step: int
    passes: int
    held_out: bool
    within: float
    pooled: float
    alone: dict[str, float]
    gap: float
    typical: float
    sparsification: float | None = None

    def report(self) -> str:
        """What it says of itself, in a few lines."""
        kinds = ", ".join(f"{name} {value:+.2f}" for name, value in self.alone.items())
        weights = ", ".join(f"{name} {value:.2f}" for name, value in self.curve.weights.items())
        where = "on photographs left out" if self.held_out else "on the very photograph it was fitted on"
        passes = f", with {self.passes} passes" if self.passes else ""
        sparse = "" if self.sparsification is None else f"; sparsification {self.sparsification:.2f} (1 is chance)"
        return (
            f"expected error{passes}: {255 * self.curve.error[0]:.1f} to {255 * self.curve.error[-1]:.1f} of 255 "
            f"levels, from {self.images} images of {self.photographs} photograph(s)\n"
            f"  {where}: off by {255 * self.gap:.1f} levels where errors are {255 * self.typical:.1f}; rank "
            f"correlation with the error {self.within:+.2f} within an image, {self.pooled:+.2f} over all{sparse}\n"
            f"  each kind of evidence by itself, within an image: {kinds}; weights: {weights}"
        )


def evidence_of(image: np.ndarray, seen: Observation) -> dict[str, np.ndarray]:
    """What speaks for doubt.

    Args:
      image: (H, W, 3) of any type that `observe` takes, as it was given.
      seen: what came back.

    Returns:
      By kind, (H, W) float32, means over the `BLOCK` pixels around each: "change", mean absolute difference of image
      and restored image in [0, 1]; "routing", nats; "spread" and "error" in [0, 1] where there are such.
    """
    restored = seen.restored
    full = float(np.iinfo(image.dtype).max) if np.issubdtype(image.dtype, np.integer) else 1.0
    change = np.zeros(image.shape[:2], np.float32)
    for channel in range(3):  # a channel at a time: three of float32 are much of a large photograph
        change += np.abs(restored[..., channel].astype(np.float32) - image[..., channel].astype(np.float32))
    found = {"change": change / (3 * full), "routing": seen.uncertainty}
    found |= {kind: values for kind in ("spread", "error") if (values := getattr(seen, kind)) is not None}
    # a running mean may end a rounding below the 0 that it began at
    return {name: np.maximum(uniform_filter(values, BLOCK, mode="nearest"), 0.0) for name, values in found.items()}


def measure(case: Case, seen: Observation) -> Measured:
    """Compares the evidence of a restored image with its error, block by block."""
    error = np.abs(seen.restored.astype(np.float32) - case.target.astype(np.float32)).mean(-1) / 255.0
    # in the middle of a block the mean around a pixel is the block's
    evidence = evidence_of(case.degraded, seen)
    return Measured(case.photograph, {kind: _middles(values) for kind, values in evidence.items()}, _blocks(error))


def calibrate(measured: Sequence[Measured], *, step: int = 0, passes: int = 0) -> Calibration:
    """Fits the curve and judges it.

    Args:
      measured: of restored images whose truth is known, and which the network was not trained on.
      step: of the checkpoint. passes: M, where spread is among the evidence.

    Raises:
      ValueError: nothing was measured, or values that are not finite.
    """
    if not measured:
        raise ValueError("no image to calibrate on: give validation photographs")
    for m in measured:
        if not all(np.isfinite(values).all() for values in (m.error, *m.evidence.values())):
            raise ValueError(f"the network's output for {m.photograph} is not finite: its doubt cannot be calibrated")
    curve = _fit(measured)
    photographs = len({m.photograph for m in measured})
    expected = expected_held_out(measured)
    error = np.concatenate([m.error for m in measured])
    together = np.concatenate(expected)
    fitted = np.concatenate([curve.expected(m.evidence) for m in measured])
    return Calibration(
        curve=curve,
        high=float(np.quantile(fitted, 0.9)),
        images=len(measured),
        photographs=photographs,
        step=step,
        passes=passes,
        held_out=photographs > 1,
        within=float(np.mean([_correlation(e, m.error) for e, m in zip(expected, measured, strict=True)])),
        pooled=_correlation(together, error),
        alone={
            kind: float(np.mean([_correlation(m.evidence[kind], m.error) for m in measured]))
            for kind in measured[0].evidence
        },
        gap=float(np.abs(np.subtract(*reliability(together, error))).mean()),
        typical=float(error.mean()),
        sparsification=float(np.mean([ause(e, m.error) for e, m in zip(expected, measured, strict=True)])),
    )


def expected_held_out(measured: Sequence[Measured]) -> list[np.ndarray]:
    """(n,) expected error of each image, by a curve of other photographs; by its own where there is but one."""
    names = list(dict.fromkeys(m.photograph for m in measured))
    folds = min(_FOLDS, len(names))
    fold_of = {name: i % folds for i, name in enumerate(names)}
    judges = [_fit([m for m in measured if folds == 1 or fold_of[m.photograph] != fold]) for fold in range(folds)]
    return [judges[fold_of[m.photograph]].expected(m.evidence) for m in measured]


def reliability(expected: np.ndarray, error: np.ndarray) -> np.ndarray:
    """(2, 10) means of expected and of real error over ten bins of expected error, of as many blocks each; fewer bins
    where there are fewer blocks."""
    bins = np.array_split(np.argsort(expected, kind="stable"), min(10, len(expected)))
    return np.array([[values[some].mean() for some in bins] for values in (expected, error)])


def write_calibrations(folder: Path, found: dict[str, Calibration]) -> Path:
    """Writes the calibrations of a run; others of the same checkpoint stay. Returns the file."""
    file = folder / FILE
    steps = {calibration.step for calibration in found.values()}
    try:
        kept = {name: old for name, old in read_calibrations(folder).items() if old.step in steps}
    except ValueError:  # damaged: written anew
        kept = {}
    text = json.dumps({name: asdict(c) for name, c in {**kept, **found}.items()}, indent=2, allow_nan=False)
    write_whole(file, text + "\n")
    return file


def read_calibrations(folder: Path) -> dict[str, Calibration]:
    """The calibrations of a run; {} where it has none.

    Raises:
      ValueError: the file is damaged.
    """
    file = folder / FILE
    if not file.is_file():
        return {}
    try:
        return {name: calibration_from(fields) for name, fields in json.loads(file.read_text()).items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(f"{file} is damaged or of another version ({error}): run mofme calibrate") from None


def calibration_from(fields: dict[str, Any]) -> Calibration:
    """The calibration that `asdict` made these fields of; raises ValueError, TypeError or KeyError where none did."""
    curve = fields["curve"]
    weights = {name: float(curve["weights"][name]) for name in _LEAST if name in curve["weights"]}
    score, error = (np.asarray(curve[name], np.float64) for name in ("score", "error"))
    if score.ndim != 1 or not 0 < len(score) == len(error) or (np.diff(score) <= 0).any():
        raise ValueError("its curve does not rise")
    read = Calibration(**{**fields, "curve": Curve(weights, tuple(score.tolist()), tuple(error.tolist()))})
    if not all(np.isfinite([read.high, *score, *error, *weights.values()])):
        raise ValueError("its numbers are not finite")
    return read


def _fit(measured: Sequence[Measured]) -> Curve:
    """Weights by least squares in logarithms, then the rising curve over bins of equal numbers."""
    kinds = list(measured[0].evidence)
    every = -(-sum(len(m.error) for m in measured) // _MOST)  # of larger sets, blocks at even distances
    evidence = {kind: np.concatenate([m.evidence[kind] for m in measured])[::every] for kind in kinds}
    logs = np.stack([np.log(evidence[kind] + _LEAST[kind]) for kind in kinds], axis=-1).astype(np.float64)
    error = np.concatenate([m.error for m in measured])[::every].astype(np.float64)
    wanted = np.log(error + _LEVEL)
    found = lsq_linear(logs - logs.mean(0), wanted - wanted.mean(), bounds=(0.0, np.inf)).x
    # a router that knows no uncertainty has weight 0, and no evidence at all would make every score the same
    weights = {kind: float(weight) for kind, weight in zip(kinds, found, strict=True)}
    total = logs @ found
    order = np.argsort(total, kind="stable")
    bins = np.array_split(order, min(_BINS, len(order)))
    score = np.array([total[some].mean() for some in bins])
    rising = IsotonicRegression().fit_transform(
        score, [error[some].mean() for some in bins], sample_weight=[len(some) for some in bins]
    )
    score, first = np.unique(score, return_index=True)
    return Curve(weights, tuple(score.tolist()), tuple(rising[first].tolist()))


def _blocks(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (n,): means of whole blocks; of the whole image where it has none."""
    rows, columns = (length // BLOCK for length in values.shape)
    if not rows or not columns:
        return np.full(1, values.mean())
    whole = values[: rows * BLOCK, : columns * BLOCK]
    return whole.reshape(rows, BLOCK, columns, BLOCK).mean((1, 3)).reshape(-1)


def _middles(values: np.ndarray) -> np.ndarray:
    """(H, W) -> (n,): the values in the middle of whole blocks; the mean where there are none."""
    rows, columns = (length // BLOCK for length in values.shape)
    if not rows or not columns:
        return np.full(1, values.mean())
    return values[BLOCK // 2 : rows * BLOCK : BLOCK, BLOCK // 2 : columns * BLOCK : BLOCK].reshape(-1)


def _correlation(one: np.ndarray, other: np.ndarray) -> float:
    """Spearman's; 0 where one of the two is the same everywhere, and says nothing."""
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        return 0.0
    return float(spearmanr(one, other).statistic)
