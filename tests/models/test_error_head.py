"""The head that says how far off a network is: it must not disturb the network, and must find where the error lies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.evaluation.tiling import observe
from mofme_jax.models import build
from mofme_jax.training.losses import laplace
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.step import make_train_step

SIZES = {"channels": (8,), "depth": 1, "blocks": 0, "width": 16, "heads": 2, "head_dim": 8, "mlp_ratio": 2}


def initialised(**fields):
    model = build("tiny", error_head=True, **SIZES, **fields)
    return model, model.init(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]


def without_head(params):
    return {name: leaf for name, leaf in params.items() if not name.startswith("error_")}


@pytest.mark.parametrize("skip", ["long", "none"])
def test_a_network_restores_the_same_with_it(skip):
    model, params = initialised(skip=skip)
    plain = build("tiny", skip=skip, **SIZES)
    images = jax.random.uniform(jax.random.key(1), (2, 21, 35, 3))
    restored, aux, error = model.apply({"params": params}, images, method="with_error")
    expected, _ = plain.apply({"params": without_head(params)}, images)
    np.testing.assert_array_equal(restored, expected)
    assert error.shape == (2, 21, 35)
    assert len(aux) == 1
    np.testing.assert_allclose(error, 0.05, rtol=1e-5)  # nothing learnt yet
    with pytest.raises(ValueError, match="built without error_head"):
        plain.apply({"params": without_head(params)}, images, method="with_error")


def test_it_learns_where_the_error_is_and_the_network_learns_as_without():
    photographs = np.zeros((4, 32, 32, 6), np.uint8)
    rng = np.random.default_rng(0)
    photographs[..., :3] = 128
    photographs[..., 3:] = 128 + rng.integers(0, 2, (4, 32, 32, 1)) * 2  # the left is right but for a level
    photographs[:, :, 16:, :3] = 200  # the right looks different, and
    photographs[:, :, 16:, 3:] = rng.integers(60, 240, (4, 32, 16, 3))  # nobody can know what is behind it
    ended = {}
    for head in (True, False):
        model = build("tiny", error_head=head, **SIZES)
        optimiser = make_optimiser(lambda step: 3e-3, weight_decay=0.0, b2=0.999, clip_norm=0.1)
        step = jax.jit(
            make_train_step(
                model,
                optimiser,
                lambda a, b: jnp.square(a - b).mean((1, 2, 3)),
                weathers=None,
                clean_share=0.0,
                severity={},
                colour_share=0.0,
                sky_share=0.0,
                decay=0.0,
                router_weights=dict.fromkeys(("importance", "load", "z"), 0.0),
            )
        )
        state = init_state(model, optimiser, jax.random.key(0), 32)
        for _ in range(150):
            state, metrics = step(state, photographs)
        ended[head] = (model, state.params, metrics)
    same = jax.tree.map(np.array_equal, without_head(ended[True][1]), ended[False][1])
    assert all(jax.tree.leaves(same))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), ended[True][2], ended[False][2])

    model, params, _ = ended[True]
    images = photographs[..., :3] / np.float32(255)
    restored, _, error = model.apply({"params": params}, images, method="with_error")
    off = np.abs(np.asarray(restored) - photographs[..., 3:] / 255).mean(-1)
    inner = slice(4, 12), slice(20, 28)  # columns away from the step
    for columns in inner:
        assert np.asarray(error)[:, :, columns].mean() == pytest.approx(off[:, :, columns].mean(), rel=0.25)
    assert off[:, :, inner[1]].mean() > 10 * off[:, :, inner[0]].mean()


def test_the_likelihood_is_best_at_the_mean_error_and_spares_the_restored_image():
    target = jnp.full((1, 8, 8, 3), 0.5)
    restored = target + jnp.asarray(np.random.default_rng(0).normal(0, 0.1, (1, 8, 8, 3)), jnp.float32)
    mean = jnp.abs(restored - target).mean()

    def at(scale):
        return laplace(restored, target, jnp.full((1, 8, 8), mean * scale)).item()

    assert at(1.0) < min(at(0.9), at(1.1))
    assert at(1.0) == pytest.approx(1.0 + float(jnp.log(mean)), rel=1e-5)
    assert not jax.grad(lambda image: laplace(image, target, jnp.full((1, 8, 8), 0.1)).sum())(restored).any()


def test_an_observation_has_the_error_of_every_pixel_without_seams():
    model, params = initialised(window=2, patch=4)
    kernel = params["error_out"]["kernel"]
    params["error_out"]["kernel"] = 0.3 * jax.random.normal(jax.random.key(2), kernel.shape)
    image = np.random.default_rng(0).integers(0, 256, (128, 120, 3), dtype=np.uint8)
    seen = observe(model, params, image, tile=64, passes=2)
    _, _, whole = model.apply({"params": params}, image[None] / np.float32(255), method="with_error")
    np.testing.assert_allclose(seen.error, whole[0], rtol=1e-3)
    assert seen.error.std() > 0.5 * seen.error.mean()  # nowhere the same: a seam would show
    assert seen.spread is not None
    assert seen.uncertainty.shape == (128, 120)
    plain = observe(build("tiny", window=2, patch=4, **SIZES), without_head(params), image, tile=64)
    assert plain.error is None
    np.testing.assert_array_equal(plain.restored, seen.restored)
