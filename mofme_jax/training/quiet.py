"""What Orbax's threads would show of a failed save or restore, beside the error that it raises: that is told in a line.

Orbax leaves a checkpoint at the first array that fails. The others end later, in threads that tell an event loop which
is closed by then, and asyncio or Python would show a traceback for each.
"""

import logging as python_logging
import os
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager

from absl import logging


def drop_late_ends() -> None:
    """From here on neither is shown what ends too late, nor are tracebacks of Orbax's in the log; all else is."""
    for logger in _loggers():
        logger.addFilter(_no_traceback_of_orbax)
    # a file's turn to be written that never came
    warnings.filterwarnings("ignore", "coroutine '.*serialize.*' was never awaited", RuntimeWarning)
    shown = sys.unraisablehook
    if getattr(shown, "drops_late_ends", False):
        return

    def hook(unraisable):
        error = unraisable.exc_value
        if not (isinstance(error, RuntimeError) and str(error) == "Event loop is closed"):
            shown(unraisable)

    hook.drops_late_ends = True  # type: ignore[attr-defined]
    sys.unraisablehook = hook


@contextmanager
def late_reads_dropped() -> Iterator[None]:
    """For a restore that may fail: what ends too late is dropped, from here on where the restore has failed."""
    shown, filtered = sys.unraisablehook, [list(logger.filters) for logger in _loggers()]
    drop_late_ends()
    yield
    sys.unraisablehook = shown
    for logger, filters in zip(_loggers(), filtered, strict=True):
        logger.filters[:] = filters


def _loggers() -> tuple[python_logging.Logger, ...]:
    return logging.get_absl_logger(), python_logging.getLogger("asyncio")


def _no_traceback_of_orbax(record: python_logging.LogRecord) -> bool:
    of_orbax = f"{os.sep}orbax{os.sep}checkpoint{os.sep}" in record.pathname
    told_otherwise = of_orbax or "exception was never retrieved" in record.getMessage()
    return record.levelno < python_logging.ERROR or not told_otherwise
