"""What the demonstration's page does with a photograph: reading it, weather for it, pictures of what came out."""

import html
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import MappingProxyType

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from mofme_jax.data.photos import header_size, read_photograph
from mofme_jax.data.weather import WEATHERS, degrade, severity_ranges
from mofme_jax.evaluation.calibration import Calibration
from mofme_jax.evaluation.metrics import psnr
from mofme_jax.evaluation.tiling import TILE, Observation, observe
from mofme_jax.restoring.doubt import calibration_for, doubt_of
from mofme_jax.restoring.pictures import expert_colours, expert_picture, uncertainty_picture

SEVERITIES = {
    "haze": {"beta": "haze: density", "airlight": "haze: light"},
    "rain": {"rain_density": "rain: density", "rain_length": "rain: length (px)"},
    "snow": {"snow_density": "snow: density", "snow_size": "snow: size (px)"},
    "raindrop": {"drop_density": "drops: density", "drop_size": "drops: size (px)"},
}
"""The severities that the page lets its visitor choose, of each weather, and what it calls them."""

WEATHER_SIDE = 1024
"""Pixels on the longer side of a photograph that weather is put on: streaks, flakes and drops have sizes in pixels."""

SHOWN_SIDE = 1600
"""Pixels on the longer side of a picture that is sent to the browser; the file to download is of full size."""

LEGEND = 12
"""Experts whose colours are explained; a picture of more is not told apart by colours anyway."""


def open_photograph(path: str | Path, max_megapixels: float) -> np.ndarray:
    """Reads an uploaded file, unless its header says that it is too large.

    Args:
      path: the file.
      max_megapixels: millions of pixels it may have.

    Returns:
      uint8 array (H, W, 3).

    Raises:
      ValueError: the file is gone, no photograph, damaged or too large; names the file without its folder.
    """
    path = Path(path)
    try:
        height, width = header_size(path)
        if height * width > max_megapixels * 1e6:
            raise ValueError(
                f"{path.name} has {width} x {height} = {height * width / 1e6:.1f} megapixels, "
                f"and this page takes {max_megapixels:g}. Make it smaller."
            )
        return read_photograph(path)
    except FileNotFoundError:
        raise ValueError(f"{path.name} is no longer here. Give it again.") from None
    except (ValueError, OSError) as error:
        raise ValueError(str(error).replace(str(path), path.name)) from error


def with_weather(
    photograph: np.ndarray, weathers: Sequence[str], seed: int, severities: Mapping[str, float]
) -> tuple[np.ndarray, np.ndarray]:
    """Puts weather on a photograph, which is made smaller first where it is larger than `WEATHER_SIDE`.

    Args:
      photograph: uint8 (H, W, 3).
      weathers: some of `WEATHERS`; [] does nothing, and makes nothing smaller.
      seed: decides all that is not given; any whole number.
      severities: by name; those of other weathers are passed over.

    Returns:
      The clean photograph and the degraded one, uint8 (h, w, 3) both.

    Raises:
      ValueError: a severity is none that a slider can give; names it.
    """
    if not weathers:
        return photograph, photograph
    clean = shrunk(photograph, WEATHER_SIDE)
    weather = "+".join(name for name in WEATHERS if name in weathers)
    given = {}
    for part in weathers:
        for name in SEVERITIES[part].keys() & severities.keys():
            low, high = severity_ranges(part)[name]
            if not low <= severities[name] <= high:  # NaN is not either
                raise ValueError(f"{name} is {severities[name]:g}, and goes from {low:g} to {high:g}.")
            given[name] = jnp.float32(severities[name])
    degraded = _degraded(jax.random.key(int(seed) % 2**32), _unit(clean), weather, given)
    return clean, np.round(np.asarray(degraded) * 255.0).astype(np.uint8)


@partial(jax.jit, static_argnames="weather")
def _degraded(key: jax.Array, pixels: jax.Array, weather: str, severities: dict) -> jax.Array:
    return degrade(key, pixels, weather, **severities)[0]


@dataclass
class Outcome:
    """What the page shows of a restoration.

    Attributes:
      restored: uint8 (H, W, 3).
      facts: HTML: size, time, and PSNR where the truth is known.
      doubt: uint8 (h, w, 3), where it may be wrong; None where nothing is known of that.
      doubt_legend: HTML: what its colours mean.
      experts: for each mixture layer, which expert each token takes as uint8 (h, w, 3), and the layer's name.
      experts_legend: HTML: the experts' colours.
    """

    restored: np.ndarray
    facts: str
    doubt: np.ndarray | None
    doubt_legend: str
    experts: list[tuple[np.ndarray, str]]
    experts_legend: str


def restoration(
    model,
    params,
    clean: np.ndarray,
    degraded: np.ndarray,
    *,
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    tile: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> Outcome:
    """Restores a photograph and makes what is shown of it.

    Args:
      model, params: the network, see `mofme_jax.restore`.
      clean: uint8 (H, W, 3); the very array `degraded` where no truth is known.
      degraded: uint8 (H, W, 3).
      calibrations: of the network, see `mofme_jax.restoring.doubt`; without one, doubt is the routers' uncertainty.
      tile: pixels on a tile's side; None: the default.
      progress: called with the tiles that are done, and all of them.
    """
    began = time.monotonic()
    seen = observe(model, params, degraded, tile=tile, progress=progress)
    height, width = degraded.shape[:2]
    facts = f"{width} x {height} px, restored in {time.monotonic() - began:.1f} s"
    if degraded is not clean:
        before, after = (float(psnr(_unit(image), _unit(clean))) for image in (degraded, seen.restored))
        facts = f"PSNR {before:.2f} dB with the weather, <b>{after:.2f} dB restored</b><br>{facts}"
    return Outcome(seen.restored, facts, *_doubt(seen, degraded, calibrations), *_experts(seen, degraded, model))


def _doubt(
    seen: Observation, degraded: np.ndarray, calibrations: Mapping[str, Calibration]
) -> tuple[np.ndarray | None, str]:
    """The picture of doubt and the HTML of its scale."""
    if calibration_for(calibrations, 0) is not None:
        doubt = doubt_of(degraded, seen, calibrations)
        values, low, high = doubt.values, doubt.low, doubt.high
        ends, unit = (f"{255 * low:.3g}", f"{255 * high:.3g}"), "levels of 255, the error to expect"
    else:
        values, low, high = seen.uncertainty, float(seen.uncertainty.min()), float(seen.uncertainty.max())
        ends, unit = (f"{low:.3g}", f"{high:.3g}"), "nats of doubt which expert to take"
    if high == 0.0:
        return None, ""
    every = _every(seen)
    stops = ", ".join(_hex(colour) for colour in uncertainty_picture(np.linspace(0, 1, 9)[None], 0, 1)[0])
    scale = f'<span class="scale" style="background:linear-gradient(90deg, {stops})"></span>'
    return uncertainty_picture(values[::every, ::every], low, high), f"{ends[0]}{scale}{ends[1]} {unit}"


def _experts(seen: Observation, degraded: np.ndarray, model) -> tuple[list[tuple[np.ndarray, str]], str]:
    """For each mixture layer, a picture with its caption; the HTML of the experts' colours."""
    if not len(seen.experts):
        return [], ""
    every = _every(seen)
    pictures = [
        (
            expert_picture(degraded[::every, ::every], experts, seen.patch // every, model.num_experts),
            f"layer {i}",
        )
        for i, experts in enumerate(seen.experts)
    ]
    taken = np.unique(seen.experts)
    colours = expert_colours(model.num_experts)
    entries = [(colours[i], f"expert {i}") for i in taken[:LEGEND]]
    more = f" and {len(taken) - LEGEND} more" if len(taken) > LEGEND else ""
    return pictures, legend(entries) + more


def _every(seen: Observation) -> int:
    """Every how many rows and columns of pixels are enough for a map that is shown: a divisor of the token's side."""
    every = 1
    while max(seen.uncertainty.shape) > SHOWN_SIDE * every and seen.patch % (2 * every) == 0:
        every *= 2
    return every


def warm_up(model, params, tile: int | None = None) -> None:
    """Compiles what `restoration` runs, so that the first visitor need not wait for it."""
    side = tile or TILE
    blank = np.zeros((side, side, 3), np.uint8)
    restoration(model, params, blank, blank, tile=tile)


def _unit(image: np.ndarray) -> np.ndarray:
    return image.astype(np.float32) / 255.0


def shrunk(image: np.ndarray, side: int) -> np.ndarray:
    """A uint8 (H, W, 3) image with neither side longer than `side` pixels; itself where none is."""
    if max(image.shape[:2]) <= side:
        return image
    picture = Image.fromarray(image)
    picture.thumbnail((side, side), Image.Resampling.LANCZOS)
    return np.asarray(picture)


def _hex(colour: np.ndarray) -> str:
    return "#{:02x}{:02x}{:02x}".format(*map(int, colour))


def save_png(image: np.ndarray, path: Path) -> Path:
    """Writes a uint8 (H, W, 3) image where the browser can fetch it; returns the path."""
    Image.fromarray(image).save(path, compress_level=1)  # of 24 megapixels, the best compression takes half a minute
    return path


def legend(entries: list[tuple[np.ndarray, str]]) -> str:
    """HTML: a swatch of each colour, (3,) uint8, before its text."""
    swatch = '<span class="swatch" style="background:{}"></span>{}'
    return " ".join(swatch.format(_hex(colour), html.escape(text)) for colour, text in entries)
