"""The compiled parts of a run, made from its options: what the loop runs and what `mofme plan` compiles ahead."""

import dataclasses
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from flax.traverse_util import flatten_dict
from jax.sharding import Mesh

from mofme_jax.models import vgg
from mofme_jax.models.dispatch import resolve
from mofme_jax.training import losses, schedule, sharding
from mofme_jax.training.options import Options
from mofme_jax.training.state import TrainState, init_state, make_optimiser
from mofme_jax.training.step import make_train_step
from mofme_jax.weights import load

ImageLoss = Callable[[jax.Array, jax.Array], jax.Array]


def build_optimiser(options: Options, learning_rate: optax.Schedule) -> optax.GradientTransformation:
    """The optimiser that the `train` section describes."""
    train = options.train
    return make_optimiser(
        learning_rate,
        weight_decay=train.weight_decay,
        b2=train.b2,
        clip_norm=train.clip_norm or None,
    )


def make_image_loss(options: Options, vgg16: vgg.Params | None = None) -> ImageLoss:
    """(restored, target) -> (B,): the pixel loss and the terms with a weight.

    Args:
      options: of the run.
      vgg16: weights for the perceptual term; None takes those of the extra, where the term has a weight.

    Raises:
      ImportError: a perceptual term without the extra that holds its weights.
    """
    loss = options.loss
    pixel_loss = {"charbonnier": losses.charbonnier, "rmse": losses.rmse, "smooth_l1": losses.smooth_l1}[loss.kind]
    if loss.perceptual and vgg16 is None:
        vgg16 = vgg.load_vgg16()

    def image_loss(restored, target):
        value = pixel_loss(restored, target)
        if loss.gradient:
            value += loss.gradient * losses.gradient_l1(restored, target)
        if loss.perceptual and vgg16 is not None:
            value += loss.perceptual * losses.perceptual(restored, target, vgg16)
        return value

    return image_loss


def build_init(options: Options, model: nn.Module, optimiser: optax.GradientTransformation, mesh: Mesh) -> Any:
    """The jitted `seed -> TrainState`, made where it belongs: no device ever holds all of it."""

    def init(seed):
        return init_state(model, optimiser, jax.random.key(seed), options.data.crop)

    places = sharding.state_shardings(jax.eval_shape(init, np.uint32(0)), mesh)
    return jax.jit(init, out_shardings=places)


def given_parameters(options: Options, model: nn.Module) -> Any:
    """The parameters that config.train.weights has the run begin with, in NumPy; None where they are to be drawn.

    Raises:
      ValueError, FileNotFoundError: there are none, or they are of another network.
    """
    if not options.train.weights:
        return None
    params = jax.device_get(load(options.train.weights)[1])
    images = jax.ShapeDtypeStruct((1, options.data.crop, options.data.crop, 3), np.float32)
    wanted = flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images)["params"], sep="/")
    found = flatten_dict(params, sep="/")
    for name in sorted(wanted.keys() | found.keys()):
        ours, theirs = (tree[name].shape if name in tree else "missing" for tree in (wanted, found))
        if ours != theirs:
            raise ValueError(
                f"config.train.weights={options.train.weights!r} are of another network than config.model describes: "
                f"{name} is {theirs} there, {ours} here; set config.model to "
                "what it was there (error_head=False where it had none)"
            )
    return params


def begin_with(state: TrainState, params: Any) -> TrainState:
    """The state with other parameters, and their average, where its own lie."""
    places = jax.tree.map(lambda leaf: leaf.sharding, state.params)
    # put there twice: a step gives its state away, and one array cannot be given away as two
    return dataclasses.replace(state, params=jax.device_put(params, places), ema=jax.device_put(params, places))


def build_step(
    options: Options,
    model: nn.Module,
    optimiser: optax.GradientTransformation,
    image_loss: ImageLoss,
    *,
    paired: bool,
    mesh: Mesh,
) -> Any:
    """The jitted `(state, photographs) -> (state, metrics)` of `make_train_step`, on the mesh; the state is donated.

    Args:
      options: of the run.
      model: the restorer that `options` describe.
      optimiser: see `build_optimiser`.
      image_loss: see `make_image_loss`.
      paired: whether inputs are given, rather than made from the targets.
      mesh: the devices.
    """
    data, train = options.data, options.train
    # by what it will run on, which is not JAX's default backend where a plan is made
    dispatch = resolve(model.dispatch, model.num_experts, mesh.devices.flat[0].platform)
    step = make_train_step(
        model.clone(dtype=train.dtype, remat=train.remat == "blocks", dispatch=dispatch),
        optimiser,
        image_loss,
        weathers=None if paired else data.weathers,
        clean_share=data.clean_share,
        severity=data.severity,
        colour_share=data.colour_share,
        sky_share=data.sky_share,
        decay=train.ema_decay,
        router_weights={name: getattr(options.loss, name) for name in ("importance", "load", "z")},
        gather=partial(sharding.gather, mesh=mesh, experts=dispatch != "dense"),
        accumulate=train.accumulate,
    )
    state = build_init(options, model, optimiser, mesh).eval_shape(np.uint32(0))
    places = jax.tree.map(lambda leaf: leaf.sharding, state)

    def step_on_mesh(state, photographs):
        with jax.sharding.use_abstract_mesh(mesh.abstract_mesh):  # tells the dispatch to keep to each device's tokens
            return step(state, photographs)

    return jax.jit(
        step_on_mesh,
        in_shardings=(places, sharding.split_over_batch(mesh)),
        out_shardings=(places, sharding.replicated(mesh)),
        donate_argnums=0,
    )


def abstract_arguments(
    options: Options, model: nn.Module, optimiser: optax.GradientTransformation, *, paired: bool, mesh: Mesh
) -> tuple[TrainState, jax.ShapeDtypeStruct]:
    """Shapes, types and places of what `build_step`'s step takes: nothing is computed, no image is read."""
    state = build_init(options, model, optimiser, mesh).eval_shape(np.uint32(0))
    shape = (options.train.batch, options.data.crop, options.data.crop, 6 if paired else 3)
    return state, jax.ShapeDtypeStruct(shape, np.uint8, sharding=sharding.split_over_batch(mesh))


def build_schedule(options: Options, images: int) -> tuple[int, optax.Schedule]:
    """How many steps, and the learning rate of each.

    Raises:
      ValueError: a warmup as long as the run.
    """
    train = options.train
    steps_per_epoch = max(1, images // train.batch)
    total = train.steps or train.epochs * steps_per_epoch
    epochs = train.epochs or -(-total // steps_per_epoch)
    length, unit = (total, "steps") if train.schedule == "cosine" else (epochs, "epochs")
    if train.warmup >= length:
        raise ValueError(f"config.train.warmup={train.warmup} leaves none of the run's {length} {unit}: lower it")
    if train.schedule == "cosine":
        return total, schedule.warmup_cosine(train.learning_rate, total, train.warmup, train.floor)
    return total, schedule.reference_steps(train.learning_rate, epochs, steps_per_epoch, train.warmup, train.floor)
