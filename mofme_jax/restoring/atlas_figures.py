"""The figures of an atlas of experts: pure functions of what a network did with pictures.

Axis glossary: `H W` pixels, `h w` rows and columns of tokens, `L` mixture layers, `E` experts. A token's leading expert
is the one with the heaviest gate.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.routing_measures import information_and_chance


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


def weather_information(views: Sequence[View], layer: int, seed: int = 0) -> Information:
    """The mutual information of a layer, and that of `SHUFFLES` permutations.

    Weathers are shuffled among the pictures of one photograph, whole pictures at a time: its tokens are no
    independent draws, and photographs differ without any weather.
    """
    found = information_and_chance(
        np.stack([view.leads[layer] for view in views]),
        np.array([view.case.group for view in views]),
        np.array([view.case.name for view in views]),
        seed,
    )
    return Information(*found, tokens=sum(view.leading[layer].size for view in views))


def by_weather(views: Sequence[View], figure: Callable[[View], Any]) -> dict[str, np.ndarray]:
    """A figure, number or array, of the pictures of each weather, in the order in which weathers first come.

    Returns:
      (N, ...) for the N pictures of a weather.
    """
    groups = dict.fromkeys(view.case.group for view in views)
    return {group: np.array([figure(view) for view in views if view.case.group == group]) for group in groups}
