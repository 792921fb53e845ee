"""The training run, from a config and a folder to a report. Reads from top to bottom."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from absl import logging
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mofme_jax.data.pipeline import TrainingStream, training_stream
from mofme_jax.training import processes, schedule, sharding
from mofme_jax.training.build import (
    begin_with,
    build_init,
    build_optimiser,
    build_step,
    given_parameters,
    make_image_loss,
)
from mofme_jax.training.checkpoint import Checkpoints, has_checkpoint
from mofme_jax.training.options import Options, build_model, read_options
from mofme_jax.training.report import write_report
from mofme_jax.training.sources import batch_groups, open_sources
from mofme_jax.training.state import TrainState, before_bad_steps
from mofme_jax.training.stopping import Stopped, StopSignals
from mofme_jax.training.workdir import MetricsLog, claim_workdir, only_run, prepare_workdir
from mofme_jax.viz import Progress

Window = list[dict[str, float]]
"""The metrics of each step of a log period."""

TrainStep = Callable[[TrainState, jax.Array], tuple[TrainState, dict[str, jax.Array]]]


def train_and_evaluate(config: ConfigDict, workdir: str | os.PathLike) -> dict:
    """Trains as `config` says, in `workdir`, and evaluates; goes on where an earlier run there stopped.

    What wins: a checkpoint in the workdir, then config.train.weights, then a fresh start. Everything random depends on
    config.seed and the step, so that a stopped run ends as an undisturbed one.

    Once a step is taken, SIGINT or SIGTERM stops the run behind the step that is being taken, which is saved; before
    that and during the report, they do what they did.

    Args:
      config: see configs/default.py, where every field is explained.
      workdir: folder, made where it is missing; afterwards holds config.json, checkpoints/, metrics.jsonl,
        tensorboard/, report.json and samples/*.png.

    Returns:
      The report, as in report.json (where null stands for an infinite PSNR).

    Raises:
      ValueError, OSError, ImportError: a config, folder, photograph or installation that will not do, before any
        training; the message names it and the remedy.
      FloatingPointError: the gradients were not finite `max_bad_steps` times in a row. The state before these steps is
        the newest checkpoint, and `examine` tells of the first of them.
      Stopped: a KeyboardInterrupt, by a signal; the last step is saved.
    """
    options = read_options(config)
    use_host_devices(options.train.host_devices)
    workdir = prepare_workdir(workdir, config)
    with only_run(workdir):
        return _train_and_evaluate(config, options, workdir)


def _train_and_evaluate(config: ConfigDict, options: Options, workdir: Path) -> dict:
    sources = open_sources(options)
    mesh = sharding.make_mesh(batch_groups(options, sources.paired), **asdict(options.mesh))

    images = sum(map(len, sources.training))
    total, learning_rate = plan(options, images)
    image_loss = make_image_loss(options)
    model = build_model(config.model)
    given = None if has_checkpoint(workdir) else given_parameters(options, model)
    claim_workdir(workdir, config)  # nothing is wrong with the config: from here on the folder is this run's

    optimiser = build_optimiser(options, learning_rate)
    state = build_init(options, model, optimiser, mesh)(np.uint32(options.seed))
    stream = training_stream(
        sources.training,
        weights=options.data.weights,
        batch=options.train.batch,
        crop=options.data.crop,
        min_scale=options.data.min_scale,
        seed=options.seed,
        process_index=jax.process_index(),
        process_count=jax.process_count(),
        workers=options.data.workers,
    )
    checkpoints = Checkpoints(workdir, options.keep_checkpoints, config.to_dict())
    # outermost: a first signal must not end the process while the last step is being written
    with StopSignals() as signals, closing(stream), closing(checkpoints):
        spent, window = 0.0, []
        if checkpoints.latest_step() is not None:
            state, progress = checkpoints.restore(state)
            check_same_images(progress["images"], sources.signature())
            stream.set_state(progress["stream"])
            spent = progress["seconds"]
            window = progress.get("window", [])  # older checkpoints end a log period
            processes.say(f"going on from step {int(state.step)} of {total}, {workdir}")
        elif given is not None:
            state = begin_with(state, given)

        step = build_step(options, model, optimiser, image_loss, paired=sources.paired, mesh=mesh)
        parameters = sum(x.size for x in jax.tree.leaves(state.params))
        processes.say(f"{parameters / 1e6:.2f} M parameters, {images} training images, {total} steps of "
                      f"{options.train.batch}, on {mesh.size} {jax.devices()[0].platform} device(s)\n"
                      "compiling the training step (up to a minute)")  # fmt: skip
        keep = partial(save, checkpoints, stream, sources.signature())
        state, seconds = run_steps(state, stream, step, mesh, keep, signals, workdir, options, total, spent, window)
    return write_report(workdir, model, on_one_device(state.ema, mesh), sources, options, total, seconds)


def run_steps(
    state: TrainState,
    stream: TrainingStream,
    step: TrainStep,
    mesh: Mesh,
    keep: Callable[[TrainState, float, Window], None],
    signals: StopSignals,
    workdir: Path,
    options: Options,
    total: int,
    spent: float,
    window: Window,
) -> tuple[TrainState, float]:
    """The loop. Returns the last state and the seconds of training, with the `spent` ones of stopped runs.

    `window` is what a stopped run had seen of the log period in which it stopped. Raises Stopped, FloatingPointError.
    """
    start = int(state.step)
    if start == total:
        return state, spent
    began = time.monotonic() - spent
    progress = Progress(total, start, options.train.batch, silent=not processes.is_first())
    waited, clock = 0.0, time.monotonic()
    pending: dict[str, jax.Array] | None = None
    in_a_row = 0.0
    with MetricsLog(workdir, start) as log:
        for n in range(start + 1, total + 1):
            asked = time.monotonic()
            batch = next(stream)
            waited += time.monotonic() - asked
            photographs = sharding.put_batch(batch, mesh)
            with jax.transfer_guard("disallow"):
                state, metrics = step(state, photographs)
            signals.listen()  # the first step has compiled: until then nothing is lost by ending at once
            # step n runs while the figures of step n - 1 are read; waiting for those also keeps the host from
            # queueing steps without bound, which the CPU's collectives do not survive
            if pending is not None:
                window.append(read(pending))
            pending = metrics
            many = bool(window) and window[-1]["bad_steps"] >= options.train.max_bad_steps
            stops = signals.ask(n)
            due = n % options.checkpoint_every == 0 or n == total
            # a checkpoint of an undisturbed run ends the log period as well
            logs = n % options.log_every == 0 or due
            if many or logs or stops:
                window.append(read(pending))
                pending = None
                in_a_row = window[-1]["bad_steps"]
                if in_a_row >= options.train.max_bad_steps:
                    raise give_up(state, window, stream, keep, time.monotonic() - began, n)
            # none between bad steps, so that a run that gives up can go back to before the first of them
            saves = due and (in_a_row == 0 or n == total)
            if logs:
                figures = summarise(window)
                window = []
                shown = {
                    "loss": figures["loss"],
                    "PSNR": figures["psnr_rgb"],
                    "of input": figures["psnr_rgb_input"],
                }
                figures["steps_per_second"] = progress.report(n, shown)
                figures["data_wait"] = waited / max(time.monotonic() - clock, 1e-9)
                waited, clock = 0.0, time.monotonic()
                log.write(n, figures)
            if saves or stops:
                spent = time.monotonic() - began
                keep(state, spent, window)
            if stops:
                raise Stopped(n)
            if saves or n == start + 1:
                progress.restart_clock(n)  # the first step compiled, a save is not training
                waited, clock = 0.0, time.monotonic()
    return state, spent


def read(metrics: dict[str, jax.Array]) -> dict[str, float]:
    """Waits for the metrics of a step. Python's numbers go through JSON unchanged, to the bit."""
    return {name: value.item() for name, value in jax.device_get(metrics).items()}


def save(
    checkpoints: Checkpoints,
    stream: TrainingStream,
    images: list[str],
    state: TrainState,
    seconds: float,
    window: Window,
) -> None:
    """A checkpoint: the state, the place in the stream, what the stream is of, the seconds of training, and of an
    unfinished log period what is not logged yet."""
    seen = list(window)  # saving goes on behind the next steps, which add to theirs
    checkpoints.save(state, {"stream": stream.get_state(), "images": images, "seconds": seconds, "window": seen})


def check_same_images(began_with: list[str], now: list[str]) -> None:
    """Raises ValueError where a run would go on with other images: the order of all would be another."""
    if began_with != now:
        raise ValueError(
            f"this run began with other training images ({'; '.join(began_with)}) than there are now "
            f"({'; '.join(now)}): bring those back, or begin another run with --workdir"
        )


def summarise(window: Window) -> dict[str, float]:
    """A log period's figures: means over its good steps, NaN where it had none; `bad_steps` is how many were not good.

    Args:
      window: the metrics of each step of the period; their `bad_steps` counts bad steps in a row.
    """
    good = [m for m in window if m["bad_steps"] == 0]
    means = {name: float(np.mean([m[name] for m in good])) if good else float("nan") for name in window[0]}
    return means | {"bad_steps": len(window) - len(good)}


def give_up(
    state: TrainState,
    window: Window,
    stream: TrainingStream,
    keep: Callable[[TrainState, float, Window], None],
    seconds: float,
    step: int,
) -> FloatingPointError:
    """Goes back to before the last steps, all of them bad, saves that, and returns the error to raise."""
    bad = int(window[-1]["bad_steps"])
    stream.set_state({"batches": step - bad})
    keep(before_bad_steps(state), seconds, window[:-bad])
    return FloatingPointError(
        f"the gradients of {bad} steps in a row, {step - bad + 1} to {step}, were not finite: lower "
        "config.train.learning_rate, or set config.train.clip_norm; the run is as it was before them, and "
        "`mofme examine` tells of the first, layer by layer"
    )


def plan(options: Options, images: int) -> tuple[int, optax.Schedule]:
    """How many steps, and the learning rate of each.

    Raises:
      ValueError: a warmup as long as the run.
    """
    train = options.train
    steps_per_epoch = max(1, images // train.batch)
    total = train.steps or train.epochs * steps_per_epoch
    epochs = train.epochs or -(-total // steps_per_epoch)
    length, unit = (total, "steps") if train.schedule == "cosine" else (epochs, "epochs")
    if train.warmup >= length:
        raise ValueError(f"config.train.warmup={train.warmup} leaves none of the run's {length} {unit}: lower it")
    if train.schedule == "cosine":
        return total, schedule.warmup_cosine(train.learning_rate, total, train.warmup, train.floor)
    return total, schedule.reference_steps(train.learning_rate, epochs, steps_per_epoch, train.warmup, train.floor)


def on_one_device(params: Any, mesh: Mesh) -> Any:
    """The parameters on this process's first device alone, where images are restored one after the other."""
    gathered = jax.jit(lambda tree: tree, out_shardings=sharding.replicated(mesh))(params)
    return jax.device_put(jax.device_get(gathered), jax.local_devices()[0])


def use_host_devices(count: int) -> None:
    """On a CPU, splits it into `count` XLA devices (at most the cores of this process), if JAX has not started yet."""
    if "JAX_NUM_CPU_DEVICES" in os.environ or "host_platform_device_count" in os.environ.get("XLA_FLAGS", ""):
        return  # the user has said how many
    # where it can be asked, the share of the machine that a container or taskset leaves us
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        jax.config.update("jax_num_cpu_devices", min(count, cores))
    except RuntimeError:
        logging.info("JAX is already running; keeping its %d device(s)", jax.device_count())
