"""One step: the weather it deals out, what it changes, what it measures."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mofme_jax.data.weather import degrade
from mofme_jax.models import build
from mofme_jax.training import losses
from mofme_jax.training.state import before_bad_steps, ema_decay, init_state, make_optimiser
from mofme_jax.training.step import make_train_step, mean_psnr, micro_batches, put_weather, router_terms
from tests.fakes import Gain

KEY = jax.random.key(5)
LEAST = dict(channels=(4,), blocks=0, depth=1, width=16, heads=1, tail_channels=4)
IMAGES = jax.random.uniform(jax.random.key(1), (4, 20, 20, 3))
put = jax.jit(partial(put_weather, severity={}), static_argnums=(2, 3))
init = jax.jit(init_state, static_argnums=(0, 1, 3))


def weathered(*arguments):
    return put(*arguments)[0]


@pytest.fixture(scope="module")
def hazy():
    return weathered(KEY, IMAGES, ("haze", "clean"), 0.0)


def test_each_place_gets_its_weather_by_its_own_key(hazy):
    for i, name in enumerate(("haze", "clean", "haze", "clean")):
        expected, _ = jax.jit(degrade, static_argnums=2)(jax.random.fold_in(KEY, i), IMAGES[i], name)
        # weather is rounded to 8 bits; compiled alone or in a batch, a value may fall to the other side
        np.testing.assert_allclose(hazy[i], expected, atol=1.01 / 255)
    assert not np.allclose(hazy[0], IMAGES[0], atol=0.02)
    np.testing.assert_array_equal(hazy[1::2], IMAGES[1::2])


def test_what_was_drawn_is_told():
    images, drawn = put(KEY, IMAGES, ("haze", "clean"), 0.5)
    for i in range(4):
        weather = ("haze", "clean")[i % 2]
        _, expected = jax.jit(degrade, static_argnums=2)(jax.random.fold_in(KEY, i), IMAGES[i], weather)
        told = {name: values[i // 2] for name, values in drawn["severities"][i % 2].items()}
        assert told.keys() == expected.keys()
        for name, value in expected.items():
            np.testing.assert_allclose(told[name], value, rtol=1e-5)
    same = np.asarray((images == IMAGES).all(axis=(1, 2, 3)))
    np.testing.assert_array_equal(drawn["stays_clean"][::2], same[::2])


def test_a_picture_does_not_depend_on_the_batch_around_it(hazy):
    np.testing.assert_allclose(weathered(KEY, IMAGES[:2], ("haze", "clean"), 0.0), hazy[:2], atol=1.01 / 255)
    other_key = weathered(jax.random.key(6), IMAGES, ("haze", "clean"), 0.0)
    assert not np.allclose(other_key[0], hazy[0], atol=0.02)


def test_bounds_hold_for_the_weathers_that_have_them():
    bounds = {"beta": (2.5, 3.0), "rain_strength": (4.0, 4.0)}
    usual = put(KEY, IMAGES, ("haze", "rain"), 0.0)[1]["severities"]
    haze, rain = jax.jit(partial(put_weather, severity=bounds), static_argnums=(2, 3))(
        KEY, IMAGES, ("haze", "rain"), 0.0
    )[1]["severities"]
    for drawn in (haze["beta"], rain["beta"]):
        assert ((drawn >= 2.5) & (drawn <= 3.0)).all()
        assert drawn[0] != drawn[1]
    np.testing.assert_array_equal(rain["rain_strength"], 4.0)
    for name in set(haze) - {"transmission", *bounds}:
        np.testing.assert_array_equal(haze[name], usual[0][name])


def test_clean_share_is_the_chance_of_no_weather():
    images = jnp.broadcast_to(IMAGES[:1], (64, 20, 20, 3))

    def stayed(share):
        same = weathered(KEY, images, ("haze",), share) == images
        return np.asarray(same.all(axis=(1, 2, 3)))

    assert stayed(1.0).all()
    assert not stayed(0.0).any()
    assert 0.25 < stayed(0.5).mean() < 0.75  # 64 fair coins: outside once in 60,000


def train_step(image_loss=losses.smooth_l1, decay=0.5, learning_rate=0.1, **kwargs):
    """A compiled step on pairs of the one-number model, and its first state."""
    optimiser = make_optimiser(optax.constant_schedule(learning_rate), weight_decay=0.0, b2=0.999, clip_norm=None)
    settings = dict(
        weathers=None,
        clean_share=0.0,
        severity={},
        colour_share=0.0,
        sky_share=0.0,
        decay=decay,
        router_weights={"importance": 0.0, "load": 0.0, "z": 0.0},
    )
    step = make_train_step(Gain(), optimiser, image_loss, **settings | kwargs)
    return jax.jit(step), init(Gain(), optimiser, jax.random.key(0), 16)


def pairs(degraded, target, shape=(2, 16, 16, 3)):
    """uint8 (B, H, W, 6) of two constant grey levels."""
    return np.concatenate([np.full(shape, degraded, np.uint8), np.full(shape, target, np.uint8)], axis=-1)


def test_a_step_on_hand_worked_numbers():
    # gain 1, degraded 51/255 = 0.2, target 102/255 = 0.4: smooth L1 is 0.2^2 / 2, its slope in the gain
    # -0.2 * 0.2; Adam's first step is 0.1 against the slope, the average goes 1 - 1/10 of the way (decay 1/10)
    step, state = train_step()
    state, metrics = step(state, pairs(51, 102))
    np.testing.assert_allclose(metrics["loss"], 0.02, rtol=1e-4)
    np.testing.assert_allclose(metrics["grad_norm"], 0.04, rtol=1e-4)
    np.testing.assert_allclose(metrics["psnr_rgb"], -10 * np.log10(0.04 + 1e-6), rtol=1e-5)
    np.testing.assert_allclose(metrics["psnr_rgb_input"], metrics["psnr_rgb"], rtol=1e-6)
    np.testing.assert_allclose(state.params["gain"], 1.1, rtol=1e-5)
    np.testing.assert_allclose(state.ema["gain"], 0.1 * 1.0 + 0.9 * 1.1, rtol=1e-5)
    assert int(state.step) == 1


def test_the_average_follows_its_formula_for_many_steps():
    step, state = train_step(decay=0.3)
    average = 1.0
    for n in range(5):
        state, _ = step(state, pairs(51, 102))
        keep = float(ema_decay(n, 0.3))
        average = keep * average + (1 - keep) * float(state.params["gain"])
    np.testing.assert_allclose(state.ema["gain"], average, rtol=1e-5)
    assert keep == pytest.approx(0.3)  # by then the decay is the one asked for


def test_a_step_with_nan_gradients_changes_no_parameter():
    def nan_for_white(restored, target):
        return losses.smooth_l1(restored, target) * jnp.where(target.mean() > 0.9, jnp.nan, 1.0)

    step, state = train_step(nan_for_white)
    state, _ = step(state, pairs(51, 102))
    good = jax.device_get(state)
    for count in (1, 2):
        after, metrics = step(state, pairs(51, 255))
        assert int(metrics["bad_steps"]) == count
        np.testing.assert_array_equal(after.params["gain"], state.params["gain"])
        np.testing.assert_array_equal(after.ema["gain"], state.ema["gain"])
        state = after
    assert int(state.step) == 3
    jax.tree.map(np.testing.assert_array_equal, before_bad_steps(state), good)
    moved, metrics = step(state, pairs(51, 102))
    assert int(metrics["bad_steps"]) == 0
    assert float(moved.params["gain"]) > float(state.params["gain"])


def test_everything_random_comes_from_the_run_s_key_and_the_step():
    step, state = train_step(weathers=("clean",), colour_share=0.5, learning_rate=1e-3)
    state = state.replace(params={"gain": jnp.float32(0.8)})  # so that the colours show in the figures
    photographs = np.asarray(IMAGES * 255).astype(np.uint8)
    _, first = step(state, photographs)
    _, again = step(state, photographs)
    _, later = step(state.replace(step=state.step + 1), photographs)
    _, other = step(state.replace(key=state.key + 1), photographs)
    assert float(first["loss"]) == float(again["loss"])
    assert len({float(m["loss"]) for m in (first, later, other)}) == 3


def coarse_pairs():
    """(4, 24, 24, 6) uint8: pictures of 4 x 4 blocks behind a veil, and without."""
    target = np.random.default_rng(0).integers(0, 256, (4, 4, 4, 3)).repeat(6, 1).repeat(6, 2)
    return np.concatenate([target // 2 + 90, target], axis=-1).astype(np.uint8)


def trained(model, steps, accumulate=1):
    """The losses of some steps on `coarse_pairs`, and the last state."""
    optimiser = make_optimiser(optax.constant_schedule(3e-3), weight_decay=0.0, b2=0.999, clip_norm=1.0)
    step = make_train_step(
        model,
        optimiser,
        losses.rmse,
        weathers=None,
        clean_share=0.0,
        severity={},
        colour_share=0.0,
        sky_share=0.0,
        decay=0.9,
        router_weights={"importance": 0.0, "load": 0.0, "z": 0.1},
        accumulate=accumulate,
    )
    step, state, found = jax.jit(step), init(model, optimiser, jax.random.key(0), 16), []
    for _ in range(steps):
        state, metrics = step(state, coarse_pairs())
        found.append(jax.device_get(metrics))
    return found, state


@pytest.fixture(scope="module")
def whole():
    return trained(build("tiny", **LEAST), 40)


def test_micro_batches_make_the_same_step(whole):
    parts, _ = trained(build("tiny", **LEAST), 4, accumulate=4)
    for a, b in zip(whole[0], parts, strict=False):
        for name in ("loss", "psnr_rgb", "psnr_rgb_input", "grad_norm"):
            np.testing.assert_allclose(b[name], a[name], rtol=1e-4)  # sums are taken in another order


def test_every_micro_batch_has_every_weather_from_every_device():
    images = np.arange(12)  # on two devices, three groups of two weathers each
    np.testing.assert_array_equal(micro_batches(images, 3, 2), [[0, 1, 6, 7], [2, 3, 8, 9], [4, 5, 10, 11]])


def test_bfloat16_learns_as_float32_does(whole):
    model = build("tiny", **LEAST, dtype="bfloat16")
    found, state = trained(model, 40)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves((state.params, state.ema)))
    first, last = whole[0][0]["loss"], np.median([m["loss"] for m in whole[0][-8:]])
    assert last < 0.5 * first  # so there is something to be equal in
    np.testing.assert_allclose(found[0]["loss"], first, rtol=1e-2)
    np.testing.assert_allclose(np.median([m["loss"] for m in found[-8:]]), last, atol=0.05 * first)


def test_psnr_of_a_batch_is_the_mean_over_its_images():
    target = jnp.zeros((2, 4, 4, 3))
    images = jnp.stack([jnp.full((4, 4, 3), 0.1), jnp.full((4, 4, 3), 7.0)])  # clipped to 1: 0 dB
    np.testing.assert_allclose(mean_psnr(images, target), (20.0 + 0.0) / 2, atol=1e-3)


def test_router_terms_are_the_weighted_mean_over_layers():
    class Routing:
        def __init__(self, key):
            self.logits = jax.random.normal(key, (2, 3, 4, 4))
            self.probs = jax.nn.softmax(self.logits)
            self.gates = jnp.where(self.probs == self.probs.max(-1, keepdims=True), self.probs, 0.0)

    layers = tuple(map(Routing, jax.random.split(KEY)))
    flat = [{n: getattr(r, n).reshape(-1, 4) for n in ("gates", "probs", "logits")} for r in layers]
    expected = np.mean([
        2.0 * losses.importance_loss(r["gates"]) + 3.0 * losses.load_loss(r["probs"], r["gates"])
        + 5.0 * losses.z_loss(r["logits"]) for r in flat
    ])  # fmt: skip
    terms = router_terms(layers, {"importance": 2.0, "load": 3.0, "z": 5.0})
    np.testing.assert_allclose(terms, expected, rtol=1e-5)
    assert float(router_terms(layers, {"importance": 0.0, "load": 0.0, "z": 0.0})) == 0.0
    assert float(router_terms((), {"importance": 1.0, "load": 1.0, "z": 1.0})) == 0.0
