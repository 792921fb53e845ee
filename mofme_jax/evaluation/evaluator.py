"""Scoring a restorer on photographs it was never trained on.

`evaluate` is what a training run ends with. Its protocol is `native-rgb`: images at their own size, restored in tiles,
both rounded to 8 bits, PSNR over RGB, SSIM with a Gaussian window of 11 and sigma 1.5, the mean over images.
`judge_cases` and `summarise` know all protocols, and how far chance goes.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.folders import Judged, judged
from mofme_jax.evaluation.metrics import psnr, ssim
from mofme_jax.evaluation.protocols import PROTOCOLS, Protocol, average_windows, prepare
from mofme_jax.evaluation.statistics import Mean, mean_of
from mofme_jax.evaluation.tiling import restore

PROTOCOL = "native-rgb"


@dataclass(frozen=True)
class Example:
    """One restored case, kept for the picture; `uncertainty` is (H, W) in nats."""

    case: Case
    restored: np.ndarray
    uncertainty: np.ndarray


def evaluate(
    restore: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    cases: Iterable[Case],
    watch: Callable[[Example], None] | None = None,
) -> tuple[dict[str, dict[str, float]], list[Example]]:
    """Scores `restore` over cases.

    Args:
      restore: (H, W, 3) uint8 -> restored (H, W, 3) uint8 and uncertainty (H, W).
      cases: see `weather_cases`.
      watch: is shown each case, restored.

    Returns:
      For each group, in order: psnr_input, psnr (dB), ssim_input, ssim, images (their number); an input that equals
      its target has infinite PSNR. And the first case of each group as an example.
    """
    rows: dict[str, list[tuple[float, ...]]] = {}
    examples: dict[str, Example] = {}
    for case in cases:
        restored, uncertainty = restore(case.degraded)
        example = Example(case, restored, uncertainty)
        examples.setdefault(case.group, example)
        if watch is not None:
            watch(example)
        rows.setdefault(case.group, []).append((*_scores(case.degraded, case.target), *_scores(restored, case.target)))
    names = ("psnr_input", "ssim_input", "psnr", "ssim")
    scores = {
        group: dict(zip(names, map(float, np.mean(values, axis=0)), strict=True), images=len(values))
        for group, values in rows.items()
    }
    return scores, list(examples.values())


@jax.jit
def _compare(image, target):
    image, target = (a.astype(jnp.float32) / 255.0 for a in (image, target))
    # by levels: a compiler may fuse the division into the difference, and equal images then differ by 158 dB
    return psnr(image, target, "rgb-u8"), ssim(image, target, "rgb-u8")


def _scores(image: np.ndarray, target: np.ndarray) -> tuple[float, float]:
    decibels, similarity = _compare(image, target)
    return float(decibels), float(similarity)


def judge_cases(
    model, params, cases: Iterable[Case], protocols: Sequence[str], tile: int | None = None
) -> Iterator[Judged]:
    """Restores degraded images as each protocol has it done, and scores input and restored image.

    Args:
      model: a module with `apply({"params": params}, images, train=False) -> (restored, aux)`.
      params: its parameters.
      cases: see `weather_cases`.
      protocols: names in `protocols.PROTOCOLS`.
      tile: see `tiling.restore`, for protocols that leave windows to the network.

    Yields:
      One for each case, in order; its pictures are the input and the restored image.
    """

    @jax.jit
    def restored_windows(params, windows):
        return model.apply({"params": params}, windows, train=False)[0]

    def restored_under(protocol: Protocol, degraded: np.ndarray) -> np.ndarray:
        prepared = prepare(degraded, protocol)
        if protocol.saved:
            return restore(model, params, prepared, tile=tile)
        pixels = prepared.astype(np.float32) / 255.0
        if protocol.window is None:
            return restore(model, params, pixels, tile=tile)
        return average_windows(
            lambda windows: np.asarray(restored_windows(params, windows)), pixels, protocol.window, protocol.stride
        )

    for case in cases:
        yield _judge_case(case, restored_under, protocols)


def _judge_case(
    case: Case, restored_under: Callable[[Protocol, np.ndarray], np.ndarray], protocols: Sequence[str]
) -> Judged:
    restored: dict[tuple, np.ndarray] = {}  # protocols that differ in nothing but the convention share it

    def pictures(name: str) -> tuple[np.ndarray, np.ndarray]:
        protocol = PROTOCOLS[name]
        kind = (protocol.size, protocol.filter, protocol.saved, protocol.window)
        if kind not in restored:
            restored[kind] = restored_under(protocol, case.degraded)
        return case.degraded, restored[kind]

    return judged(case.name, case.group, pictures, case.target, protocols)


@dataclass(frozen=True)
class Summary:
    """The means of one group of images under one protocol.

    Attributes:
      protocol: its name. group: see `Judged`. images: how many there are.
      means: of PSNR (dB) and SSIM, for each picture in the order of `Judged`.
      differences: of two pictures, the means of the second's PSNR and SSIM less the first's, image by image; two that
        both equal the truth differ by 0.
      better: of two pictures, in how many images the second's PSNR is higher, and its SSIM.
    """

    protocol: str
    group: str
    images: int
    means: tuple[tuple[Mean, Mean], ...]
    differences: tuple[Mean, Mean] | None = None
    better: tuple[int, int] | None = None


def differences(one: Judged, protocol: str) -> tuple[float, float]:
    """PSNR (dB) and SSIM of the last picture less those of the first; 0 for two that are equally good."""
    pairs = zip(one.scores[protocol][0], one.scores[protocol][-1], strict=True)
    psnr_difference, ssim_difference = (0.0 if last == first else last - first for first, last in pairs)
    return psnr_difference, ssim_difference


def summarise(images: Sequence[Judged]) -> list[Summary]:
    """Means over images, by protocol and group, in the order in which they come.

    Args:
      images: at least one, of as many pictures and protocols each.
    """
    summaries = []
    for protocol in images[0].scores:
        for group in dict.fromkeys(one.group for one in images):
            some = [one for one in images if one.group == group]
            figures = np.array([one.scores[protocol] for one in some])  # (images, pictures, 2)
            means = [(mean_of(figures[:, i, 0]), mean_of(figures[:, i, 1])) for i in range(figures.shape[1])]
            summary = Summary(protocol, group, len(some), tuple(means))
            if len(means) == 2:
                gains = np.array([differences(one, protocol) for one in some])
                summary = dataclasses.replace(
                    summary,
                    differences=(mean_of(gains[:, 0]), mean_of(gains[:, 1])),
                    better=(int((gains[:, 0] > 0).sum()), int((gains[:, 1] > 0).sum())),
                )
            summaries.append(summary)
    return summaries
