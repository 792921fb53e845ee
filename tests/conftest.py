"""One small run, shared by the tests of the training: compiling a step is what takes the time."""

import json
import os
from pathlib import Path

import jax
import pytest
from ml_collections import ConfigDict

from configs import smoke

SMALL = {
    "model.overrides.channels": (8,),
    "model.overrides.depth": 1,
    "model.overrides.blocks": 0,
    "data.weathers": ("haze",),
    "data.crop": 16,
    "data.colour_share": 0.0,
    "data.sky_share": 0.0,
    "train.batch": 2,
    "train.steps": 6,
    "train.host_devices": 1,
    "log_every": 2,
    "checkpoint_every": 3,
    "evaluation.max_side": 24,
    "evaluation.tile": 16,
}
"""Six steps of the least network on one weather, with log periods and checkpoints that do not coincide."""

TIMES = ("steps_per_second", "data_wait")
"""Figures that are a matter of time."""


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Nothing is read from the user's cache, and nothing left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


def small_config(**changes) -> ConfigDict:
    """configs/smoke.py with `SMALL` and `changes`, given by dotted name."""
    config = smoke.get_config()
    for name, value in {**SMALL, **changes}.items():
        *sections, field = name.split(".")
        section = config
        for part in sections:
            section = section[part]
        section[field] = value
    return config


@pytest.fixture
def make_config():
    return small_config


@pytest.fixture
def logged():
    """logged(workdir): the lines of metrics.jsonl without TIMES."""

    def logged(workdir: Path) -> list[dict]:
        text = (workdir / "metrics.jsonl").read_text()
        lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
        return [{name: value for name, value in line.items() if name not in TIMES} for line in lines]

    return logged


@pytest.fixture
def saved_state():
    """saved_state(workdir, step): the whole state in a checkpoint, on one device, wherever it was saved from."""
    import orbax.checkpoint as ocp  # here: most tests need no Orbax

    def saved_state(workdir: Path, step: int) -> dict:
        device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
        with ocp.CheckpointManager(
            workdir / "checkpoints", item_handlers={"state": ocp.StandardCheckpointHandler()}
        ) as manager:
            like = jax.tree.map(
                lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=device),
                manager.item_metadata(step)["state"].tree,
            )
            return manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(like))).state

    return saved_state


@pytest.fixture
def small_flags() -> list[str]:
    """`SMALL` for the command line."""
    return ["--config=configs/smoke.py", *(f"--config.{name}={value}" for name, value in SMALL.items())]


@pytest.fixture(scope="session")
def compiled_once(tmp_path_factory) -> Path:
    """A folder in which JAX keeps what it compiled: a run like an earlier one, here or in a process of its own, then
    starts at once."""
    folder = Path(os.environ.get("JAX_COMPILATION_CACHE_DIR") or tmp_path_factory.mktemp("compiled"))
    jax.config.update("jax_compilation_cache_dir", str(folder))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.1)
    return folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory, compiled_once) -> tuple[Path, dict]:
    """The workdir of a run that nothing disturbed, and what it returned."""
    from mofme_jax.training import train_and_evaluate  # here: most tests need no Orbax

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, train_and_evaluate(small_config(), workdir)
