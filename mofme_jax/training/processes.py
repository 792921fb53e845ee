"""One run on several processes: how they find each other, who speaks, who goes first."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import jax
import numpy as np
from jax.experimental import multihost_utils

from mofme_jax.files import first_line


class AnotherEnded(ConnectionError):
    """Another process of the run has ended, without which nothing goes on; what is saved stays."""


def join(coordinator: str | None = None, process_id: int | None = None, process_count: int | None = None) -> None:
    """Joins the other processes of a run. To be called before anything else asks JAX for its devices.

    Args:
      coordinator: HOST:PORT of process 0, as all can reach it.
      process_id: this process's number, 0 to process_count - 1.
      process_count: how many there are.
      None for all three is what JAX finds out by itself: on a TPU slice, in GKE, under SLURM or Open MPI.

    Raises:
      ValueError: only some of the three, numbers that do not fit, or an environment that does not tell.
      OSError: the others were not found.
    """
    by_hand = "--coordinator=HOST:PORT, --process_id=I and --process_count=N"
    given = [value is not None for value in (coordinator, process_id, process_count)]
    if any(given) and not all(given):
        raise ValueError(f"{by_hand} go together: give all three")
    if coordinator is not None and process_id is not None and process_count is not None:
        if not coordinator.rpartition(":")[2].isdigit():
            raise ValueError(f"--coordinator={coordinator} must be HOST:PORT")
        if not 0 <= process_id < process_count:
            raise ValueError(f"--process_id={process_id} must be from 0 to --process_count={process_count} less one")
    try:
        jax.distributed.initialize(coordinator, process_count, process_id)
    except ValueError as error:  # JAX names arguments of its own
        raise ValueError(f"this environment does not tell who takes part ({error}): give {by_hand}") from None
    except RuntimeError as error:
        reason = str(error).strip().split("\n")[0]
        raise OSError(f"the processes of this run did not come together: {reason}") from None


def is_first() -> bool:
    """Whether this is the process that writes what is written once."""
    return jax.process_index() == 0


def say(text: str) -> None:
    """Prints, once for all processes."""
    if is_first():
        print(text, flush=True)


def first_says(answer: int) -> int:
    """Process 0's answer (a step, or yes or no), in all processes; each waits for it."""
    return answer if jax.process_count() == 1 else int(multihost_utils.broadcast_one_to_all(np.int32(answer)))


def first_does(what: Callable[[], None]) -> None:
    """Has process 0 do it, alone; the others wait for it.

    Raises:
      Exception: in process 0 what it raised there, in the others an OSError.
    """
    error: Exception | None = None
    if is_first():
        try:
            what()
        except Exception as raised:
            error = raised
    if jax.process_count() > 1 and not first_says(error is None) and error is None:
        error = OSError("process 0, which says why, cannot")
    if error is not None:
        raise error


@contextmanager
def first_one_first(name: str) -> Iterator[None]:
    """The others enter when process 0 has left: it has then made what they only look at.

    Args:
      name: of the place, the same in all processes.
    """
    if not is_first():
        multihost_utils.sync_global_devices(name)
    try:
        yield
    finally:  # if process 0 fails, the others must not wait for ever
        if is_first() and jax.process_count() > 1:
            multihost_utils.sync_global_devices(name)


@contextmanager
def together() -> Iterator[None]:
    """For what processes do together.

    Raises:
      AnotherEnded: in place of what collectives, or a save that takes all, raise where another process has ended.
    """
    try:
        yield
    except Exception as error:
        told = None if jax.process_count() == 1 else _told_of_another(error)
        if told is None:
            raise
        raise AnotherEnded(
            f"another process of this run has ended ({told}), and said why, unless it was killed: start all of them "
            "again; the same command goes on from the newest checkpoint"
        ) from error


_OF_JAX = re.compile(r"^(UNKNOWN|INTERNAL|UNAVAILABLE|ABORTED|CANCELLED): ", re.MULTILINE)
"""A status with which errors of JAX begin, also those that are plain ValueErrors."""

_GONE = re.compile(
    r"^.*(Gloo .*(closed by peer|reset by peer|broken pipe|(read|write) error)|"
    r"NCCL.*(remote process exited|remote error|network error)|heartbeat|coordination.?service).*",
    re.IGNORECASE | re.MULTILINE,
)


def _told_of_another(error: Exception) -> str | None:
    """What an error, or one that led to it, says in a line of a process that is gone; None where none does.

    What went wrong here before that is told as well: it may be why the other one ended.
    """
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None:
        chain.append(before)
    found = [_OF_JAX.search(str(one)) and _GONE.search(str(one)) for one in chain]
    first = next((match for match in reversed(found) if match), None)
    if first is None:
        return None
    told = re.sub(r"\[external/\S*\] ", "", first[0])[:200]
    return told if found[-1] else f"{told}; before that, here: {first_line(chain[-1])}"
