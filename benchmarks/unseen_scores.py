"""The scores of benchmarks/unseen.py, which defines them, for one run.

Axis glossary: `n` images, `H W` pixels, `F` features.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import numpy as np
from scipy.special import logsumexp
from sklearn.covariance import LedoitWolf
from study_arms import WEATHERS
from study_judge import unseen_photographs
from unseen_features import measure

from mofme_jax.data.fetch import cache_folder
from mofme_jax.data.folders import ArraySource, PhotographFolder, Source
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.weather import degrade
from mofme_jax.evaluation.cases import weather_cases
from mofme_jax.training.checkpoint import load
from mofme_jax.training.options import DataOptions

SIDE, TILE = 240, 80
"""Pixels on the side of an image, and of the tiles that it goes through the network in."""

DRAWS, CROPS = 6, 160
"""Of each weather: for each photograph that is judged; of all training photographs, to fit the Gaussians on."""

SEED = 1
"""Of the crops, and of the weather on them; what is judged has other keys."""

MEANS = ("mutual information", "entropy", "expected error", "change")
DISTANCES = ("routing profile", "router input", "pixels, no network")
DENSITIES = {
    "error against change": ("error against change",),
    "error and sign": ("error and sign",),
    "routing density": ("routing profile",),
    "error, sign and routing": ("error and sign", "routing profile"),
    "pixel density, no network": ("pixels, no network",),
}
"""Scores by name; of the last, the vectors whose surprises are added up."""


@dataclass(frozen=True)
class Images:
    """Degraded images: (H, W, 3) uint8 each, with the weather and the photograph of each."""

    pixels: list[np.ndarray]
    weathers: np.ndarray
    photographs: np.ndarray


@dataclass(frozen=True)
class Gaussians:
    """One for each weather: (weathers, F) means and one (F, F) precision, of features divided by the (F,) scale."""

    means: np.ndarray
    precision: np.ndarray
    scale: np.ndarray

    def distance(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n,): Mahalanobis' distance to the nearest mean."""
        offsets = features[:, None] / self.scale - self.means
        squares = np.einsum("nwf,fg,nwg->nw", offsets, self.precision, offsets, optimize=True)
        return np.sqrt(np.maximum(squares.min(axis=1), 0.0))


@dataclass(frozen=True)
class Density:
    """Of (points, F) features divided by the (F,) scale, under a Gaussian kernel of one on each of them."""

    points: np.ndarray
    scale: np.ndarray

    def surprise(self, features: np.ndarray) -> np.ndarray:
        """(n, F) -> (n,): the negative logarithm of the density, up to a constant."""
        squares = ((features[:, None] / self.scale - self.points) ** 2).sum(axis=-1)
        return -logsumexp(-squares / 2, axis=1)


def judged_images(data: DataOptions) -> Images:
    """Weather of all kinds over photographs that were not trained on."""
    cases = weather_cases(
        unseen_photographs(data), WEATHERS, repeats=DRAWS, max_side=SIDE, cache=cache_folder() / "evaluation"
    )
    some = [case for case in cases if case.group != "clean"]
    return Images(
        [case.degraded for case in some],
        np.array([case.group for case in some]),
        np.array([case.photograph for case in some]),
    )


def training_crops(data: DataOptions) -> Images:
    """Weather of all kinds over random crops of the training photographs."""
    sources: list[Source] = [PhotographFolder(folder) for folder in data.photographs]
    sources = sources or [ArraySource(embedded_photographs("train"))]
    places = [(source, i) for source in sources for i in range(len(source))]
    rng = np.random.default_rng(SEED)
    made, names = [], []
    for n in range(len(WEATHERS) * CROPS):
        source, i = places[rng.integers(len(places))]
        photograph = source[i]["image"]
        top, left = (rng.integers(max(1, length - SIDE + 1)) for length in photograph.shape[:2])
        crop = photograph[top : top + SIDE, left : left + SIDE].astype(np.float32) / 255.0
        degraded = _degraded(jax.random.fold_in(jax.random.key(SEED), n), crop, WEATHERS[n // CROPS])
        made.append(np.round(np.asarray(degraded) * 255.0).astype(np.uint8))
        names.append(source.names[i])
    return Images(made, np.repeat(WEATHERS, CROPS), np.array(names))


@partial(jax.jit, static_argnames="weather")
def _degraded(key: jax.Array, crop: jax.Array, weather: str) -> jax.Array:
    return degrade(key, crop, weather)[0]


def judge_run(
    run: Path, lefts: Sequence[str], judged: Images, crops: Images, progress: Callable[[], None]
) -> dict[str, dict[str, np.ndarray]]:
    """By each weather of `lefts`, the (n,) values of every score of a run when nothing is fitted on that weather.

    Crops of a weather that nothing is fitted on are not measured; scores that the run's network lacks are left out.
    """
    model, params = load(run)

    def measured(images: list[np.ndarray]) -> dict[str, np.ndarray]:
        rows = []
        for image in images:
            rows.append(jax.device_get(measure(model, params, tiles(image))))
            progress()
        return {name: np.stack([row[name] for row in rows]).astype(np.float64) for name in rows[0]}

    used = np.array([set(lefts) != {weather} for weather in crops.weathers])
    weathers = crops.weathers[used]
    fitted, found = measured([crops.pixels[i] for i in np.flatnonzero(used)]), measured(judged.pixels)
    scores = {}
    for left in lefts:
        known = weathers != left
        scores[left] = score({name: values[known] for name, values in fitted.items()}, weathers[known], found)
    return scores


def score(
    known: Mapping[str, np.ndarray], weathers: np.ndarray, found: Mapping[str, np.ndarray]
) -> dict[str, np.ndarray]:
    """(n,) values of every score.

    Args:
      known: (m, F) by name, of the crops that are fitted on; weathers: (m,), theirs.
      found: (n,) or (n, F) by name, of what is judged.
    """
    scores = {name: found[name] for name in MEANS if name in found}
    for name in DISTANCES:
        scores[name] = fit_gaussians(known[name], weathers).distance(found[name])
    for name, parts in DENSITIES.items():
        if all(part in found for part in parts):
            scores[name] = np.sum([fit_density(known[part]).surprise(found[part]) for part in parts], axis=0)
    return scores


def tiles(image: np.ndarray) -> np.ndarray:
    """(H, W, 3) uint8 -> (n, TILE, TILE, 3) floats in [0, 1]: its whole tiles.

    Raises:
      ValueError: it has none.
    """
    rows, columns = (length // TILE for length in image.shape[:2])
    if not rows or not columns:
        raise ValueError(f"a photograph of {image.shape[1]} x {image.shape[0]} pixels: {TILE} are needed, remove it")
    whole = image[: rows * TILE, : columns * TILE].reshape(rows, TILE, columns, TILE, 3).swapaxes(1, 2)
    return whole.reshape(-1, TILE, TILE, 3).astype(np.float32) / 255.0


def fit_gaussians(features: np.ndarray, weathers: np.ndarray) -> Gaussians:
    """Gaussians of (n, F) features, one for each of the names in (n,), with one covariance."""
    names, group = np.unique(weathers, return_inverse=True)
    means = np.stack([features[group == i].mean(axis=0) for i in range(len(names))])
    within = features - means[group]
    scale = within.std(axis=0)
    scale[scale == 0] = 1.0  # a gate that was never open
    return Gaussians(means / scale, LedoitWolf(assume_centered=True).fit(within / scale).precision_, scale)


def fit_density(features: np.ndarray) -> Density:
    """The density of (points, F) features, in their standard deviations over all points."""
    scale = features.std(axis=0)
    scale[scale == 0] = 1.0
    return Density(features / scale, scale)
