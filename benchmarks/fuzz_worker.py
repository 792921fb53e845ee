"""The process in which `fuzz.py` feeds one input after the other; it is killed where one does not come to an end.

Reads numbers of inputs from stdin, a line each, and answers with a line of JSON each. An audit hook sees every command,
socket and write that Python makes: all but writes into the process's own folder are forbidden while an input is fed.
"""

import argparse
import contextlib
import faulthandler
import importlib
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from pathlib import Path

import numpy as np

KINDS = {
    "images": ("fuzz_images", "Images"),
    "checkpoints": ("fuzz_runs", "Checkpoints"),
    "configs": ("fuzz_runs", "Configs"),
    "safetensors": ("fuzz_runs", "Weights"),
    "torch": ("fuzz_torch", "TorchFiles"),
    "folders": ("fuzz_folders", "Folders"),
}
"""Where each kind of input is made; each module brings in what of the package it needs."""

EXPECTED = (ValueError, OSError, ImportError)
"""What the command lines turn into a line."""

_LEFT = 3 * 2**30  # bytes of address space

_FORBIDDEN = ("os.system", "os.exec", "os.posix_spawn", "os.spawn", "os.fork", "os.forkpty", "os.startfile",
              "pty.spawn",
              "subprocess.Popen", "socket.connect", "socket.bind", "socket.sendto", "socket.getaddrinfo",
              "socket.gethostbyname", "pickle.find_class", "webbrowser.open", "ctypes.dlopen")  # fmt: skip
_CHANGING = ("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.chmod", "os.chown",
             "os.truncate", "os.utime", "shutil.rmtree", "shutil.move", "shutil.copyfile")  # fmt: skip


class Watch:
    """An audit hook that notes what is forbidden while it is on.

    Args:
      folder: in which files may be written.
    """

    def __init__(self, folder: Path):
        self.on, self.seen, self._folder = False, [], str(folder.resolve())
        sys.addaudithook(self._event)

    def _event(self, event: str, arguments: tuple) -> None:
        if not self.on:
            return
        if event in _FORBIDDEN:
            self.seen.append(f"{event}{arguments!r:.200}")
        elif event == "open":
            path, mode, flags = arguments
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC) and not self._inside(path):
                self.seen.append(f"open {path!r} {mode} {flags:o}")
        elif event in _CHANGING and not all(
            self._inside(path) for path in arguments[:2] if isinstance(path, str | bytes)
        ):
            self.seen.append(f"{event}{arguments!r:.200}")

    def _inside(self, path) -> bool:
        """An open file's number counts as inside: it was opened by its name. /dev/null is nothing."""
        if not isinstance(path, str | bytes | os.PathLike):
            return True
        path = os.path.realpath(os.fsdecode(path))
        return path == os.devnull or path.startswith(self._folder + os.sep)


def answer(kind, watch: Watch, make, folder: Path) -> dict:
    """Feeds an input and says what came of it.

    Args:
      kind: see `fuzz_kinds`. watch: of this process.
      make: (folder) -> the path that is fed. folder: of this process; its in/ and out/ are emptied.
    """
    for name in ("in", "out"):
        shutil.rmtree(folder / name, ignore_errors=True)
        (folder / name).mkdir()
    path = make(folder / "in")
    watch.seen.clear()
    _forget_peak()
    before, started, text, outcome = _peak(), time.perf_counter(), "", "accepted"
    watch.on = True
    for step in kind.steps(path, folder / "out"):
        try:
            with warnings.catch_warnings(action="ignore"):
                step()
        except EXPECTED as error:
            outcome, text = "refused", str(error)
            named = any(str(place) in _said(error) for place in (path, folder / "out"))
            if not text.strip() or (kind.one_line and "\n" in text) or (kind.names and not named):
                watch.on = False
                outcome, text = "traceback", f"an error that is not clear: {type(error).__name__}: {text[:1000]!r}"
                break
        except BaseException as error:
            watch.on = False
            where = "".join(traceback.format_tb(error.__traceback__)[-6:])
            outcome, text = "traceback", f"{where}{type(error).__name__}: {error!s:.1000}"
            break
    watch.on = False
    if watch.seen:
        outcome, text = "forbidden", "; ".join(watch.seen[:5])
    return dict(outcome=outcome, text=text[:4000], seconds=time.perf_counter() - started, bytes=_peak() - before)


def _said(error: BaseException) -> str:
    """The error with its file's name, as `mofme` adds it."""
    return f"{getattr(error, 'filename', '')} {error}"


def _forget_peak() -> None:
    with contextlib.suppress(OSError):  # Linux; elsewhere the peak is the process's
        Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    """The most bytes of memory that the process held since `_forget_peak`."""
    with contextlib.suppress(OSError):
        status = Path("/proc/self/status").read_text()
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def main() -> None:
    """Answers until stdin ends."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--run", type=Path, required=True)
    parser.add_argument("--seed", type=int, required=True)
    options = parser.parse_args()
    faulthandler.enable()
    faulthandler.register(signal.SIGUSR1)  # says where an input hangs
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what libraries print is no answer
    module, name = KINDS[options.kind]
    kind = getattr(importlib.import_module(module), name)(options.folder / "kept", options.run)
    watch = Watch(options.folder)
    for number, make in enumerate(kind.valid()):  # twice, because the first look at anything imports and compiles
        for _ in range(2):
            found = answer(kind, watch, make, options.folder)
        if found["outcome"] != "accepted":
            print(json.dumps(dict(error=f"valid input {number}: {found['outcome']}: {found['text']}")), file=answers)
            return
    # as on a machine with so much memory left: what asks for more, if only to let go of it, is found
    held = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (held + _LEFT, resource.RLIM_INFINITY))
    print(json.dumps(dict(ready=True)), file=answers, flush=True)
    place = list(KINDS).index(options.kind)
    for line in sys.stdin:
        rng = np.random.default_rng([options.seed, place, int(line)])
        found = answer(kind, watch, lambda folder, rng=rng: kind.make(rng, folder), options.folder)
        print(json.dumps(found), file=answers, flush=True)


if __name__ == "__main__":
    main()
