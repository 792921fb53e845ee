"""Trains on one mesh after the other, in a process of its own, which may be one of several: see test_meshes.py."""

import json
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import jax

from mofme_jax.training import loop, processes, sharding
from mofme_jax.training.stopping import Stopped
from tests.conftest import small_config

CHANGES = {"train.batch": 8, "train.steps": 20, "log_every": 1, "checkpoint_every": 10, "train.host_devices": 8,
           "model.dropout": 0.1}  # fmt: skip


def train_one_by_one(runs: list) -> None:
    """runs: (workdir, mesh, the workdir to start from at step 10, or None); a line of JSON is printed for each.

    The last process interrupts a run whose workdir ends in "stopped"; it is gone on with.
    """
    for workdir, mesh, begun in runs:
        if begun and processes.is_first():
            shutil.copytree(begun, workdir)
            shutil.rmtree(Path(workdir) / "checkpoints" / "20")
        if begun and jax.process_count() > 1:
            with processes.first_one_first(workdir):
                pass
        config = small_config(**CHANGES, **{f"mesh.{axis}": size for axis, size in mesh.items()})
        if workdir.endswith("stopped"):
            with interrupted():
                try:
                    loop.train_and_evaluate(config, workdir)
                except Stopped as stopped:
                    print(json.dumps({"stopped": stopped.step}), flush=True)
        report = loop.train_and_evaluate(config, workdir)
        print(json.dumps({"workdir": workdir, "scores": report["scores"]}), flush=True)


@contextmanager
def interrupted():
    """Ctrl-C in the third step, in the last process alone."""
    put_batch, taken = sharding.put_batch, []

    def put_and_interrupt(batch, mesh):
        taken.append(batch)
        if len(taken) == 3 and jax.process_index() == jax.process_count() - 1:
            signal.raise_signal(signal.SIGINT)
            time.sleep(3)  # JAX looks once a second whether there was a signal
        return put_batch(batch, mesh)

    sharding.put_batch = put_and_interrupt
    try:
        yield
    finally:
        sharding.put_batch = put_batch


def main(port: str, process_id: str, process_count: str, runs: str) -> None:
    """runs: as JSON."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # this process may have been started to ignore it
    if int(process_count) > 1:
        processes.join(f"127.0.0.1:{port}", int(process_id), int(process_count))
    sharding.SPLIT_FROM = 256  # else nothing of so small a network is split
    train_one_by_one(json.loads(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
