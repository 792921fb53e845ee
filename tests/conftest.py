"""One small run, shared by the tests of the training: compiling a step is what takes the time."""

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
