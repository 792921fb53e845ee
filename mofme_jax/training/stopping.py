"""How a run is stopped: a signal is only noted, and looked at between two steps, where everything is whole.

No exception is raised from a handler: one may come inside a library that swallows it, or between the taking of a lock
and its release, which closing then waits for.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any, Self

import jax
from jax.experimental import multihost_utils

SIGNALS = (signal.SIGINT, signal.SIGTERM)
STOPPED = 75
"""Exit status of a command whose run was stopped and saved: EX_TEMPFAIL of sysexits.h, try again."""


class Stopped(KeyboardInterrupt):
    """A signal has ended the run.

    Attributes:
      step: the one that is saved: the last that was taken or, where the last ones were bad, that before them.
    """

    def __init__(self, step: int):
        super().__init__(f"stopped at step {step}, which is saved")
        self.step = step


class StopSignals:
    """From `listen` on, the first SIGINT or SIGTERM is noted; another does what it did before.

    As a context, it puts back what it found, and then a signal that came behind the last question does what it did
    before. It leaves alone a signal that is ignored or that the program handles
    itself, and outside the main thread, where Python takes no handlers, all of them.

    Processes that were joined must stop at the same step. They agree on it through JAX's preemption service, whose own
    handler of SIGTERM stays from when they were joined to their end (Python could not put it back); the first Ctrl-C
    is passed on to it.
    """

    def __init__(self) -> None:
        self._found: dict[int, Callable[[int, FrameType | None], Any] | int] = {}
        self._noted: int | None = None
        self._joined = jax.distributed.is_initialized()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *exception: object) -> None:
        self._put_back()
        if kind is None and self._noted is not None and not self._joined:
            signal.raise_signal(self._noted)

    def listen(self) -> None:
        """To be called when there is something to save; again, it does nothing."""
        if self._found or threading.current_thread() is not threading.main_thread():
            return
        for number in (signal.SIGINT,) if self._joined else SIGNALS:
            handler = signal.getsignal(number)
            if handler is signal.SIG_DFL or handler is signal.default_int_handler:
                self._found[number] = handler
                signal.signal(number, self._note)

    def ask(self, step: int) -> bool:
        """Whether to stop, now that `step` is taken; of several processes, each must ask after every step."""
        stop = multihost_utils.reached_preemption_sync_point(step) if self._joined else self._noted is not None
        if stop:
            self._put_back()
            self._noted = None
        return stop

    def _note(self, number: int, frame: FrameType | None) -> None:
        self._noted = number
        if self._joined:
            signal.raise_signal(signal.SIGTERM)
        self._put_back()

    def _put_back(self) -> None:
        for number, handler in self._found.items():
            signal.signal(number, handler)
