import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mofme_jax.models.film import FeatureModulation, ModulatedExperts, axis_names, mix_modulations
from mofme_jax.models.moe import Mixture

KEY = jax.random.key(0)
T, D, E = 20, 12, 5
X = jax.random.normal(jax.random.key(1), (T, D))
GATES = jax.nn.softmax(jax.random.normal(jax.random.key(2), (T, E)))
GENERATORS = ["linear", "static", "low_rank"]


def shaken(params):
    """Parameters away from their initial values, where all experts are alike."""
    rng = np.random.default_rng(3)
    return jax.tree.map(lambda x: x + np.float32(0.3) * rng.standard_normal(x.shape, np.float32), params)


def bank(generator, **fields):
    module = ModulatedExperts(E, generator, rank=3, **fields)
    return module, shaken(jax.jit(module.init)(KEY, X, GATES))


@pytest.mark.parametrize("generator", GENERATORS)
def test_an_expert_starts_as_the_identity(generator):
    module = FeatureModulation(generator)
    gamma, beta = jax.jit(module.apply)(jax.jit(module.init)(KEY, X), X)
    np.testing.assert_array_equal(gamma, jnp.ones_like(gamma))
    np.testing.assert_array_equal(beta, jnp.zeros_like(beta))


@pytest.mark.parametrize("generator", GENERATORS)
def test_the_bank_equals_its_experts_one_by_one(generator):
    module, variables = bank(generator)
    expected, one = np.zeros((T, D)), jax.jit(FeatureModulation(generator, rank=3).apply)
    for e in range(E):
        own = {"params": jax.tree.map(lambda a, e=e: a[e], variables["params"]["experts"])}
        gamma, beta = one(own, X)
        expected += np.asarray(GATES[:, e : e + 1] * (gamma * X + beta))
    np.testing.assert_allclose(jax.jit(module.apply)(variables, X, GATES), expected, atol=1e-5)


def test_linear_generators_against_numpy():
    module, variables = bank("linear")
    kernel = np.asarray(variables["params"]["experts"]["generate"]["kernel"], np.float64)
    bias = np.asarray(variables["params"]["experts"]["generate"]["bias"], np.float64)
    assert kernel.shape == (E, D, 2 * D)
    x, gates = np.asarray(X, np.float64), np.asarray(GATES, np.float64)
    y = np.zeros((T, D))
    for t in range(T):
        for e in range(E):
            both = x[t] @ kernel[e] + bias[e]
            y[t] += gates[t, e] * (both[:D] * x[t] + both[D:])
    np.testing.assert_allclose(jax.jit(module.apply)(variables, X, GATES), y, atol=1e-5)


def test_a_mix_worked_by_hand():
    # x = 3; experts 2x + 1 = 7 and -x + 4 = 1; weights 1/4 and 3/4: 7/4 + 3/4 = 2.5
    gamma, beta = jnp.array([[[2.0]], [[-1.0]]]), jnp.array([[[1.0]], [[4.0]]])
    mixed = mix_modulations(jnp.array([[3.0]]), jnp.array([[0.25, 0.75]]), gamma, beta)
    np.testing.assert_allclose(mixed, [[2.5]])


def test_gates_of_another_shape_are_refused():
    one = jnp.ones((2, 1, 1))
    with pytest.raises(AssertionError, match="shape"):
        mix_modulations(jnp.ones((3, 1)), jnp.ones((1, 2)), one, one)


@pytest.mark.parametrize("generator", GENERATORS)
def test_equal_experts_are_one_modulation(generator):
    module, variables = bank(generator)
    same = jax.tree.map(lambda a: jnp.broadcast_to(a[:1], a.shape), variables)
    gamma, beta = FeatureModulation(generator, rank=3).apply(
        {"params": jax.tree.map(lambda a: a[0], same["params"]["experts"])}, X
    )
    np.testing.assert_allclose(module.apply(same, X, GATES), gamma * X + beta, atol=1e-5)


@pytest.mark.parametrize("kind", ["mofme", "moe"])
@pytest.mark.parametrize("router", ["linear", "deterministic", "stochastic", "heteroscedastic", "variational"])
def test_the_order_of_the_experts_does_not_matter(kind, router):
    layer = Mixture(kind, hidden=16, num_experts=E, top_k=2, router=router)
    params = shaken(jax.jit(layer.init)(KEY, X)["params"])
    order = jnp.array([3, 0, 4, 1, 2])
    permuted = jax.tree.map(lambda a: a, params)
    permuted["router"] = jax.tree.map(lambda a: a[..., order], params["router"])
    owner = permuted["modulation"] if kind == "mofme" else permuted
    owner["experts"] = jax.tree.map(lambda a: a[order], owner["experts"])
    apply = jax.jit(layer.apply)
    expected = apply({"params": params}, X)[0]
    np.testing.assert_allclose(apply({"params": permuted}, X)[0], expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["mofme", "moe"])
def test_unchosen_experts_get_no_weight_and_no_gradient(kind):
    layer = Mixture(kind, hidden=16, num_experts=E, top_k=2)
    params = shaken(jax.jit(layer.init)(KEY, X)["params"])
    routing = jax.jit(layer.apply)({"params": params}, X[:1])[1]
    unchosen = sorted(set(range(E)) - set(np.asarray(routing.chosen[0]).tolist()))
    assert (routing.gates[0, jnp.array(unchosen)] == 0.0).all()
    grads = jax.jit(jax.grad(lambda p: layer.apply({"params": p}, X[:1])[0].sum()))(params)
    experts = (grads["modulation"] if kind == "mofme" else grads)["experts"]
    for leaf in flatten_dict(experts).values():
        assert not leaf[jnp.array(unchosen)].any()
        assert leaf[routing.chosen[0]].any()


def test_the_shared_network_runs_behind_the_mix():
    layer = Mixture("mofme", hidden=16, num_experts=E, top_k=2, router="linear")
    params = shaken(jax.jit(layer.init)(KEY, X)["params"])
    y, routing = jax.jit(layer.apply)({"params": params}, X)
    mixed = ModulatedExperts(E).apply({"params": params["modulation"]}, X, routing.gates)
    up, down = params["shared"]["up"], params["shared"]["down"]
    hidden = jax.nn.gelu(mixed @ up["kernel"] + up["bias"], approximate=False)
    np.testing.assert_allclose(y, hidden @ down["kernel"] + down["bias"], atol=1e-5)


@pytest.mark.parametrize("kind", ["mofme", "moe"])
def test_stacked_parameters_name_their_leading_axis(kind):
    layer = Mixture(kind, hidden=16, num_experts=E, top_k=2)
    shapes = jax.eval_shape(lambda: layer.init(KEY, X)["params"])
    names = flatten_dict(axis_names(shapes))
    for path, leaf in flatten_dict(shapes).items():
        assert len(names[path]) == leaf.ndim
        assert ("expert" in names[path]) == (leaf.shape[0] == E)  # no other size here is E


def test_router_learns_from_the_output_alone():
    layer = Mixture("mofme", hidden=16, num_experts=E, top_k=2)
    params = shaken(jax.jit(layer.init)(KEY, X)["params"])
    grads = jax.jit(jax.grad(lambda p: (layer.apply({"params": p}, X)[0] ** 2).sum()))(params)
    assert jnp.abs(grads["router"]["kernel"]).max() > 1e-4
