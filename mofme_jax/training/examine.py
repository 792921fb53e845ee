"""A step of a run under the glass: what the next one computes, layer by layer, without taking it.

For a run that stopped because gradients were not finite: it stopped as it was before the first of those steps, so that
the next one is that.
"""

import os
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax.traverse_util import flatten_dict

from mofme_jax.data.pipeline import mixed, training_stream
from mofme_jax.files import write_json
from mofme_jax.training import sharding
from mofme_jax.training.build import build_init, build_optimiser, build_schedule, build_step, make_image_loss
from mofme_jax.training.checkpoint import load_state
from mofme_jax.training.options import build_model
from mofme_jax.training.sharding import use_host_devices
from mofme_jax.training.sources import batch_groups, open_sources
from mofme_jax.training.workdir import options_of_run, run_folder

FILE = "examined.json"


class _Kept(NamedTuple):
    """The state of an "optimiser" that moves nothing and keeps the gradients; a training step reads the count."""

    notfinite_count: jax.Array
    gradients: Any


def _keep(gradients, state, params=None):
    bad = jnp.logical_not(jnp.all(jnp.stack([jnp.isfinite(g).all() for g in jax.tree.leaves(gradients)])))
    return jax.tree.map(jnp.zeros_like, gradients), _Kept(bad.astype(jnp.int32), gradients)


_KEEP = optax.GradientTransformation(
    lambda params: _Kept(jnp.zeros((), jnp.int32), jax.tree.map(jnp.zeros_like, params)), _keep
)


def examine(workdir: str | os.PathLike) -> dict[str, Any]:
    """Computes the step after a run's newest checkpoint, of the same images, weather and keys. Nothing is changed.

    On one process: the devices of this one, whatever the run trained on.

    Args:
      workdir: of the run.

    Returns:
      A dict for JSON: "step", its number; "images", the names of what its batch is cut from, in order; "metrics", as in
      metrics.jsonl; "layers", by the path of each array of parameters, in the network's order of names: "parameter" and
      "gradient", their Euclidean norms over finite elements, and "parameter_not_finite" and "gradient_not_finite", how
      many elements are not.

    Raises:
      FileNotFoundError, ValueError: no run there, or no checkpoint; images that will not do.
    """
    folder = run_folder(workdir)
    options = options_of_run(folder)
    use_host_devices(options.train.host_devices)
    options = replace(options, data=replace(options.data, workers=0))
    sources = open_sources(options)
    mesh = sharding.make_mesh(batch_groups(options, sources.paired), **asdict(options.mesh))
    model = build_model(asdict(options.model))
    _, learning_rate = build_schedule(options, sum(map(len, sources.training)))
    optimiser = build_optimiser(options, learning_rate)
    state, progress = load_state(folder, build_init(options, model, optimiser, mesh)(np.uint32(options.seed)))

    stream = training_stream(
        sources.training,
        weights=options.data.weights,
        batch=options.train.batch,
        crop=options.data.crop,
        min_scale=options.data.min_scale,
        seed=options.seed,
    )
    stream.set_state(progress["stream"])
    photographs = next(stream)
    stream.close()
    step = build_step(options, model, _KEEP, make_image_loss(options), paired=sources.paired, mesh=mesh)
    params = flatten_dict(jax.device_get(state.params), sep="/")
    state = replace(state, opt_state=build_init(options, model, _KEEP, mesh)(np.uint32(0)).opt_state)
    after, metrics = step(state, sharding.put_batch(photographs, mesh))
    gradients = flatten_dict(jax.device_get(after.opt_state.gradients), sep="/")

    first = progress["stream"]["batches"] * options.train.batch
    examples = mixed([images.source for images in sources.training], options.data.weights, options.seed)
    names = [examples[first + place] for place in range(options.train.batch)]
    return {
        "step": int(after.step),
        "images": [example.get("name") or example["input_name"] for example in names],
        "metrics": {name: value.item() for name, value in jax.device_get(metrics).items()},
        "layers": {
            name: {
                **_figures("parameter", params[name]),
                **_figures("gradient", gradients[name]),
            }
            for name in sorted(params)
        },
    }


def write_examination(workdir: str | os.PathLike) -> tuple[Path, dict[str, Any]]:
    """Examines a run and writes what is found into its folder, as `FILE`. Returns that file and what is in it."""
    found = examine(workdir)
    file = run_folder(workdir) / FILE
    write_json(file, found)
    return file, found


def _figures(name: str, array: np.ndarray) -> dict[str, float | int]:
    """The norm of the finite elements, and how many are not."""
    finite = np.isfinite(array)
    norm = np.linalg.norm(np.where(finite, array, 0.0).astype(np.float64))
    return {name: float(norm), f"{name}_not_finite": int((~finite).sum())}
