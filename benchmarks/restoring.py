"""What a photograph takes: time and memory of `mofme restore` by its size, and what tiles change.

    python benchmarks/restoring.py                        # all tables, some minutes
    python benchmarks/restoring.py --only sizes --weights runs/default
    python benchmarks/restoring.py --only tiles --weights runs/default

sizes: every file is restored by a process of its own, `mofme restore --uncertainty` on a PNG; peak memory is the
process's, seconds are its wall time with what XLA compiled kept from a first, uncounted run, the median of the rounds.
tiles: the tiled photograph beside the untiled one, in levels of 255. Networks with a finite receptive field: the
largest difference, and farther from the last row and column than it reaches. The trained network attends to the whole
image: it differs by what it is, so that a seam is what counts, the largest slope across a border of tiles, in levels a
pixel, of the mean over 32 pixels along it, beside the largest anywhere else. tone: large photographs, embedded ones
enlarged three times before the weather is put on (one draw, seed 3), with their tone left to the tiles and with that of
the whole; PSNR in dB, native-rgb.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from functools import partial
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from unittest import mock

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image
from weather import processor

import mofme_jax
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.weather import degrade
from mofme_jax.evaluation import tiling
from mofme_jax.evaluation.cases import weather_cases
from mofme_jax.evaluation.scoring import score
from mofme_jax.evaluation.tiling import TILE, lay_out, restore, tile_starts

SIZES = ((640, 427), (1920, 1080), (3840, 2160), (6000, 4000))
"""(W, H): an embedded photograph's, full HD, 4K, 24 megapixels."""


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    tables = {"sizes": sizes, "tiles": tiles, "tone": tone}
    parser.add_argument("--only", choices=tables, help="one table")
    parser.add_argument("--weights", default="runs/default", help="a trained run (default: runs/default)")
    parser.add_argument("--rounds", type=int, default=3, help="of each size (default: 3)")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores to run on (default: 2)")
    options = parser.parse_args()
    cores = options.cores
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
        cores = len(os.sched_getaffinity(0))
    print(f"{cores} cores of {processor()}, {jax.default_backend()}; Python {platform.python_version()}, "
          + ", ".join(f"{name} {version(name)}" for name in ("jax", "pillow", "numpy")))  # fmt: skip
    for name, table in tables.items():
        if options.only in (None, name):
            print(f"\n{name}", flush=True)
            table(options)


def sizes(options: argparse.Namespace) -> None:
    """Seconds and peak memory of the command, by size."""
    print(f"{'photograph':<14}{'megapixels':>11}{'seconds':>9}{'quartiles':>15}{'MP/s':>7}{'peak GB':>9}")
    with tempfile.TemporaryDirectory() as folder:
        files = {size: write_photograph(Path(folder), size) for size in SIZES}
        run(files[SIZES[0]], options.weights)  # compiles
        taken: dict[tuple[int, int], list[tuple[float, float]]] = {size: [] for size in SIZES}
        for _ in range(options.rounds):
            for size, file in files.items():
                taken[size].append(run(file, options.weights))
    for (width, height), runs in taken.items():
        seconds = sorted(second for second, _ in runs)
        median = statistics.median(seconds)
        low, high = np.quantile(seconds, [0.25, 0.75])
        megapixels = width * height / 1e6
        print(f"{f'{width}x{height}':<14}{megapixels:>11.1f}{median:>9.1f}{f'{low:.1f}-{high:.1f}':>15}"
              f"{megapixels / median:>7.2f}{max(peak for _, peak in runs):>9.2f}")  # fmt: skip


def write_photograph(folder: Path, size: tuple[int, int]) -> Path:
    """An embedded photograph in rain, enlarged to (W, H)."""
    (case,) = (c for c in weather_cases(china(), ("rain",), repeats=1, max_side=2000) if c.group == "rain")
    file = folder / f"{size[0]}x{size[1]}.png"
    Image.fromarray(case.degraded).resize(size, Image.Resampling.BICUBIC).save(file)
    return file


def china() -> dict[str, np.ndarray]:
    """A photograph that no run was trained on."""
    return {"china": embedded_photographs("validation")["china"]}


def run(file: Path, weights: str) -> tuple[float, float]:
    """(seconds, peak GB) of a process that restores the file."""
    began = time.monotonic()
    code = ("import sys; from mofme_jax.cli import main; status = main(sys.argv[1:]); import resource; "
            "print('peak', resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(status)")  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", code, "restore", str(file), "-o", str(file.parent / "out"), "--weights", weights,
         "--uncertainty", "--force"],
        capture_output=True,
        text=True,
    )  # fmt: skip
    if done.returncode:
        sys.exit(f"restoring.py: {done.stderr.strip()}")
    unit = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB here
    return time.monotonic() - began, int(done.stdout.rsplit("peak", 1)[1]) * unit / 1e9


def tiles(options: argparse.Namespace) -> None:
    """Tiled beside untiled."""
    print(f"{'network':<34}{'reach':>6}{'tile':>6}{'halo':>6}{'largest difference':>20}{'far from the ends':>19}")
    image = china()["china"].astype(np.float32) / 255
    for name, changes in {"convolutions alone": {"depth": 0}, "windows of 2 tokens": {"window": 2}}.items():
        model = mofme_jax.build("tiny", **changes)
        params = stirred(model)
        whole = untiled(model, params, image)
        reach = model.receptive_field()
        for tile in (4 * reach // 2, 4 * reach):
            layout = lay_out(model, tile)
            difference = 255 * np.abs(restore(model, params, image, tile=tile) - whole).max(-1)
            print(f"{f'tiny, {name}, random':<34}{reach:>6}{layout.tile:>6}{layout.halo:>6}{difference.max():>20.4f}"
                  f"{difference[:-reach, :-reach].max():>19.4f}", flush=True)  # fmt: skip
    model, params = mofme_jax.load(options.weights)
    print(f"\n{options.weights}, tiles of {TILE}: of {'photograph':<22}{'mean difference':>16}"
          f"{'largest':>9}{'slope at borders':>18}{'elsewhere':>11}")  # fmt: skip
    for case in weather_cases(china(), ("haze", "rain", "snow", "raindrop"), repeats=1, max_side=2000):
        degraded = case.degraded.astype(np.float32) / 255
        change = 255 * (restore(model, params, degraded) - untiled(model, params, degraded))
        at, elsewhere = slopes(change, model)
        print(f"{'':<{len(options.weights) + 19}}{f'{case.name}, {case.group}':<22}{np.abs(change).mean():>16.2f}"
              f"{np.abs(change).max():>9.1f}{at:>18.2f}{elsewhere:>11.2f}", flush=True)  # fmt: skip


def stirred(model) -> dict:
    """Parameters far from their start, at which the network does nothing."""
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.02 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return jax.tree.unflatten(tree, moved)


def untiled(model, params, image: np.ndarray) -> np.ndarray:
    """The whole image at once."""
    return np.asarray(jax.jit(lambda p, x: model.apply({"params": p}, x)[0])(params, image[None]))[0]


def slopes(change: np.ndarray, model) -> tuple[float, float]:
    """The largest slope across columns of means along 32 rows, levels a pixel: at borders of tiles, and elsewhere."""
    layout = lay_out(model, TILE)
    width = change.shape[1]
    starts = tile_starts(-(-width // layout.patch) * layout.patch, layout)
    border = np.zeros(width - 1, bool)
    for before, start in pairwise(starts):
        border[start : before + layout.tile] = True
    rows = change.shape[0] // 32 * 32
    means = change[:rows].reshape(-1, 32, *change.shape[1:]).mean(1)
    steep = np.abs(np.diff(means, axis=1)).max((0, 2))
    return float(steep[border].max()), float(steep[~border].max())


def tone(options: argparse.Namespace) -> None:
    """Large photographs with and without the tone of the whole."""
    model, params = mofme_jax.load(options.weights)
    print(f"{'photograph':<28}{'input':>8}{'tiles alone':>13}{'tone of the whole':>19}")
    for name, small in embedded_photographs("validation").items():
        height, width = (3 * side for side in small.shape[:2])
        truth = np.asarray(Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC))
        for weather in ("clean", "haze", "rain", "snow", "raindrop"):
            put = jax.jit(partial(degrade, weather=weather))
            degraded = np.round(255 * np.asarray(put(jax.random.key(3), truth.astype(np.float32) / 255)[0]))
            given = degraded.astype(np.uint8)
            figures = []
            for least in (10**9, tiling.TONE_FROM):
                with mock.patch.object(tiling, "TONE_FROM", least):
                    figures.append(score(restore(model, params, given), truth, "rgb-u8")[0])
            before = score(given, truth, "rgb-u8")[0]
            print(f"{f'{name} {width}x{height}, {weather}':<28}{before:>8.2f}{figures[0]:>13.2f}{figures[1]:>19.2f}",
                  flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
