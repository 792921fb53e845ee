"""The study's figures: differences between routers, PSNR against parameters, what routers do over training."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import numpy as np
from matplotlib import pyplot as plt
from study_arms import GROUPS
from study_tables import Runs, compare, mean_gain, routing_figures

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999")
"""Okabe and Ito's, told apart by colour-blind eyes; markers differ as well."""

MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")

STYLE = {
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titlesize": "medium",
    "legend.frameon": False,
    "figure.dpi": 150,
    "font.size": 9,
}


def draw(found: dict[str, Runs], groups: Sequence[str], folder: Path) -> None:
    """Writes results_routers.png, results_experts.png and results_routing.png, as far as there are runs for them."""
    folder.mkdir(parents=True, exist_ok=True)
    with plt.rc_context(STYLE):
        if "routers" in groups:
            _save(differences(found), folder / "results_routers.png")
            _save(over_training(found), folder / "results_routing.png")
        if "experts" in groups:
            _save(against_parameters(found), folder / "results_experts.png")


def _save(figure: plt.Figure | None, file: Path) -> None:
    if figure is None:
        print(f"no {file}: there are no runs for it")
        return
    figure.savefig(file)
    plt.close(figure)
    print(f"figure {file}")


def differences(found: dict[str, Runs]) -> plt.Figure | None:
    """Every router less the baseline: the mean, and both of its intervals where there are any."""
    comparisons = GROUPS["routers"].comparisons
    known = [(ours, both) for ours, theirs in comparisons if (both := compare(found[ours], found[theirs])) is not None]
    if not known:
        return None
    figure, axes = plt.subplots(figsize=(6.4, 1.0 + 0.45 * len(known)), layout="constrained")
    axes.axvline(0.0, color="0.6", linewidth=0.8)
    for n, (_, both) in enumerate(known):
        for interval, shift, colour, width in zip(both, (-0.12, 0.12), COLOURS[:2], (2.5, 1.2), strict=True):
            axes.plot([interval.low, interval.high], [n + shift] * 2, color=colour, linewidth=width)
            axes.plot(interval.mean, n + shift, "o", color=colour, markersize=4)
    axes.set_yticks(range(len(known)), [name for name, _ in known])
    axes.invert_yaxis()
    axes.set_xlabel(f"PSNR less that of {comparisons[0][1]}, dB")
    handles = [plt.Line2D([], [], color=colour, linewidth=width, marker="o", markersize=4) for colour, width
               in zip(COLOURS, (2.5, 1.2), strict=False)]  # fmt: skip
    axes.figure.legend(handles, ["95 %, t over seeds", "95 %, seeds and photographs drawn again"], ncols=2,
                       loc="outside lower center")  # fmt: skip
    return figure


def against_parameters(found: dict[str, Runs]) -> plt.Figure | None:
    """Mean gain against parameters: a line for each kind and K, through its numbers of experts."""
    lines: dict[tuple[str, int], list[tuple[int, list[float]]]] = {}
    for arm in GROUPS["experts"].arms:
        if judged := list(found[arm.name].judged.values()):
            line = lines.setdefault((arm.overrides["model.feed_forward"], arm.overrides["model.top_k"]), [])
            line.append((judged[0].result["parameters"], [mean_gain(run) for run in judged]))
    if not lines:
        return None
    figure, axes = plt.subplots(figsize=(6.4, 4.0), layout="constrained")
    kinds = list(dict.fromkeys(kind for kind, _ in lines))
    sizes = sorted({top_k for _, top_k in lines})
    for (kind, top_k), points in lines.items():
        means = [np.mean(gains) for _, gains in points]
        spreads = [np.std(gains, ddof=1) if len(gains) > 1 else 0.0 for _, gains in points]
        axes.errorbar(
            # the number of experts a token does not change that of the parameters: beside one another
            [parameters / 1e6 * (0.97 + 0.03 * sizes.index(top_k)) for parameters, _ in points],
            means,
            spreads,
            color=COLOURS[kinds.index(kind)],
            linestyle=("-", "--", ":")[sizes.index(top_k) % 3],
            marker=MARKERS[sizes.index(top_k)],
            markersize=5,
            linewidth=1.2,
            elinewidth=0.8,
            label=f"{kind}, K = {top_k}",
        )
    axes.set_xscale("log")
    axes.set_xticks(ticks := sorted({round(p / 1e6, 1) for points in lines.values() for p, _ in points}), ticks)
    axes.minorticks_off()
    axes.set_xlabel("parameters, millions")
    axes.set_ylabel("mean PSNR gain, dB (bars: sd over seeds)")
    axes.legend(ncols=len(kinds))
    return figure


def over_training(found: dict[str, Runs]) -> plt.Figure | None:
    """A panel for each measure of routing: the mean over seeds at each checkpoint, a line for each router."""
    lines: dict[str, list[tuple[int, dict[str, float]]]] = {}
    for arm in GROUPS["routers"].arms:
        measured = [run.result["routing"] for run in found[arm.name].judged.values() if run.result["routing"]]
        for at in zip(*measured, strict=True):
            figures = [routing_figures(one) for one in at]
            means = {name: float(np.mean([one[name] for one in figures])) for name in figures[0]}
            lines.setdefault(arm.name, []).append((at[0]["step"], means))
    if not lines:
        return None
    names = list(next(iter(lines.values()))[0][1])
    columns = -(-len(names) // 2)
    figure, panels = plt.subplots(2, columns, figsize=(3.2 * columns, 5.4), layout="constrained", sharex=True)
    for panel, name in zip(panels.flat, names, strict=False):
        for (arm, points), colour, marker in zip(lines.items(), cycle(COLOURS), cycle(MARKERS), strict=False):
            steps, values = zip(*((step, means[name]) for step, means in points), strict=True)
            panel.plot(steps, values, color=colour, marker=marker, markersize=4, linewidth=1.2, label=arm)
        panel.set_title(name)
    for panel in panels[-1]:
        panel.set_xlabel("steps")
    for panel in panels.flat[len(names) :]:
        panel.set_visible(False)
    figure.legend(*panels.flat[0].get_legend_handles_labels(), ncols=4, loc="outside lower center")
    return figure
