import math

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mofme_jax.models.film import axis_names
from mofme_jax.models.router import FIRST_VARIANCE, LEARN_VARIANCE, Router, select
from mofme_jax.models.router_heads import (
    deterministic_router,
    dropout_passes,
    entropy,
    heteroscedastic_router,
    linear_router,
    mean_field,
    paper_router,
    predicted_variance,
    stochastic_router,
    weights_variance,
)

# compiled whole: one program compiles sooner than each of its operations
deterministic_router = jax.jit(deterministic_router, static_argnums=2)
linear_router = jax.jit(linear_router)
stochastic_router = jax.jit(stochastic_router, static_argnums=(2, 3))
paper_router = jax.jit(paper_router, static_argnums=(2, 3))
dropout_passes = jax.jit(dropout_passes, static_argnums=(2, 3))
heteroscedastic_router = jax.jit(heteroscedastic_router)

KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (40, 24))
W = jax.random.normal(jax.random.key(2), (24, 6)) / 5
VAR = predicted_variance(X, jax.random.normal(jax.random.key(3), (24, 6)) / 5, jnp.zeros(6))
KINDS = ["linear", "deterministic", "stochastic", "heteroscedastic", "variational", "paper"]


def shaken(params):
    """Parameters away from their start, at which a heteroscedastic router's variance is the same for every token."""
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(4), len(leaves))
    moved = [leaf + 0.2 * jax.random.normal(k, leaf.shape) for leaf, k in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize(
    "dist",
    [
        linear_router(X, W),
        deterministic_router(X, W, 0.2),
        stochastic_router(X, W, 0.2, 5, KEY),
        heteroscedastic_router(X, W, VAR),
        heteroscedastic_router(X, W, VAR, KEY),
        paper_router(X, W, 0.2, 5, KEY),
    ],
    ids=["linear", "deterministic", "stochastic", "heteroscedastic", "heteroscedastic, drawn", "paper"],
)
def test_probabilities_lie_on_the_simplex(dist):
    assert (dist.probs >= 0).all()
    np.testing.assert_allclose(dist.probs.sum(-1), 1.0, atol=1e-6)
    assert (dist.var_logits >= 0).all()
    assert (dist.mutual_information >= 0).all()


def test_moments_equal_those_of_sampled_dropout():
    exact = deterministic_router(X, W, 0.3)
    keys = jax.random.split(KEY, 40)  # 40 x 200 passes with masks of their own
    sampled = jnp.concatenate([dropout_passes(X, W, 0.3, 200, key) for key in keys])
    spread = jnp.sqrt(exact.var_logits)
    assert jnp.abs((sampled.mean(0) - exact.mean_logits) / spread).max() < 0.06  # 5 standard errors of 8000 draws
    np.testing.assert_allclose(sampled.var(0), exact.var_logits, rtol=0.1)


def test_variance_worked_by_hand():
    # p = 1/2: p / (1 - p) = 1, so Var z = sum x^2 W^2 = 1*9 + 4*1 = 13
    dist = deterministic_router(jnp.array([[1.0, 2.0]]), jnp.array([[3.0], [1.0]]), 0.5)
    np.testing.assert_allclose(dist.mean_logits, [[5.0]])
    np.testing.assert_allclose(dist.var_logits, [[13.0]])


def test_mean_field_is_nearer_to_the_expected_softmax_than_the_plain_one():
    passes = jax.nn.softmax(dropout_passes(X, 2 * W, 0.3, 4000, KEY)).mean(0)
    mean_field = deterministic_router(X, 2 * W, 0.3).probs
    plain = linear_router(X, 2 * W).probs
    assert jnp.abs(mean_field - passes).mean() < 0.9 * jnp.abs(plain - passes).mean()


def test_mutual_information_follows_the_sampled_one():
    small = deterministic_router(X, W, 0.05).mutual_information
    sampled = stochastic_router(X, W, 0.05, 4000, KEY).mutual_information
    np.testing.assert_allclose(small.mean(), sampled.mean(), rtol=0.1)  # second order: good for small noise


def test_mutual_information_never_passes_the_entropy():
    dist = deterministic_router(X, 10 * W, 0.3)
    assert (dist.mutual_information <= entropy(dist.probs)).all()


def test_no_dropout_is_the_linear_router():
    linear = linear_router(X, W)
    chex.assert_trees_all_equal(deterministic_router(X, W, 0.0), linear)
    chex.assert_trees_all_close(stochastic_router(X, W, 0.0, 3, KEY), linear, atol=1e-6)


def test_without_a_key_learnt_variance_is_averaged_out_by_the_mean_field():
    chex.assert_trees_all_equal(heteroscedastic_router(X, W, VAR), jax.jit(mean_field)(jnp.matmul(X, W), VAR))
    chex.assert_trees_all_equal(heteroscedastic_router(X, W, jnp.zeros_like(VAR)), linear_router(X, W))


def test_drawn_logits_have_the_moments_they_are_said_to_have():
    keys = jax.random.split(KEY, 4000)
    logits = jax.jit(jax.vmap(lambda key: jnp.log(heteroscedastic_router(X, W, VAR, key).probs)))(keys)
    # a softmax forgets what is added to all logits: differences of two experts keep mean and variance
    mean, var = jnp.matmul(X, W), VAR
    drawn = logits[..., 1:] - logits[..., :1]
    np.testing.assert_allclose(drawn.var(0), var[:, 1:] + var[:, :1], rtol=0.12)
    off = (drawn.mean(0) - (mean[:, 1:] - mean[:, :1])) / jnp.sqrt((var[:, 1:] + var[:, :1]) / 4000)
    assert jnp.abs(off).max() < 5
    # no two tokens or experts share a draw
    noise = (logits - logits.mean(0))[..., 1:] - (logits - logits.mean(0))[..., :1]
    flat = noise[:, :5].reshape(4000, -1)
    across = jnp.abs(jnp.corrcoef(flat.T)).reshape(5, 5, 5, 5)
    assert max(across[i, :, j].max() for i in range(5) for j in range(5) if i != j) < 0.1


def test_mutual_information_of_learnt_variance_follows_the_sampled_one():
    small = VAR / 10
    each = jax.vmap(lambda key: heteroscedastic_router(X, W, small, key).probs)(jax.random.split(KEY, 2000))
    sampled = entropy(each.mean(0)) - entropy(each).mean(0)
    np.testing.assert_allclose(heteroscedastic_router(X, W, small).mutual_information, sampled, rtol=0.15)


def test_a_heteroscedastic_router_starts_with_little_variance_the_same_everywhere():
    router = Router(6, 2, "heteroscedastic")
    params = jax.jit(router.init)(KEY, X)["params"]
    shapes = {"kernel": (24, 6), "variance_kernel": (24, 6), "variance_bias": (6,)}
    assert jax.tree.map(jnp.shape, params) == shapes
    assert axis_names(params) == {name: (None,) * len(shape) for name, shape in shapes.items()}
    np.testing.assert_array_equal(params["variance_kernel"], 0.0)
    var = predicted_variance(X, params["variance_kernel"], params["variance_bias"])
    np.testing.assert_allclose(var, FIRST_VARIANCE, rtol=1e-5)
    # and with the kernel that any other head would start with
    np.testing.assert_array_equal(params["kernel"], jax.jit(Router(6, 2).init)(KEY, X)["params"]["kernel"])


@pytest.mark.parametrize("bias", [0.0, -200.0])
def test_every_parameter_of_learnt_variance_has_a_finite_gradient(bias):
    router = Router(6, 2, "heteroscedastic")
    params = shaken(jax.jit(router.init)(KEY, X))
    params["params"]["variance_bias"] += bias  # -200: a variance of 0, whose root has no slope

    def loss(params):
        return (router.apply(params, X, rngs={"dropout": KEY})[0] ** 2).sum()

    grads = jax.jit(jax.grad(loss))(params)["params"]
    for name, grad in grads.items():
        assert jnp.isfinite(grad).all(), name
        assert grad.any() == (bias == 0 or name == "kernel"), name


@pytest.mark.parametrize("kind", KINDS)
def test_temperature_divides_the_logits(kind):
    params = shaken(jax.jit(Router(6, 2, kind).init)(KEY, X))
    warm = {"params": params["params"] | {"kernel": 4 * params["params"]["kernel"]}}

    def routed(params, **fields):
        return jax.jit(lambda p: Router(6, 2, kind, dropout_rate=0.3, **fields).apply(p, X)[1])(params)

    if kind not in LEARN_VARIANCE:  # it does not come from the kernel
        chex.assert_trees_all_equal(routed(warm, temperature=4.0), routed(params))
    np.testing.assert_allclose(routed(params, temperature=2.0).logits, routed(params).logits / 2, rtol=1e-6)
    np.testing.assert_allclose(routed(params, temperature=1e4).probs, 1 / 6, atol=1e-3)


def test_the_variance_of_random_weights_is_that_of_their_draws():
    spread = jnp.abs(W) / 2
    weights = W + spread * jax.random.normal(KEY, (4000, *W.shape))
    logits = jax.jit(jax.vmap(lambda kernel: X @ kernel))(weights)
    np.testing.assert_allclose(logits.var(0), weights_variance(X, spread), rtol=0.15)


def test_a_variational_router_starts_with_little_variance_and_draws_with_a_key_alone():
    router = Router(6, 2, "variational")
    variables = jax.jit(router.init)(KEY, X)
    kernel, spread = (variables["params"][name] for name in ("kernel", "spread"))
    np.testing.assert_array_equal(spread, jnp.zeros((24, 6)))  # decay draws it to where it starts
    var = weights_variance(X, jnp.full((24, 6), (FIRST_VARIANCE / 24) ** 0.5))
    assert jnp.mean(var) == pytest.approx(FIRST_VARIANCE, rel=0.15)  # as far as the tokens' squares are 1
    assert var.std() > 0.1 * var.mean()  # what a token is decides
    settled, drawn = router.apply(variables, X)[1], router.apply(variables, X, rngs={"dropout": KEY})[1]
    np.testing.assert_allclose(settled.probs, heteroscedastic_router(X, kernel, var).probs, rtol=1e-5)
    assert jnp.abs(drawn.probs - settled.probs).max() > 0.01

    def loss(params):
        return (router.apply({"params": params}, X, rngs={"dropout": KEY})[0] ** 2).sum()

    assert all(jnp.isfinite(grad).all() and grad.all() for grad in jax.tree.leaves(jax.grad(loss)(variables["params"])))


def test_temperature_divides_variances_by_its_square():
    router = Router(6, 2, "heteroscedastic", temperature=2.0)
    params = shaken(jax.jit(router.init)(KEY, X))
    kernel, variance_kernel, bias = (params["params"][n] for n in ("kernel", "variance_kernel", "variance_bias"))
    var = predicted_variance(X, variance_kernel, bias)
    expected = heteroscedastic_router(X, kernel / 2, var / 4)
    np.testing.assert_allclose(jax.jit(router.apply)(params, X)[1].probs, expected.probs, rtol=1e-5)
    mean, spread = (deterministic_router(X, W / t, 0.3) for t in (1.0, 2.0))
    np.testing.assert_allclose(spread.mean_logits, mean.mean_logits / 2, rtol=1e-6)
    np.testing.assert_allclose(spread.var_logits, mean.var_logits / 4, rtol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_a_temperature_of_one_changes_not_a_bit(kind):
    router = Router(6, 2, kind, dropout_rate=0.3)
    params = shaken(jax.jit(router.init)(KEY, X))
    kernel = params["params"]["kernel"]
    learnt = params["params"]
    dist = {
        "linear": lambda: linear_router(X, kernel),
        "deterministic": lambda: deterministic_router(X, kernel, 0.3),
        "stochastic": lambda: stochastic_router(X, kernel, 0.3, 5, jax.random.key(0)),
        "heteroscedastic": lambda: heteroscedastic_router(
            X, kernel, predicted_variance(X, learnt["variance_kernel"], learnt["variance_bias"])
        ),
        "variational": lambda: heteroscedastic_router(
            X, kernel, weights_variance(X, jax.nn.softplus(math.log(math.expm1((0.1 / 24) ** 0.5)) + learnt["spread"]))
        ),
        "paper": lambda: paper_router(X, kernel, 0.3, 5, jax.random.key(0)),
    }[kind]()
    np.testing.assert_array_equal(jax.jit(router.apply)(params, X)[1].probs, dist.probs)


def test_paper_weights_have_unit_length_and_sum_to_zero():
    weights = paper_router(X, W, 0.2, 5, KEY).weights
    np.testing.assert_allclose(jnp.linalg.norm(weights, axis=-1), 1.0, atol=1e-3)
    assert jnp.abs(weights.sum(-1)).max() < 0.02
    assert (weights < 0).any()


def test_paper_router_has_finite_gradients():
    def loss(w):
        return (paper_router(X, w, 0.2, 5, KEY).weights ** 3).sum()

    assert jnp.isfinite(jax.jit(jax.grad(loss))(W)).all()


def test_entropy_counts_impossible_outcomes_as_zero():
    np.testing.assert_allclose(entropy(jnp.array([[1.0, 0.0], [0.5, 0.5]])), [0.0, np.log(2)], atol=1e-7)


def test_select_keeps_the_heaviest_and_zeroes_the_rest():
    probs = jnp.array([[0.1, 0.4, 0.2, 0.3]])
    gates, chosen = select(probs, 2, "softmax_topk")
    np.testing.assert_array_equal(gates, jnp.array([[0.0, 0.4, 0.0, 0.3]]))
    np.testing.assert_array_equal(chosen, [[1, 3]])
    renormalised, _ = select(probs, 2, "topk_softmax")
    np.testing.assert_allclose(renormalised, [[0.0, 4 / 7, 0.0, 3 / 7]], rtol=1e-6)


def test_topk_softmax_is_a_softmax_over_the_chosen_logits():
    logits = X @ W
    gates, _ = select(jax.nn.softmax(logits), 3, "topk_softmax")
    kth = jnp.sort(logits, axis=-1)[:, -3][:, None]
    np.testing.assert_allclose(gates, jax.nn.softmax(jnp.where(logits >= kth, logits, -jnp.inf)), atol=1e-6)


def test_among_equals_the_lower_number_wins():
    gates, chosen = select(jnp.full((1, 4), 0.25), 2, "softmax_topk")
    np.testing.assert_array_equal(chosen, [[0, 1]])
    assert (gates > 0).sum() == 2


@pytest.mark.parametrize("norm_order", ["softmax_topk", "topk_softmax"])
def test_all_experts_chosen_is_the_plain_softmax(norm_order):
    probs = linear_router(X, W).probs
    np.testing.assert_allclose(select(probs, 6, norm_order)[0], probs, atol=1e-6)


@pytest.mark.parametrize("kind", ["linear", "deterministic", "stochastic", "heteroscedastic", "variational"])
def test_one_expert_gets_everything(kind):
    router = Router(1, 1, kind)
    gates, routing = jax.jit(router.apply)(jax.jit(router.init)(KEY, X), X)
    np.testing.assert_allclose(gates, 1.0)
    np.testing.assert_allclose(routing.entropy, 0.0, atol=1e-6)


@pytest.mark.parametrize("kind", ["stochastic", "heteroscedastic", "variational", "paper"])
def test_sampling_follows_the_key_and_is_fixed_without_one(kind):
    router = Router(6, 2, kind, dropout_rate=0.4)
    params = jax.jit(router.init)(KEY, X)
    apply = jax.jit(router.apply)
    still = apply(params, X)[1]
    chex.assert_trees_all_equal(still, apply(params, X)[1])
    keyed = apply(params, X, rngs={"dropout": KEY})[1]
    assert not jnp.array_equal(still.probs, keyed.probs)


@pytest.mark.parametrize("kind", KINDS)
def test_a_token_does_not_depend_on_its_batch(kind):
    router = Router(6, 2, kind, dropout_rate=0.3)
    params = shaken(jax.jit(router.init)(KEY, X))
    apply = jax.jit(router.apply)
    alone, together = apply(params, X[3:4])[0], apply(params, X)[0][3:4]
    np.testing.assert_allclose(alone, together, atol=2e-3 if kind == "paper" else 1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_expert_switched_off_is_not_chosen(kind):
    router = Router(6, 2, kind, dropout_rate=0.3)
    params = shaken(jax.jit(router.init)(KEY, X))
    apply = jax.jit(router.apply)
    all_on = apply(params, X, jnp.ones(6))[1]
    chex.assert_trees_all_equal(all_on, apply(params, X)[1])
    favourite = int(jnp.argmax(all_on.load))
    gates, routing = apply(params, X, jnp.ones(6).at[favourite].set(0))
    assert (all_on.chosen == favourite).any()
    assert not (routing.chosen == favourite).any()
    for off in (gates, routing.probs):
        np.testing.assert_array_equal(off[:, favourite], 0.0)
    others = np.arange(6) != favourite
    np.testing.assert_array_equal(routing.probs[:, others], all_on.probs[:, others])
    chex.assert_trees_all_equal(routing.entropy, all_on.entropy)


def test_switching_off_what_is_not_chosen_changes_no_gate():
    probs = linear_router(X, 3 * W).probs.at[:, 2].set(1e-6)
    for norm_order in ("softmax_topk", "topk_softmax"):
        without = select(probs, 3, norm_order, jnp.ones(6).at[2].set(0))
        chex.assert_trees_all_equal(without, select(probs, 3, norm_order))


def test_the_next_heaviest_takes_the_place_of_one_switched_off():
    probs = jnp.array([[0.1, 0.4, 0.2, 0.3]])
    kept = jnp.array([1, 0, 1, 1])
    gates, chosen = select(probs, 2, "softmax_topk", kept)
    np.testing.assert_array_equal(gates, jnp.array([[0.0, 0.0, 0.2, 0.3]]))
    np.testing.assert_array_equal(chosen, [[3, 2]])
    np.testing.assert_allclose(select(probs, 2, "topk_softmax", kept)[0], [[0.0, 0.0, 0.4, 0.6]], rtol=1e-6)
    signed, chosen = select(jnp.array([[-0.1, 0.5, -0.4]]), 2, "softmax_topk", jnp.array([1, 0, 1]))
    np.testing.assert_array_equal(signed, jnp.array([[-0.1, 0.0, -0.4]]))
    np.testing.assert_array_equal(chosen, [[0, 2]])


def test_switched_off_among_all_chosen_it_weighs_nothing():
    probs = jnp.array([[0.1, 0.4, 0.5], [0.0, 1.0, 0.0]])
    kept = jnp.array([1, 0, 1])
    gates, chosen = select(probs, 3, "topk_softmax", kept)
    np.testing.assert_allclose(gates, [[1 / 6, 0.0, 5 / 6], [0.0, 0.0, 0.0]], rtol=1e-6)  # and no 0 / 0
    np.testing.assert_array_equal(chosen[:, -1], 1)
    np.testing.assert_array_equal(select(probs, 3, "softmax_topk", jnp.zeros(3))[0], 0.0)


def test_load_counts_the_choices():
    router = Router(6, 2)
    routing = jax.jit(router.apply)(jax.jit(router.init)(KEY, X), X)[1]
    counts = np.bincount(np.asarray(routing.chosen).ravel(), minlength=6)
    np.testing.assert_allclose(routing.load, counts / counts.sum(), rtol=1e-6)


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(num_experts=4, top_k=5), "top_k=5"),
        (dict(num_experts=4, top_k=0), "top_k=0"),
        (dict(num_experts=0, top_k=1), "num_experts=0"),
        (dict(num_experts=4, top_k=2, kind="cosine"), "cosine"),
        (dict(num_experts=4, top_k=2, norm_order="both"), "both"),
        (dict(num_experts=4, top_k=2, dropout_rate=1.0), "router_dropout=1.0"),
        (dict(num_experts=4, top_k=2, passes=0), "router_passes=0"),
        (dict(num_experts=4, top_k=2, temperature=0.0), "router_temperature=0.0 .* above 0"),
        (dict(num_experts=4, top_k=2, temperature=float("nan")), "router_temperature=nan"),
        (dict(num_experts=4, top_k=2, temperature=float("inf")), "router_temperature=inf"),
        (dict(num_experts=4, top_k=2, kind="paper", norm_order="topk_softmax"), "signed"),
        (dict(num_experts=4, top_k=2, kind="paper", dropout_rate=0.0), "passes that differ"),
    ],
)
def test_what_is_no_router_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        Router(**fields).init(KEY, X)
