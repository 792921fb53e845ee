"""Trains on one mesh after the other, in a process of its own, which may be one of several: see test_meshes.py."""

import json
import shutil
import sys
from pathlib import Path

import jax

from mofme_jax.training import loop, processes, sharding
from tests.conftest import small_config

CHANGES = {"train.batch": 8, "train.steps": 20, "log_every": 1, "checkpoint_every": 10, "train.host_devices": 8,
           "model.dropout": 0.1}  # fmt: skip


def train_one_by_one(runs: list) -> None:
    """runs: (workdir, mesh, the workdir to start from at step 10, or None); a line of JSON is printed for each."""
    for workdir, mesh, begun in runs:
        if begun and processes.is_first():
            shutil.copytree(begun, workdir)
            shutil.rmtree(Path(workdir) / "checkpoints" / "20")
        if begun and jax.process_count() > 1:
            with processes.first_one_first(workdir):
                pass
        config = small_config(**CHANGES, **{f"mesh.{axis}": size for axis, size in mesh.items()})
        report = loop.train_and_evaluate(config, workdir)
        print(json.dumps({"workdir": workdir, "scores": report["scores"]}), flush=True)


def main(port: str, process_id: str, process_count: str, runs: str) -> None:
    """runs: as JSON."""
    if int(process_count) > 1:
        processes.join(f"127.0.0.1:{port}", int(process_id), int(process_count))
    sharding.SPLIT_FROM = 256  # else nothing of so small a network is split
    train_one_by_one(json.loads(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
