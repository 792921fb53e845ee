"""Files written whole or not at all, whatever the disk says, and what to say of one that was not."""

import errno
import json
import math
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NOT_SAVED = 74
"""Exit status of a command whose run could not be written: EX_IOERR of sysexits.h, input or output failed."""

_REMEDIES = {
    **dict.fromkeys((errno.ENOSPC, errno.EDQUOT, errno.EFBIG), "make room there"),
    **dict.fromkeys((errno.EROFS, errno.EACCES, errno.EPERM), "let it be written"),
    **dict.fromkeys((errno.EEXIST, errno.ENOTEMPTY), "move away what is there"),
    **dict.fromkeys((errno.ENOENT, errno.ENOTDIR, errno.ESTALE), "bring its folder back"),
}


_SAY_NOTHING_OF_A_FILE = frozenset(
    (
        errno.EIO,
        errno.ESTALE,
        errno.ETIMEDOUT,
        errno.ENOTCONN,
        errno.EACCES,
        errno.EPERM,
        errno.EMFILE,
        errno.ENFILE,
        errno.ENOMEM,
    )
)
"""Of a disk, a network or a process that does not let it be read: what is in the file may be whole."""


class NotSaved(OSError):
    """What a run has to leave cannot be written; the message names the path, the reason and the remedy."""


def why_not_written(error: Exception) -> str:
    """The reason and the remedy, as "(REASON): REMEDY", of an error while something was written.

    Args:
      error: an OSError; one of TensorStore's, which has the system's number in its text; another, which speaks for
        itself.
    """
    number = _number_of(error)
    if number is None:
        return f"({first_line(error)})"
    return f"({os.strerror(number)}): {_REMEDIES.get(number, 'see to that disk')}"


def cannot_be_read(error: Exception) -> bool:
    """Whether an error, as `why_not_written` takes them, says nothing of what is in a file."""
    return _number_of(error) in _SAY_NOTHING_OF_A_FILE


def reason(error: Exception) -> str:
    """Of an error, as `why_not_written` takes them, in a line."""
    number = _number_of(error)
    return first_line(error) if number is None else os.strerror(number)


def first_line(error: BaseException) -> str:
    """An error's text, or else its name, as far as it goes into a line."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:200]


def _number_of(error: Exception) -> int | None:
    """The system's number of an error, also where a library of C++ says it in words."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno
    found = re.search(r"os_error_code='(\d+)'", str(error))
    return int(found[1]) if found else None


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """What is done in it writes `path`.

    Raises:
      NotSaved: in place of an OSError.
    """
    try:
        yield
    except NotSaved:
        raise
    except OSError as error:
        raise NotSaved(f"{path} cannot be written {why_not_written(error)}") from error


def write_json(path: Path, value: Any) -> None:
    """Writes a JSON file whole, as `write_whole` does; numbers that are not finite, which JSON does not know, become
    null."""
    write_whole(path, json.dumps(finite_or_null(value), indent=2, allow_nan=False) + "\n")


def write_whole(path: Path, content: str | bytes) -> None:
    """Writes a file beside it first, then renames that over it: a kill leaves the old one or the new one.

    Raises:
      NotSaved: it cannot be written; the old one stays.
    """
    beside = path.with_name(path.name + ".part")
    with writing(path):
        try:
            beside.write_bytes(content.encode() if isinstance(content, str) else content)
            beside.replace(path)
        except OSError:
            with suppress(OSError):  # what is there of it takes room
                beside.unlink()
            raise


def append(path: Path, data: bytes, header: bytes = b"") -> None:
    """Appends all of `data` or, where the disk does not take it, nothing.

    Args:
      path: of the file. header: what a new file begins with.

    Raises:
      OSError: it cannot be written.
    """
    end = path.stat().st_size if path.exists() else 0
    data = data if end else header + data
    try:
        with path.open("ab", buffering=0) as file:
            while data:  # a full disk takes a part first
                data = data[file.write(data) :]
    except OSError:
        with suppress(OSError):
            os.truncate(path, end)
        raise


def finite_or_null(value: Any) -> Any:
    """A JSON-able value with None in the place of every infinity and NaN."""
    if isinstance(value, dict):
        return {name: finite_or_null(entry) for name, entry in value.items()}
    if isinstance(value, list | tuple):
        return [finite_or_null(entry) for entry in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
