"""The Debian package gcompris-qt-data: found on this system, given as a file or folder, or fetched by apt-get.

It comes from elsewhere: nothing is unpacked under a name that it gives, and what it unpacks to is bounded.
"""

import gzip
import io
import lzma
import os
import re
import shutil
import subprocess
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePath
from subprocess import DEVNULL, PIPE
from typing import IO, cast

PACKAGE = "gcompris-qt-data"
INSTALLED = Path("/usr/share/gcompris-qt")
CONTAINERS = ("explore_monuments", "erase", "explore_world_animals", "explore_farm_animals", "details")
COPYRIGHT, CHANGES = "copyright", "changelog.Debian.gz"
REMEDY = f"Or download the .deb of {PACKAGE} from packages.debian.org by hand and give it with --source."
_MOST_BYTES = 2**26  # of a member of the package
_MOST_UNPACKED = 2**28  # of all of it, which is six times what is packed: more would take long to read

Report = Callable[[str], None]


def package_files(source: str | Path | None, work: Path, report: Report) -> dict[str, Path]:
    """Finds or fetches the package.

    Args:
      source: a .deb, a folder with what was in one, or None for the installed package or else apt-get.
      work: a folder to put files in.
      report: gets a line at every stage.

    Returns:
      Where the wanted files of it lie, by our names for them: <container>.rcc, COPYRIGHT, CHANGES; those found.

    Raises:
      OSError: the source does not exist, or apt-get is missing or fails; the message says what to do.
      ValueError: the source is no whole package.
    """
    if source is None and (INSTALLED / "rcc").is_dir():
        source = INSTALLED
    if source is None:
        source = _download(work, report)
    source = Path(source).expanduser().resolve()
    report(f"Reading {source}")
    if source.is_dir():
        return _find(source)
    if source.exists() and not source.is_file():  # a pipe would keep its reader waiting
        raise ValueError(f"{source} is no whole Debian package: it is no file")
    contents = {}
    for name, data in _read_deb(source).items():
        contents[name] = work / name
        contents[name].write_bytes(data)
    return contents


def _our_name(path: PurePath) -> str | None:
    """Our name for a file of the package, or None if it is not wanted."""
    if path.suffix == ".rcc" and path.stem in CONTAINERS:
        return path.name
    if path.name in (COPYRIGHT, CHANGES) and path.parent.name == PACKAGE:
        return path.name
    return None


def _find(folder: Path) -> dict[str, Path]:
    """Looks anywhere below a folder, and in the package's documentation if it lies as in /usr/share."""
    found: dict[str, Path] = {}
    for root in (folder, folder.parent / "doc" / PACKAGE, folder.parent.parent / "doc" / PACKAGE):
        for path in sorted(root.rglob("*")):
            if (name := _our_name(path)) and path.is_file():
                found.setdefault(name, path)
    return found


def _download(work: Path, report: Report) -> Path:
    """Lets apt-get put the .deb into `work`; it checks the signature and needs no root for that."""
    if not (tool := shutil.which("apt-get")):
        raise FileNotFoundError(f"There is no apt-get here, which would fetch {PACKAGE}. {REMEDY}")
    report(f"Downloading {PACKAGE} with apt-get (44 MB)")
    limits = ["-o", "Acquire::http::Timeout=30", "-o", "Acquire::https::Timeout=30", "-o", "Acquire::Retries=2"]
    done = subprocess.run(
        [tool, *limits, "-q", "download", PACKAGE],
        cwd=work,
        env={**os.environ, "LC_ALL": "C"},  # its messages are read below
        stdin=DEVNULL,
        capture_output=True,
        text=True,
        errors="replace",
    )
    if done.returncode == 0 and (found := sorted(work.glob("*.deb"))):
        return found[0]
    if re.search("Unable to locate package|No packages found|select candidate version", done.stderr):
        raise FileNotFoundError(f"apt-get knows no package {PACKAGE}: run `sudo apt-get update`. {REMEDY}")
    said = " ".join(line for line in done.stderr.splitlines() if line.startswith("E:")) or f"code {done.returncode}"
    raise ConnectionError(
        f"apt-get could not download {PACKAGE} ({said}). Is there a network? "
        f"If there is, its package lists may be old: run `sudo apt-get update`. {REMEDY}"
    )


def _read_deb(deb: Path) -> dict[str, bytes]:
    """The wanted members of a .deb, by our names. All of it is read, as its checksum comes last."""
    try:
        with _unpacked(deb) as read:
            stream = _Limited(read)
            with tarfile.open(fileobj=cast(IO[bytes], stream), mode="r|") as archive:
                found = dict(_members(archive))
            while stream.read(2**20):
                pass
            return found
    except (ValueError, tarfile.TarError, lzma.LZMAError, zlib.error, EOFError, gzip.BadGzipFile) as error:
        raise ValueError(f"{deb} is no whole Debian package: {error}") from error


def _members(archive: tarfile.TarFile) -> Iterator[tuple[str, bytes]]:
    for member in archive:
        name = _our_name(PurePath(member.name))
        if name is None or not member.isreg():
            continue
        if member.size > _MOST_BYTES:
            raise ValueError(f"{name} has {member.size} bytes")
        if file := archive.extractfile(member):
            yield name, file.read()


class _Limited:
    """A stream that ends in an error: few bytes can unpack to terabytes."""

    def __init__(self, read: Callable[[int], bytes]):
        self._read, self._left = read, _MOST_UNPACKED

    def read(self, size: int) -> bytes:
        data = self._read(size)
        self._left -= len(data)
        if self._left < 0:
            raise ValueError(f"it unpacks to more than {_MOST_UNPACKED} bytes")
        return data


@contextmanager
def _unpacked(deb: Path) -> Iterator[Callable[[int], bytes]]:
    """Reads the archive of files within a .deb, which is an `ar` archive of archives."""
    with deb.open("rb") as file:
        name, size = _data_member(file)
        packed = io.BytesIO(b"" if name == "data.tar.zst" else file.read(size))
    if name == "data.tar.xz":
        with lzma.open(packed) as xz:
            yield xz.read
    elif name == "data.tar.gz":
        with gzip.open(packed) as gz:
            yield gz.read
    elif name == "data.tar":
        yield packed.read
    elif name != "data.tar.zst":
        raise ValueError(f"its {name} is packed in an unknown way")
    elif not (tool := shutil.which("dpkg-deb")):  # Python reads zstd from 3.14 on
        raise ValueError(f"its {name} needs dpkg-deb, which is not here; unpack it elsewhere and give the folder")
    else:
        with subprocess.Popen([tool, "--fsys-tarfile", str(deb)], stdout=PIPE, stderr=DEVNULL) as process:
            yield cast(IO[bytes], process.stdout).read
            if process.wait():
                raise ValueError("dpkg-deb cannot unpack it")


def _data_member(file: IO[bytes]) -> tuple[str, int]:
    """Goes to the start of the member data.tar.*; returns its name and size."""
    if file.read(8) != b"!<arch>\n":
        raise ValueError("it does not begin as one")
    while len(header := file.read(60)) == 60 and header[58:] == b"`\n" and header[48:58].strip().isdigit():
        name, size = header[:16].decode("latin-1").strip().rstrip("/"), int(header[48:58])
        if name.startswith("data.tar"):
            return name, size
        file.seek(size + size % 2, os.SEEK_CUR)
    raise ValueError("it holds no data.tar")
