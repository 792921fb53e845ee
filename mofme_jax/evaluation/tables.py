"""Scores as people and programs read them: a table, CSV, JSON.

`names` says what the pictures of each image are: ("restored",), ("input", "restored") or `COMPARED`.
"""

import csv
import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

from mofme_jax.evaluation.evaluator import Summary, differences, summarise
from mofme_jax.evaluation.folders import Judged
from mofme_jax.evaluation.statistics import LEAST, RESAMPLES, SEED, Mean

COMPARED = ("A", "B")
"""The names of the pictures of two methods."""


def report(images: Sequence[Judged], names: tuple[str, ...]) -> str:
    """The table of means, and what it stands on."""
    summaries = summarise(images)
    rows = _comparison_rows(summaries) if names == COMPARED else _score_rows(summaries)
    lines = [
        f"95 %: interval of the mean over images (bootstrap, {RESAMPLES:,} resamples, seed {SEED}); none for "
        f"fewer than {LEAST} images"
    ]
    for summary in summaries:
        where = " ".join(filter(None, (summary.protocol, summary.group)))
        for name, (decibels, _) in zip(names, summary.means, strict=True):
            if decibels.infinite and decibels.count:
                lines.append(
                    f"{where}: {decibels.infinite} of {summary.images} ({name}) are identical with the truth; "
                    f"the mean PSNR is over the other {decibels.count}"
                )
        if names == COMPARED and summary.differences and summary.differences[0].infinite:
            lines.append(
                f"{where}: in {summary.differences[0].infinite} only one of A and B is identical with the truth; "
                f"the mean difference of PSNR is over the other {summary.differences[0].count}"
            )
    return "\n".join([columns(rows), *lines])


def columns(rows: Sequence[Sequence[str]]) -> str:
    """A head, a rule, and rows; what stands before "images" begins at the left, figures end at the right."""
    words = rows[0].index("images")
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        "  ".join(
            f"{text:<{width}}" if place < words else f"{text:>{width}}"
            for place, (text, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def _score_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """A row a protocol and group."""
    paired = summaries[0].differences is not None
    rows = [["protocol", "weather", "images", "PSNR", "95 %", "SSIM", "95 %"]]
    rows[0] += ["PSNR input", "gain", "SSIM input"] if paired else []
    for summary in summaries:
        decibels, similarity = summary.means[-1]
        row = [summary.protocol, summary.group, str(summary.images)]
        row += [f"{decibels.mean:.2f}", _interval(decibels, ".2f"), f"{similarity.mean:.4f}"]
        row.append(_interval(similarity, ".4f"))
        if summary.differences:
            gain = summary.differences[0]
            row += [f"{summary.means[0][0].mean:.2f}", f"{gain.mean:+.2f}" if gain.count else ""]
            row.append(f"{summary.means[0][1].mean:.4f}")
        rows.append(row)
    return rows if any(summary.group for summary in summaries) else [row[:1] + row[2:] for row in rows]


def _comparison_rows(summaries: Sequence[Summary]) -> list[list[str]]:
    """A row a protocol and metric."""
    rows = [["protocol", "metric", "images", "A", "B", "B - A", "95 %", "better in B"]]
    for summary in summaries:
        assert summary.differences is not None
        assert summary.better is not None
        for i, (metric, form) in enumerate((("PSNR", ".2f"), ("SSIM", ".4f"))):
            difference = summary.differences[i]
            row = [summary.protocol, metric, str(summary.images), *(f"{two[i].mean:{form}}" for two in summary.means)]
            row += [f"{difference.mean:+{form}}", _interval(difference, "+" + form)]
            rows.append([*row, f"{summary.better[i]} of {summary.images}"])
    return rows


def _interval(mean: Mean, form: str) -> str:
    return "-" if math.isnan(mean.low) else f"{mean.low:{form}} to {mean.high:{form}}"


def figures(image: Judged, protocol: str, names: tuple[str, ...]) -> dict[str, float]:
    """An image's figures by name: psnr, ssim, psnr_input, ssim_input; or psnr_a ... and the differences, B less A."""
    if names != COMPARED:
        found: dict[str, float] = {}
        for suffix, (decibels, similarity) in zip(("", "_input"), reversed(image.scores[protocol]), strict=False):
            found |= {f"psnr{suffix}": decibels, f"ssim{suffix}": similarity}
        return found
    (psnr_a, ssim_a), (psnr_b, ssim_b) = image.scores[protocol]
    psnr_difference, ssim_difference = differences(image, protocol)
    return {
        "psnr_a": psnr_a,
        "ssim_a": ssim_a,
        "psnr_b": psnr_b,
        "ssim_b": ssim_b,
        "psnr_difference": psnr_difference,
        "ssim_difference": ssim_difference,
    }


def write_csv(file: Path, images: Sequence[Judged], names: tuple[str, ...]) -> None:
    """Writes a line an image and protocol: file, protocol, weather, `figures`; "inf" is an infinite PSNR."""
    rows = [
        {"file": image.name, "protocol": protocol, "weather": image.group}
        | {name: f"{value:.6f}" for name, value in figures(image, protocol, names).items()}
        for image in images
        for protocol in image.scores
    ]
    with file.open("w", newline="", encoding="utf-8", errors="surrogateescape") as opened:
        table = csv.DictWriter(opened, list(rows[0]))
        table.writeheader()
        table.writerows(rows)


def to_json(images: Sequence[Judged], names: tuple[str, ...]) -> dict:
    """Means and figures of every image as plain values; null is a number that is infinite or not known."""
    summaries = []
    for summary in summarise(images):
        entry: dict = {"protocol": summary.protocol, "weather": summary.group, "images": summary.images}
        for name, means in zip(names, summary.means, strict=True):
            entry[name] = {metric: _plain(mean) for metric, mean in zip(("psnr", "ssim"), means, strict=True)}
        if summary.differences and summary.better:
            entry["difference"] = {
                metric: _plain(mean) | {"better": better}
                for metric, mean, better in zip(("psnr", "ssim"), summary.differences, summary.better, strict=True)
            }
        summaries.append(entry)
    rows = [
        {"file": image.name, "protocol": protocol, "weather": image.group}
        | {name: _finite(value) for name, value in figures(image, protocol, names).items()}
        for image in images
        for protocol in image.scores
    ]
    return {"bootstrap": {"resamples": RESAMPLES, "seed": SEED}, "means": summaries, "images": rows}


def _plain(mean: Mean) -> dict[str, float | int | None]:
    return {name: _finite(value) for name, value in dataclasses.asdict(mean).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def caption(image: Judged, protocol: str, names: tuple[str, ...]) -> str:
    """A line for the contact sheet."""
    shown = figures(image, protocol, names)
    title = " ".join(filter(None, (image.name, image.group and f"({image.group})")))
    if names == COMPARED:
        text = f"PSNR A {shown['psnr_a']:.2f}, B {shown['psnr_b']:.2f} dB ({shown['psnr_difference']:+.2f})"
        return f"{title}: {text}, SSIM A {shown['ssim_a']:.3f}, B {shown['ssim_b']:.3f}; {protocol}"
    text = f"{title}: PSNR {shown['psnr']:.2f} dB, SSIM {shown['ssim']:.3f}"
    if "psnr_input" in shown:
        text += f"; input {shown['psnr_input']:.2f} dB, {shown['ssim_input']:.3f}"
    return f"{text}; {protocol}"
