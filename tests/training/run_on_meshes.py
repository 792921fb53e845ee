"""Trains on one mesh after the other, in a process of its own, which may be one of several: see test_meshes.py."""

import json
import os
import shutil
import signal
import sys
import time
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from random import Random

import jax
import orbax.checkpoint as ocp

from mofme_jax.training import loop, processes, sharding
from mofme_jax.training.folders import FOLDER
from mofme_jax.training.stopping import Stopped
from tests.conftest import small_config

CHANGES = {"train.batch": 8, "train.steps": 20, "log_every": 1, "checkpoint_every": 10, "train.host_devices": 8,
           "model.dropout": 0.1}  # fmt: skip


def train_one_by_one(runs: list) -> None:
    """runs: (workdir, mesh, the workdir to start from, or None); a line of JSON is printed for each.

    What is started from has a checkpoint at step 10, and one at 20 that is cut short here.

    The last process interrupts a run whose workdir ends in "stopped"; it is gone on with. One whose workdir ends in
    "judged" is saved at every step, slowly, and found better each time.
    """
    for workdir, mesh, begun in runs:
        if begun and processes.is_first():
            shutil.copytree(begun, workdir)
            for file in (Path(workdir) / "checkpoints" / "20" / "state").rglob("d/*"):
                os.truncate(file, file.stat().st_size // 2)
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
        if workdir.endswith("judged"):
            config.checkpoint_every = config.validate_every = 1
            with saved_slowly_and_judged_at_once():
                report = loop.train_and_evaluate(config, workdir)
        else:
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


@contextmanager
def saved_slowly_and_judged_at_once():
    """Each save takes a while, which is not the same in all processes; that of the best would begin meanwhile."""
    write, random = ocp.JsonCheckpointHandler._save_fn, Random(jax.process_index())
    judge, mean_gain, gains = loop.judge, loop.mean_gain, count(1.0)

    async def slowly(self, x, directory):
        if directory.parents[1].name == FOLDER:
            time.sleep(random.uniform(0.0, 0.5))
        await write(self, x, directory)

    ocp.JsonCheckpointHandler._save_fn = slowly
    loop.judge, loop.mean_gain = lambda *args: (None,), lambda scores: next(gains)
    try:
        yield
    finally:
        ocp.JsonCheckpointHandler._save_fn = write
        loop.judge, loop.mean_gain = judge, mean_gain


def main(port: str, process_id: str, process_count: str, runs: str) -> None:
    """runs: as JSON."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # this process may have been started to ignore it
    if int(process_count) > 1:
        processes.join(f"127.0.0.1:{port}", int(process_id), int(process_count))
    sharding.SPLIT_FROM = 256  # else nothing of so small a network is split
    train_one_by_one(json.loads(runs))


if __name__ == "__main__":
    main(*sys.argv[1:])
