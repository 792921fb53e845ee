"""Weights of the authors' released code, imported into `compat.CompatRestorer`.

    state_dict = load_checkpoint("best_psnr.pth")
    model, params = from_state_dict(state_dict, config)
    restored, aux = model.apply({"params": params}, images)

`config` holds the keywords of the released model's constructor (see `model_from_config`). A state dict is a
plain dict from the released code's tensor names to arrays; `load_checkpoint` reads one from a file without
PyTorch and without executing what is pickled in it.

Layouts: a Linear's (out, in) becomes a kernel (in, out), a convolution's OIHW becomes HWIO, a depthwise
(C, 1, k, k) becomes (k, k, 1, C); the tensors of equal experts are stacked on a leading axis.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import traverse_util

from mofme_jax.models.checkpoint_file import CheckpointError, load_checkpoint
from mofme_jax.models.compat import CompatRestorer
from mofme_jax.models.compat_experts import EXPERT_KERNELS

__all__ = [
    "CheckpointError",
    "from_state_dict",
    "load_checkpoint",
    "model_from_config",
    "state_dict_names",
    "to_state_dict",
]

# Constructor keyword of the released code -> attribute of CompatRestorer.
_ATTRIBUTES = {
    "in_ch": "in_channels",
    "residual_learning": "residual",
    "patch_size": "patch",
    "embed_dim": "width",
    "dim_head": "head_dim",
    "n_heads": "heads",
    "depth": "depth",
    "scale_dim": "mlp_ratio",
    "out_ch": "channels",
    "out_ch_scale": "channel_scale",
    "num_expert": "experts",
    "top_k": "top_k",
    "type_expert": "expert_kind",
}
# Keywords with another meaning, or with none at evaluation: dropout is never drawn here.
_OTHER_KEYWORDS = ("moe_enable", "gate", "img_size", "kernel_size", "dropout", "embed_dropout")

_VIT = "Img_Encoder.vision_transformer"


class Slot(NamedTuple):
    """Where a tensor of the state dict lives among the parameters.

    Attributes:
      path: names from the root of the parameters to the array.
      expert: the tensor's place on the array's leading axis of experts; None where there is no such axis.
    """

    path: tuple[str, ...]
    expert: int | None = None


def model_from_config(config: Mapping[str, Any]) -> CompatRestorer:
    """Builds the network for the keywords of the released model's constructor.

    Args:
      config: any of `in_ch, residual_learning, moe_enable, gate, type_expert, patch_size, embed_dim,
        dim_head, n_heads, depth, scale_dim, dropout, embed_dropout, kernel_size, out_ch, out_ch_scale,
        num_expert, top_k, img_size`; what is left out takes the authors' published size. `img_size` is a
        side or (H, W); `moe_enable` false means the baseline whatever `gate` says; the dropout rates change
        nothing.

    Raises:
      ValueError: for an unknown keyword, a kernel_size other than 3, or a network that cannot be built.
    """
    unknown = sorted(set(config) - set(_ATTRIBUTES) - set(_OTHER_KEYWORDS))
    if unknown:
        raise ValueError(f"unknown keywords {unknown}; known are {sorted((*_ATTRIBUTES, *_OTHER_KEYWORDS))}")
    if config.get("kernel_size", 3) != 3:
        raise ValueError(f"kernel_size must be 3, not {config['kernel_size']}")
    attributes = {_ATTRIBUTES[key]: value for key, value in config.items() if key in _ATTRIBUTES}
    gate = config.get("gate", "film") if config.get("moe_enable", True) else "baseline"
    size = config.get("img_size", 240)
    image_size = (size, size) if np.ndim(size) == 0 else tuple(size)
    model = CompatRestorer(gate=gate, image_size=image_size, **attributes)
    model.check()
    return model


def state_dict_names(model: CompatRestorer) -> dict[str, Slot]:
    """The released code's name of every tensor of `model`, and its place among the parameters."""
    baseline = model.gate == "baseline"
    names = {f"{_VIT}.{'' if baseline else 'img_'}pos_embedding": Slot(("unused_positions",))}
    names |= _pair("patch_embed_to_img_feature.0", "to_pixels")
    names |= _pair(f"{_VIT}.to_patch_embedding.proj", "patch_embedding")
    names |= _pair(f"{_VIT}.to_patch_embedding.norm", "patch_norm", weight="scale")
    names |= _pair("head.0", "head_conv") | _pair("tail.2", "tail_convs_0") | _pair("tail.4", "tail_convs_1")
    blocks = {"head.1": "head_blocks_0", "head.2": "head_blocks_1"}
    blocks |= {"tail.1": "tail_blocks_0", "tail.3": "tail_blocks_1"}
    for theirs, ours in blocks.items():
        names |= _pair(f"{theirs}.body.0", ours, "conv_in") | _pair(f"{theirs}.body.2", ours, "conv_out")
    for i in range(model.depth):
        names |= _layer_names(model, f"{_VIT}.transformer.layers.{i}", f"layers_{i}")
    return names


def _pair(theirs: str, *path: str, weight: str = "kernel", expert: int | None = None) -> dict[str, Slot]:
    """The weight and bias of one of their layers and of the module of ours at `path`."""
    return {
        f"{theirs}.weight": Slot((*path, weight), expert),
        f"{theirs}.bias": Slot((*path, "bias"), expert),
    }


def _layer_names(model: CompatRestorer, theirs: str, ours: str) -> dict[str, Slot]:
    """Names of one transformer layer; `theirs` and `ours` are its prefixes."""
    names = _pair(f"{theirs}.0.norm", ours, "attention_norm", weight="scale")
    names[f"{theirs}.0.fn.to_qkv.weight"] = Slot((ours, "attention", "qkv", "kernel"))
    if not (model.heads == 1 and model.head_dim == model.width):
        names |= _pair(f"{theirs}.0.fn.to_out.0", ours, "attention", "out")
    if model.gate == "baseline":
        names |= _pair(f"{theirs}.1.norm", ours, "norm", weight="scale")
        names |= _pair(f"{theirs}.1.fn.net.0", ours, "feed_forward", "up")
        return names | _pair(f"{theirs}.1.fn.net.3", ours, "feed_forward", "down")
    names |= _pair(f"{theirs}.1.0", ours, "router")
    if model.gate == "complete":
        for e in range(model.experts):
            names |= _parallel_expert_names(model.expert_kind, e, f"{theirs}.2.{e}", (ours, "experts"))
        return names
    names |= _pair(f"{theirs}.2.0", ours, "adaptor", "up") | _pair(f"{theirs}.2.3", ours, "adaptor", "down")
    names |= _pair(f"{theirs}.3.0", ours, "film", "norm", weight="scale")
    names |= _pair(f"{theirs}.3.1.0.0", ours, "film", "gate") | _pair(f"{theirs}.3.1.1.0", ours, "film", "value")
    for e in range(model.experts):
        expert = f"{theirs}.3.{3 + e}"
        names |= _pair(f"{expert}.expert.0", ours, "film", "product", expert=e)
        names |= _pair(f"{expert}.expert.1", ours, "film", "add", expert=e)
        names[f"{expert}.norm.weight"] = Slot((ours, "film", "unused_norm_scale"), e)
        names[f"{expert}.norm.bias"] = Slot((ours, "film", "unused_norm_bias"), e)
    return names


def _parallel_expert_names(kind: str, e: int, theirs: str, path: tuple[str, ...]) -> dict[str, Slot]:
    """Names of expert `e` of a "complete" layer: number e // kernels of stack e % kernels."""
    kernels = EXPERT_KERNELS[kind]
    index, first = divmod(e, len(kernels))
    path = (*path, f"stack_{first}")
    up, down = ("net.0", "net.3") if kind == "ffn" else ("fc1", "fc2")
    names = _pair(f"{theirs}.norm", *path, "norm", weight="scale", expert=index)
    names |= _pair(f"{theirs}.fn.{up}", *path, "up", expert=index)
    names |= _pair(f"{theirs}.fn.{down}", *path, "down", expert=index)
    if kernels[first]:
        names |= _pair(f"{theirs}.fn.dwconv.dwconv", *path, "depthwise", expert=index)
    return names


def _parameter_shapes(model: CompatRestorer) -> dict[tuple[str, ...], tuple[int, ...]]:
    """Shape of every parameter by its path; nothing is allocated."""
    images = jax.ShapeDtypeStruct((1, *model.image_size, model.in_channels), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    return {path: leaf.shape for path, leaf in traverse_util.flatten_dict(params).items()}


def _swap_layout(array: np.ndarray, path: tuple[str, ...], to_torch: bool) -> np.ndarray:
    """Transposes a kernel, (out, in) <-> (in, out) or OIHW <-> HWIO; anything else is returned as it is."""
    if path[-1] != "kernel":
        return array
    if array.ndim == 4:
        return array.transpose((3, 2, 0, 1) if to_torch else (2, 3, 1, 0))
    return array.T if array.ndim == 2 else array


def from_state_dict(state_dict: Mapping[str, Any], config: Mapping[str, Any]) -> tuple[CompatRestorer, dict[str, Any]]:
    """Builds the network and its parameters from the released code's weights.

    Args:
      state_dict: names to arrays; names may start with `module.`.
      config: keywords of the released model's constructor, see `model_from_config`.

    Returns:
      The model and its parameters, float32 or, where the tensor is float64 and x64 is enabled, float64.

    Raises:
      ValueError: for a bad config, and, listing every such name, for missing, unexpected or repeated names
        and for shapes that do not fit.
    """
    model = model_from_config(config)
    names, shapes = state_dict_names(model), _parameter_shapes(model)
    given = {name.removeprefix("module."): np.asarray(array) for name, array in state_dict.items()}
    complaints = [f"missing {name}" for name in names if name not in given]
    complaints += [f"unexpected {name}" for name in given if name not in names]
    if len(given) < len(state_dict):
        complaints.append("some names are given both with and without 'module.'")
    arrays: dict[tuple[str, ...], Any] = {}
    for name, slot in names.items():
        if name not in given:
            continue
        array = _swap_layout(given[name], slot.path, to_torch=False)
        shape = shapes[slot.path] if slot.expert is None else shapes[slot.path][1:]
        if array.shape != shape:
            expected = _swap_layout(np.broadcast_to(0, shape), slot.path, to_torch=True).shape
            complaints.append(f"{name} has shape {given[name].shape}, not {expected}")
        arrays.setdefault(slot.path, []).append(array if slot.expert is None else array[None])
    if complaints:
        raise ValueError("the state dict does not fit the config:\n  " + "\n  ".join(complaints))
    # `names` lists the experts in order, so every stack was filled in the order of its axis.
    stacked = {path: np.concatenate(parts) for path, parts in arrays.items()}
    params = {path: jnp.asarray(a, jnp.promote_types(a.dtype, jnp.float32)) for path, a in stacked.items()}
    return model, traverse_util.unflatten_dict(params)


def to_state_dict(model: CompatRestorer, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The inverse of `from_state_dict`, for parameters or gradients: their names and layouts."""
    flat = traverse_util.flatten_dict(params)
    state_dict = {}
    for name, slot in state_dict_names(model).items():
        array = np.asarray(flat[slot.path])
        array = array if slot.expert is None else array[slot.expert]
        state_dict[name] = _swap_layout(array, slot.path, to_torch=True)
    return state_dict
