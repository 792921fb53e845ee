"""A contact sheet of what training sees, so that people look before they train."""

from dataclasses import replace
from functools import partial
from pathlib import Path

import jax
import numpy as np
from ml_collections import ConfigDict

from mofme_jax.data.photos import SUFFIXES
from mofme_jax.data.pipeline import mixed, training_stream
from mofme_jax.training.options import Options, read_options
from mofme_jax.training.sources import Sources, batch_groups, open_sources
from mofme_jax.training.state import keys_of_run
from mofme_jax.training.step import make_examples, step_keys
from mofme_jax.viz import pair_sheet

_UNSAID = ("noise", "airlight_tint", "transmission")


def preview(config: ConfigDict, path: str | Path, *, step: int = 0, count: int = 16) -> list[str]:
    """Writes a picture of examples as a run of `config` sees them: the same files, crops, weather and keys.

    Args:
      config: see configs/default.py.
      path: of the picture; its suffix is the format.
      step: steps of training before the first example.
      count: examples.

    Returns:
      Their captions: weather and severities, or the names of pairs.

    Raises:
      ValueError, OSError: as `train_and_evaluate` does.
    """
    if step < 0 or count < 1:
        raise ValueError(f"step={step} must be at least 0 and count={count} at least 1")
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES or not path.absolute().parent.is_dir():
        raise ValueError(f"{path} cannot be written: take a folder that is there, and one of {', '.join(SUFFIXES)}")
    options = read_options(config)
    # nothing is kept in memory or built as a TFDS set for the sake of a few examples, which are the same without
    options = replace(options, data=replace(options.data, cache_gigabytes=0.0, workers=0, tfds=""))
    sources = open_sources(options)
    batch_groups(options, sources.paired)
    stream = training_stream(
        sources.training,
        weights=options.data.weights,
        batch=options.train.batch,
        crop=options.data.crop,
        min_scale=options.data.min_scale,
        seed=options.seed,
    )
    stream.set_state({"batches": step})
    weathers = None if sources.paired else options.data.weathers
    data = options.data
    make = jax.jit(
        partial(
            make_examples,
            weathers=weathers,
            clean_share=data.clean_share,
            severity=data.severity,
            colour_share=data.colour_share,
            sky_share=data.sky_share,
        )
    )
    key = jax.random.key_data(keys_of_run(jax.random.key(options.seed))[1])
    pairs: list[tuple[np.ndarray, np.ndarray]] = []
    captions: list[str] = []
    while len(pairs) < count:
        degraded, target, drawn = jax.device_get(make(step_keys(key, step)[0], next(stream)))
        pairs += zip(degraded, target, strict=True)
        captions += _names(sources, options, step) if sources.paired else _severities(drawn, data.weathers)
        step += 1
    stream.close()
    pair_sheet(pairs[:count], captions[:count], path)
    return captions[:count]


def _severities(drawn: dict, weathers: tuple[str, ...]) -> list[str]:
    """A caption for each image of a batch: its weather and how bad."""
    captions = []
    for i, clean in enumerate(drawn["stays_clean"]):
        group, place = divmod(i, len(weathers))
        severity = {name: float(values[group]) for name, values in drawn["severities"][place].items()}
        said = [f"{name.split('_')[-1]} {value:.3g}" for name, value in severity.items() if name not in _UNSAID]
        captions.append("left clean" if clean else f"{weathers[place]}: {', '.join(said)}")
    return captions


def _names(sources: Sources, options: Options, step: int) -> list[str]:
    """A caption for each pair of a batch: its weather and the file of its input."""
    examples = mixed([images.source for images in sources.training], options.data.weights, options.seed)
    batch = options.train.batch
    found = [examples[place] for place in range(step * batch, (step + 1) * batch)]
    return [f"{example['weather']}: {example['input_name']}" for example in found]
