"""The released network in JAX against the released network itself.

tests/golden/<case>.npz holds measurements of the authors' released code (PyTorch 2.13, evaluation mode, one
thread): its weights, images in [-1, 1] (B, C, H, W), and outputs in float64 unless said otherwise below. Each
file is a full recording re-saved, compressed, with only these: `config`, `param/*`, `input`, `output_f64`,
`head` and `tokens` (float32), `layer*/block_out_f64|weights_f64|router_logits`; and for film_e4k2 `target`,
`gradnorm_names|values` (L2 norms of the gradient of the mean smooth L1 loss, float64) and `adamw_losses`
(the loss before and after each of five AdamW steps at learning rate 1e-3 and weight decay 0.01, float64).
param_names_paper_E4.txt lists names and shapes of its state dicts at the authors' sizes.
"""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import traverse_util
from jax.flatten_util import ravel_pytree

from mofme_jax.models.compat import CompatRestorer
from mofme_jax.models.compat_experts import route
from mofme_jax.models.reference import from_state_dict, model_from_config, state_dict_names, to_state_dict

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
# At float64 every kind of network and option; float32, for its tolerance, only on the widest two.
CASES = ["film_e8k4_res_32x48", "complete_detail1357_e4k2", "film_e4k2_h1_noproj", "complete_sa_e4k2_b2"]
CASES += ["baseline_vit"]
FORWARD = [(name, np.float64) for name in CASES] + [(name, np.float32) for name in CASES[:2]]
# Compiling takes most of these tests' time, and half as long without XLA's costly passes.
FAST_COMPILE = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
TINY = {"image_size": (16, 16), "width": 16, "depth": 1, "heads": 2, "head_dim": 4}
TINY |= {"channels": 4, "channel_scale": 2}


def load_case(name, dtype=np.float32):
    """(config, state dict, images in [0, 1] (B, H, W, C), the recording)."""
    recorded = np.load(GOLDEN / f"{name}.npz")
    config = json.loads(str(recorded["config"]))["model"]
    weights = {key.removeprefix("param/"): recorded[key] for key in recorded if key.startswith("param/")}
    weights = {key: array.astype(dtype) for key, array in weights.items()}
    return config, weights, (channels_last(recorded["input"]).astype(dtype) + 1) / 2, recorded


def channels_last(array):
    """(B, C, H, W) -> (B, H, W, C)."""
    return array.transpose(0, 2, 3, 1)


def forward(model, params, images):
    """Output, aux, and the head's features and tokens, in one compilation."""

    def run(params, images):
        variables = {"params": params}
        return model.apply(variables, images, train=False), model.apply(variables, images, method="embed")

    return jax.jit(run, compiler_options=FAST_COMPILE)(params, images)


def compare(result, recorded, atol, atol_f32=1e-4):
    """Every recorded quantity; `atol_f32` for those recorded in float32."""
    (output, aux), (head, tokens) = result
    np.testing.assert_allclose(output, channels_last(recorded["output_f64"]), rtol=0, atol=atol)
    np.testing.assert_allclose(head, channels_last(recorded["head"]), rtol=0, atol=atol_f32)
    np.testing.assert_allclose(tokens, recorded["tokens"], rtol=0, atol=atol_f32)
    for i, layer in enumerate(aux):
        np.testing.assert_allclose(layer.output, recorded[f"layer{i}/block_out_f64"], rtol=0, atol=atol)
        if f"layer{i}/weights_f64" not in recorded:
            assert layer.weights is None
            continue
        np.testing.assert_allclose(layer.weights, recorded[f"layer{i}/weights_f64"], rtol=0, atol=atol)
        logits = recorded[f"layer{i}/router_logits"]
        np.testing.assert_allclose(layer.router_logits, logits, rtol=0, atol=atol_f32)


@pytest.mark.parametrize(("name", "dtype"), FORWARD)
def test_forward_matches_the_released_network(name, dtype):
    """Output, head, tokens, layers and routing; at float64 to rounding."""
    double = dtype is np.float64
    with jax.enable_x64(double):
        config, weights, images, recorded = load_case(name, dtype)
        model, params = from_state_dict(weights, config)
        compare(forward(model, params, images), recorded, atol=1e-9 if double else 1e-4)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_training_matches_the_released_network(dtype):
    """Forward, gradient norms and five AdamW steps; at float64 to rounding."""
    double = dtype is np.float64
    with jax.enable_x64(double):
        config, weights, images, recorded = load_case("film_e4k2", dtype)
        model, params = from_state_dict(weights, config)
        target = channels_last(recorded["target"]).astype(dtype)
        flat, unravel = ravel_pytree(params)

        def loss(flat):
            variables = {"params": unravel(flat)}
            result = model.apply(variables, images)
            features = model.apply(variables, images, method="embed")
            return optax.huber_loss(result[0], target).mean(), (result, features)

        step = jax.jit(jax.value_and_grad(loss, has_aux=True), compiler_options=FAST_COMPILE)
        (_, result), gradient = step(flat)
        compare(result, recorded, atol=1e-9 if double else 1e-4)

        gradients = to_state_dict(model, unravel(gradient))
        norms = {name: np.linalg.norm(array) for name, array in gradients.items()}
        expected = dict(zip(recorded["gradnorm_names"], recorded["gradnorm_values"], strict=True))
        assert norms.keys() == expected.keys()
        for key, value in expected.items():
            np.testing.assert_allclose(norms[key], value, rtol=1e-9 if double else 1e-4, atol=1e-9)

        optimizer = optax.adamw(1e-3, weight_decay=0.01)
        update = jax.jit(optimizer.update)
        state, losses = optimizer.init(flat), []
        for _ in range(6):
            (value, _), gradient = step(flat)
            losses.append(value)
            updates, state = update(gradient, state, flat)
            flat = flat + updates
        np.testing.assert_allclose(losses, recorded["adamw_losses"], rtol=1e-9 if double else 1e-3)


def parse_name_lists():
    """(config, {name: shape}, parameters) of every state dict listed in param_names_paper_E4.txt."""
    for block in (GOLDEN / "param_names_paper_E4.txt").read_text().strip().split("\n\n"):
        head, *lines = block.splitlines()
        words = dict(word.split("=") for word in head.split() if "=" in word)
        config = {"gate": words["gate"], "type_expert": words["type_expert"], "num_expert": int(words["E"])}
        config["moe_enable"] = words["gate"] != "baseline"
        rows = [line.split("\t")[:2] for line in lines]
        shapes = {name: tuple(json.loads(f"[{shape.strip('()').rstrip(',')}]")) for name, shape in rows}
        yield pytest.param(config, shapes, int(head.split(" parameters")[0].split()[-1]), id=head.split(" E=")[0])


def abstract_params(model):
    """The parameters' shapes; allocates nothing."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, 3), jnp.float32)
    return jax.eval_shape(model.init, jax.random.key(0), images)["params"]


def count(params):
    """Number of scalars."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(("config", "shapes", "parameters"), list(parse_name_lists()))
def test_names_and_counts_at_the_authors_sizes(config, shapes, parameters):
    """Every tensor of the released state dicts has one place here, and nothing else has."""
    model = model_from_config(config)
    params = abstract_params(model)
    assert count(params) == parameters
    slots = state_dict_names(model)
    assert slots.keys() == shapes.keys()
    flat = traverse_util.flatten_dict(params)
    for name, (path, index) in slots.items():
        shape = flat[path].shape if index is None else flat[path].shape[1:]
        assert sorted(shape) == sorted(shapes[name]), name
    assert {slot.path for slot in slots.values()} == flat.keys()


def test_published_parameter_counts():
    """11.68 M at E = 4 and 85.29 M at E = 128."""
    millions = {e: count(abstract_params(CompatRestorer(experts=e))) / 1e6 for e in (4, 128)}
    assert millions[4] == pytest.approx(11.68, abs=5e-3)
    assert millions[128] == pytest.approx(85.29, abs=6e-3)


def init_tiny(**attributes):
    """(model, parameters, images) at sizes that compile fast; drawn by NumPy, as compiling `init` is slow."""
    model, rng = CompatRestorer(**TINY | attributes), np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(0, 0.3, leaf.shape), leaf.dtype), abstract_params(model))
    return model, params, jnp.asarray(rng.uniform(size=(2, *model.image_size, 3)), jnp.float32)


def test_state_dict_round_trip_and_module_prefix():
    """Export undoes import, whose names may carry a prefix."""
    config, weights, _, _ = load_case("complete_detail1357_e4k2")
    model, params = from_state_dict({f"module.{name}": array for name, array in weights.items()}, config)
    returned = to_state_dict(model, params)
    assert returned.keys() == weights.keys()
    for name, array in weights.items():
        np.testing.assert_array_equal(returned[name], array)


def test_every_misfit_is_listed():
    """One error names all that is missing, unexpected or misshapen."""
    config, weights, _, _ = load_case("film_e4k2")
    weights["head.0.weight"] = weights["head.0.weight"][:4]
    weights["head.9.bias"] = weights.pop("head.0.bias")
    with pytest.raises(ValueError, match="does not fit") as error:
        from_state_dict(weights, config)
    message = str(error.value)
    assert "missing head.0.bias" in message
    assert "unexpected head.9.bias" in message
    assert "head.0.weight has shape (4, 3, 3, 3), not (8, 3, 3, 3)" in message
    weights["module.head.1.body.0.bias"] = weights["head.1.body.0.bias"]
    with pytest.raises(ValueError, match=r"with and without 'module\.'"):
        from_state_dict(weights, config)


def test_half_precision_weights_become_float32():
    """bfloat16 files are computed with at float32."""
    config, weights, _, _ = load_case("baseline_vit")
    halves = {name: np.asarray(jnp.asarray(array, jnp.bfloat16)) for name, array in weights.items()}
    _, params = from_state_dict(halves, config)
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(params))


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"num_expert": 4, "top_k": 5}, "top_k must lie between"),
        ({"top_k": -1}, "top_k must lie between"),
        ({"num_expert": 0}, "experts must be at least 1"),
        ({"gate": "complete", "type_expert": "conv"}, "expert_kind must be one of"),
        ({"gate": "switch"}, "gate must be one of"),
        ({"img_size": 100}, "not divisible by the patch"),
        ({"kernel_size": 5}, "kernel_size must be 3"),
        ({"embed": 5}, "unknown keywords"),
        ({"in_ch": 4, "residual_learning": True}, "3 channels"),
    ],
)
def test_bad_configs(config, message):
    """A network that cannot be built says why."""
    with pytest.raises(ValueError, match=message):
        model_from_config(config)


@pytest.mark.parametrize(
    ("shape", "dtype", "message"),
    [
        ((1, 16, 20, 3), jnp.float32, "16x20 are not divisible by the patch, 8"),
        ((1, 0, 16, 3), jnp.float32, "not divisible"),
        ((1, 3, 16, 16), jnp.float32, "must be"),
        ((16, 16, 3), jnp.float32, "must be"),
        ((1, 16, 16, 3), jnp.uint8, "floats"),
        ((1, 16, 32, 3), jnp.float32, "square"),
    ],
)
def test_bad_images(shape, dtype, message):
    """Images the network cannot take say why."""
    model = CompatRestorer(gate="complete", expert_kind="detail_3333", **TINY)
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), jax.ShapeDtypeStruct(shape, dtype))


def test_route_by_hand():
    """exp(log 3) : exp(0) = 3 : 1; the two logits 0 tie for the second place and are both kept."""
    logits = jnp.array([[np.log(3.0), 0.0, 0.0, -1.0]], jnp.float32)
    np.testing.assert_allclose(route(logits, 2), [[0.6, 0.2, 0.2, 0]], atol=1e-6)
    np.testing.assert_allclose(route(logits, 1), [[1, 0, 0, 0]])
    np.testing.assert_array_equal(route(logits, 0), route(logits, 4))


def test_the_last_film_expert_and_other_unused_parameters_do_nothing():
    """What the release holds but never uses is not used here either."""
    model, params, images = init_tiny()
    flat = traverse_util.flatten_dict(params)
    for path, leaf in flat.items():
        if any(part.startswith("unused") for part in path):
            flat[path] = leaf + 1
        if "product" in path or "add" in path:
            flat[path] = leaf.at[-1].add(1)
    run = jax.jit(lambda params: model.apply({"params": params}, images)[0], compiler_options=FAST_COMPILE)
    np.testing.assert_array_equal(run(params), run(traverse_util.unflatten_dict(flat)))


def test_one_expert_is_the_parameter_free_one():
    """E = 1 leaves the GELU alone, with weight one."""
    model, params, images = init_tiny(experts=1, top_k=1)
    restored, (layer,) = jax.jit(model.apply, compiler_options=FAST_COMPILE)({"params": params}, images)
    assert restored.shape == images.shape
    np.testing.assert_array_equal(layer.weights, jnp.ones_like(layer.weights))


def test_train_changes_nothing():
    """The same computation is traced either way."""
    model, params, images = init_tiny()
    traced = [
        str(jax.make_jaxpr(lambda p, train=train: model.apply({"params": p}, images, train=train))(params))
        for train in (False, True)
    ]
    assert traced[0] == traced[1]


def test_top_1_gives_the_router_no_gradient():
    """A softmax over one logit is the constant 1; over two it is not."""
    logits, weight = jnp.array([0.3, 0.1, -0.2]), jnp.array([1.0, 2.0, 3.0])
    gradient = jax.grad(lambda logits, top_k: route(logits, top_k) @ weight)
    np.testing.assert_array_equal(gradient(logits, 1), 0)
    assert np.all(gradient(logits, 2)[:2] != 0)


def test_images_of_another_size_than_the_position_table():
    """The table's size binds no image."""
    model, params, _ = init_tiny(residual=True)
    restored, _ = jax.jit(model.apply, compiler_options=FAST_COMPILE)({"params": params}, jnp.ones((1, 8, 24, 3)))
    assert restored.shape == (1, 8, 24, 3)
