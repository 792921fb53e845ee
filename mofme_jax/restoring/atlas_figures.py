"""The figures of an atlas of experts: pure functions of what a network did with pictures.

Axis glossary: `H W` pixels, `h w` rows and columns of tokens, `L` mixture layers, `E` experts. A token's leading expert
is the one with the heaviest gate.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mofme_jax.evaluation.cases import Case

SHUFFLES = 1000
"""Permutations of the pictures' weathers that say what mutual information chance gives."""


@dataclass(frozen=True)
class View:
    """What the network does with one picture.

    Attributes:
      case: the picture and its truth.
      restored: (H, W, 3) uint8.
      leading: (L, h, w) each token's leading expert.
      choices: (L, E) share of the choices that fell on each expert; a row sums to 1.
      lead: (L,) share of the leading expert in the weight of those chosen, the mean over tokens.
      entropy: (L, h, w) the routers' entropy, as a share of log E: 0 to 1.
      uncertainty: (h, w) the routers' uncertainty in nats, the mean over layers.
      psnr_input, psnr: dB, of the degraded and of the restored picture.
      psnr_without: (L, E) dB, restored with this one expert switched off.
    """

    case: Case
    restored: np.ndarray
    leading: np.ndarray
    choices: np.ndarray
    lead: np.ndarray
    entropy: np.ndarray
    uncertainty: np.ndarray
    psnr_input: float
    psnr: float
    psnr_without: np.ndarray

    @property
    def leads(self) -> np.ndarray:
        """(L, E) share of the tokens that each expert leads; a row sums to 1."""
        experts = self.choices.shape[1]
        return np.stack([np.bincount(layer.ravel(), minlength=experts) / layer.size for layer in self.leading])


@dataclass(frozen=True)
class Information:
    """Mutual information between a token's leading expert and the weather, and what chance gives.

    Attributes:
      bits: the plug-in estimate.
      by_chance: mean of the same estimate with the weathers shuffled among the pictures of a photograph.
      chance_95: bits that 95 % of the shuffles do not pass.
      tokens: how many it was estimated from.
    """

    bits: float
    by_chance: float
    chance_95: float
    tokens: int


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


def weather_information(views: Sequence[View], layer: int, seed: int = 0) -> Information:
    """The mutual information of a layer, and that of `SHUFFLES` permutations.

    Weathers are shuffled among the pictures of one photograph, whole pictures at a time: its tokens are no
    independent draws, and photographs differ without any weather.
    """
    rows = np.stack([view.leads[layer] for view in views])
    weathers = np.unique([view.case.group for view in views], return_inverse=True)[1]
    photographs = np.array([view.case.name for view in views])
    places = [np.flatnonzero(photographs == name) for name in dict.fromkeys(photographs)]

    def bits(labels: np.ndarray) -> float:
        return mutual_information(
            np.stack([rows[labels == weather].mean(axis=0) for weather in range(max(labels) + 1)])
        )

    rng = np.random.default_rng(seed)
    chance = []
    for _ in range(SHUFFLES):
        labels = weathers.copy()
        for place in places:
            labels[place] = rng.permutation(labels[place])
        chance.append(bits(labels))
    tokens = sum(view.leading[layer].size for view in views)
    return Information(bits(weathers), float(np.mean(chance)), float(np.quantile(chance, 0.95)), tokens)


def by_weather(views: Sequence[View], figure: Callable[[View], Any]) -> dict[str, np.ndarray]:
    """A figure, number or array, of the pictures of each weather, in the order in which weathers first come.

    Returns:
      (N, ...) for the N pictures of a weather.
    """
    groups = dict.fromkeys(view.case.group for view in views)
    return {group: np.array([figure(view) for view in views if view.case.group == group]) for group in groups}
