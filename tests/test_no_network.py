"""Nothing is asked of a network, at import or later, but by what says so: `mofme data fetch-photos`.

In a process of its own, since nobody can take an audit hook away again. The page: `tests/restoring/test_demo.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]

WATCHED = """
import json, runpy, sys, traceback

CALLS = (
    "socket.connect", "socket.sendto", "socket.sendmsg", "socket.getaddrinfo", "socket.gethostbyname",
    "socket.gethostbyaddr", "urllib.Request", "http.client.connect", "ftplib.connect", "smtplib.connect",
)
called = []

def forbid(event, arguments):
    if event in CALLS:
        called.append(f"{event} {arguments!r:.200} in " + "".join(traceback.format_stack(limit=6)))
        raise OSError(f"{event} is forbidden")

sys.addaudithook(forbid)
sys.argv[0] = "mofme"
status = None
try:
    exec(sys.argv.pop(1))
finally:
    print(json.dumps({"status": status, "called": called}))
"""


def run(code: str, *arguments: str) -> dict:
    """What code, run with these arguments of a command line, called, and what it left in `status`."""
    # the usual switches of libraries are off: nothing may depend on a user having them set
    left_out = ("GRADIO_ANALYTICS_ENABLED", "HF_HUB_DISABLE_TELEMETRY", "HF_HUB_OFFLINE", "DO_NOT_TRACK")
    environment = {name: value for name, value in os.environ.items() if name not in left_out}
    done = subprocess.run(
        [sys.executable, "-c", WATCHED, code, *arguments],
        cwd=ROOT,
        env=environment | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


def command(*arguments: object) -> dict:
    return run("from mofme_jax.cli import main; status = main()", *map(str, arguments))


@pytest.fixture
def photographs(tmp_path) -> Path:
    """A folder of two small ones."""
    folder = tmp_path / "photographs"
    folder.mkdir()
    for name in ("a.png", "b.png"):
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 48, 3), np.uint8)).save(folder / name)
    return folder


@pytest.mark.parametrize(
    "code",
    [
        "import socket; socket.socket().connect(('127.0.0.1', 9))",
        "import socket; socket.getaddrinfo('localhost', 9)",
        "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')",
        "import httpx; httpx.get('http://127.0.0.1:9')",
    ],
)
def test_the_watch_sees_who_calls(code):
    assert run(f"try: {code}\nexcept Exception: pass")["called"]


def test_imports_ask_nothing_of_a_network():
    modules = "mofme_jax.cli, mofme_jax.training, mofme_jax.evaluation, mofme_jax.data, mofme_jax.restoring.files"
    assert run(f"import mofme_jax, {modules}, tensorflow_datasets, grain, orbax.checkpoint")["called"] == []


def test_the_page_asks_nothing_of_a_network_while_it_is_built():
    pytest.importorskip("gradio")
    code = (
        "import time, os, mofme_jax.restoring.demo as demo\n"
        "from tests.fakes import Gain\n"
        "page = demo.build_page(Gain(), {'gain': 1.0})\n"
        "time.sleep(2)  # Gradio would ask in a thread\n"
        "import gradio, huggingface_hub.constants as hub\n"
        "status = [gradio.analytics.analytics_enabled(), page.analytics_enabled, hub.HF_HUB_DISABLE_TELEMETRY]"
    )
    assert run(code) == {"status": [False, False, True], "called": []}


def test_commands_ask_nothing_of_a_network(photographs, tmp_path):
    for arguments in (
        ("restore", photographs / "a.png", "--out", tmp_path / "restored"),
        ("params", "tiny", "--side=32"),
        ("evaluate", "--pred", photographs, "--gt", photographs),
        ("data", "doctor", photographs),
    ):
        found = command(*arguments)
        assert found["called"] == []
        assert found["status"] in (0, 1)  # 1: the doctor finds two photographs that are the same
    assert list((tmp_path / "restored").iterdir())


def test_training_asks_nothing_of_a_network(small_flags, tmp_path):
    code = "runpy.run_path('train.py', run_name='__main__')"
    found = run(
        f"try: {code}\nexcept SystemExit as end: status = end.code", f"--workdir={tmp_path / 'run'}", *small_flags
    )
    assert found["called"] == []
    assert not found["status"]
    assert (tmp_path / "run" / "metrics.jsonl").is_file()
