"""What a run logs, once a log period: a line of metrics.jsonl and TensorBoard's events."""

import json
import math
import socket
import struct
import time
from collections.abc import Callable
from pathlib import Path

from tensorboardX.proto.event_pb2 import Event, SessionLog
from tensorboardX.proto.summary_pb2 import Summary
from tensorboardX.record_writer import masked_crc32c

from mofme_jax.files import append, finite_or_null, why_not_written, write_whole
from mofme_jax.training import processes


class MetricsLog:
    """metrics.jsonl and TensorBoard events, one entry a log period.

    A resumed run drops the lines of steps that it is about to take again, so that every step stands there once. A
    figure that is not finite is null, and no point in TensorBoard. Of several processes only the first writes.

    What a disk does not take waits in memory and is written with the next entry: no run ends for its log.

    Args:
      workdir: the run's folder. start: steps already taken.
      hold: see `only_run`; called before anything is written.

    Raises:
      NotSaved: the lines to be dropped cannot be.
    """

    def __init__(self, workdir: Path, start: int, hold: Callable[[], None] = lambda: None):
        self._hold = hold
        if not processes.is_first():
            self._files: list[_Growing] = []
            return
        lines, events = workdir / "metrics.jsonl", workdir / "tensorboard"
        if lines.exists():
            kept = [line for line in lines.read_text().splitlines(keepends=True) if _step_of(line) <= start]
            write_whole(lines, "".join(kept))  # a kill here must not lose what an earlier run logged
        # TensorBoard reads a folder's files in the order of their names
        name = f"events.out.tfevents.{time.time():.3f}.{socket.gethostname()}.from_{start + 1}"
        # at the second, TensorBoard forgets what was logged of that step or later
        begun = _record(Event(wall_time=time.time(), file_version="brain.Event:2")) + _record(
            Event(wall_time=time.time(), step=start + 1, session_log=SessionLog(status=SessionLog.START))
        )
        self._files = [_Growing(lines, _line), _Growing(events / name, _events, begun)]

    def write(self, step: int, figures: dict[str, float]) -> None:
        """Adds one line and one set of scalars."""
        for file in self._files:
            file.add(step, figures, self._hold)

    def close(self) -> None:
        """Tries once more to write what waits, and says what is missing for ever."""
        for file in self._files:
            file.close(self._hold)


class _Growing:
    """A file that entries are appended to, now or, where the disk does not take them, with a later one."""

    def __init__(self, path: Path, encode: Callable[[int, dict[str, float]], bytes], header: bytes = b""):
        self._path, self._encode, self._header = path, encode, header
        self._waiting: dict[int, bytes] = {}

    def add(self, step: int, figures: dict[str, float], hold: Callable[[], None]) -> None:
        late = len(self._waiting)
        self._waiting[step] = self._encode(step, figures)
        if error := self._write(hold):
            if not late:
                processes.say(
                    f"{self._path} cannot be written {why_not_written(error)}; training goes on, and what is missing "
                    "there follows as soon as it can"
                )
        elif late:
            processes.say(f"{self._path} is written again, with the {late} entries that were missing")

    def close(self, hold: Callable[[], None]) -> None:
        if self._waiting and (error := self._write(hold)):
            steps = ", ".join(map(str, self._waiting))
            processes.say(f"{self._path} lacks the entries of steps {steps} {why_not_written(error)}")

    def _write(self, hold: Callable[[], None]) -> Exception | None:
        """Appends what waits; returns why that cannot be done."""
        try:
            hold()
            self._path.parent.mkdir(exist_ok=True)
            append(self._path, b"".join(self._waiting.values()), self._header)
        except (OSError, ValueError) as error:
            return error
        self._waiting = {}
        return None


def _line(step: int, figures: dict[str, float]) -> bytes:
    return (json.dumps({"step": step, **finite_or_null(figures)}, allow_nan=False) + "\n").encode()


def _events(step: int, figures: dict[str, float]) -> bytes:
    scalars = {f"train/{name}": value for name, value in figures.items() if math.isfinite(value)}
    values = [Summary(value=[Summary.Value(tag=tag, simple_value=value)]) for tag, value in scalars.items()]
    return b"".join(_record(Event(wall_time=time.time(), step=step, summary=summary)) for summary in values)


def _record(event: Event) -> bytes:
    """An event as TensorBoard's files hold it: length, checksum of that, content, checksum of that."""
    content = event.SerializeToString()
    length = struct.pack("<Q", len(content))
    return b"".join(
        (length, struct.pack("<I", masked_crc32c(length)), content, struct.pack("<I", masked_crc32c(content)))
    )


def _step_of(line: str) -> float:
    """The line's step; infinite for one that a kill cut short, so that it is dropped."""
    try:
        return json.loads(line)["step"]
    except (ValueError, KeyError, TypeError):
        return float("inf")
