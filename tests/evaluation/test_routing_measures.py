"""Figures of routings that are known by hand, and of the least networks."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from mofme_jax.evaluation.routing_measures import (
    information_and_chance,
    jaccard,
    lead_share,
    leading_experts,
    load_entropy,
    margin,
    measure_routing,
    mutual_information,
    seed_agreement,
)
from mofme_jax.models import build
from mofme_jax.models.router import Routing, select
from mofme_jax.models.router_heads import entropy

DARK, LIGHT = 0.25, 0.75


class Known(nn.Module):
    """Expert 0 leads in dark tokens and 1 in light ones; the other is second, or 2 where the token is rough."""

    @nn.compact
    def __call__(self, images, train=False):
        b, h, w, _ = images.shape
        tokens = images.reshape(b, h // 4, 4, w // 4, 4, 3)
        light, rough = (tokens.mean((2, 4, 5)) > 0.5).astype(int), tokens.std((2, 4, 5)) > 0.028
        second = jnp.where(rough, 2, 1 - light)
        probs = 0.1 + 0.5 * jax.nn.one_hot(light, 3) + 0.2 * jax.nn.one_hot(second, 3)
        gates, chosen = select(probs.reshape(-1, 3), 2, "softmax_topk")
        gates, chosen = gates.reshape(probs.shape), chosen.reshape(*probs.shape[:3], 2)
        load = jnp.bincount(chosen.ravel(), length=3) / chosen.size
        return images, (Routing(gates, chosen, probs, jnp.log(probs), entropy(probs), 0.1 * light, load),)


def plain(*values):
    """(B, 8, 12, 3) images of one value each."""
    return np.broadcast_to(np.array(values, np.float32)[:, None, None, None], (len(values), 8, 12, 3))


def least(**fields):
    """The least network with routers, and parameters that make it choose."""
    fields = dict(channels=(4,), blocks=0, depth=2, width=16, heads=1, num_experts=4, top_k=2) | fields
    model = build("tiny", **fields)
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"])
    return model, jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape, np.float32), shapes)


@pytest.mark.parametrize(
    ("shares", "expected"), [([0.5, 0.5], 1), ([1, 0], 0), ([0.5, 0.5, 0, 0], 0.5), ([0.25] * 4, 1), ([1.0], 1)]
)
def test_load_entropy_by_hand(shares, expected):
    assert load_entropy(np.array(shares)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("shares", "bits"),
    [
        ([[0.3, 0.7], [0.3, 0.7]], 0),
        (np.eye(2), 1),
        (np.eye(4), 2),
        # the mean row is (3/4, 1/4): log2 4/3 for the one row, (log2 2/3 + log2 2) / 2 for the other
        ([[1, 0], [0.5, 0.5]], (np.log2(4 / 3) + np.log2(4 / 3) / 2) / 2),
    ],
)
def test_mutual_information_by_hand(shares, bits):
    assert mutual_information(np.array(shares, float)) == pytest.approx(bits)


def test_chance_is_told_from_what_experts_know():
    knows = np.eye(2)[[0, 1] * 8]
    bits, by_chance, chance_95 = information_and_chance(knows, np.array(["haze", "snow"] * 8))
    assert bits == pytest.approx(1.0)
    assert by_chance < chance_95 < 0.5
    # a weather has half of its images led by either expert: nothing is known, and chance alone gives something
    bits, by_chance, _ = information_and_chance(knows, np.array([7, 7, 9, 9] * 4))
    assert (bits, by_chance > 0) == (pytest.approx(0), True)
    # one image a group leaves nothing to shuffle
    assert information_and_chance(knows[:2], np.array([0, 1]), np.array([5, 6])) == pytest.approx((1, 1, 1))
    assert information_and_chance(knows, np.zeros(16)) == pytest.approx((0, 0, 0))


def test_jaccard_by_hand():
    a = np.array([[0, 1], [0, 1], [0, 1]])
    assert jaccard(a, a[:, ::-1]) == 1  # sets: the order is nothing
    assert jaccard(a, np.array([[0, 1], [2, 0], [2, 3]])) == pytest.approx((1 + 1 / 3 + 0) / 3)
    assert jaccard(a[:, :1], np.array([[0], [0], [2]])) == pytest.approx(2 / 3)


def test_lead_and_margin_by_hand():
    gates = jnp.array([[0.6, 0.0, 0.2], [-0.5, 0.5, 0.0]])  # weights of the paper head are signed
    assert lead_share(gates, jnp.array([[0, 2], [1, 0]])) == pytest.approx((0.75 + 0.5) / 2)
    assert lead_share(jnp.zeros((1, 2)), jnp.array([[0, 1]])) == 0
    probs = np.array([[0.1, 0.6, 0.3], [0.2, 0.5, 0.3]])
    assert margin(probs, 1) == pytest.approx((0.3 + 0.2) / 2)
    assert margin(probs, 2) == pytest.approx((0.2 + 0.1) / 2)
    assert margin(probs, 3) is None


def test_every_figure_of_a_known_routing():
    # noise of 0.01 leaves every token smooth; 0.06 of the rms makes light ones rough; 0.2 makes all of them
    found = measure_routing(Known(), {}, plain(DARK, LIGHT, DARK, LIGHT), [3, 8, 3, 8], noise=(0.01, 0.06, 0.2))
    (layer,) = json.loads(json.dumps(found))["layers"]
    assert layer["stability"] == pytest.approx({"0.01": 1, "0.06": 2 / 3, "0.2": 1 / 3})
    assert layer["repeatability"] == 1
    assert layer["load"] == pytest.approx([0.5, 0.5, 0])
    assert layer["load_entropy"] == pytest.approx(np.log(2) / np.log(3))
    p = np.array([0.6, 0.3, 0.1])
    assert layer["gate_entropy"] == pytest.approx(-(p * np.log(p)).sum() / np.log(3))
    assert (layer["lead"], layer["margin"]) == pytest.approx((2 / 3, 0.2))
    assert layer["uncertainty"] == pytest.approx(0.05)
    information = layer["information"]
    assert information["bits"] == pytest.approx(1)
    # of six ways to deal two weathers to four images, two tell all and four nothing
    assert information["by_chance"] == pytest.approx(1 / 3, abs=0.05)
    assert information["chance_95"] == pytest.approx(1)


def test_the_same_seed_gives_the_same_figures():
    model, params = least(router="stochastic", router_dropout=0.4)
    images = np.random.default_rng(0).random((2, 16, 24, 3), np.float32)
    found = measure_routing(model, params, images, [0, 1], noise=(0.1,))
    assert found == measure_routing(model, params, images, [0, 1], noise=(0.1,))
    assert found != measure_routing(model, params, images, [0, 1], noise=(0.1,), seed=1)
    assert len(found["layers"]) == 2
    for layer in found["layers"]:
        assert 0 < layer["repeatability"] < 1  # the keys draw other masks
        assert layer["uncertainty"] > 0


def test_a_head_that_draws_nothing_repeats_itself():
    model, params = least(router="linear")
    images = np.random.default_rng(0).random((1, 16, 16, 3), np.float32)
    for layer in measure_routing(model, params, images, [0], noise=(1e-9, 1.0))["layers"]:
        assert (layer["repeatability"], layer["uncertainty"], layer["stability"]["1e-09"]) == (1, 0, 1)
        assert layer["stability"]["1"] < 1


def test_all_experts_chosen_leave_no_margin():
    model, params = least(num_experts=2)
    (layer, _) = measure_routing(model, params, plain(LIGHT), [0], noise=(0.1,))["layers"]
    assert (layer["margin"], layer["stability"], layer["load"]) == (None, {"0.1": 1}, [0.5, 0.5])


def test_leading_experts_are_those_of_the_batch():
    np.testing.assert_array_equal(
        leading_experts(Known(), {}, plain(LIGHT, DARK)), [[np.ones((2, 3)), np.zeros((2, 3))]]
    )
    model, params = least()
    images = np.random.default_rng(0).random((3, 16, 24, 3), np.float32)
    _, aux = jax.jit(model.apply)({"params": params}, images)
    leading = leading_experts(model, params, images)
    assert leading.shape == (2, 3, 2, 3)
    np.testing.assert_array_equal(leading, np.stack([layer.chosen[..., 0] for layer in aux]))
    assert len(np.unique(leading)) > 1


def test_networks_agree_up_to_renaming():
    rng = np.random.default_rng(0)
    a = rng.integers(0, 4, (2, 3, 20, 20))
    assert seed_agreement(a, np.array([2, 0, 3, 1])[a]) == pytest.approx(1)
    assert seed_agreement(a, rng.integers(0, 4, a.shape)) == pytest.approx(0, abs=0.01)
    half = np.stack([a[0], np.zeros_like(a[1])])  # one layer agrees, the other knows one expert alone
    assert seed_agreement(a, half) == pytest.approx(0.5, abs=0.01)
    with pytest.raises(ValueError, match="one shape"):
        seed_agreement(a, a[:1])


def test_a_network_without_routers_has_no_figures():
    model, params = least(feed_forward="dense")
    assert measure_routing(model, params, plain(LIGHT), [0], noise=(0.1,)) == {"layers": []}
    with pytest.raises(ValueError, match="no experts"):
        leading_experts(model, params, plain(LIGHT))


@pytest.mark.parametrize(
    ("images", "labels", "noise", "said"),
    [
        (plain(LIGHT)[0], [0], (0.1,), "images must be"),
        (plain(LIGHT)[:0], [], (0.1,), "at least one image"),
        (plain(LIGHT), [0, 1], (0.1,), r"labels must be \(1,\)"),
        (plain(LIGHT), [0], (0.0,), "above 0"),
    ],
)
def test_what_cannot_be_measured_is_named(images, labels, noise, said):
    with pytest.raises(ValueError, match=said):
        measure_routing(Known(), {}, images, labels, noise=noise)
