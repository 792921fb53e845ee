"""Bad weather for clean photographs: haze, rain, snow and raindrops on the glass, in pure JAX.

The physics is done in linear light; a key decides everything that is not given. JPEG compression is left out:
its entropy coding has no use for an accelerator, and a data pipeline can apply it on the host.
"""

import jax.numpy as jnp
from jax import Array

from mofme_jax.data import cells, drops, precipitation
from mofme_jax.data.depth import pseudo_depth
from mofme_jax.data.light import linear_from_srgb, sense

WEATHERS = ("haze", "rain", "snow", "raindrop")
"""The kinds of weather, in the order in which the light meets them; mixtures join them with a plus sign."""

# Uniform ranges from which the severities are drawn, per weather; units in the docstring of `degrade`.
_RANGES = {
    "haze": {"beta": (0.3, 1.45), "airlight": (0.7, 1.0), "airlight_tint": (-0.04, 0.04)},
    "rain": {
        "beta": (-0.3, 1.8),
        "airlight": (0.6, 0.95),
        "airlight_tint": (-0.04, 0.04),
        "rain_density": (0.15, 0.7),
        "rain_length": (35.0, 90.0),
        "rain_angle": (-0.45, 0.45),
        "rain_strength": (0.5, 1.3),
    },
    "snow": {
        "beta": (-0.2, 0.35),
        "airlight": (0.8, 1.0),
        "airlight_tint": (-0.04, 0.04),
        "snow_density": (0.2, 0.8),
        "snow_size": (2.0, 5.5),
        "snow_angle": (-0.7, 0.7),
        "snow_drift": (0.0, 1.2),
        "snow_light": (0.85, 1.0),
    },
    "raindrop": {
        "drop_density": (0.45, 1.0),
        "drop_size": (14.0, 38.0),
        "drop_blur": (1.0, 4.0),
        "drop_view": (60.0, 140.0),
    },
}
_CAMERA = {"noise": (0.0, 0.008)}


def degrade(
    key: Array,
    image: Array,
    weather: str,
    *,
    depth: Array | None = None,
    **severity: Array | float | tuple[float, float] | None,
) -> tuple[Array, dict[str, Array]]:
    """Puts weather on a photograph.

    The scene J takes up rain streaks S, then flakes of opacity Z and light F, then the veil of
    t = exp(-beta z) and airlight A, then the drops on the glass, then the sensor with its eight bits:
    I = drops(t ((J + S) (1 - Z) + F Z) + (1 - t) A). A part keeps its looks in a mixture: under one key,
    "raindrop+rain" shows the streaks of "rain".

    Args:
      key: JAX key. The same key gives the same weather, alone, in a batch (`jax.vmap`) and compiled.
      image: (H, W, 3) sRGB values in [0, 1], any height and width.
      weather: static; "clean" (nothing is done), one of `WEATHERS`, or several joined by "+" in any order.
      depth: (H, W) relative depth in [0, 1], 0 at the camera; a pseudo-depth is drawn when None.
      **severity: a number or scalar array for each severity that shall not be drawn, a pair for one that shall be drawn
        between other bounds, or None. Drawn are:
        beta: extinction over the full depth. Haze 0.3 to 1.45; rain 0 to 1.8 and snow 0 to 0.35, often 0.
        airlight: light of the veil, 0.6 to 1.
        airlight_tint: how much of that red gains and blue loses, -0.04 to 0.04.
        rain_density: share of the places that hold a streak, 0.15 to 0.7.
        rain_length: of the nearest streaks in pixels, 35 to 90.
        rain_angle: of the fall from the vertical in radians, -0.45 to 0.45.
        rain_strength: factor on the light of the streaks, 0.5 to 1.3.
        snow_density: share of the places that hold a flake, 0.2 to 0.8.
        snow_size: radius of a middling flake in pixels, 2 to 5.5.
        snow_angle: of the fall from the vertical in radians, -0.7 to 0.7.
        snow_drift: motion while the shutter is open, in flake radii, 0 to 1.2.
        snow_light: light of the flakes, 0.85 to 1.
        drop_density: share of the places that hold a drop, 0.45 to 1.
        drop_size: radius of the largest drops in pixels, 14 to 38.
        drop_blur: width of the drops' edges in pixels, 1 to 4.
        drop_view: reach of the scene from the middle of a drop to its rim in pixels, 60 to 140.
        noise: standard deviation of the sensor noise at full light, 0 to 0.008; every weather has it.
      In a mixture, beta, airlight and its tint are those of its densest veil (haze before rain before snow).

    Returns:
      degraded: (H, W, 3) float32 sRGB values in [0, 1], multiples of 1/255; for "clean" the input itself.
      meta: the severities used, as float32 scalars by name, and "transmission", the mean of t. The names
        depend on the weather only; "clean" has none.

    Raises:
      ValueError: unknown weather or severity, an image that is not (H, W, 3) or not of floats, or a depth of
        another height or width.
    """
    parts = parse_weather(weather)
    if image.ndim != 3 or image.shape[-1] != 3 or not jnp.issubdtype(image.dtype, jnp.floating):
        raise ValueError(
            f"degrade takes one (H, W, 3) image of floats in [0, 1], not {image.dtype} {image.shape}; "
            "divide integers by their range, and use jax.vmap for a batch."
        )
    if depth is not None and depth.shape != image.shape[:2]:
        raise ValueError(f"The depth {depth.shape} must have the image's height and width {image.shape[:2]}.")
    ranges = severity_ranges(weather)
    if unknown := sorted(set(severity) - set(ranges)):
        raise ValueError(f"{weather!r} has no severity {', '.join(unknown)}. It has: {', '.join(ranges)}.")
    if not parts:
        return image, {}
    seeds = cells.seeds_from_key(key, 6)
    meta = _draw(seeds[0], ranges, severity)
    height, width, _ = image.shape

    light = linear_from_srgb(image.astype(jnp.float32))
    if "rain" in parts:
        given = {name: meta[f"rain_{name}"] for name in ("density", "length", "angle", "strength")}
        light = light + precipitation.rain_streaks(seeds[2], height, width, **given)[..., None]
    if "snow" in parts:
        given = {name: meta[f"snow_{name}"] for name in ("density", "size", "angle", "drift")}
        opacity = precipitation.snow_opacity(seeds[3], height, width, **given)[..., None]
        light = light + opacity * (meta["snow_light"] - light)
    transmission = jnp.ones(())
    if "beta" in meta:
        if depth is None:
            depth = pseudo_depth(seeds[1], image)
        transmission = jnp.exp(-meta["beta"] * depth)
        airlight = meta["airlight"] * (1 + meta["airlight_tint"] * jnp.array([1.0, 0.0, -1.0]))
        light = airlight + transmission[..., None] * (jnp.minimum(light, 1.0) - airlight)
    if "raindrop" in parts:
        given = {name: meta[f"drop_{name}"] for name in ("density", "size", "blur")}
        glass = drops.wet_glass(seeds[4], height, width, **given)
        light = drops.look_through(jnp.minimum(light, 1.0), glass, view=meta["drop_view"])
    return sense(light, meta["noise"], seeds[5]), meta | {"transmission": transmission.mean()}


def parse_weather(weather: str) -> tuple[str, ...]:
    """Splits a weather such as "rain+haze" into its parts, in the order of `WEATHERS`; "clean" has none.

    Raises:
      ValueError: a name that is unknown, repeated, or mixed with "clean".
    """
    names = weather.split("+")
    if names == ["clean"]:
        return ()
    if set(names) - set(WEATHERS) or len(set(names)) < len(names):
        raise ValueError(
            f"Unknown weather {weather!r}: take 'clean', one of {', '.join(WEATHERS)}, "
            "or different ones of these joined by '+', such as 'rain+haze'."
        )
    return tuple(name for name in WEATHERS if name in names)


def severity_ranges(weather: str) -> dict[str, tuple[float, float]]:
    """The severities of a weather by name, each with the range from which it is drawn.

    A negative draw counts as 0, except for angles and tints: a range that begins below 0 often draws 0.
    """
    parts = parse_weather(weather)
    ranges = dict(_CAMERA) if parts else {}
    for part in reversed(parts):  # the first in the order has the last word: haze decides the veil
        ranges |= _RANGES[part]
    return ranges


def _draw(seed: Array, ranges: dict[str, tuple[float, float]], given: dict) -> dict[str, Array]:
    """Takes each severity from `given`, or draws it from the range there, or else from that in `ranges`.

    A name's draw does not depend on the other names.
    """
    order = sorted({name for part in (*_RANGES.values(), _CAMERA) for name in part})
    draws = cells.uniform(seed, len(order))
    meta = {}
    for name, usual in ranges.items():
        value = given.get(name)
        if value is None or isinstance(value, tuple):
            low, high = value or usual
            value = low + (high - low) * draws[order.index(name)]
            if not name.endswith(("angle", "tint")):
                value = jnp.maximum(value, 0.0)
        meta[name] = jnp.asarray(value, jnp.float32)
    return meta
