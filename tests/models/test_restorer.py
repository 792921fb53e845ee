import subprocess
import sys

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mofme_jax.models import VARIANTS, Restorer, attention, build

KEY = jax.random.key(0)
IMAGES = jax.random.uniform(jax.random.key(1), (2, 32, 32, 3))


def count(model):
    shapes = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 3))))
    return sum(x.size for x in jax.tree.leaves(shapes))


def flops(model, side):
    images = jax.ShapeDtypeStruct((1, side, side, 3), jnp.float32)
    params = jax.eval_shape(lambda: model.init(KEY, jnp.zeros((1, 32, 32, 3)))["params"])
    apply = jax.jit(lambda params, images: model.apply({"params": params}, images)[0])
    return apply.lower(params, images).cost_analysis()["flops"]


def init(model, images=IMAGES):
    return jax.jit(model.init)(jax.random.key(0, impl="rbg"), images)["params"]  # rbg compiles in a third of the time


def any_params(model, scale=0.1):
    """Random parameters: initial ones hand the image back and have all experts alike, and take long to compile."""
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: model.init(KEY, IMAGES)["params"])
    return jax.tree.map(lambda x: scale * rng.standard_normal(x.shape, np.float32), shapes)


def least(**fields):
    """The least network with every part in it: compiling is what takes the time here."""
    return build("tiny", **dict(channels=(4, 8), blocks=0, depth=1, width=16, heads=1, tail_channels=4) | fields)


@pytest.mark.parametrize(("feed_forward", "skip"), [("dense", "long"), ("moe", "none"), ("mofme", "long")])
def test_any_size_goes_in_and_comes_out(feed_forward, skip):
    model = least(feed_forward=feed_forward, skip=skip)
    params = any_params(model)
    for height, width in [(1, 1), (13, 29)]:
        restored, aux = jax.jit(model.apply)({"params": params}, IMAGES[:, :height, :width])
        assert restored.shape == (2, height, width, 3)
        assert ((restored >= 0) & (restored <= 1)).all()
        if feed_forward == "dense":
            assert aux == ()
        else:
            assert len(aux) == model.depth
            grid = (2, -(-height // model.patch), -(-width // model.patch))
            chex.assert_shape([a.gates for a in aux], (*grid, 4))
            chex.assert_shape([a.chosen for a in aux], (*grid, 2))
            chex.assert_shape([a.uncertainty for a in aux], grid)
            np.testing.assert_array_equal((aux[0].gates != 0).sum(-1), 2)


def test_parameters_do_not_depend_on_the_size_of_the_image():
    model = least(window=8)
    chex.assert_trees_all_equal(init(model), init(model, IMAGES[:1, :8, :16]))


def test_untrained_the_long_skip_hands_the_image_back():
    model = least()
    restored, _ = jax.jit(model.apply)({"params": init(model)}, IMAGES)
    np.testing.assert_allclose(restored, IMAGES, atol=1e-6)


@pytest.mark.parametrize("router", ["deterministic", "heteroscedastic", "variational", "paper"])
def test_every_parameter_learns(router):
    model = least(router=router, num_experts=3, top_k=3, router_dropout=0.2)
    params = any_params(model)

    def loss(params, images):
        return jnp.mean((model.apply({"params": params}, images, train=True, rngs={"dropout": KEY})[0] - 0.3) ** 2)

    for name, grad in flatten_dict(jax.jit(jax.grad(loss))(params, IMAGES)).items():
        assert np.isfinite(grad).all(), name
        assert np.any(grad), name


def test_an_image_does_not_depend_on_its_batch():
    model = least()
    params = any_params(model, 0.02)
    apply = jax.jit(model.apply)
    together, alone = apply({"params": params}, IMAGES)[0], apply({"params": params}, IMAGES[1:])[0]
    np.testing.assert_allclose(together[1:], alone, atol=1e-4)


def test_training_is_not_clipped_and_dropout_needs_a_key():
    model = least(dropout=0.5)
    params = any_params(model, 1.0)
    still = jax.jit(model.apply)({"params": params}, IMAGES)[0]
    apply = jax.jit(lambda p, x: model.apply({"params": p}, x, train=True, rngs={"dropout": KEY})[0])
    trained = apply(params, IMAGES)
    assert (trained > 1).any() or (trained < 0).any()
    assert ((still >= 0) & (still <= 1)).all()
    with pytest.raises(Exception, match="dropout"):
        model.apply({"params": params}, IMAGES, train=True)


# parameters, and GFLOP of a 240 x 240 image as XLA counts them before it optimises
SIZES = {"tiny": (61_930, 0.585), "small": (948_866, 1.372), "base": (10_732_291, 77.29)}


@pytest.mark.parametrize("variant", VARIANTS)
def test_variants_have_the_size_they_say(variant, monkeypatch):
    parameters, gflops = SIZES[variant]
    assert count(build(variant)) == parameters
    # no loops over experts or heads, because XLA counts a loop's body once, however often it runs
    monkeypatch.setattr(attention, "CACHED", 1 << 30)
    assert flops(build(variant, dispatch="dense"), 240) / 1e9 == pytest.approx(gflops, rel=0.02)


def test_base_has_the_papers_counts():
    # the paper's network without experts has 8.71 M parameters, 345,600 of them an unused position table
    assert count(build("base", feed_forward="dense")) == 8_709_379 - 900 * 384
    # an expert adds 2 * (384^2 + 384) to each of the two layers, and a router column of 384
    per_expert = 2 * (2 * (384**2 + 384) + 384)
    assert count(build("base", num_experts=8)) - count(build("base")) == 4 * per_expert
    # learnt variance is as many columns again, and a bias, in each of the two layers
    assert count(build("base", router="heteroscedastic")) - count(build("base")) == 2 * 4 * (384 + 1)
    assert count(build("base", router="variational")) - count(build("base")) == 2 * 4 * 384
    # static experts are two vectors
    static = {e: count(build("base", num_experts=e, generator="static")) for e in (4, 8)}
    assert static[8] - static[4] == 4 * 2 * (2 * 384 + 384)


def test_the_published_saving_at_128_experts():
    saving = 1 - count(build("base", num_experts=128)) / count(build("base", num_experts=128, feed_forward="moe"))
    assert saving > 0.72


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(num_experts=4, top_k=5), "top_k=5"),
        (dict(feed_forward="conv"), "feed_forward='conv'"),
        (dict(skip="short"), "skip='short'"),
        (dict(generator="quadratic"), "generator='quadratic'"),
        (dict(patch=6), "patch=6"),
        (dict(width_of=3), "width_of"),
        (dict(router="cosine"), "cosine"),
        (dict(dispatch="fast"), "dispatch='fast'"),
    ],
)
def test_what_is_no_network_is_named(fields, said):
    with pytest.raises(ValueError, match=said):
        build("tiny", **fields)


def test_unknown_variants_and_wrong_shapes_are_named():
    with pytest.raises(ValueError, match=r"huge.*tiny, small, base"):
        build("huge")
    with pytest.raises(ValueError, match=r"\(B, H, W, 3\)"):
        Restorer().init(KEY, jnp.zeros((32, 32, 3)))


def test_nnx_gives_the_same_output():
    from flax import nnx
    from flax.nnx import bridge

    model = least()
    wrapped = bridge.lazy_init(bridge.ToNNX(model, rngs=nnx.Rngs(0)), IMAGES)
    params = nnx.to_pure_dict(nnx.state(wrapped, nnx.Param))
    assert np.array_equal(nnx.jit(lambda m: m(IMAGES)[0])(wrapped), jax.jit(model.apply)({"params": params}, IMAGES)[0])


def test_importing_the_models_stays_light():
    code = (
        "import sys, mofme_jax, mofme_jax.models, mofme_jax.models.reference\n"
        "heavy = {'grain', 'orbax', 'tensorflow_datasets', 'tensorflow', 'skimage', 'sklearn'} & set(sys.modules)\n"
        "sys.exit(f'pulled in {heavy}' if heavy else 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(("feed_forward", "skip"), [("moe", "none"), ("mofme", "long")])
def test_bfloat16_computes_nearly_the_same_from_the_same_parameters(feed_forward, skip):
    model = least(feed_forward=feed_forward, skip=skip)
    params = any_params(model)
    wide, wide_aux = jax.jit(model.apply)({"params": params}, IMAGES)
    half, half_aux = jax.jit(model.clone(dtype="bfloat16").apply)({"params": params}, IMAGES)
    # bfloat16 has 8 bits, and so is off by 2^-9 at each rounding; what the network changes is a hundred times that
    assert jnp.abs(wide - IMAGES).mean() > 0.05
    assert 0 < jnp.abs(half - wide).mean() < 0.005
    for a, b in zip(wide_aux, half_aux, strict=True):
        np.testing.assert_allclose(a.probs, b.probs, atol=0.02)
    islands = [half, *(x for a in half_aux for x in (a.gates, a.probs, a.logits, a.uncertainty))]
    assert all(x.dtype == jnp.float32 for x in islands)


def test_bfloat16_is_what_every_product_is_computed_in():
    model = least(dtype="bfloat16")
    params = any_params(model)
    lowered = jax.jit(model.apply).lower({"params": params}, IMAGES).as_text()
    products = [line for line in lowered.splitlines() if "dot_general" in line or "stablehlo.convolution" in line]
    wide = [line for line in products if "bf16" not in line]
    assert len(products) > 10
    assert len(wide) == 6  # the router's mean and variance; tone and detail resized, rows and columns
    assert all("HIGHEST" in line for line in wide)


def test_blocks_computed_again_give_the_same_gradients():
    model = least(dropout=0.5)
    params = any_params(model)

    def gradients(model):
        def loss(params):
            return model.apply({"params": params}, IMAGES, train=True, rngs={"dropout": KEY})[0].var()

        return jax.jit(jax.value_and_grad(loss))

    kept, again = gradients(model), gradients(model.clone(remat=True))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), kept(params), again(params))
    assert "remat" in str(jax.make_jaxpr(again)(params))
    assert "remat" not in str(jax.make_jaxpr(kept)(params))


def test_keeping_every_expert_is_saying_nothing():
    model = least(num_experts=3, depth=2, remat=True)
    params = any_params(model)
    apply = jax.jit(model.apply)
    told = apply({"params": params}, IMAGES, kept=np.ones((2, 3)))
    chex.assert_trees_all_equal(told, apply({"params": params}, IMAGES))
    second_off = apply({"params": params}, IMAGES, kept=np.array([[1, 1, 1], [0, 1, 1.0]]))
    chex.assert_trees_all_equal(second_off[1][0], told[1][0])
    assert (second_off[1][1].chosen != 0).all()
    assert (told[1][1].chosen == 0).any()


@pytest.mark.parametrize("feed_forward", ["moe", "mofme"])
@pytest.mark.parametrize(
    "router", [dict(top_k=2), dict(top_k=3), dict(norm_order="topk_softmax"), dict(router="paper")], ids=str
)
def test_an_expert_switched_off_has_no_say(feed_forward, router):
    model = least(feed_forward=feed_forward, num_experts=3, **router)
    params = jax.tree.map(jnp.asarray, any_params(model))

    @jax.jit
    def apply(params, kept):
        return model.apply({"params": params}, IMAGES, kept=kept)

    on = jnp.ones((1, 3))
    with_all, (routing,) = apply(params, on)
    expert = int(routing.load.argmax())
    other = jax.tree_util.tree_map_with_path(
        lambda path, x: x.at[expert].add(1.0) if any(getattr(entry, "key", "") == "experts" for entry in path) else x,
        params,
    )
    assert (with_all != apply(other, on)[0]).any()

    off = on.at[0, expert].set(0.0)
    restored, (routing,) = apply(params, off)
    np.testing.assert_array_equal(restored, apply(other, off)[0])
    assert (restored != with_all).any()
    assert (routing.gates[..., expert] == 0).all()
    assert model.top_k == 3 or (routing.chosen != expert).all()
    assert apply._cache_size() == 1  # the values of `kept` are no part of the program


@pytest.mark.parametrize(
    ("fields", "kept", "said"),
    [
        (dict(), np.ones((2, 4)), r"\(L, E\) = \(1, 4\).*not \(2, 4\)"),
        (dict(), np.ones(4), r"not \(4,\)"),
        (dict(feed_forward="dense"), np.ones((1, 4)), 'feed_forward="dense"'),
    ],
)
def test_experts_that_are_not_there_cannot_be_switched_off(fields, kept, said):
    with pytest.raises(ValueError, match=said):
        jax.eval_shape(lambda: least(**fields).init(KEY, IMAGES, kept=kept))
