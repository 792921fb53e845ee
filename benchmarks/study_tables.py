"""The study's runs as tables: what each arm reaches, paired differences, what routers do.

Axis glossary: `S` seeds, `P` photographs.
"""

import itertools
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from study_arms import GROUPS, JUDGED, WEATHERS

from mofme_jax.evaluation.statistics import Interval, mean_over_seeds, mean_over_seeds_and_photographs


@dataclass(frozen=True)
class Run:
    """A judged run: its study.json, and the leading experts (L, B, h, w) where they were measured."""

    result: dict[str, Any]
    leading: np.ndarray | None

    def gain(self, weather: str) -> float:
        """dB: the mean over a weather's images of PSNR restored less PSNR input."""
        return float(np.mean([one["psnr"] - one["psnr_input"] for one in self.of(weather)]))

    def mean(self, measure: str, weathers: Sequence[str]) -> float:
        """The mean of psnr (dB) or ssim over the images of some weathers."""
        return float(np.mean([one[measure] for one in self.of(*weathers)]))

    def of(self, *weathers: str) -> list[dict[str, Any]]:
        """The images of some weathers."""
        return [one for one in self.result["images"] if one["weather"] in weathers]


@dataclass(frozen=True)
class Runs:
    """An arm's judged runs by seed, and the errors of those that failed."""

    judged: dict[int, Run]
    failed: dict[int, str]


def read_runs(runs: Path, names: Sequence[str], without: int = 0) -> dict[str, Runs]:
    """Reads what there is of each arm, but for as many first seeds.

    Raises:
      ValueError: runs that were judged on different images cannot be compared.
    """
    found = {name: Runs({}, {}) for name in names}
    first: tuple[Path, list] | None = None
    for name in names:
        folders = {int(seed): path for path in runs.glob(f"{name}-*") if (seed := path.name[len(name) + 1 :]).isdigit()}
        for seed, folder in sorted(folders.items()):
            if seed < without:
                continue
            if (folder / "failed.txt").exists():
                found[name].failed[seed] = (folder / "failed.txt").read_text().strip()
            if not (folder / JUDGED).exists():
                continue
            result = json.loads((folder / JUDGED).read_text())
            for one in result["images"]:  # what JSON does not know is null: the PSNR of images that equal their truth
                one.update({k: np.inf for k in ("psnr_input", "psnr") if one[k] is None})
            key = [(one["photograph"], one["weather"], one["draw"], one["psnr_input"]) for one in result["images"]]
            first = first or (folder, key)
            if key != first[1]:
                raise ValueError(f"{first[0]} and {folder} were judged on different images: delete their study.json, "
                                 "and run the study again to have them judged anew")  # fmt: skip
            leading = folder / "leading.npy"
            found[name].judged[seed] = Run(result, np.load(leading) if leading.exists() else None)
    return found


def differences(ours: Runs, theirs: Runs, measure: str, weathers: Sequence[str]) -> np.ndarray:
    """(S, P): ours less theirs, the mean over a photograph's images of these weathers; S are the seeds of both.

    Two restored images that both equal the truth differ by 0.
    """
    rows = []
    for seed in sorted(ours.judged.keys() & theirs.judged.keys()):
        row: dict[str, list[float]] = {}
        for a, b in zip(ours.judged[seed].of(*weathers), theirs.judged[seed].of(*weathers), strict=True):
            row.setdefault(a["photograph"], []).append(0.0 if a[measure] == b[measure] else a[measure] - b[measure])
        rows.append([float(np.mean(values)) for values in row.values()])
    return np.array(rows)


def compare(ours: Runs, theirs: Runs) -> tuple[Interval, Interval] | None:
    """PSNR over all weather images, ours less theirs: by Student's t over seeds, by seeds and photographs drawn again.

    None without a seed that both have.
    """
    table = differences(ours, theirs, "psnr", WEATHERS)
    if not table.size:
        return None
    return mean_over_seeds(table.mean(axis=1)), mean_over_seeds_and_photographs(table)


def print_study(found: dict[str, Runs], groups: Sequence[str], settings: dict, markdown: bool) -> None:
    """Prints the tables of some groups, and what they rest on."""
    for name in groups:
        group = GROUPS[name]
        arms = {arm.name: found[arm.name] for arm in group.arms}
        print(f"\n{'### ' if markdown else ''}{name}: {group.question}\n")
        print_table(scores(arms), markdown)
        print_table(paired(arms, group.comparisons), markdown)
        print_table(routing(arms), markdown)
        print_table([["arm", "predicted"], *([arm.name, arm.predicted] for arm in group.arms)], markdown)
        for arm, seed, error in ((a, s, e) for a, runs in arms.items() for s, e in runs.failed.items()):
            print(f"{'- ' if markdown else ''}{arm}, seed {seed}, failed: {error}")
    results = [run.result for runs in found.values() for run in runs.judged.values()]
    print(
        f"\n{settings['steps']} steps; middle {settings['side']} pixels; {' '.join(settings['overrides'])}".rstrip("; ")
    )
    if results:
        photographs = len({one["photograph"] for one in results[0]["images"]})
        print(f"{photographs} photographs, {len(results[0]['images'])} images, {results[0]['protocol']}, tiles of "
              f"{results[0]['tile']}; seeds {sorted({result['seed'] for result in results})}")  # fmt: skip
        for line in dict.fromkeys(
            ", ".join([r["machine"], *(f"{name} {number}" for name, number in r["versions"].items())]) for r in results
        ):
            print(line)
    print("+-: standard deviation over seeds; [t over seeds], [seeds and photographs drawn again]: 95 % of the mean")


def scores(arms: dict[str, Runs]) -> list[list[str]]:
    """What each arm reaches: mean over seeds +- standard deviation over seeds."""
    head = ["arm", "seeds", "parameters", "minutes", *(f"{weather} dB" for weather in WEATHERS), "mean gain dB", "SSIM",
            "clean PSNR"]  # fmt: skip
    rows = [head]
    for name, runs in arms.items():
        judged = list(runs.judged.values())
        if not judged:
            rows.append([name, "failed" if runs.failed else "not run", *[""] * (len(head) - 2)])
            continue

        def over(figure: Callable[[Run], float], digits: int, sign: str = "", judged=judged) -> str:
            return spread([figure(run) for run in judged], digits, sign)

        rows.append(
            [
                name,
                str(len(judged)),
                f"{judged[0].result['parameters']:,}",
                over(lambda run: run.result["training_seconds"] / 60, 1),
                *(over(lambda run, weather=weather: run.gain(weather), 2, "+") for weather in WEATHERS),
                over(mean_gain, 2, "+"),
                over(lambda run: run.mean("ssim", WEATHERS), 3),
                over(lambda run: run.mean("psnr", ["clean"]), 2),
            ]
        )
    return rows


def mean_gain(run: Run) -> float:
    """dB: the mean of the weathers' gains; they have as many images each."""
    return float(np.mean([run.gain(weather) for weather in WEATHERS]))


def paired(arms: dict[str, Runs], comparisons: Sequence[tuple[str, str]]) -> list[list[str]]:
    """Differences from a baseline, with both intervals for all weather; plain means for each weather."""
    rows = [["arm less baseline", "seeds", "PSNR dB", "t", "bootstrap", *WEATHERS, "clean", "SSIM"]]
    for ours, theirs in comparisons:
        found = compare(arms[ours], arms[theirs])
        if found is None:
            rows.append([f"{ours} less {theirs}", "0", *[""] * (len(rows[0]) - 2)])
            continue
        parts = [differences(arms[ours], arms[theirs], "psnr", [weather]) for weather in (*WEATHERS, "clean")]
        rows.append(
            [
                f"{ours} less {theirs}",
                str(len(parts[0])),
                f"{found[0].mean:+.3f}",
                *(f"[{one.low:+.3f}, {one.high:+.3f}]" if np.isfinite(one.low) else "-" for one in found),
                *(f"{part.mean():+.2f}" for part in parts),
                f"{differences(arms[ours], arms[theirs], 'ssim', WEATHERS).mean():+.4f}",
            ]
        )
    return rows


def routing(arms: dict[str, Runs]) -> list[list[str]]:
    """What routers do at the last checkpoint, the mean over layers; empty where nothing was measured."""
    measured = {
        name: list(runs.judged.values())
        for name, runs in arms.items()
        if runs.judged and all(run.result["routing"] for run in runs.judged.values())
    }
    if not measured:
        return []
    last = next(iter(measured.values()))[0].result["routing"][-1]
    rows = [["arm", *routing_figures(last), "seed agreement"]]
    for name, judged in measured.items():
        figures = [routing_figures(run.result["routing"][-1]) for run in judged]
        agreement = seed_agreement([run.leading for run in judged if run.leading is not None])
        rows.append(
            [
                name,
                *(spread([one[column] for one in figures], 3) for column in rows[0][1:-1]),
                "-" if agreement is None else f"{agreement:.3f}",
            ]
        )
    return rows


def routing_figures(measured: dict[str, Any]) -> dict[str, float]:
    """A checkpoint's measures by the names of the table, the mean over layers."""
    layers = measured["layers"]

    def mean(figure: Callable[[dict], float]) -> float:
        return float(np.mean([figure(layer) for layer in layers]))

    return {
        **{
            f"stability at {noise}": mean(lambda layer, noise=noise: layer["stability"][noise])
            for noise in layers[0]["stability"]
        },
        "load entropy": mean(lambda layer: layer["load_entropy"]),
        "gate entropy": mean(lambda layer: layer["gate_entropy"]),
        "uncertainty, nats": mean(lambda layer: layer["uncertainty"]),
        "bits over chance": mean(lambda layer: layer["information"]["bits"] - layer["information"]["by_chance"]),
    }


def seed_agreement(leading: Sequence[np.ndarray]) -> float | None:
    """The mean over pairs of seeds; None for one seed."""
    if len(leading) < 2:
        return None
    from mofme_jax.evaluation import routing_measures  # here: tables without routing wait for no JAX

    return float(np.mean([routing_measures.seed_agreement(a, b) for a, b in itertools.combinations(leading, 2)]))


def spread(values: Sequence[float], digits: int, sign: str = "") -> str:
    """Mean +- standard deviation, which one value has not."""
    mean = f"{np.mean(values):{sign}.{digits}f}"
    return f"{mean} +- {np.std(values, ddof=1):.{digits}f}" if len(values) > 1 and np.isfinite(values).all() else mean


def print_table(rows: list[list[str]], markdown: bool) -> None:
    """Prints rows, the first of them the head, in columns; nothing without rows."""
    if len(rows) < 2:
        return
    if markdown:
        lines = ["| " + " | ".join(row).replace("+-", "±") + " |" for row in rows]
        lines.insert(1, "|---" * len(rows[0]) + "|")
    else:
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
        lines.insert(1, "-" * max(map(len, lines)))
    print("\n".join(lines), end="\n\n")
