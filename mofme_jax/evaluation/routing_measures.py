"""What routers do, in figures: how even, how decided, how stable, and what a choice of experts tells of the weather.

Axis glossary: `B` images, `H W` pixels, `h w` rows and columns of tokens, `L` mixture layers, `E` experts, `K` experts
chosen a token. A token's leading expert is the one with the heaviest gate.
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from sklearn.metrics import adjusted_mutual_info_score

SHUFFLES = 1000
"""Permutations of the images' labels that say what mutual information chance gives."""


def load_entropy(shares: np.ndarray) -> float:
    """Entropy of (E,) shares as a share of log E: 1 where all experts are used alike, 0 where one is; 1 for E = 1."""
    if len(shares) == 1:
        return 1.0
    used = shares[shares > 0]
    return abs(float(-(used * np.log(used)).sum() / math.log(len(shares))))  # no -0


def mutual_information(shares: np.ndarray) -> float:
    """Bits that an expert tells of the weather and the weather of the expert, all weathers being as likely.

    Args:
      shares: (weathers, E), the share of each expert in each weather; rows sum to 1.

    Returns:
      At least 0, at most the log2 of the smaller number: the mean over rows of their divergence from the mean row.
    """
    overall = np.broadcast_to(shares.mean(axis=0), shares.shape)
    used = shares > 0
    return max(0.0, float((shares[used] * np.log2(shares[used] / overall[used])).sum() / len(shares)))


def information_and_chance(
    shares: np.ndarray, weathers: np.ndarray, groups: np.ndarray | None = None, seed: int = 0
) -> tuple[float, float, float]:
    """Mutual information of experts and weather, and what `SHUFFLES` permutations of the weathers give.

    Weathers are shuffled whole images at a time: the tokens of an image are no independent draws.

    Args:
      shares: (B, E), the share of an image's tokens that each expert leads; rows sum to 1.
      weathers: (B,) any numbers or names.
      groups: (B,) weathers are shuffled within each group alone, as among the pictures of one photograph. None: among
        all images.
      seed: of the permutations.

    Returns:
      Bits: the plug-in estimate, the mean of the same over permutations, and what 95 % of these do not pass.
    """
    numbers = np.unique(weathers, return_inverse=True)[1]
    groups = np.zeros(len(numbers), int) if groups is None else np.asarray(groups)
    places = [np.flatnonzero(groups == group) for group in dict.fromkeys(groups.tolist())]

    def bits(labels: np.ndarray) -> float:
        return mutual_information(
            np.stack([shares[labels == weather].mean(axis=0) for weather in range(max(labels) + 1)])
        )

    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(SHUFFLES):
        labels = numbers.copy()
        for place in places:
            labels[place] = rng.permutation(labels[place])
        chance.append(bits(labels))
    return bits(numbers), float(np.mean(chance)), float(np.quantile(chance, 0.95))


def jaccard(a: np.ndarray, b: np.ndarray) -> float:
    """Experts that two choices share, over those in either: the mean over tokens, 0 to 1.

    Args:
      a, b: (..., K) the experts chosen for each token, no expert twice.
    """
    shared = (a[..., :, None] == b[..., None, :]).sum((-1, -2))
    return float(np.mean(shared / (2 * a.shape[-1] - shared)))


def lead_share(gates: jax.Array, chosen: jax.Array) -> jax.Array:
    """Share of the leading expert in the weight of those chosen, the mean over tokens; weights may be signed.

    Args:
      gates: (..., E). chosen: (..., K), the heaviest first.
    """
    weights = jnp.abs(jnp.take_along_axis(gates, chosen, axis=-1))
    return (weights[..., 0] / jnp.maximum(weights.sum(-1), 1e-30)).mean()


def margin(probs: np.ndarray, top_k: int) -> float | None:
    """Probability of the K-th likeliest expert less that of the next, the mean over tokens; None for K = E.

    Args:
      probs: (..., E). top_k: K.
    """
    if top_k == probs.shape[-1]:
        return None
    ordered = np.sort(probs, axis=-1)[..., ::-1]
    return float(np.mean(ordered[..., top_k - 1] - ordered[..., top_k]))


def measure_routing(
    model,
    params: Any,
    images: np.ndarray,
    labels: Sequence[int] | np.ndarray,
    *,
    noise: Sequence[float] = (0.003, 0.01, 0.03, 0.1),
    seed: int = 0,
) -> dict:
    """What the routers of a network do with images, as it is used: without dropout.

    One image at a time goes through the network, so that memory is that of one. Noise and draws go in at the image and
    pass through all that is before a layer: a figure of a later layer holds what the earlier ones changed.

    Args:
      model: a `Restorer`.
      params: its parameters.
      images: (B, H, W, 3) floats in [0, 1].
      labels: (B,) the weather of each image, as numbers.
      noise: standard deviations of Gaussian noise, as shares of the image's root mean square. The same draw is scaled
        to each; the noisy image is not clipped.
      seed: of noise, of the routers' draws, and of the permutations.

    Returns:
      {"layers": [...]}, fit for JSON, with a dict for each mixture layer (none for a network without experts):
        stability: {noise: Jaccard index of the experts chosen with and without that noise}, 0 to 1, mean over tokens.
        repeatability: the same index between two passes with keys of their own; 1 for heads that draw nothing.
        load: E shares of the choices; they sum to 1. load_entropy: see `load_entropy`.
        gate_entropy: of the router's probabilities, as a share of log E, mean over tokens: 0 to 1; 0 for E = 1.
        lead: see `lead_share`.
        margin: see `margin`. The paper head chooses by other weights than its probabilities.
        information: {bits, by_chance, chance_95}: see `information_and_chance`, weathers shuffled among all images.
        uncertainty: nats, mean over tokens.

    Raises:
      ValueError: for arrays of other shapes, or noise that is not above 0.
    """
    images, labels = np.asarray(images), np.asarray(labels)
    if images.ndim != 4 or images.shape[-1] != 3 or 0 in images.shape:
        raise ValueError(f"images must be (B, H, W, 3) with at least one image, not {images.shape}")
    if labels.shape != images.shape[:1]:
        raise ValueError(f"labels must be ({len(images)},), the weather of each image, not {labels.shape}")
    if not all(sigma > 0 for sigma in noise):
        raise ValueError(f"noise={tuple(noise)}: standard deviations must be above 0")
    seen = [_figures_of_image(model, params, image, noise, seed, i) for i, image in enumerate(images)]
    return {"layers": [_pooled(layer, labels, seed) for layer in zip(*seen, strict=True)]}


def leading_experts(model, params: Any, images: np.ndarray) -> np.ndarray:
    """(L, B, h, w) int32: each token's leading expert. images: (B, H, W, 3) floats in [0, 1].

    Raises:
      ValueError: for a network without experts.
    """
    routes = [_routes(model, params, jnp.asarray(image)[None]) for image in images]
    if not all(routes):
        raise ValueError('a network with feed_forward="dense" has no experts that could lead')
    return np.stack([[np.asarray(layer["chosen"][0, ..., 0]) for layer in route] for route in routes], axis=1)


def seed_agreement(a: np.ndarray, b: np.ndarray) -> float:
    """How far two networks give the same tokens to the same expert, whatever the experts' numbers.

    Args:
      a, b: (L, B, h, w) leading experts of the same images: see `leading_experts`.

    Returns:
      The adjusted mutual information (Vinh et al. 2010) of the two over all tokens of a layer, the mean over layers: 1
      for the same up to renaming, about 0 by chance (so it may lie a little below).
    """
    if a.shape != b.shape:
        raise ValueError(f"two networks' experts of the same images must have one shape, not {a.shape} and {b.shape}")
    return float(np.mean([adjusted_mutual_info_score(x.ravel(), y.ravel()) for x, y in zip(a, b, strict=True)]))


@partial(jax.jit, static_argnums=0)
def _routes(model, params: Any, images: jax.Array, key: jax.Array | None = None) -> list[dict[str, jax.Array]]:
    """What the figures take of each layer's Routing; the restored image is never computed."""
    rngs = None if key is None else {"dropout": key}
    _, aux = model.apply({"params": params}, images, train=False, rngs=rngs)
    names = ("gates", "chosen", "probs", "entropy", "uncertainty", "load")
    return [{name: getattr(layer, name) for name in names} for layer in aux]


def _figures_of_image(model, params, image: np.ndarray, noise: Sequence[float], seed: int, index: int) -> list[dict]:
    """The figures of each layer for one (H, W, 3) image."""
    given = jnp.asarray(image)[None]
    draw, first, second = jax.random.split(jax.random.fold_in(jax.random.key(seed), index), 3)
    scaled = jnp.sqrt(jnp.mean(jnp.square(given))) * jax.random.normal(draw, given.shape)
    still = jax.device_get(_routes(model, params, given))
    noisy = {f"{sigma:g}": jax.device_get(_routes(model, params, given + sigma * scaled)) for sigma in noise}
    drawn = [jax.device_get(_routes(model, params, given, key)) for key in (first, second)]
    figures = []
    for i, layer in enumerate(still):
        chosen, experts = layer["chosen"], layer["gates"].shape[-1]
        figures.append(
            {
                "stability": {name: jaccard(chosen, other[i]["chosen"]) for name, other in noisy.items()},
                "repeatability": jaccard(drawn[0][i]["chosen"], drawn[1][i]["chosen"]),
                "load": layer["load"],
                "leads": np.bincount(chosen[..., 0].ravel(), minlength=experts) / chosen[..., 0].size,
                "gate_entropy": min(1.0, float(layer["entropy"].mean()) / math.log(max(experts, 2))),
                "lead": float(lead_share(layer["gates"], chosen)),
                "margin": margin(layer["probs"], chosen.shape[-1]),
                "uncertainty": float(layer["uncertainty"].mean()),
            }
        )
    return figures


def _pooled(images: Sequence[dict], labels: np.ndarray, seed: int) -> dict:
    """One layer's figures of B images of the same size, as one."""

    def mean(name):
        return float(np.mean([image[name] for image in images]))

    load = np.mean([image["load"] for image in images], axis=0)
    found = information_and_chance(np.stack([image["leads"] for image in images]), labels, seed=seed)
    return {
        "stability": {
            name: float(np.mean([image["stability"][name] for image in images])) for name in images[0]["stability"]
        },
        "repeatability": mean("repeatability"),
        "load": [float(share) for share in load],
        "load_entropy": load_entropy(load),
        "gate_entropy": mean("gate_entropy"),
        "lead": mean("lead"),
        "margin": None if images[0]["margin"] is None else mean("margin"),
        "information": dict(zip(("bits", "by_chance", "chance_95"), found, strict=True)),
        "uncertainty": mean("uncertainty"),
    }
