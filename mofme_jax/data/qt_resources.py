"""Reads Qt's resource containers (.rcc), in which GCompris keeps its pictures.

Nothing in Python reads them, and Qt itself is a large thing to install for a tree, some names and zlib. A
container comes from elsewhere: every offset is checked, and no entry may unpack to more than it declares.
"""

import mmap
import struct
import zlib
from collections.abc import Iterator, Mapping
from pathlib import Path

_ZLIB, _FOLDER, _ZSTD = 1, 2, 4  # flags of a node
_MOST_NODES = 2**16
_LONGEST_PATH = 1024
_MOST_BYTES = 2**26  # of an entry, unpacked


class QtResources(Mapping[str, bytes]):
    """The files of a container by path, such as "/gcompris/erase/bee.webp"; each is read when it is asked for.

    Of a path that is there more than once (in several languages) the first is taken. Close it, or use it in
    a `with` statement; the paths can be listed after that.

    Args:
      path: the container: format version 1, 2 or 3.

    Raises:
      OSError: it cannot be opened.
      ValueError: it is no container or is damaged, now or when an entry is read; or the entry is packed
        with zstd. The message names the file.
    """

    def __init__(self, path: str | Path):
        self._path = Path(path)
        if self._path.exists() and not self._path.is_file():  # a pipe would keep its reader waiting
            raise self._damaged("it is no file")
        with self._path.open("rb") as file:
            try:
                self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
            except ValueError as error:  # mmap takes no empty file
                raise self._damaged("it is empty") from error
        try:
            self._read_header()
            self._entries: dict[str, tuple[int, int]] = {}
            for entry, place in self._walk():
                self._entries.setdefault(entry, place)
        except ValueError:
            self.close()
            raise

    def __enter__(self) -> "QtResources":
        return self

    def __exit__(self, *_):
        self.close()

    def close(self) -> None:
        """Lets go of the file."""
        self._bytes.close()

    def __iter__(self) -> Iterator[str]:
        return iter(self._entries)

    def __len__(self) -> int:
        return len(self._entries)

    def __getitem__(self, path: str) -> bytes:
        flags, offset = self._entries[path]
        if flags & _ZSTD:
            raise ValueError(f"{self._path}: {path} is packed with zstd, which cannot be read here.")
        start = self._data + offset
        (size,) = self._unpack(">I", start)
        packed = self._slice(start + 4, size)
        return self._inflate(path, packed) if flags & _ZLIB else packed

    def _read_header(self) -> None:
        if self._bytes[:4] != b"qres":
            raise ValueError(f"{self._path} is no Qt resource container.")
        version, self._tree, self._data, self._names = self._unpack(">4I", 4)
        if version not in (1, 2, 3):
            raise ValueError(f"{self._path} is a Qt resource container of version {version}; 1 to 3 can be read.")
        self._node_size = 14 if version == 1 else 22

    def _walk(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """Yields path, flags and data offset of every file. A node seen twice is a cycle or as good as one."""
        seen, waiting = {0}, [(0, "")]
        while waiting:
            node, parent = waiting.pop()
            start = self._tree + node * self._node_size
            name, flags, first, second = self._unpack(">IHII", start)
            path = f"{parent}/{self._name(name)}" if node else ""  # the root's name means nothing
            if len(path) > _LONGEST_PATH:
                raise self._damaged("a path is too long")
            if not flags & _FOLDER:
                if not node:
                    raise self._damaged("its root is no folder")
                yield path, (flags, second)
                continue
            children = range(second, second + first)
            self._check(self._tree + second * self._node_size, first * self._node_size)
            if len(seen) + first > _MOST_NODES or not seen.isdisjoint(children):
                raise self._damaged("its tree has cycles or too many entries")
            seen.update(children)
            waiting += [(child, path) for child in reversed(children)]

    def _name(self, offset: int) -> str:
        (length,) = self._unpack(">H", self._names + offset)
        try:
            return self._slice(self._names + offset + 6, 2 * length).decode("utf-16-be")
        except UnicodeDecodeError as error:
            raise self._damaged("a name is no UTF-16") from error

    def _inflate(self, path: str, packed: bytes) -> bytes:
        declared = int.from_bytes(packed[:4], "big")
        if len(packed) < 4 or declared > _MOST_BYTES:
            raise self._damaged(f"{path} declares no size, or one above {_MOST_BYTES} bytes")
        unpacker = zlib.decompressobj()
        try:
            data = unpacker.decompress(packed[4:], declared + 1)
        except zlib.error as error:
            raise self._damaged(f"{path}: {error}") from error
        if len(data) != declared or not unpacker.eof:
            raise self._damaged(f"{path} does not unpack to the {declared} bytes it declares")
        return data

    def _unpack(self, form: str, start: int) -> tuple[int, ...]:
        return struct.unpack(form, self._slice(start, struct.calcsize(form)))

    def _slice(self, start: int, size: int) -> bytes:
        self._check(start, size)
        return self._bytes[start : start + size]

    def _check(self, start: int, size: int) -> None:
        if start + size > len(self._bytes):
            raise self._damaged("it points beyond its end")

    def _damaged(self, what: str) -> ValueError:
        return ValueError(f"{self._path} is no whole Qt resource container: {what}.")
