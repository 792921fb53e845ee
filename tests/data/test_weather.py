"""The weather's physics on hand-worked numbers, and what must hold for any key, batch and size."""

from functools import cache, partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.data import cells, drops, precipitation
from mofme_jax.data.depth import pseudo_depth
from mofme_jax.data.light import linear_from_srgb, srgb_from_linear
from mofme_jax.data.weather import WEATHERS, degrade, parse_weather, severity_ranges

MIXTURE = "raindrop+snow+rain+haze"
PAIR = "raindrop+snow"  # both a loop and a lookup in the image
STEP = 1 / 255
DRY = {"beta": 0.0, "noise": 0.0}  # no veil and a perfect sensor


@cache
def compiled(weather):
    return jax.jit(partial(degrade, weather=weather))


def weathered(key, image, weather, **severity):
    if severity:  # the others in the middle of their range: one program per weather, whatever a test gives
        middles = {name: (max(low, 0) + high) / 2 for name, (low, high) in severity_ranges(weather).items()}
        severity = middles | severity
    degraded, meta = compiled(weather)(key, image, **severity)
    return np.asarray(degraded), {name: float(value) for name, value in meta.items()}


def picture(height=45, width=67, seed=0):
    """Smooth colours with an edge, on the 256 levels of an 8-bit file."""
    y, x = np.mgrid[:height, :width] / max(height, width)
    colour = np.stack([0.2 + 0.5 * x, 0.3 + 0.3 * y, 0.5 - 0.3 * x * y], -1)
    colour[:, : width // 3] *= 0.4
    colour += np.random.default_rng(seed).uniform(0, 0.1, colour.shape)
    return jnp.asarray(np.round(colour * 255) / 255, jnp.float32)


def psnr(a, b):
    return -10 * np.log10(np.mean((np.asarray(a) - np.asarray(b)) ** 2) + 1e-12)


# The same key gives the same picture.


def assert_same(a, b):
    """Equal but for float rounding, which may tip a value over to the next of the 256 levels."""
    difference = np.abs(np.asarray(a) - np.asarray(b))
    assert difference.max() <= STEP + 1e-6
    assert (difference > 1e-6).mean() < 1e-3


def test_batch_and_position_do_not_matter():
    keys = jax.random.split(jax.random.key(3), 5)
    images = jnp.stack([picture(32, 32, seed) for seed in range(5)])
    batch = jax.jit(jax.vmap(partial(degrade, weather=PAIR)))
    together, meta = batch(keys, images)
    turned, _ = batch(keys[::-1], images[::-1])
    assert_same(together, turned[::-1])
    for i in (0, 4):
        alone, alone_meta = weathered(keys[i], images[i], PAIR)
        assert_same(together[i], alone)
        for name, value in alone_meta.items():
            np.testing.assert_allclose(meta[name][i], value, rtol=1e-5, err_msg=name)


@pytest.mark.usefixtures("optimised")
def test_compiled_equals_not_compiled():
    key, image, weather = jax.random.key(5), picture(32, 32), "raindrop"
    assert_same(degrade(key, image, weather)[0], weathered(key, image, weather)[0])


def test_keys_of_any_kind_seed():
    """Typed keys, the raw words of one, and keys of a generator with more words."""
    typed = jax.random.key(5)
    seeds = cells.seeds_from_key(typed, 6)
    np.testing.assert_array_equal(seeds, cells.seeds_from_key(jax.random.key_data(typed), 6))
    others = cells.seeds_from_key(jax.random.key(5, impl="rbg"), 6)
    assert len(np.unique(np.concatenate([seeds, others]))) == 12


@pytest.mark.parametrize("weather", WEATHERS)
def test_keys_differ(weather):
    image = picture()
    a, meta_a = weathered(jax.random.key(0), image, weather)
    b, meta_b = weathered(jax.random.key(1), image, weather)
    assert np.abs(a - b).mean() > 0.002
    assert all(meta_a[name] != meta_b[name] for name in severity_ranges(weather) if name != "beta")


# Any size, and always a picture.


@pytest.mark.parametrize(
    ("weather", "size"),
    [(MIXTURE, (45, 67)), (PAIR, (32, 32)), ("haze", (3, 5)), ("raindrop", (1, 1))],
)
def test_any_size_is_a_picture_of_256_levels(weather, size):
    degraded, _ = weathered(jax.random.key(1), picture(*size), weather)
    assert degraded.shape == (*size, 3)
    assert degraded.dtype == np.float32
    assert degraded.min() >= 0
    assert degraded.max() <= 1
    np.testing.assert_allclose(degraded * 255, np.round(degraded * 255), atol=1e-3)


@pytest.mark.parametrize("level", [0.0, 1.0])
def test_black_and_white_stay_in_range(level):
    degraded, meta = weathered(jax.random.key(2), jnp.full((45, 67, 3), level, jnp.float32), MIXTURE)
    assert np.isfinite(degraded).all()
    assert np.isfinite(list(meta.values())).all()
    assert degraded.min() >= 0
    assert degraded.max() <= 1


@pytest.mark.parametrize("weather", [*WEATHERS, "rain+haze"])
def test_meta_names_what_was_drawn_within_its_range(weather):
    for seed in range(3):
        _, meta = weathered(jax.random.key(seed), picture(), weather)
        assert set(meta) == {*severity_ranges(weather), "transmission"}
        for name, (low, high) in severity_ranges(weather).items():
            assert low <= meta[name] <= high, name


# Physics.


def test_haze_is_koschmieder_on_hand_worked_numbers():
    """J = 0.2140 (sRGB 0.5), t = exp(-0.8 * 0.5) = 0.67032, A = 0.9: I = 0.44019 in light, sRGB 0.69558.

    0.2140411 * 0.6703200 = 0.1434761; 0.9 * 0.3296800 = 0.2967120; sum 0.4401881;
    1.055 * 0.4401881^(1/2.4) - 0.055 = 0.694 (to the nearest of 256 levels, 177).
    """
    constant = jnp.full((45, 67, 3), 0.5, jnp.float32)
    depth = jnp.full((45, 67), 0.5, jnp.float32)
    severity = {"beta": 0.8, "airlight": 0.9, "airlight_tint": 0.0, "noise": 0.0}
    hazy, meta = weathered(jax.random.key(0), constant, "haze", depth=depth, **severity)
    assert meta["transmission"] == pytest.approx(0.67032, abs=1e-5)
    np.testing.assert_allclose(hazy, 177 / 255, atol=1e-6)


def test_tint_of_the_airlight_reddens_it():
    severity = {"beta": 50.0, "airlight": 0.8, "airlight_tint": 0.04, "noise": 0.0, "depth": jnp.ones((45, 67))}
    hazy, _ = weathered(jax.random.key(0), jnp.zeros((45, 67, 3)), "haze", **severity)
    expected = srgb_from_linear(jnp.array([0.832, 0.8, 0.768]))
    np.testing.assert_allclose(hazy[4, 4], expected, atol=STEP / 2 + 1e-6)


def test_light_and_srgb_are_inverse_and_meet_the_standard():
    values = jnp.arange(256) / 255
    np.testing.assert_allclose(srgb_from_linear(linear_from_srgb(values)), values, atol=2e-6)
    known = linear_from_srgb(jnp.array([0.0, 0.04045, 0.5, 1.0]))
    np.testing.assert_allclose(known, [0.0, 0.0031308, 0.2140411, 1.0], atol=1e-6)


@pytest.mark.parametrize(
    ("weather", "severity"),
    [
        ("haze", {}),
        ("rain", {"rain_density": 0.0}),
        ("rain", {"rain_strength": 0.0}),
        ("snow", {"snow_density": 0.0}),
        ("raindrop", {"drop_density": 0.0}),
    ],
)
def test_nothing_is_left_of_weather_of_no_strength(weather, severity):
    image = picture()
    dry = DRY if weather != "raindrop" else {"noise": 0.0}
    degraded, meta = weathered(jax.random.key(4), image, weather, **dry, **severity)
    np.testing.assert_allclose(degraded, image, atol=1e-6)
    assert meta["transmission"] == 1


def test_clean_is_the_input_itself():
    image = picture()
    degraded, meta = degrade(jax.random.key(0), image, "clean")
    assert degraded is image
    assert meta == {}


def test_rain_without_veil_only_brightens():
    image = picture()
    rainy, _ = weathered(jax.random.key(7), image, "rain", **DRY, rain_density=0.7)
    change = rainy - np.asarray(image)
    assert change.min() > -1e-6
    assert 0.02 < (change > STEP / 2).mean() < 0.9  # streaks, neither nothing nor a sheet


def test_snow_never_darkens_what_is_darker_than_the_flakes():
    image = picture()  # no value above 0.9
    snowy, _ = weathered(jax.random.key(8), image, "snow", **DRY, snow_light=0.9, snow_density=1.0)
    change = snowy - np.asarray(image)
    assert change.min() > -1e-6
    assert 0.02 < (change > STEP / 2).mean() < 0.9
    assert snowy.max() <= float(srgb_from_linear(jnp.float32(0.9))) + STEP


def test_glass_shows_the_scene_itself_where_it_is_dry_and_turned_over_where_it_is_wet():
    light = jnp.linspace(0, 1, 64)[:, None, None] * jnp.ones((64, 64, 3))  # dark above, bright below
    y, _ = cells.pixel_grid(64, 64)
    rise = jnp.broadcast_to((y - 31.5) / 10, (64, 64))
    wet = (jnp.abs(y - 31.5) < 8).astype(jnp.float32) * jnp.ones((64, 64))
    glass = drops.Glass(wet, rise, rise * 0 + 9.0, wet)  # far to the right of the middle: no highlight
    seen = jax.jit(partial(drops.look_through, view=30.0))(light, glass)
    np.testing.assert_array_equal(seen[:20], light[:20])
    # k = view / radius - 1 = 2: a step down in the drop is two steps up in the scene.
    slope = np.diff(np.asarray(seen[28:36, 32, 0]))
    np.testing.assert_allclose(slope, -2 / 63, rtol=0.05)
    np.testing.assert_allclose(seen[31:33, 32, 0].mean(), light[31:33, 32, 0].mean(), atol=0.01)


def test_raindrops_leave_dry_pixels_alone():
    image = picture()
    seen, meta = weathered(jax.random.key(9), image, "raindrop", noise=0.0, drop_density=0.6, drop_size=14.0)
    changed = (np.abs(seen - np.asarray(image)) > 1e-6).any(-1)
    assert 0.05 < changed.mean() < 0.7
    assert meta["transmission"] == 1


# Fields without seams: what outgrows its cells is cut off, and no closer look makes that jump smaller.


def steepest(field):
    return max(float(jnp.abs(jnp.diff(field, axis=axis)).max()) for axis in (-2, -1))


def test_flakes_have_no_seams():
    @partial(jax.jit, static_argnums=1)
    @partial(jax.vmap, in_axes=(0, None))
    def flakes(seed, zoom):
        severity = {"density": 3.0, "size": 18.0 * zoom, "angle": 0.7, "drift": 1.2}
        return precipitation.snow_opacity(seed, 128 * zoom, 128 * zoom, **severity)

    seeds = jnp.arange(6, dtype=jnp.uint32)
    far, near = flakes(seeds, 1), flakes(seeds, 4)
    np.testing.assert_allclose(far[:, ::8, ::8], near[:, ::32, ::32], atol=1e-3)  # indeed the same flakes
    assert far.max() > 0.5
    assert steepest(near) < 0.35 * steepest(far)


def test_drops_have_no_seams():
    @partial(jax.jit, static_argnums=1)
    @partial(jax.vmap, in_axes=(0, None))
    def water(seed, zoom):
        severity = {"density": 2.0, "size": 20.0 * zoom, "blur": 5.0 * zoom}
        return drops.wet_glass(seed, 128 * zoom, 128 * zoom, **severity).cover

    seeds = jnp.arange(6, dtype=jnp.uint32)
    far, near = water(seeds, 1), water(seeds, 4)
    np.testing.assert_allclose(far[:, ::8, ::8], near[:, ::32, ::32], atol=1e-3)
    assert far.max() == 1
    assert steepest(near) < 0.35 * steepest(far)


@pytest.mark.parametrize("angle", [-0.4, 0.0, 0.4])
def test_streaks_lie_along_the_fall(angle):
    field = partial(precipitation.rain_streaks, jnp.uint32(3), 256, 256)
    field = np.asarray(jax.jit(field)(density=0.5, length=80.0, angle=angle, strength=1.0))
    down, aside = round(8 * np.cos(angle)), round(8 * np.sin(angle))
    middle = field[16:-16, 16:-16]

    def change(dy, dx):
        return np.abs(middle - field[16 + dy : 240 + dy, 16 + dx : 240 + dx]).mean()

    assert change(down, aside) < 0.7 * change(aside, -down)  # 8 pixels along the fall against 8 across it


def test_hash_is_uniform_and_its_neighbours_unrelated():
    y, x = cells.pixel_grid(128, 128)
    _, _, bits = cells.cell(y + 0.5, x + 0.5, jnp.uint32(1), 0, 0)
    for part in cells.quarters(bits):
        part = np.asarray(part)
        assert abs(part.mean() - 0.5) < 0.01
        assert abs(part.std() - 12**-0.5) < 0.01
        for shifted in (part[1:] * part[:-1], part[:, 1:] * part[:, :-1]):
            assert abs(shifted.mean() - 0.25) < 0.01


# Depth.


def test_pseudo_depth_of_crops_is_all_near_all_far_and_between():
    draw = jax.jit(jax.vmap(pseudo_depth, (0, None)))
    seeds = jnp.arange(64, dtype=jnp.uint32) * 977
    depth = np.asarray(draw(seeds, picture(32, 32)))
    assert depth.min() >= 0
    assert depth.max() <= 1
    means = depth.mean((1, 2))
    assert means.min() < 0.25
    assert means.max() > 0.65
    assert ((means > 0.35) & (means < 0.6)).any()


def test_pseudo_depth_of_a_photograph_grows_upwards():
    draw = jax.jit(jax.vmap(pseudo_depth, (0, None)))
    depth = np.asarray(draw(jnp.arange(16, dtype=jnp.uint32) * 977, jnp.full((320, 400, 3), 0.4)))
    higher = depth[:, :80].mean((1, 2)) > depth[:, -80:].mean((1, 2))
    assert higher.mean() > 0.8


# Severities and names.


@pytest.mark.parametrize(
    ("weather", "name", "values"),
    [
        ("haze", "beta", (0.2, 0.6, 1.5)),
        ("rain", "rain_density", (0.1, 0.4, 0.9)),
        ("rain", "rain_strength", (0.3, 0.8, 1.5)),
        ("snow", "snow_density", (0.1, 0.5, 1.0)),
        ("raindrop", "drop_density", (0.2, 0.6, 1.0)),
        ("raindrop", "noise", (0.0, 0.02, 0.1)),
    ],
)
def test_more_of_it_is_worse(weather, name, values):
    image = picture()
    others = {"noise": 0.0} | ({"beta": 0.0} if weather in ("rain", "snow") else {})
    if name == "noise":
        others = {"drop_density": 0.2}
    scores = [psnr(weathered(jax.random.key(6), image, weather, **others | {name: v})[0], image) for v in values]
    assert scores == sorted(scores, reverse=True)
    assert scores[0] - scores[-1] > 1.5


def test_a_mixture_is_drops_over_what_falls_in_any_order_of_names():
    key, image = jax.random.key(11), picture()
    falling, wet = {"beta": 0.0, "rain_density": 0.7}, {"noise": 0.0, "drop_density": 1.0, "drop_size": 14.0}
    both, _ = weathered(key, image, "raindrop+rain", **falling, **wet)
    turned, _ = weathered(key, image, "rain+raindrop", **falling, **wet)
    np.testing.assert_array_equal(both, turned)
    rain, _ = weathered(key, image, "rain", noise=0.0, **falling)
    drops_over_rain, _ = weathered(key, jnp.asarray(rain), "raindrop", **wet)
    glass, _ = weathered(key, image, "raindrop", **wet)
    rain_over_drops, _ = weathered(key, jnp.asarray(glass), "rain", noise=0.0, **falling)
    # Only the rounding to eight bits between the two sets drops over rain apart.
    assert np.abs(both - drops_over_rain).mean() < 0.2 * np.abs(both - rain_over_drops).mean()


def test_haze_decides_the_veil_of_a_mixture():
    assert severity_ranges("rain+haze")["beta"] == severity_ranges("haze")["beta"]
    assert severity_ranges("snow+rain")["beta"] == severity_ranges("rain")["beta"]
    assert parse_weather("raindrop+rain") == ("rain", "raindrop")


@pytest.mark.parametrize("weather", ["fog", "", "rain+", "rain+rain", "clean+rain", "Rain"])
def test_unknown_weather_names_the_known(weather):
    with pytest.raises(ValueError, match="haze, rain, snow, raindrop"):
        degrade(jax.random.key(0), picture(), weather)


def test_unknown_severity_names_the_known():
    with pytest.raises(ValueError, match=r"no severity drop_size.*rain_density"):
        degrade(jax.random.key(0), picture(), "rain", drop_size=3.0)
    with pytest.raises(ValueError, match="no severity beta"):
        degrade(jax.random.key(0), picture(), "clean", beta=1.0)


def test_what_is_no_image_is_refused():
    with pytest.raises(ValueError, match="vmap"):
        degrade(jax.random.key(0), jnp.zeros((2, 8, 8, 3)), "rain")
    with pytest.raises(ValueError, match="floats"):
        degrade(jax.random.key(0), jnp.zeros((8, 8, 3), jnp.uint8), "rain")
    with pytest.raises(ValueError, match="depth"):
        degrade(jax.random.key(0), jnp.zeros((8, 8, 3)), "haze", depth=jnp.zeros((8, 9)))
