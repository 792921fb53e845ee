"""How fast data comes, what weather costs, and that the stream is the same however it is read.

    python benchmarks/data.py                      # everything, some minutes
    python benchmarks/data.py --only throughput    # or wait, weather, order

throughput: images a second, decoded and cut to 240x240, from 720x480 PNG files and from the array_record set built of
them, nothing kept in memory; every reader takes its turn in every round. Where torch is installed a plain DataLoader
reads the same files. wait: the share of the default config's step time in which the step waits for its batch.
weather: milliseconds of the compiled weather for a 240x240 image, in batches of eight. order: the hash of the first
200 batches of a mixture of two sources, on several numbers of processes and workers and across stops.
"""

import argparse
import hashlib
import importlib.util
import json
import os
import platform
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import version
from pathlib import Path

import jax
import numpy as np
from PIL import Image
from weather import median_ms, processor

from mofme_jax.config_file import read_config
from mofme_jax.data.folders import PhotographFolder, TrainingImages
from mofme_jax.data.photos import embedded_photographs, read_photograph
from mofme_jax.data.pipeline import RandomCrop, training_stream
from mofme_jax.data.prepared import photograph_source
from mofme_jax.data.weather import WEATHERS, degrade

FILES, SIZE, CROP, BATCH, ROUNDS, BATCHES = 96, (480, 720), 240, 8, 5, 30


def main() -> None:
    """Parses the command line and prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    tables = {"throughput": throughput, "wait": wait, "weather": weather, "order": order}
    parser.add_argument("--only", choices=tables, help="one table")
    parser.add_argument("--cores", type=int, default=2, help="CPU cores to run on (default: 2)")
    options = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[-options.cores :])
    print(f"{options.cores} cores of {processor()}, {jax.default_backend()}; Python {platform.python_version()}, "
          + ", ".join(f"{name} {version(name)}" for name in ("jax", "grain", "array-record", "pillow")))  # fmt: skip
    for name, table in tables.items():
        if options.only in (None, name):
            print(f"\n{name}", flush=True)
            table()


def throughput() -> None:
    """Images a second of every reader, the median of the rounds and their spread."""
    with tempfile.TemporaryDirectory() as folder:
        files = write_files(Path(folder) / "png")
        prepared = photograph_source(Path(folder) / "sets", "train", "folder", files)
        sources = {"PNG files": PhotographFolder(files), "array_record": prepared}
        readers: dict[str, Callable[[], Iterator]] = {
            f"{name}, {f'{workers} workers' if workers else 'threads'}": partial(stream, source, workers)
            for name, source in sources.items()
            for workers in (0, 1, 2)
        }
        if importlib.util.find_spec("torch"):
            for workers in (0, 1, 2):
                readers[f"PNG files, DataLoader, {workers} workers"] = partial(data_loader, files, workers)
        rates: dict[str, list[float]] = {name: [] for name in readers}
        for _ in range(ROUNDS):
            for name, reader in readers.items():
                rates[name].append(rate(reader()))
    print(f"{FILES} photographs of {SIZE[1]}x{SIZE[0]}, crops of {CROP}, batches of {BATCH}; {ROUNDS} rounds of "
          f"{BATCHES} batches behind {BATCHES // 3} unmeasured; images a second\n"
          f"{'reader':<36}{'median':>8}{'least':>8}{'most':>8}")  # fmt: skip
    for name, found in rates.items():
        print(f"{name:<36}{statistics.median(found):>8.0f}{min(found):>8.0f}{max(found):>8.0f}")
    if "PNG files, DataLoader, 2 workers" in rates:
        for name in ("PNG files, threads", "PNG files, 2 workers"):
            pairs = zip(rates[name], rates["PNG files, DataLoader, 2 workers"], strict=True)
            ratios = [ours / theirs for ours, theirs in pairs]
            print(f"{name}: {statistics.median(ratios):.2f} x the rate of the DataLoader with 2 workers "
                  f"({min(ratios):.2f} to {max(ratios):.2f} over the rounds), torch {version('torch')}")  # fmt: skip
    else:
        print("torch is not installed: no DataLoader to compare with")


def write_files(folder: Path) -> Path:
    """Photographs of 720x480: pieces of the embedded ones, enlarged, each other in place and size."""
    folder.mkdir()
    photographs = list((embedded_photographs("train") | embedded_photographs("validation")).values())
    rng = np.random.default_rng(0)
    for number in range(FILES):
        whole = Image.fromarray(photographs[number % len(photographs)])
        height = rng.uniform(0.6, 1.0) * min(whole.height, whole.width * SIZE[0] / SIZE[1])
        left = rng.uniform(0, whole.width - height * SIZE[1] / SIZE[0])
        top = rng.uniform(0, whole.height - height)
        box = (left, top, left + height * SIZE[1] / SIZE[0], top + height)
        whole.resize(SIZE[::-1], Image.Resampling.BICUBIC, box).save(folder / f"{number:03}.png")
    return folder


def stream(source, workers: int) -> Iterator:
    """Our stream, with nothing kept in memory."""
    return training_stream([TrainingImages(source)], batch=BATCH, crop=CROP, min_scale=1.0, seed=0, workers=workers)


def data_loader(folder: Path, workers: int) -> Iterator:
    """PyTorch's DataLoader over the same files with the same reading and the same cut, for as many passes as wanted."""
    import torch

    crop = RandomCrop(CROP)

    class Files(torch.utils.data.Dataset):
        def __init__(self):
            self.files = sorted(folder.glob("*.png"))

        def __len__(self):
            return 1000 * len(self.files)

        def __getitem__(self, index):
            rng = np.random.default_rng(index)
            return torch.from_numpy(crop.random_map(read_photograph(self.files[index % len(self.files)]), rng))

    torch.set_num_threads(1)
    return iter(torch.utils.data.DataLoader(Files(), BATCH, shuffle=True, num_workers=workers))


def rate(batches: Iterator) -> float:
    """Images a second, once the workers are up and what they have read ahead is taken."""
    for _ in range(BATCHES // 3):
        next(batches)
    began = time.perf_counter()
    for _ in range(BATCHES):
        next(batches)
    seconds = time.perf_counter() - began
    if hasattr(batches, "close"):
        batches.close()
    return BATCHES * BATCH / seconds


def wait() -> None:
    """Trains the default config for some log periods; prints what share of each the step waited for its batch."""
    from mofme_jax.training import train_and_evaluate

    config = read_config([f"--config={Path(__file__).parents[1] / 'configs' / 'default.py'}"]).unlock()
    config.train.steps, config.train.warmup, config.log_every = 200, 20, 40
    config.evaluation.repeats, config.evaluation.max_side = 1, 96
    config.evaluation.tile = 96
    with tempfile.TemporaryDirectory() as workdir:
        train_and_evaluate(config, workdir)
        lines = [json.loads(line) for line in (Path(workdir) / "metrics.jsonl").read_text().splitlines()]
    shares = [100 * line["data_wait"] for line in lines]
    print(f"\nconfigs/default.py, {config.train.steps} steps: waiting for data {statistics.median(shares):.2f} % of "
          f"the step time (median of {len(shares)} periods, {min(shares):.2f} to {max(shares):.2f} %)")  # fmt: skip


def weather() -> None:
    """Milliseconds of each weather for an image, alone on the device."""
    image = embedded_photographs("train")["astronaut"][:CROP, :CROP].astype(np.float32) / 255
    images = jax.device_put(np.stack([image] * BATCH))
    keys = jax.random.split(jax.random.key(0), BATCH)
    print(f"{CROP}x{CROP}, batches of {BATCH}, {jax.device_count()} {jax.devices()[0].device_kind} device(s)")
    for name in WEATHERS:
        make = jax.jit(jax.vmap(partial(degrade, weather=name)))
        taken = median_ms(lambda make=make: make(keys, images)[0]) / BATCH
        print(f"{name:<12}{taken:>8.2f} ms an image", flush=True)


def order() -> None:
    """Hashes of the first 200 global batches, which have to be one."""
    photographs = list(embedded_photographs("train").values())
    cases = [(1, 0, None), (2, 0, None), (4, 0, None), (1, 1, None), (1, 3, None), (2, 2, None)]
    cases += [(1, 0, stop) for stop in (1, 57, 199)] + [(2, 1, 100)]
    print("processes  workers  stopped at  sha256 of 200 batches")
    found = set()
    for processes, workers, stop in cases:
        digest = hash_batches([photographs[:2], photographs[2:]], processes, workers, stop)
        found.add(digest)
        print(f"{processes:>9}{workers:>9}{stop if stop else '-':>12}  {digest[:32]}", flush=True)
    print("all the same" if len(found) == 1 else f"DIFFERENT: {len(found)} streams")


def hash_batches(sources: list, processes: int, workers: int, stop: int | None) -> str:
    """sha256 of 200 batches: each the parts of all processes, one behind the other."""

    def start() -> list:
        settings = dict(weights=(1, 2), batch=8, crop=96, min_scale=0.35, seed=0, workers=workers)
        return [
            training_stream(sources, process_index=i, process_count=processes, **settings) for i in range(processes)
        ]

    streams, digest = start(), hashlib.sha256()
    for number in range(200):
        if number == stop:
            states = [part.get_state() for part in streams]
            for part in streams:
                part.close()
            streams = start()
            for part, state in zip(streams, states, strict=True):
                part.set_state(state)
        digest.update(np.concatenate([next(part) for part in streams]).tobytes())
    for part in streams:
        part.close()
    return digest.hexdigest()


if __name__ == "__main__":
    main()
