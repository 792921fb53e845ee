"""What one visitor of the demonstration, or all of them, may take: requests, uploads, time, the disk."""

import os
import time
from collections import Counter
from collections.abc import Callable, Collection
from pathlib import Path

CALLS_A_MINUTE = 600
"""Requests of one address that may start work or look for its result: dragging a slider makes a few a second."""

UPLOADS_A_MINUTE = 30
"""Of one address."""

UPLOADS_AT_ONCE = 8
"""Of all visitors."""

OPEN_REQUESTS = 64
"""Requests of one address that are being answered: a page that is open keeps one or two so."""

UPLOAD_BYTES = (64 << 20) + (64 << 10)
"""Of the body of an upload: a file of the greatest size, and what is around it."""

CALL_BYTES = 1 << 16
"""Of the body of any other request: names of files and values of sliders."""

ADDRESS_BYTES = 2048
"""Of a path, or of what stands behind its question mark."""

PATIENCE = 10.0
"""Seconds in which a body must begin to come, and a call's must be there."""

SLOWEST = 1 << 15
"""Bytes a second, on the average since `PATIENCE` was over, of the slowest upload that is waited for."""

HELD_BYTES = 2 << 30
"""Of uploads and results in the temporary folder; the oldest go."""

HELD_FILES = 1000
"""In the temporary folder; the oldest go."""


class RefusedError(Exception):
    """A request that is not answered.

    Attributes:
      status: of the answer.
      line: what the answer says.
    """

    def __init__(self, status: int, line: str):
        super().__init__(line)
        self.status, self.line = status, line


class Rates:
    """Counts requests of addresses, anew every minute.

    Args:
      clock: gives the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock, self._minute = clock, -1
        self._counts: Counter[tuple[str, int]] = Counter()

    def count(self, address: str, most: int) -> None:
        """Counts one more request of an address among those of which there may be `most` a minute.

        Raises:
          RefusedError: that was one too many.
        """
        minute = int(self._clock() // 60)
        if minute != self._minute:
            self._counts.clear()  # or every address that ever came would be kept
            self._minute = minute
        self._counts[address, most] += 1
        if self._counts[address, most] > most:
            raise RefusedError(429, f"More than {most} a minute: wait one.")


class Form:
    """Looks at an upload while it comes: one file and nothing else.

    Gradio's own reader takes a thousand files, and keeps what is no file in memory, however long it is.

    Args:
      content_type: of the request.

    Attributes:
      size: bytes that have come.
      whole: whether the end was among them.

    Raises:
      RefusedError: it is no form.
    """

    def __init__(self, content_type: bytes):
        from python_multipart.multipart import MultipartParser, parse_options_header  # comes with Gradio

        kind, options = parse_options_header(content_type)
        boundary = options.get(b"boundary", b"")
        if kind != b"multipart/form-data" or not 1 <= len(boundary) <= 70:  # the longest that RFC 2046 has
            raise RefusedError(400, "That is no upload.")
        self._options_of = parse_options_header
        self.size, self.whole = 0, False
        self._parts, self._name, self._value, self._disposition = 0, b"", b"", b""
        self._parser = MultipartParser(
            boundary,
            {
                "on_part_begin": self._part,
                "on_header_field": self._more_name,
                "on_header_value": self._more_value,
                "on_header_end": self._header,
                "on_headers_finished": self._headers,
                "on_end": self._end,
            },
        )

    def feed(self, body: bytes) -> None:
        """Looks at the next bytes.

        Raises:
          RefusedError: they are too many, or of something else than one file.
        """
        from python_multipart.exceptions import FormParserError

        self.size += len(body)
        if self.size > UPLOAD_BYTES:
            raise RefusedError(413, f"A file may have {UPLOAD_BYTES >> 20} MB.")
        try:
            self._parser.write(body)
        except FormParserError:
            raise RefusedError(400, "That is no upload.") from None

    def _part(self) -> None:
        self._parts, self._disposition = self._parts + 1, b""
        if self._parts > 1:
            raise RefusedError(400, "One file at a time.")

    def _more_name(self, data: bytes, start: int, end: int) -> None:
        self._name += data[start:end]

    def _more_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _header(self) -> None:
        if self._name.lower() == b"content-disposition":
            self._disposition = self._value
        self._name = self._value = b""

    def _headers(self) -> None:
        if b"filename" not in self._options_of(self._disposition)[1]:
            raise RefusedError(400, "That is no file.")

    def _end(self) -> None:
        self.whole = True


def make_room(folder: str, kept: Collection[str], max_bytes: int, max_files: int) -> None:
    """Removes the oldest files of a folder until few enough are left, and folders that have long been empty.

    Args:
      folder: is looked through with all that is in it; itself stays.
      kept: paths of files that stay, and do not count.
      max_bytes: of all other files together.
      max_files: so many of them.
    """
    found = []
    for place, folders, names in os.walk(folder, topdown=False):
        for name in names:
            path = os.path.join(place, name)
            try:
                if path not in kept:
                    status = os.lstat(path)
                    found.append((status.st_mtime, status.st_size, path))
            except FileNotFoundError:  # moved in between
                continue
        if not names and not folders and place != folder:
            _remove_folder(place)
    found.sort(reverse=True)
    held = 0
    for number, (_, size, path) in enumerate(found):
        held += size
        if held > max_bytes or number >= max_files:
            Path(path).unlink(missing_ok=True)


def _remove_folder(place: str) -> None:
    """Unless something was just about to be put there."""
    try:
        if time.time() - os.stat(place).st_mtime > 60:
            os.rmdir(place)
    except OSError:
        pass
