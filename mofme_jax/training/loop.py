"""The training run, from a config and a folder to a report. Reads from top to bottom."""

import os
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import asdict
from functools import partial
from pathlib import Path

import jax
import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mofme_jax.data.pipeline import TrainingStream, training_stream
from mofme_jax.training import processes, sharding
from mofme_jax.training.best import Best
from mofme_jax.training.build import (
    begin_with,
    build_init,
    build_optimiser,
    build_schedule,
    build_step,
    given_parameters,
    make_image_loss,
)
from mofme_jax.training.checkpoint import Checkpoints
from mofme_jax.training.folders import has_checkpoint
from mofme_jax.training.logs import MetricsLog
from mofme_jax.training.options import Options, build_model, read_options
from mofme_jax.training.period import LogPeriod, Window
from mofme_jax.training.report import judge, mean_gain, write_report
from mofme_jax.training.sources import batch_groups, open_sources
from mofme_jax.training.state import TrainState, before_bad_steps
from mofme_jax.training.stopping import Stopped, StopSignals
from mofme_jax.training.workdir import claim_workdir, only_run, prepare_workdir
from mofme_jax.viz import Progress

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
        tensorboard/, report.json and samples/*.png, and best/ where it was validated.

    Returns:
      The report, as in report.json (where null stands for an infinite PSNR).

    Raises:
      ValueError, OSError, ImportError: a config, folder, photograph or installation that will not do, before any
        training; the message names it and the remedy.
      FloatingPointError: the gradients were not finite `max_bad_steps` times in a row. The state before these steps is
        the newest checkpoint, and `examine` tells of the first of them.
      Stopped: a KeyboardInterrupt, by a signal; the last step is saved.
      NotSaved: an OSError: checkpoints cannot be written, too often in a row or the last, or the report cannot.
      AnotherEnded: an OSError: of several processes another one has ended.
    """
    options = read_options(config)
    sharding.use_host_devices(options.train.host_devices)
    workdir = prepare_workdir(workdir, config)
    with processes.together(), only_run(workdir) as hold:
        return _train_and_evaluate(config, options, workdir, partial(hold, config))


def _train_and_evaluate(config: ConfigDict, options: Options, workdir: Path, hold: Callable[[], None]) -> dict:
    sources = open_sources(options)
    mesh = sharding.make_mesh(batch_groups(options, sources.paired), **asdict(options.mesh))

    images = sum(map(len, sources.training))
    total, learning_rate = build_schedule(options, images)
    image_loss = make_image_loss(options)
    model = build_model(config.model)
    given = None if processes.first_says(has_checkpoint(workdir)) else given_parameters(options, model)
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
    checkpoints = Checkpoints(workdir, options.keep_checkpoints, config.to_dict(), hold)
    # outermost: a first signal must not end the process while the last step is being written
    with StopSignals() as signals, closing(stream), closing(checkpoints):
        spent, window = 0.0, []
        if processes.first_says(checkpoints.latest_step() is not None):
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
        # where a stopped run has left a window, the line of its last step, should there be one, is of later
        logged = int(state.step) - bool(window)
        keep = partial(save, checkpoints, stream, sources.signature())
        best = Best(workdir, config.to_dict(), hold)

        def validate(state: TrainState, seconds: float) -> float:
            gain = mean_gain(judge(model, sharding.on_one_device(state.ema, mesh), sources, options)[0])
            checkpoints.wait()
            best.offer(gain, state, progress_of(stream, sources.signature(), seconds, []))
            return gain

        with closing(MetricsLog(workdir, logged, hold)) as log:
            state, seconds = run_steps(
                state, stream, step, mesh, keep, validate, signals, log, options, total, spent, window
            )
        ended = progress_of(stream, sources.signature(), seconds, [])
    report = write_report(workdir, model, sharding.on_one_device(state.ema, mesh), sources, options, total, seconds)
    if options.validate_every:
        best.offer(report["mean_gain"], state, ended)
        if best.place:
            processes.say(f"best        {best.place}, mean gain {best.gain:+.2f} dB")
    return report


def run_steps(
    state: TrainState,
    stream: TrainingStream,
    step: TrainStep,
    mesh: Mesh,
    keep: Callable[[TrainState, float, Window], None],
    validate: Callable[[TrainState, float], float],
    signals: StopSignals,
    log: MetricsLog,
    options: Options,
    total: int,
    spent: float,
    window: Window,
) -> tuple[TrainState, float]:
    """The loop. Returns the last state and the seconds of training, with the `spent` ones of stopped runs.

    `window` is what a stopped run had seen of the log period in which it stopped; `validate` judges a state and returns
    its mean gain. Raises Stopped, FloatingPointError.
    """
    start = int(state.step)
    began = time.monotonic() - spent
    progress = Progress(total, start, options.train.batch, silent=not processes.is_first())
    waited, clock = 0.0, time.monotonic()
    period, pending = LogPeriod(window), None

    def is_due(every: int, n: int) -> bool:
        return n < total and every > 0 and n % every == 0

    def ends(n: int) -> bool:
        # a checkpoint of an undisturbed run, or judging, ends the log period as well
        every = (options.log_every, options.checkpoint_every, options.validate_every)
        return n == total or any(is_due(one, n) for one in every)

    def end_period(n: int) -> None:
        nonlocal waited, clock
        figures = period.end()
        shown = {"loss": figures["loss"], "PSNR": figures["psnr_rgb"], "of input": figures["psnr_rgb_input"]}
        figures["steps_per_second"] = progress.report(n, shown)
        figures["data_wait"] = waited / max(time.monotonic() - clock, 1e-9)
        if is_due(options.validate_every, n) and not period.bad_in_a_row:
            figures["validation_gain"] = validate(state, time.monotonic() - began)
        log.write(n, figures)
        waited, clock = 0.0, time.monotonic()

    if window and ends(start):  # a stopped run waits for no judge
        end_period(start)
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
            period.take(pending)
        pending = metrics
        stops = signals.ask(n)
        if stops or ends(n) or period.bad_in_a_row >= options.train.max_bad_steps:
            period.take(pending)
            pending = None
        given_up = period.bad_in_a_row >= options.train.max_bad_steps
        if stops or given_up:
            saved = keep_good(state, period, stream, keep, time.monotonic() - began)
            raise give_up(saved, n) if given_up else Stopped(saved)
        if ends(n):
            end_period(n)
        # none between bad steps, so that a run can go back to before the first of them
        saves = n == total or (is_due(options.checkpoint_every, n) and not period.bad_in_a_row)
        if saves:
            spent = time.monotonic() - began
            keep(state, spent, period.seen)
        if saves or is_due(options.validate_every, n) or n == start + 1:
            progress.restart_clock(n)  # the first step compiled, a save or judging is not training
            waited, clock = 0.0, time.monotonic()
    return state, spent


def progress_of(stream: TrainingStream, images: list[str], seconds: float, window: Window) -> dict:
    """What a checkpoint holds beside the state: the place in the stream, what the stream is of, the seconds of
    training, and of an unfinished log period what is not logged yet."""
    seen = list(window)  # saving goes on behind the next steps, which add to theirs
    return {"stream": stream.get_state(), "images": images, "seconds": seconds, "window": seen}


def save(
    checkpoints: Checkpoints,
    stream: TrainingStream,
    images: list[str],
    state: TrainState,
    seconds: float,
    window: Window,
) -> None:
    """A checkpoint of the state and its progress."""
    checkpoints.save(state, progress_of(stream, images, seconds, window))


def check_same_images(began_with: list[str], now: list[str]) -> None:
    """Raises ValueError where a run would go on with other images: the order of all would be another."""
    if began_with != now:
        raise ValueError(
            f"this run began with other training images ({'; '.join(began_with)}) than there are now "
            f"({'; '.join(now)}): bring those back, or begin another run with --workdir"
        )


def keep_good(
    state: TrainState,
    period: LogPeriod,
    stream: TrainingStream,
    keep: Callable[[TrainState, float, Window], None],
    seconds: float,
) -> int:
    """Saves the state or, where the last steps were bad, that before them. Returns its step."""
    seen = period.seen
    if period.bad_in_a_row:
        state, seen = before_bad_steps(state), period.before_bad
        stream.set_state({"batches": int(state.step)})
    keep(state, seconds, seen)
    return int(state.step)


def give_up(saved: int, step: int) -> FloatingPointError:
    """The error of a run whose last steps, from behind the `saved` one to `step`, were bad."""
    return FloatingPointError(
        f"the gradients of {step - saved} steps in a row, {saved + 1} to {step}, were not finite: lower "
        "config.train.learning_rate, or set config.train.clip_norm; the run is as it was before them, and "
        "`mofme examine` tells of the first, layer by layer"
    )
