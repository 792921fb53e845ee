"""That PyTorch's network is ours: the same parameters in both, equal outputs and equal gradients."""

import re
from collections.abc import Iterator
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import torch
from experts import pixels
from torch.nn import functional as F
from torch_model import Form, TorchRestorer

from mofme_jax.models.restorer import Restorer


def drawn(model: Restorer) -> Any:
    """Parameters from seed 0 that keep signals at about one: normal, kernels divided by the root of their fan-in."""
    rng = np.random.default_rng(0)

    def draw(path, leaf):
        noise = rng.standard_normal(leaf.shape, np.float32)
        if path[-1].key != "kernel":
            return jnp.asarray(0.1 * noise + (path[-1].key == "scale"))
        return jnp.asarray(noise / np.sqrt(leaf.shape[-2] * (9 if leaf.ndim == 4 else 1)))

    shapes = jax.eval_shape(partial(model.init, jax.random.key(0)), pixels(1))
    return jax.tree_util.tree_map_with_path(draw, shapes)


def state_dict_of(params: Any, model: Restorer, form: Form) -> dict[str, torch.Tensor]:
    """Our parameters (or their gradients) under the names and in the layouts of `TorchRestorer(model, form)`."""
    state = {}
    tail = {"tail_0": "tail.0", "narrow": "tail.1", "tail_1": "tail.2", "output": "tail.3"}
    head = {"stem": "head.0"} | {f"head_0_{i}": f"head.{i + 1}" for i in range(model.blocks)}
    layers = {f"block_{i}": f"layers.{i}" for i in range(model.depth)}
    within = {
        "kernel": "weight",
        "scale": "weight",
        "experts.generate": "generate",
        "shared.": "",
        "router": "router.linear",
    }
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        first, _, rest = jax.tree_util.keystr(path, simple=True, separator=".").removeprefix("params.").partition(".")
        for ours, theirs in within.items():
            rest = rest.replace(ours, theirs)
        name = f"{(head | layers | tail).get(first, first)}.{rest}"
        array = np.array(leaf)
        if "generate" in name:
            array = array.swapaxes(1, -1)  # (E, 2 D, D), and the bias as it is
            if form == "dense":
                state[name] = array.reshape(-1, *array.shape[2:])
            else:
                state |= {name.replace("generate", f"generate.{e}"): own for e, own in enumerate(array)}
        else:
            state[name] = array.transpose((3, 2, 0, 1)) if array.ndim == 4 else array.T
    return {name: torch.from_numpy(np.ascontiguousarray(array)) for name, array in state.items()}


def agreeing(model: Restorer, params: Any, forms: list[Form], device: str) -> dict[str, TorchRestorer]:
    """PyTorch's networks with our parameters, one for each form of the experts.

    Raises SystemExit where, in full float32, an output differs from ours by more than 1e-4, or the loss's gradient with
    respect to any array of parameters by more than 1e-3 of its norm.
    """
    images, target = pixels(1), 1.0 - pixels(1)
    with jax.default_matmul_precision("highest"):
        output = jax.jit(lambda params, images: model.apply(params, images)[0])(params, images)
        gradients = jax.jit(jax.grad(partial(loss_of, model)))(params, images, target)
    precise(True)
    networks = {}
    for form in forms:
        networks[form] = network = TorchRestorer(model, form).to(device)
        network.load_state_dict(state_dict_of(params, model, form))
        restored = network(to_torch(images, network))
        F.mse_loss(restored, to_torch(target, network)).backward()
        outputs = float((restored.detach() - to_torch(output, network)).abs().max())
        worst, name = max(relative_differences(network, state_dict_of(gradients, model, form)))
        network.zero_grad()
        found = f"E = {model.num_experts}, {form}: outputs differ by {outputs:.1e}, gradients by {worst:.1e} ({name})"
        if not (outputs <= 1e-4 and worst <= 1e-3):
            raise SystemExit(f"{found}: these are not the same network")
        print(found, flush=True)
    precise(False)
    return networks


def relative_differences(network: TorchRestorer, gradients: dict[str, torch.Tensor]) -> Iterator[tuple[float, str]]:
    """Norm of the difference over the norm, and the name, of each array of parameters, all experts' taken as one."""
    squares: dict[str, torch.Tensor] = {}
    for name, parameter in network.named_parameters():
        ours = gradients[name]
        own = torch.zeros_like(ours) if parameter.grad is None else parameter.grad.cpu()  # None: chosen by no token
        both = torch.stack([(own - ours).square().sum(), ours.square().sum()])
        array = re.sub(r"generate\.\d+", "generate", name)
        squares[array] = squares.get(array, 0) + both
    for name, (difference, norm) in squares.items():
        yield float((difference / norm.clamp_min(1e-24)).sqrt()), name


def loss_of(model: Restorer, params: Any, images: jax.Array, target: jax.Array) -> jax.Array:
    """Mean squared error."""
    return jnp.square(model.apply(params, images, train=True)[0] - target).mean()


def to_torch(images: jax.Array, network: TorchRestorer) -> torch.Tensor:
    """(B, H, W, 3) -> (B, 3, H, W) in the network's layout, on its device."""
    layout = torch.channels_last if network.channels_last else torch.contiguous_format
    device = next(network.parameters()).device
    return torch.from_numpy(np.array(images)).to(device).permute(0, 3, 1, 2).contiguous(memory_format=layout)


def precise(full: bool) -> None:
    """Whether PyTorch computes products of float32 in float32 on a GPU, or in TF32."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = not full
