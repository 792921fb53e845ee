"""A few inputs of each kind that are made wrong; and that the harness notices what it is for."""

import importlib
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLANTED = """
import fuzz_worker
fuzz_worker.KINDS = {"planted": ("planted_kinds", "Planted")}
fuzz_worker.main()
"""
KINDS = """
import os, socket, subprocess, time
from pathlib import Path

class Planted:
    one_line = names = True

    def __init__(self, kept, run):
        pass

    def valid(self):
        return [lambda folder: folder]

    def make(self, rng, folder):
        (folder / "input").write_text("an input")
        return folder

    def steps(self, path, out):
        what = Path(__file__).with_name("what").read_text() if (path / "input").exists() else ""
        yield lambda: exec(what, {**globals(), "path": path, "out": out})
"""
WRONG = {
    "raise KeyError('planted')": ("traceback", "KeyError: 'planted'"),
    "raise ValueError('something')": ("traceback", "not clear"),
    "raise ValueError(f'{path}: one line\\nand another')": ("traceback", "not clear"),
    "time.sleep(60)": ("hang", "planted_kinds.py"),
    "bytearray(400 * 10**6)": ("memory", ""),
    "os.system('true')": ("forbidden", "os.system"),
    "subprocess.run(['true'])": ("forbidden", "subprocess.Popen"),
    "socket.create_connection(('127.0.0.1', 9))": ("forbidden", "socket"),
    "(path / '../../escaped').write_text('a')": ("forbidden", "escaped"),
    "os.abort()": ("died", "-6"),
}


@pytest.fixture
def fuzz(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module("fuzz")


@pytest.fixture
def planted(tmp_path, monkeypatch):
    """A folder with a worker whose one input does what is written into the file `what`."""
    (tmp_path / "kinds").mkdir()
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "kinds"))
    (tmp_path / "kinds/planted_kinds.py").write_text(KINDS)
    script = tmp_path / "kinds/worker.py"
    script.write_text(PLANTED)
    return script


def test_the_harness_notices_what_is_wrong(fuzz, planted, tmp_path):
    for number, (what, (outcome, said)) in enumerate(WRONG.items()):
        (planted.parent / "what").write_text(what)
        bounds = dict(seconds=3.0 if outcome != "hang" else 0.5, most=3 * 10**8, script=str(planted))
        folder, keep = tmp_path / f"work{number}", tmp_path / "kept"
        found = fuzz.try_inputs("planted", range(number, number + 1), 7, tmp_path, folder, keep, **bounds)
        ((at, how, text),) = found.broken
        assert (at, how) == (number, outcome), (what, text)
        assert said in text
        place = keep / f"planted-seed7-{number}"
        assert (place / "input").read_text() == "an input"
        assert json.loads((place / "said.json").read_text())["outcome"] == outcome


def test_the_harness_lets_pass_what_is_right_or_refused(fuzz, planted, tmp_path):
    for what, outcome in {
        "pass": "accepted",
        "(out / 'written').write_text('a')": "accepted",
        "raise ValueError(f'{path} is damaged')": "refused",
        "open(path / 'nothing')": "refused",
    }.items():
        (planted.parent / "what").write_text(what)
        found = fuzz.try_inputs("planted", range(2), 7, tmp_path, tmp_path / "work", script=str(planted))
        assert (found.counts, found.broken) == ({outcome: 2}, [])


@pytest.mark.parametrize("kind", ["images", "configs", "safetensors", "torch", "folders", "checkpoints"])
def test_inputs_of_every_kind_are_right_or_refused(fuzz, kind, tmp_path, request):
    run = request.getfixturevalue("finished_run")[0] if kind == "checkpoints" else tmp_path
    count = {"images": 150, "checkpoints": 8, "folders": 25}.get(kind, 40)
    found = fuzz.try_inputs(kind, range(count), 1, Path(run), tmp_path / "work", tmp_path / "kept")
    assert found.broken == []
    assert found.counts["accepted"] + found.counts["refused"] == count
    assert found.counts["refused"]


def test_an_input_follows_from_its_number(fuzz, tmp_path):
    files = []
    for numbers in (range(3), range(2, 3)):
        fuzz.try_inputs("images", numbers, 5, tmp_path, tmp_path / "work")
        (file,) = (tmp_path / "work/in").iterdir()
        files.append((file.name, file.read_bytes()))
    assert files[0] == files[1]
