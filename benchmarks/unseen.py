"""Does the network know a weather that it was not trained on?

    mofme data fetch-photos
    python benchmarks/study.py --only unseen --seeds 3 --runs runs/study
    python benchmarks/unseen.py --runs runs/study

Reads the runs of mofme-deterministic that were trained on three weathers of four (arms without-haze, without-rain,
without-snow, without-raindrop), and asks of every score below whether it is larger on images of the fourth.

Protocol. The photographs that benchmarks/study.py judges on, none of them trained on, their middle of 240 pixels: six
draws of each of the four weathers, from fixed keys; clean photographs are left out. An image goes through the network
in tiles of 80 pixels, close to the 64 that it was trained on, and a score is one number for all of them. What was
larger the less the weather should be known was fixed before anything was judged, and no score is turned round: below
0.5 it points the wrong way.

Scores.
  mutual information         the routers' uncertainty in nats, mean over tokens and layers
  entropy                    of the routers' probabilities in nats, mean over tokens and layers
  expected error             what the network's own error head expects, mean over pixels
  change                     |restored - input|, mean over pixels
  routing profile            distance of the routers' logits and gates, each its mean over tokens, of all layers
  router input               distance of the mean and the standard deviation over tokens of what routers read, of all
  pixels, no network         distance of the mean and the standard deviation of the three colours: what needs no
                             network, and what a network should know better
  error against change       surprise at two numbers: the correlation over pixels of the logarithms of the expected
                             error and of the change, and the mean of the first less that of the second
  error and sign             surprise at these two and a third: the logarithm of the energy of the detail that was made
                             darker over that of the detail made brighter; detail as in mofme_jax.models.restorer
  routing density            surprise at the routing profile
  error, sign and routing    the sum of the last two
  pixel density, no network  surprise at the mean and the standard deviation of the three colours
A distance is Mahalanobis', to the nearest of one Gaussian for each weather of the training (Lee et al. 2018). They
share a covariance, shrunk after Ledoit and Wolf 2004; every feature is divided by its standard deviation within a
weather first. A surprise is the negative logarithm of a density (Parzen 1962): a Gaussian around each crop fitted on,
as wide as the standard deviation of each feature over all of them. Both are fitted on 160 random crops of the training
photographs for each weather of the training, with weather from other keys. The weather left out has no part in it. Nor
have clean photographs: whether they surprise as well is not asked.

Choice. The surprises, what they are of and their width were chosen among more than a thousand combinations by their
AUROC on the training photographs: fitted on crops of one half of these, compared on crops of the other, with one seed
of each arm. The photographs judged here had no part in it, and all that was judged on them is in the table; the four
weathers had, each as the one left out, and a fifth may be noticed less.

Control. The second table asks the same of the networks of the study that were trained on all four weathers, with the
Gaussians and densities fitted on three. What they reach is owed to weathers that differ in how any such network treats
them; only what is above it comes from a network's never having seen the fourth.

AUROC. The chance that an image of the weather left out has a larger score than one of a weather trained on, ties
halved: 0.5 is chance. Given are mean and standard deviation over seeds, and in brackets a 95 % interval of the mean
that draws photographs again, all weather on one together: images of one photograph are not independent. It does not
draw seeds or training photographs again, and with a dozen photographs it is rather too narrow.

What is unknown differs. Haze is a veil alone; most rain has a veil as well, some of it thicker, and most snow a thin
one. Without haze, a veil was therefore seen, but not without streaks or flakes in front of it, and haze against rain
asks for that. Without rain or snow, the streaks or flakes are new, the veil is not; without raindrop, all of it is. A
high AUROC says that the weathers differ in that score, which they may do for a network that was trained on all.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.metadata import version
from pathlib import Path

import numpy as np
from sklearn.metrics import roc_auc_score
from study_arms import WEATHERS
from study_judge import machine
from study_tables import print_table, spread
from unseen_scores import (
    CROPS,
    DENSITIES,
    DISTANCES,
    MEANS,
    SIDE,
    TILE,
    Images,
    judge_run,
    judged_images,
    training_crops,
)

from mofme_jax.compiled import keep_compiled
from mofme_jax.training.workdir import options_of_run
from mofme_jax.viz import ProgressBar

SEED, RESAMPLES = 1, 2000

CONTROL = "mofme-deterministic"
"""The arm of the study that was trained on all weathers, and differs in nothing else."""

Found = dict[str, list[dict[str, np.ndarray]]]
"""By the weather left out, for each run the (n,) values of its scores."""


def main() -> None:
    """Parses the command line, judges the runs that there are, prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/study"), help="of the study (default: %(default)s)")
    parser.add_argument("--seeds", type=int, default=3, help="of each arm, from 0 (default: %(default)s)")
    parser.add_argument("--markdown", action="store_true", help="tables for the documentation")
    options = parser.parse_args()
    try:
        found, controls = find_runs(options.runs, options.seeds), find_controls(options.runs, options.seeds)
        print_tables(judge_runs(found, controls), options.markdown)
    except (OSError, ValueError) as error:
        sys.exit(f"unseen.py: {error}")


def find_runs(runs: Path, seeds: int) -> dict[str, list[Path]]:
    """The finished runs without each weather, of seeds below `seeds`; weathers that have none are left out.

    Raises:
      FileNotFoundError: there is none. ValueError: one was trained on other weathers than its name says.
    """
    folders = {weather: [runs / f"without-{weather}-{seed}" for seed in range(seeds)] for weather in WEATHERS}
    finished = {weather: [run for run in some if (run / "report.json").exists()] for weather, some in folders.items()}
    found = {weather: some for weather, some in finished.items() if some}
    if not found:
        raise FileNotFoundError(f"no finished run in {runs}: python benchmarks/study.py --only unseen --runs {runs}")
    for weather, some in found.items():
        for run in some:
            if set(trained := options_of_run(run).data.weathers) != set(WEATHERS) - {weather}:
                raise ValueError(f"{run} was trained on {', '.join(trained)}: train it again without overrides of that")
    return found


def find_controls(runs: Path, seeds: int) -> list[Path]:
    """The finished runs that were trained on all weathers, of seeds below `seeds`; there may be none."""
    folders = [runs / f"{CONTROL}-{seed}" for seed in range(seeds)]
    finished = [run for run in folders if (run / "report.json").exists()]
    return [run for run in finished if set(options_of_run(run).data.weathers) == set(WEATHERS)]


def judge_runs(found: Mapping[str, Sequence[Path]], controls: Sequence[Path]) -> tuple[Images, Found, Found]:
    """The judged images, the scores of the runs, and the scores of the controls as if they lacked each weather."""
    keep_compiled()
    data = options_of_run(next(iter(found.values()))[0]).data  # one for all runs of a study, but for the weathers
    judged, crops = judged_images(data), training_crops(data)
    lefts = list(found)
    fitted = len(WEATHERS) - (len(lefts) == 1)  # weathers that a control is measured on
    total = sum(map(len, found.values())) * (len(judged.pixels) + len(WEATHERS[1:]) * CROPS)
    total += len(controls) * (len(judged.pixels) + fitted * CROPS)
    with ProgressBar(total, "images judged") as bar:
        done = iter(range(1, total + 1))
        judge = partial(judge_run, judged=judged, crops=crops, progress=lambda: bar.update(next(done)))
        scores = {left: [judge(run, [left])[left] for run in some] for left, some in found.items()}
        of_controls = [judge(run, lefts) for run in controls]
    return judged, scores, {left: [of[left] for of in of_controls] for left in lefts} if controls else {}


def wins(scores: np.ndarray, unseen: np.ndarray, photographs: np.ndarray) -> np.ndarray:
    """(2, P, P): how often an unseen image of one photograph has the larger score than a seen one of another, ties
    halved, and of how many pairs. From (n,) each; the sum of the first over that of the second is the AUROC."""
    larger, less = scores[unseen][:, None], scores[~unseen][None]
    of = photographs[:, None] == np.unique(photographs)
    ones = np.stack([(larger > less) + 0.5 * (larger == less), np.ones((larger.size, less.size))])
    return np.einsum("up,kus,sq->kpq", of[unseen].astype(float), ones, of[~unseen].astype(float), optimize=True)


def interval(tables: Sequence[np.ndarray]) -> tuple[float, float]:
    """95 % of the mean AUROC of some `wins` of the same photographs, drawn again together; NaN for one photograph."""
    count = tables[0].shape[-1]
    if count < 2:
        return np.nan, np.nan
    drawn = np.random.default_rng(SEED).multinomial(count, np.full(count, 1 / count), RESAMPLES)
    sums = np.einsum("rp,tkpq,rq->tkr", drawn, np.stack(tables), drawn, optimize=True)
    low, high = np.quantile((sums[:, 0] / sums[:, 1]).mean(axis=0), [0.025, 0.975])
    return float(low), float(high)


def print_tables(judged: tuple[Images, Found, Found], markdown: bool) -> None:
    """Prints the AUROC of each score against all other weathers, of runs and of controls, then against each."""
    images, found, controls = judged
    scored = [run for runs in (*found.values(), *controls.values()) for run in runs]
    names = [name for name in (*MEANS, *DISTANCES, *DENSITIES) if all(name in run for run in scored)]

    def areas(of: Found, name: str, left: str, seen: Sequence[str]) -> tuple[list[float], list[np.ndarray]]:
        among = np.isin(images.weathers, [left, *seen])
        unseen, photographs = images.weathers[among] == left, images.photographs[among]
        values = [run[name][among] for run in of[left]]
        return [float(roc_auc_score(unseen, v)) for v in values], [wins(v, unseen, photographs) for v in values]

    def cell(values: Sequence[float], tables: Sequence[np.ndarray]) -> str:
        return "{} [{:.2f}, {:.2f}]".format(spread(values, 2), *interval(tables))

    others = {left: [weather for weather in WEATHERS if weather != left] for left in found}
    titles = {"AUROC against all others": found, "the same of networks trained on all": controls}
    for title, of in titles.items():
        if not of:
            continue
        rows = [[title, *(f"without {left} ({len(of[left])})" for left in of), "mean"]]
        for name in names:
            columns = [areas(of, name, left, others[left]) for left in of]
            fewest = min(len(values) for values, _ in columns)  # the mean's spread is over seeds that every column has
            mean = [float(np.mean([values[i] for values, _ in columns])) for i in range(fewest)]
            rows.append([name, *(cell(*column) for column in columns),
                         cell(mean, [table for _, tables in columns for table in tables[:fewest]])])  # fmt: skip
        print_table(rows, markdown)
    for left in found:
        rows = [[f"{left}, never trained on, against", *others[left]]]
        rows += [[name, *(cell(*areas(found, name, left, [seen])) for seen in others[left])] for name in names]
        print_table(rows, markdown)
    print(f"{len(np.unique(images.photographs))} photographs, {len(images.pixels)} images of {SIDE} pixels in tiles of "
          f"{TILE}; {CROPS} crops of each weather to fit on; the number of seeds is in parentheses")  # fmt: skip
    print("+-: standard deviation over seeds; [photographs drawn again]: 95 % of the mean; 0.5 is chance")
    print(", ".join([machine(), *(f"{name} {version(name)}" for name in ("jax", "flax", "numpy", "scikit-learn"))]))


if __name__ == "__main__":
    main()
