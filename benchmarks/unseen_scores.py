"""The scores of benchmarks/unseen.py, which defines them, for one run.

Axis glossary: `n` images, `H W` pixels, `F` features.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.covariance import LedoitWolf
from study_arms import WEATHERS
from study_judge import unseen_photographs

from mofme_jax.data.fetch import cache_folder
from mofme_jax.data.folders import ArraySource, PhotographFolder, Source
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.weather import degrade
from mofme_jax.evaluation.cases import weather_cases
from mofme_jax.training.checkpoint import load
from mofme_jax.training.options import DataOptions
from mofme_jax.training.workdir import options_of_run

SIDE, TILE = 240, 80
"""Pixels on the side of an image, and of the tiles that it goes through the network in."""

DRAWS, CROPS = 6, 60
"""Of each weather: for each photograph that is judged; of all training photographs, to fit the Gaussians on."""

SEED = 1
"""Of the crops, and of the weather on them; what is judged has other keys."""

MEANS = ("mutual information", "entropy", "expected error", "change")
DISTANCES = ("routing profile", "router input", "pixels, no network")


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


def judge_run(run: Path, judged: Images, crops: Images, progress: Callable[[], None]) -> dict[str, np.ndarray]:
    """(n,) values of every score of a run; those that its network lacks are left out."""
    model, params = load(run)

    def measured(images: list[np.ndarray]) -> dict[str, np.ndarray]:
        rows = []
        for image in images:
            rows.append(jax.device_get(_measure(model, params, tiles(image))))
            progress()
        return {name: np.stack([row[name] for row in rows]).astype(np.float64) for name in rows[0]}

    trained = [i for i, weather in enumerate(crops.weathers) if weather in options_of_run(run).data.weathers]
    known, found = measured([crops.pixels[i] for i in trained]), measured(judged.pixels)
    scores = {name: found[name] for name in MEANS if name in found}
    for name in DISTANCES:
        scores[name] = fit_gaussians(known[name], crops.weathers[trained]).distance(found[name])
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


@partial(jax.jit, static_argnums=0)
def _measure(model, params: Any, images: jax.Array) -> dict[str, jax.Array]:
    """The `MEANS`, scalars, and what the `DISTANCES` are of, vectors, over (n, H, W, 3) tiles of one image."""
    (restored, aux, *error), state = model.apply(
        {"params": params},
        images,
        method="with_error" if model.error_head else None,
        capture_intermediates=lambda module, _: module.name == "feed_forward_norm",
        mutable=["intermediates"],
    )
    read = jax.tree.leaves(state["intermediates"])

    def over_tokens(arrays: Sequence[jax.Array], *statistics: Callable) -> jax.Array:
        return jnp.concatenate([f(a.reshape(-1, a.shape[-1]), axis=0) for a in arrays for f in statistics])

    return {
        "mutual information": jnp.stack([layer.uncertainty for layer in aux]).mean(),
        "entropy": jnp.stack([layer.entropy for layer in aux]).mean(),
        **({"expected error": error[0].mean()} if error else {}),
        "change": jnp.abs(restored - images).mean(),
        "routing profile": over_tokens([a for layer in aux for a in (layer.logits, layer.gates)], jnp.mean),
        "router input": over_tokens(read, jnp.mean, jnp.std),
        "pixels, no network": over_tokens([images], jnp.mean, jnp.std),
    }


def fit_gaussians(features: np.ndarray, weathers: np.ndarray) -> Gaussians:
    """Gaussians of (n, F) features, one for each of the names in (n,), with one covariance."""
    names, group = np.unique(weathers, return_inverse=True)
    means = np.stack([features[group == i].mean(axis=0) for i in range(len(names))])
    within = features - means[group]
    scale = within.std(axis=0)
    scale[scale == 0] = 1.0  # a gate that was never open
    return Gaussians(means / scale, LedoitWolf(assume_centered=True).fit(within / scale).precision_, scale)
