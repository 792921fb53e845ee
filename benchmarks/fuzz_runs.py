"""Runs, configs and files of weights for `fuzz.py`."""

import contextlib
import json
import os
import shutil
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
from fuzz_mutations import any_value, changed_bytes, changed_json, some

import mofme_jax
from mofme_jax.config_file import read_config
from mofme_jax.evaluation.calibration import Calibration, Curve, read_calibrations, write_calibrations
from mofme_jax.restoring.doubt import calibrations_of
from mofme_jax.training.folders import checkpoint_step
from mofme_jax.training.options import read_options
from mofme_jax.training.workdir import CONFIG_FILE, options_of_run
from mofme_jax.weights.file import read_facts, save_weights

_ROOT = Path(__file__).parents[1]
_SECTION = {
    "variant": "tiny",
    "overrides": {"channels": [8], "depth": 1, "blocks": 0, "width": 8, "heads": 1, "head_dim": 4},
    "num_experts": 2,
}
_CURVE = Curve({"change": 0.5, "routing": 0.1}, (-4.0, -1.0), (0.01, 0.1))


def _calibration(step: int) -> Calibration:
    return Calibration(_CURVE, 0.08, 9, 2, step, 0, True, 0.5, 0.6, {"change": 0.5, "routing": 0.2}, 0.01, 0.05, 0.7)


class Checkpoints:
    """The folder of a run, of whose newest checkpoint and config files are changed, removed, exchanged."""

    one_line = names = True

    def __init__(self, kept: Path, run: Path):
        self._run = kept / "run"
        shutil.copytree(run, self._run, dirs_exist_ok=True, ignore=shutil.ignore_patterns("tensorboard", "samples"))
        self._step = checkpoint_step(self._run)
        for folder in (self._run / "checkpoints").iterdir():
            if folder.name != str(self._step):
                shutil.rmtree(folder)
        write_calibrations(self._run, {"routing": _calibration(self._step)})
        self._files = sorted(path.relative_to(self._run) for path in self._run.rglob("*") if path.is_file())
        self._bytes = [(self._run / file).read_bytes() for file in self._files]

    def valid(self) -> list[Callable[[Path], Path]]:
        """The run as it is."""
        return [self._copied]

    def _copied(self, folder: Path) -> Path:
        return Path(shutil.copytree(self._run, folder / "run"))

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes a run with one to three changes."""
        run = self._copied(folder)
        for _ in range(some(rng, (1, 1, 1, 2, 3))):
            # what says how the rest is read is looked at first, and is small
            small = [file for file, data in zip(self._files, self._bytes, strict=True) if len(data) < 2000]
            self._change(rng, run, run / some(rng, small if rng.random() < 0.5 else self._files))
        return run

    def _change(self, rng: np.random.Generator, run: Path, file: Path) -> None:
        what = rng.random()
        if not file.is_file():
            return
        data = file.read_bytes()
        if what < 0.6:
            text = data[:1] in (b"{", b"[")
            file.write_bytes(
                changed_json(rng, data) if text and _is_json(data) else changed_bytes(rng, data, self._bytes)
            )
        elif what < 0.7:
            file.unlink()
        elif what < 0.75:
            file.unlink()
            some(
                rng,
                (Path.mkdir, os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(path)),
            )(file)
        elif what < 0.85:
            file.write_bytes(some(rng, self._bytes))
        elif what < 0.9:
            shutil.rmtree(some(rng, [path for path in run.rglob("*") if path.is_dir()]), ignore_errors=True)
        else:
            name = some(
                rng, ("²", "٣", "0", "007", "-1", "9" * 30, "9" * 200, "x", f"{self._step}.orbax-checkpoint-tmp")
            )
            checkpoint = run / "checkpoints" / str(self._step)
            if checkpoint.is_dir():
                with contextlib.suppress(shutil.Error):  # pipes are not copied
                    shutil.copytree(checkpoint, checkpoint.with_name(name), symlinks=True, dirs_exist_ok=True)

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        yield lambda: mofme_jax.load(path)
        yield lambda: options_of_run(path)
        yield lambda: calibrations_of(path)
        yield lambda: read_calibrations(path)


def _is_json(data: bytes) -> bool:
    try:
        json.loads(data)
    except (ValueError, RecursionError):
        return False
    return True


class Configs:
    """Fields on a command line, and a run's config.json. What is fed is a folder with both, one of them changed."""

    one_line, names = True, False

    def __init__(self, kept: Path, run: Path):
        self._plain = json.loads(read_config(["--config", str(_ROOT / "configs/default.py")]).to_json_best_effort())
        self._fields = list(_dotted(self._plain))

    def valid(self) -> list[Callable[[Path], Path]]:
        """The default config, and no argument."""
        return [lambda folder: self._written(folder, [], json.dumps(self._plain).encode())]

    def _written(self, folder: Path, arguments: list[str], text: bytes) -> Path:
        (folder / "arguments.json").write_text(json.dumps(arguments))
        (folder / CONFIG_FILE).write_bytes(text)
        return folder

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes arguments or a config that are changed."""
        text = json.dumps(self._plain).encode()
        if rng.random() < 0.5:
            return self._written(folder, [], changed_json(rng, text))
        return self._written(folder, [self._argument(rng) for _ in range(some(rng, (1, 1, 2, 3)))], text)

    def _argument(self, rng: np.random.Generator) -> str:
        name = some(rng, self._fields)
        if rng.random() < 0.25:
            odd = ("model", "data", "model.overrides.width", "model.overrides.channels", "model.overrides.window",
                   "data.severity.rain", "data.severity.haze", "data.severity.x", "nothing", "model.nothing", "a.b.c",
                   "seed.a", "", ".", "..", "model.", "data.weathers[0]", "data.weathers[9]", "data.weathers[-1]",
                   "data.weathers[x]", "to_json", "model.get", "__class__", "items", "🦒", "lock",
                   "_fields")  # fmt: skip
            name = some(rng, odd)
        value = any_value(rng)
        code = ("__import__('os').system('true')", "(1,2", "((((((((", "(" * 5000, "[" * 5000 + "]" * 5000, "1e999",
                "0x10",
                "1_000", "'a'", "(1,)*10**10", "9" * 5000, "{'a':1}", "\\", "-", "--", "None", "true",
                "('haze','haze')",
                "('rain',)", "()", "haze,rain", "a b,c", "(0.1,0.2)", "'", "\n", "=", "lambda: 0")  # fmt: skip
        text = some(rng, code) if rng.random() < 0.4 else (value if isinstance(value, str) else repr(value)) if (
            rng.random() < 0.8) else str(rng.normal() * 10.0 ** rng.integers(-9, 20))  # fmt: skip
        shape = some(
            rng, ("--config.{}={}",) * 9 + ("--config.{}", "--noconfig.{}", "-config.{}={}", "--config.{}={}={}")
        )
        return shape.format(name, text, text)

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        arguments = json.loads((path / "arguments.json").read_text())
        yield lambda: read_options(read_config(["--config", str(_ROOT / "configs/default.py"), *arguments]))
        yield lambda: options_of_run(path)


def _dotted(section: dict, before: str = "") -> Iterator[str]:
    for name, value in section.items():
        if isinstance(value, dict) and value:
            yield from _dotted(value, f"{before}{name}.")
        else:
            yield before + name


class Weights:
    """Files of weights, whose header, metadata or bytes are changed."""

    one_line = names = True

    def __init__(self, kept: Path, run: Path):
        kept.mkdir(parents=True, exist_ok=True)
        model = mofme_jax.build("tiny", **{**_SECTION["overrides"], "channels": (8,)}, num_experts=2)
        shapes = jax.eval_shape(model.init, jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
        params = jax.tree.map(lambda like: np.random.default_rng(0).normal(size=like.shape), shapes)
        self._files = []
        for dtype in ("float16", "float32"):
            file = kept / f"{dtype}.safetensors"
            save_weights(file, _SECTION, params, steps=6, calibrations={"routing": _calibration(6)}, dtype=dtype)
            self._files.append(file.read_bytes())

    def valid(self) -> list[Callable[[Path], Path]]:
        """The files as they are."""
        return [lambda folder, data=data: _file(folder, data) for data in self._files]

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes a file that is changed."""
        data = some(rng, self._files)
        if rng.random() < 0.4:
            return _file(folder, changed_bytes(rng, data, self._files))
        end = 8 + struct.unpack("<Q", data[:8])[0]
        header = changed_json(rng, data[8:end])
        if rng.random() < 0.5:  # the metadata alone, which say which network it is
            tree = json.loads(data[8:end])
            facts = changed_json(rng, tree["__metadata__"]["mofme_jax"].encode())
            tree["__metadata__"]["mofme_jax"] = facts.decode(errors="replace")
            header = json.dumps(tree).encode()
        return _file(folder, struct.pack("<Q", len(header)) + header + data[end:])

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        yield lambda: mofme_jax.load(path)
        yield lambda: read_facts(path)


def _file(folder: Path, data: bytes) -> Path:
    path = folder / "a.safetensors"
    path.write_bytes(data)
    return path
