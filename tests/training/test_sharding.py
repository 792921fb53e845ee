"""The mesh, and where each array of a state goes: all but the last test need no devices."""

from types import SimpleNamespace

import jax
import numpy as np
import optax
import pytest
from jax.sharding import AbstractMesh, AxisType, PartitionSpec

from mofme_jax.models import build
from mofme_jax.training import sharding
from mofme_jax.training.state import init_state, make_optimiser


def devices(processes, each):
    """Stand-ins in another order than theirs, as a TPU slice may give them."""
    found = [SimpleNamespace(process_index=p, id=8 * p + i) for p in range(processes) for i in range(each)]
    return found[::-1]


def shape(groups, processes=1, each=8, **sizes):
    made = []

    def mesh(places, names, axis_types):
        assert names == ("data", "fsdp", "expert")
        made.append(places)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sharding, "Mesh", mesh)
        sharding.make_mesh(groups, **sizes, devices=devices(processes, each))
    return made[0]


@pytest.mark.parametrize(
    ("groups", "sizes", "expected"),
    [
        (8, {}, (8, 1, 1)),
        (2, {}, (2, 1, 1)),  # a lone process leaves devices idle rather than fail
        (3, {}, (3, 1, 1)),
        (8, {"fsdp": 4}, (2, 4, 1)),
        (4, {"fsdp": 4}, (1, 4, 1)),
        (8, {"expert": 2}, (4, 1, 2)),
        (8, {"data": 2, "fsdp": 2}, (2, 2, 1)),
    ],
)
def test_the_mesh_takes_what_divides_the_batch(groups, sizes, expected):
    assert shape(groups, **sizes).shape == expected


@pytest.mark.parametrize("sizes", [{}, {"fsdp": 4}, {"fsdp": 8}, {"expert": 2}, {"fsdp": 2, "expert": 4}])
def test_the_rows_of_a_process_lie_together_in_the_order_of_the_processes(sizes):
    places = shape(8, processes=2, each=4, **sizes)
    owners = np.vectorize(lambda device: device.process_index)(places).reshape(-1, places.shape[2])
    assert (owners == owners[:, :1]).all()  # all experts' devices of a row
    rows = owners[:, 0]
    np.testing.assert_array_equal(rows, np.repeat([0, 1], len(rows) // 2))


@pytest.mark.parametrize(
    ("groups", "processes", "sizes", "message"),
    [
        (8, 1, {"fsdp": 16}, "config.mesh.fsdp=16 x config.mesh.expert=1 need 16 devices; there are 8 "),
        (8, 1, {"data": 3, "fsdp": 4}, "config.mesh.data=3 x .* need 12 devices; there are 8"),
        (6, 1, {"data": 4}, "split into 6 parts .*, no multiple of the 4 of config.mesh: raise it"),
        (6, 1, {"fsdp": 4}, "split into 6 parts .*, no multiple of the 4"),
        (12, 2, {}, "split into 12 parts .*, no multiple of the 16"),
        (8, 2, {"data": 4}, "use 4 of 16 devices; 2 processes must use all of theirs"),
        (16, 2, {"expert": 16}, "config.mesh.expert=16 must divide the 8 devices of a process"),
    ],
)
def test_a_mesh_that_cannot_be_is_explained(groups, processes, sizes, message):
    with pytest.raises(ValueError, match=message):
        shape(groups, processes, **sizes)


def a_mesh(data=1, fsdp=1, expert=1):
    return AbstractMesh((data, fsdp, expert), ("data", "fsdp", "expert"), axis_types=(AxisType.Auto,) * 3)


def a_state(**fields):
    model = build(**fields)
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.9, clip_norm=1.0)
    return jax.eval_shape(lambda: init_state(model, optimiser, jax.random.key(0), 16))


def bytes_of(state, places=None):
    """Of the whole state, or of a device's part of it."""
    leaves = jax.tree.leaves(state)
    shapes = [leaf.shape for leaf in leaves]
    if places is not None:
        shapes = [place.shard_shape(shape) for place, shape in zip(jax.tree.leaves(places), shapes, strict=True)]
    return sum(int(np.prod(shape)) * leaf.dtype.itemsize for shape, leaf in zip(shapes, leaves, strict=True))


@pytest.mark.parametrize("feed_forward", ["mofme", "moe"])
def test_over_eight_devices_each_holds_an_eighth_of_a_large_state(feed_forward):
    state = a_state(variant="base", num_experts=128, feed_forward=feed_forward)
    part = bytes_of(state, sharding.state_shardings(state, a_mesh(fsdp=8))) / bytes_of(state)
    assert 0.125 <= part <= 0.125 + 0.02  # measured: 0.1256, 0.1252
    assert bytes_of(state, sharding.state_shardings(state, a_mesh(data=8))) == bytes_of(state)


def test_each_kind_of_array_goes_where_the_rule_says():
    state = a_state(variant="base", num_experts=6)
    places = sharding.state_shardings(state, a_mesh(2, 4, 2))
    block = places.params["block_0"]
    experts = block["mixture"]["modulation"]["experts"]["generate"]
    assert experts["kernel"].spec == PartitionSpec("expert", None, "fsdp")  # (6, 384, 768)
    assert experts["bias"].spec == PartitionSpec("expert", None)  # (6, 768) is small
    assert block["attention"]["qkv"]["kernel"].spec == PartitionSpec(None, "fsdp")  # (384, 1536)
    assert block["attention"]["out"]["kernel"].spec == PartitionSpec("fsdp", None)  # (512, 384)
    assert block["attention_norm"]["scale"].spec == PartitionSpec(None)
    assert jax.tree.leaves(places.ema) == jax.tree.leaves(places.params)
    adam = next(s for s in jax.tree.leaves(places.opt_state, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu"))
    assert jax.tree.leaves(adam.mu) == jax.tree.leaves(adam.nu) == jax.tree.leaves(places.params)
    # six experts cannot be split over four devices, and stay whole
    four = sharding.state_shardings(state, a_mesh(expert=4)).params["block_0"]["mixture"]["modulation"]["experts"]
    assert four["generate"]["kernel"].spec == PartitionSpec(None, None, None)


def test_a_batch_comes_back_as_it_was():
    mesh = sharding.make_mesh(jax.device_count())
    batch = np.arange(jax.device_count() * 6, dtype=np.uint8).reshape(-1, 1, 2, 3)
    np.testing.assert_array_equal(sharding.put_batch(batch, mesh), batch)
