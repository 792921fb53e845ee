import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mofme_jax.models import build
from mofme_jax.models.dispatch import grouped_matmul, resolve, through_chosen
from mofme_jax.models.moe import Mixture
from tests.conftest import OPTIMISED

METHODS = ["block", "batch", "ragged"]
D, F = 5, 6


def problem(tokens, experts, top_k, used, seed):
    """Arguments of a layer whose tokens choose among the first `used` experts only."""
    rng = np.random.default_rng(seed)
    chosen = np.stack([rng.permutation(used)[:top_k] for _ in range(tokens)])
    gates = np.zeros((tokens, experts))
    np.put_along_axis(gates, chosen, rng.normal(size=chosen.shape), axis=1)  # signed
    params = {"kernel": rng.normal(size=(experts, D, F)), "bias": rng.normal(size=(experts, F))}
    f32 = jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), (params, rng.normal(size=(tokens, D)), gates))
    return *f32, jnp.asarray(chosen)


def expert(params, rows, product):
    return product(rows, params["kernel"], params["bias"])


def dense(params, x, gates, chosen):
    del chosen
    y = jnp.einsum("td,edf->etf", x, params["kernel"]) + params["bias"][:, None]
    return jnp.einsum("te,etf->tf", gates, y)


def values_and_gradients(layer, params, x, gates, chosen):
    """The output, and the gradients of a function of it; those of gates for the chosen only: no router has others."""

    def loss(params, x, gates):
        y = layer(params, x, gates, chosen)
        return (y * jnp.sin(jnp.arange(y.size).reshape(y.shape)) + 0.1 * y**2).sum(), y

    (_, y), (d_params, d_x, d_gates) = jax.jit(jax.value_and_grad(loss, (0, 1, 2), has_aux=True))(params, x, gates)
    return y, d_params, d_x, jnp.take_along_axis(d_gates, chosen, axis=1)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize(
    ("tokens", "experts", "top_k", "used"),
    [
        (1, 1, 1, 1),
        (1, 9, 3, 9),  # most experts idle
        (150, 1, 1, 1),  # several blocks of one expert, the last one broken
        (33, 2, 2, 2),  # K = E
        (64, 4, 2, 4),  # whole blocks
        (131, 7, 3, 6),  # an expert without a token
    ],
)
def test_every_method_equals_the_dense_layer_in_values_and_gradients(method, tokens, experts, top_k, used):
    args = problem(tokens, experts, top_k, used, seed=tokens)
    expected = values_and_gradients(dense, *args)
    got = values_and_gradients(lambda *a: through_chosen(expert, *a, method), *args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4), got, expected)


@st.composite
def sizes_of_layers(draw):
    experts = draw(st.integers(1, 9))
    top_k = draw(st.integers(1, experts))
    return draw(st.integers(1, 90)), experts, top_k, draw(st.integers(top_k, experts))


@pytest.mark.parametrize("method", METHODS)
@given(sizes_of_layers(), st.integers(0, 2**31))
@settings(max_examples=12, deadline=None, derandomize=True)
def test_every_method_equals_the_dense_layer_whatever_the_sizes(method, sizes, seed):
    args = problem(*sizes, seed=seed)
    expected = values_and_gradients(dense, *args)
    got = values_and_gradients(lambda *a: through_chosen(expert, *a, method), *args)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3), got, expected)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("sizes", [[0, 0, 5], [5, 0, 0], [0, 17, 0], [64, 1, 65], [200, 0, 3]])
def test_groups_of_any_length(method, sizes):
    rng = np.random.default_rng(0)
    rows = rng.normal(size=(sum(sizes), D)).astype(np.float32)
    kernel = rng.normal(size=(len(sizes), D, F)).astype(np.float32)
    expected = np.einsum("rd,rdf->rf", rows, kernel[np.repeat(np.arange(len(sizes)), sizes)])
    got = jax.jit(grouped_matmul, static_argnums=3)(
        jnp.asarray(rows), jnp.asarray(kernel), jnp.asarray(sizes, jnp.int32), method
    )
    np.testing.assert_allclose(got, expected, atol=1e-5)


@pytest.mark.parametrize("method", METHODS)
def test_an_expert_is_not_disturbed_by_what_its_neighbours_rows_hold(method):
    params, x, gates, _ = problem(20, 3, 1, 3, seed=0)
    chosen = jnp.asarray(np.arange(20) % 3)[:, None]
    gates = jax.nn.one_hot(chosen[:, 0], 3)
    broken = x.at[1].set(jnp.inf)  # token 1 is expert 1's
    grad = jax.jit(jax.grad(lambda p: through_chosen(expert, p, broken, gates, chosen, method).sum()))
    d_kernel = grad(params)["kernel"]
    if method != "ragged":  # XLA's masks multiply on some platforms, and 0 * inf is not 0
        assert jnp.isfinite(d_kernel[jnp.array([0, 2])]).all()
        y = through_chosen(expert, params, broken, gates, chosen, method)
        assert jnp.isfinite(y).all(axis=1).tolist() == [t != 1 for t in range(20)]
    assert not jnp.isfinite(d_kernel[1]).all()


@pytest.mark.parametrize("method", METHODS)
def test_half_precision_is_summed_in_float32(method):
    # 1 + 256 * 2^-9: bfloat16 sums would stay at 1
    rows = jnp.full((1, 257), 2.0**-9, jnp.bfloat16).at[0, 0].set(1.0)
    y = grouped_matmul(rows, jnp.ones((1, 257, 1), jnp.bfloat16), jnp.array([1], jnp.int32), method)
    assert y.dtype == jnp.float32
    assert y[0, 0] == 1.5


@pytest.mark.parametrize("method", METHODS)
def test_gradients_in_half_precision_are_summed_in_float32(method):
    # 1 + 2047 * 2^-8, of rows that lie in many blocks: bfloat16 sums would stay at 2
    rows = jnp.full((2048, 1), 2.0**-8, jnp.bfloat16).at[0, 0].set(1.0)
    sizes = jnp.array([0, 2048, 0], jnp.int32)
    gradient = jax.grad(lambda kernel: grouped_matmul(rows, kernel, sizes, method).sum())
    d_kernel = gradient(jnp.ones((3, 1, 1), jnp.bfloat16))
    assert d_kernel.dtype == jnp.bfloat16
    np.testing.assert_allclose(d_kernel[:, 0, 0].astype(jnp.float32), [0.0, 9.0, 0.0], rtol=1e-2)


@pytest.mark.parametrize("method", METHODS)
def test_a_layer_in_half_precision_is_in_half_precision_throughout(method):
    seen = []

    def two_products(params, rows, product):
        for _ in range(2):
            rows = product(rows, params)
            seen.append(rows.dtype)
        return rows

    x, chosen = jnp.ones((4, 3), jnp.bfloat16), jnp.array([[0], [1], [0], [1]])
    y = through_chosen(two_products, jnp.ones((2, 3, 3), jnp.bfloat16), x, jnp.ones((4, 2)), chosen, method)
    assert [*seen, y.dtype] == [jnp.bfloat16] * 3
    np.testing.assert_array_equal(y, np.full((4, 3), 9.0))


@pytest.mark.parametrize(
    ("kind", "generator", "router", "kept"),
    [
        ("mofme", "linear", "deterministic", None),
        ("mofme", "low_rank", "stochastic", None),
        ("mofme", "static", "linear", None),
        ("moe", "linear", "stochastic", None),
        ("mofme", "linear", "deterministic", (1, 0, 1, 1, 1, 0)),
        ("moe", "linear", "paper", (0, 0, 0, 0, 1, 0)),  # fewer than K are left
    ],
)
def test_a_mixture_is_the_same_by_every_method(kind, generator, router, kept):
    x = jax.random.normal(jax.random.key(0), (3, 7, 12))
    kept = None if kept is None else jnp.array(kept)

    def mixture(method):
        return Mixture(kind, 16, num_experts=6, top_k=2, router=router, generator=generator, rank=3, dispatch=method)

    params = jax.jit(mixture("dense").init)(jax.random.key(1), x)["params"]
    shapes = jax.tree.map(jnp.shape, params)
    noise = iter(jax.random.split(jax.random.key(2), 20))
    params = jax.tree.map(lambda a: a + 0.3 * jax.random.normal(next(noise), a.shape), params)

    def loss(method):
        return jax.jit(
            jax.value_and_grad(lambda p, x: (mixture(method).apply({"params": p}, x, kept)[0] ** 2).mean(), (0, 1))
        )

    expected = loss("dense")(params, x)
    for method in METHODS:
        made = jax.eval_shape(mixture(method).init, jax.random.key(1), x)["params"]
        assert jax.tree.map(jnp.shape, made) == shapes
        got = loss(method)(params, x)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), got, expected)
    assert jnp.abs(expected[1][0]["router"]["kernel"]).max() > 1e-4
    if kept is not None:
        for gradient in jax.tree.leaves(expected[1][0]["modulation" if kind == "mofme" else "experts"]):
            np.testing.assert_array_equal(np.abs(gradient).reshape(6, -1).max(1) > 0, kept == 1)


def test_chosen_experts_alone_are_computed():
    """A NaN in an expert that no token chose reaches neither output nor gradients; dense, it reaches all."""
    params, x, gates, chosen = problem(9, 4, 2, 3, seed=0)
    params["kernel"] = params["kernel"].at[3].set(jnp.nan)
    for method in ["block", "batch"]:
        got = values_and_gradients(lambda *a, m=method: through_chosen(expert, *a, m), params, x, gates, chosen)
        assert all(jnp.isfinite(leaf).all() for leaf in jax.tree.leaves(got)), method


def test_temporary_memory_does_not_grow_with_the_experts(optimised):
    def temporary(experts, gradients):
        model = build("tiny", num_experts=experts, depth=1, dispatch="block")
        images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
        params = jax.eval_shape(model.init, jax.random.key(0), images)

        def loss(params, images):
            return model.apply(params, images)[0].sum()

        compiled = jax.jit(jax.grad(loss) if gradients else loss).lower(params, images).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    one = 64 * 32 * 4  # an expert's output for every token, half of it
    kernel = 32 * 64 * 4  # an expert's kernel: in place of its output, its gradient is there once
    assert temporary(128, False) - temporary(4, False) < 124 * one / 4
    assert temporary(128, True) - temporary(4, True) < 124 * (kernel + one / 4)


def test_auto_goes_by_platform():
    assert [resolve("auto", 32, platform) for platform in ("cpu", "gpu", "tpu")] == ["block", "batch", "ragged"]
    assert [resolve("auto", 16, platform) for platform in ("cpu", "gpu", "tpu")] == ["block", "batch", "dense"]
    assert resolve("auto", 1, "tpu") == "dense"
    assert resolve("dense", 8, "tpu") == "dense"
    with pytest.raises(ValueError, match="dispatch='fast' is unknown"):
        resolve("fast", 8)
    with pytest.raises(ValueError, match="method='dense'"):
        grouped_matmul(jnp.ones((1, 2)), jnp.ones((1, 2, 2)), jnp.array([1]), "dense")


SHARDED = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from mofme_jax.models.moe import Mixture

mesh = jax.make_mesh((8,), ("data",), axis_types=(AxisType.Auto,))
split, whole = NamedSharding(mesh, P("data")), NamedSharding(mesh, P())
x = jax.random.normal(jax.random.key(0), (16, 9, 12))

def gathers(compiled):
    return len(re.findall(r"all-(?:gather|to-all)|collective-permute", compiled.as_text()))

for kind, method in (("mofme", "block"), ("moe", "block"), ("mofme", "ragged")):
    layer = Mixture(kind, 16, num_experts=6, top_k=2, dispatch=method)
    params = jax.jit(layer.init)(jax.random.key(1), x)
    params = jax.tree.map(lambda a: a + 0.1 * jnp.sin(jnp.arange(a.size)).reshape(a.shape), params)

    def loss(params, x):
        y = layer.apply(params, x)[0]
        return (y**2).mean(), y

    step = jax.value_and_grad(loss, (0, 1), has_aux=True)
    sharded = jax.jit(step, in_shardings=(whole, split), out_shardings=((whole, split), (whole, split)))
    with jax.set_mesh(mesh):
        local = sharded.lower(params, x).compile()
        got = local(jax.device_put(params, whole), jax.device_put(x, split))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), got, jax.jit(step)(params, x))
    assert not gathers(local), (kind, method)
assert gathers(sharded.lower(params, x).compile()), "without the mesh in use, tokens are gathered to be sorted"
"""


def test_shards_keep_their_tokens():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", **OPTIMISED}
    command = [sys.executable, "-c", SHARDED]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr[-3000:]
