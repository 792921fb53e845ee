"""One small run, shared by the tests of the training: compiling a step is what takes the time."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

# Compiling takes most of the tests' time, and less of it without LLVM's costly passes. Read when JAX is imported, here
# and in the processes that tests start; see the fixture `optimised`.
os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] = "1"

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

OPTIMISED = {"JAX_DISABLE_MOST_OPTIMIZATIONS": "0"}
"""For the environment of a process whose programs are to be as users have them."""

SLOW = (
    "test_meshes.py",
    "test_killed_processes.py",
    "test_train_command.py",
    "test_study.py",
    "test_dispatch.py",
    "test_loop.py",
    "test_step.py",
    "test_demo.py",
    "test_demo_misbehaving.py",
    "test_no_network.py",
    "test_fuzz.py",
    "test_examine.py",
    "test_notebooks.py",
)
"""Files that take longest: they begin, so that at the end no worker is left alone with one."""


@pytest.fixture(scope="session", autouse=True)
def one_device() -> None:
    """JAX begins with one device, whatever the config of a worker's first test asks for."""
    jax.devices()


def pytest_collection_modifyitems(items):
    items.sort(key=lambda item: SLOW.index(item.path.name) if item.path.name in SLOW else len(SLOW))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config, log):
    """With `-n`, a file's tests go to one worker: it makes what they share, once."""
    from xdist.scheduler import LoadFileScheduling  # here: tests run without xdist as well

    config.option.loadscopereorder = False  # keep the order above
    return LoadFileScheduling(config, log)


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory):
    """Nothing is read from the user's cache, and nothing left there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture
def optimised():
    """What the test compiles is optimised as it is for users: for what that may change."""
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", True)


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


@pytest.fixture(autouse=True, scope="session")
def compiled_once(tmp_path_factory) -> Iterator[Path]:
    """A folder in which JAX keeps what it compiled, for this session alone: a program like an earlier one, in this
    worker, another, or a process that a test starts, is not compiled again."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "compiled"
    settings = {
        "jax_compilation_cache_dir": str(folder),
        "jax_persistent_cache_min_compile_time_secs": 0.1,
        "jax_persistent_cache_min_entry_size_bytes": -1,
    }
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name.upper(), str(value))
            jax.config.update(name, value)
        yield folder


@pytest.fixture(scope="session")
def finished_run(tmp_path_factory) -> tuple[Path, dict]:
    """The workdir of a run that nothing disturbed, and what it returned."""
    from mofme_jax.training import train_and_evaluate  # here: most tests need no Orbax

    workdir = tmp_path_factory.mktemp("runs") / "finished"
    return workdir, train_and_evaluate(small_config(), workdir)
