"""An atlas of experts: what each expert of a trained network does, measured and put on a page.

Axis glossary: `H W` pixels, `L` mixture layers, `E` experts.
"""

import math
import os
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mofme_jax.data.weather import WEATHERS
from mofme_jax.evaluation.cases import Case, cut_to_middle, weather_cases
from mofme_jax.evaluation.metrics import psnr
from mofme_jax.evaluation.routing_measures import lead_share
from mofme_jax.evaluation.tiling import TILE
from mofme_jax.files import write_whole
from mofme_jax.restoring.atlas_figures import View
from mofme_jax.restoring.atlas_page import page

REPEATS = 2
"""Draws of each weather for each photograph."""

LEAST_SIDE = 16
"""Pixels: smaller photographs and tiles are refused."""


@partial(jax.jit, static_argnums=0)
def _apply(model, params, degraded, target, kept):
    """One picture, (H, W, 3) uint8 and its truth: restored in 8 bits, its PSNR, and what the routers did."""
    restored, aux = model.apply({"params": params}, degraded[None].astype(jnp.float32) / 255.0, train=False, kept=kept)
    restored = jnp.round(restored[0] * 255.0).astype(jnp.uint8)
    routed = {
        "leading": jnp.stack([layer.chosen[0, ..., 0] for layer in aux]),
        "choices": jnp.stack([layer.load for layer in aux]),
        "lead": jnp.stack([lead_share(layer.gates, layer.chosen) for layer in aux]),
        "entropy": jnp.stack([layer.entropy[0] for layer in aux]),
        "uncertainty": jnp.mean(jnp.stack([layer.uncertainty[0] for layer in aux]), axis=0),
    }
    return restored, _psnr(degraded, target), _psnr(restored, target), routed


def _psnr(image, target):
    """dB of two pictures in 8 bits, in the evaluation's convention."""
    return psnr(image.astype(jnp.float32) / 255.0, target.astype(jnp.float32) / 255.0, "rgb-u8")


def look(model, params, case: Case) -> View:
    """Restores a picture as it is, and once more without each expert.

    Args:
      model: a `Restorer` with experts.
      params: its parameters.
      case: a picture of any size; every new size is compiled anew.
    """
    layers, experts = model.depth, model.num_experts
    every = np.ones((layers, experts), np.float32)
    arrays = jnp.asarray(case.degraded), jnp.asarray(case.target)
    restored, before, after, routed = jax.device_get(_apply(model, params, *arrays, every))
    without = np.full((layers, experts), after)
    for layer, expert in np.argwhere(routed["choices"] > 0):  # one that is not chosen makes no difference
        kept = every.copy()
        kept[layer, expert] = 0.0
        without[layer, expert] = _apply(model, params, *arrays, kept)[2]
    return View(
        case=case,
        restored=restored,
        leading=routed["leading"],
        choices=routed["choices"],
        lead=routed["lead"],
        entropy=np.clip(routed["entropy"] / math.log(max(experts, 2)), 0.0, 1.0),
        uncertainty=routed["uncertainty"],
        psnr_input=float(before),
        psnr=float(after),
        psnr_without=without,
    )


def write_atlas(
    model,
    params,
    photographs: Mapping[str, np.ndarray],
    path: str | Path,
    *,
    title: str = "a network",
    tile: int = TILE,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Writes the page: one HTML file with everything in it.

    Args:
      model: a `Restorer` with experts.
      params: its parameters.
      photographs: clean ones, (H, W, 3) uint8 by name. Their middle, at most a tile high and wide, is given every
        kind of weather from fixed keys, and is restored in one piece.
      path: the file.
      title: what the network is called on the page.
      tile: pixels.
      force: whether a file that is there may be overwritten.
      progress: called with the pictures done and their number.

    Raises:
      ValueError: a network without experts; no photograph; a photograph or a tile that is too small.
      FileExistsError, FileNotFoundError, PermissionError: there is such a file already, or no folder to put it in.
    """
    path = Path(path)
    check_output(path, force)
    check_experts(model)
    if not photographs:
        raise ValueError("an atlas needs a photograph: give one or more")
    if tile < LEAST_SIDE:
        raise ValueError(f"tile={tile} is too small: take at least {LEAST_SIDE} pixels")
    for name, image in photographs.items():
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[-1] != 3 or min(image.shape[:2]) < LEAST_SIDE:
            raise ValueError(
                f"photograph {name} must be uint8 (H, W, 3) of at least {LEAST_SIDE} pixels a side, "
                f"not {image.dtype} {image.shape}"
            )
    middles = {name: cut_to_middle(image, tile) for name, image in photographs.items()}
    total = len(middles) * (REPEATS * len(WEATHERS) + 1)
    views = []
    for case in weather_cases(middles, WEATHERS, repeats=REPEATS, max_side=tile):
        views.append(look(model, params, case))
        if progress:
            progress(len(views), total)
    text = page(model, sum(leaf.size for leaf in jax.tree.leaves(params)), views, title, tile)
    write_whole(path, text.encode("utf-8", "replace"))  # names of files may be no text


def check_experts(model) -> None:
    """Raises ValueError for a network without experts."""
    if model.feed_forward == "dense" or not model.depth:
        raise ValueError(
            f"an atlas shows experts, and this network has none (feed_forward={model.feed_forward!r}, "
            f"depth={model.depth}): give one trained with feed_forward='mofme' or 'moe'"
        )


def check_output(path: Path, force: bool) -> None:
    """Raises FileExistsError, FileNotFoundError or PermissionError where the page cannot be put."""
    if path.exists() and not path.is_file():
        raise FileExistsError(f"{path} is no file that could be written over: name one, as atlas.html")
    if path.exists() and not force:
        raise FileExistsError(f"{path} is there already: name another file, or let it be overwritten with --force")
    folder = path.absolute().parent
    if not folder.is_dir():
        raise FileNotFoundError(f"{path} cannot be written: there is no folder {folder}")
    if not os.access(folder, os.W_OK):
        raise PermissionError(f"{path} cannot be written: {folder} allows no new files")
