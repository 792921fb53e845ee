"""What a network costs, counted another way."""

import jax
import jax.numpy as jnp
import pytest

from mofme_jax import build
from mofme_jax.models.summary import summarise


def count(model):
    params = model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize("feed_forward", ["mofme", "moe"])
def test_used_parameters_are_those_of_a_network_with_the_chosen_experts_alone(feed_forward):
    model = build("tiny", feed_forward=feed_forward, num_experts=6, top_k=2, depth=1)
    found = summarise(model, 32)
    assert found.parameters == count(model)
    routers = 32 * (6 - 2)  # the router asks about every expert
    assert found.used == count(build("tiny", feed_forward=feed_forward, num_experts=2, top_k=2, depth=1)) + routers
    assert found.weight_bytes == 4 * found.parameters
    assert found.work_bytes > 0
    assert found.receptive_field is None
    each = (found.flops_all - found.flops) / 4  # what another expert adds
    assert each == pytest.approx((found.flops_all - summarise(model.clone(num_experts=5), 32).flops_all), rel=1e-3)
    assert found.to_json()["used"] == found.used
    assert f"{found.used:,} ({found.used / found.parameters:.0%})" in found.report()


def test_without_experts_all_is_used():
    found = summarise(build("tiny", feed_forward="dense", window=2, depth=1), 32)
    assert found.used == found.parameters
    assert found.experts == 0
    assert found.flops == found.flops_all
    assert f"{found.receptive_field} pixels on each side" in found.report()
    with pytest.raises(ValueError, match="side=0"):
        summarise(build("tiny"), 0)
