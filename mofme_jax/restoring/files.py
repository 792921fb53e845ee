"""Which files a command restores and where to, settled before any of them is."""

import glob
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from mofme_jax.data.photos import COMPANIONS
from mofme_jax.restoring.image_file import SUFFIXES


@dataclass(frozen=True)
class Job:
    """A photograph, where the restored one goes, and the files that are written beside it, by what they show."""

    source: Path
    target: Path
    beside: dict[str, Path]

    @property
    def outputs(self) -> list[Path]:
        """All files that are written."""
        return [self.target, *self.beside.values()]


def plan_jobs(
    inputs: Sequence[str | Path], out: str | Path, *, beside: dict[str, str] | None = None, force: bool = False
) -> list[Job]:
    """Finds the photographs and names what will be written; writes nothing.

    Args:
      inputs: files, folders (all photographs in them, by suffix), or patterns such as "photos/*.jpg".
      out: a folder, made when something is written; or a file's name, where the input is one file. What was found
        in a folder or by a pattern keeps its path below the folder or the pattern's fixed part.
      beside: the endings of files beside a restored NAME, by what they show: {"compare": ".compare.jpg"}.
        NAME is without its suffix, unless two restored files differ in nothing else.
      force: whether files that exist may be replaced.

    Returns:
      A job for each photograph, in the order of the inputs and sorted within each.

    Raises:
      FileNotFoundError: an input that is not there, or without photographs.
      FileExistsError: without `force`, outputs that exist.
      OSError: `out` cannot be written.
      ValueError: two outputs of one name, an output that is an input, a name too long, several photographs for one
        file's name.
    """
    out = Path(out)
    found = _found(inputs, out)
    name = _file_name(inputs, out)
    if name is not None:
        (source, _), *_ = found
        if source.suffix.lower() != name.suffix.lower() and _format(source) not in (None, _format(name)):
            raise ValueError(
                f"{name} would be a {_format(name)} and {source} is a {_format(source)}, which it stays: give a folder "
                f"or a name with {source.suffix}"
            )
        targets = {source: name}
    else:
        targets = {}
        for source, below in found:
            targets.setdefault(source, out / below)
    stems = Counter(target.with_suffix("") for target in targets.values())
    jobs = []
    for source, target in targets.items():
        shown = target.stem if stems[target.with_suffix("")] == 1 else target.name  # a.jpg and a.png side by side
        jobs.append(
            Job(source, target, {what: target.with_name(shown + ending) for what, ending in (beside or {}).items()})
        )
    folder = out if name is None else name.parent
    _check_names(jobs, folder)
    _check_clashes(jobs, force)
    _check_writable(folder)
    return jobs


def _found(inputs: Sequence[str | Path], out: Path) -> list[tuple[Path, Path]]:
    """The photographs, each with its path below the folder that was given."""
    if not inputs:
        raise ValueError("nothing to restore was given")
    return [pair for given in inputs for pair in _found_in(Path(given), out)]


def _found_in(given: Path, out: Path) -> list[tuple[Path, Path]]:
    if given.is_dir():
        files = [(file, file.relative_to(given)) for file in _photographs(given, out)]
        if not files:
            raise FileNotFoundError(f"{given} holds no photographs ({', '.join(SUFFIXES)})")
        return files
    if given.exists() or given.is_symlink():
        return [(given, Path(given.name))]
    if not glob.has_magic(str(given)):
        raise FileNotFoundError(f"{given}: there is no such file or folder")
    fixed = Path(*_before_magic(given.parts))
    files = [
        (file, file.relative_to(fixed))
        for file in map(Path, sorted(glob.glob(str(given), recursive=True)))
        if file.is_file() and not _was_written(file, fixed, out)
    ]
    if not files:
        raise FileNotFoundError(f"{given}: no file is of this pattern")
    return files


def _before_magic(parts: Iterable[str]) -> list[str]:
    fixed: list[str] = []
    for part in parts:
        if glob.has_magic(part):
            break
        fixed.append(part)
    return fixed


def _photographs(folder: Path, out: Path) -> list[Path]:
    """What is hidden is left out, pictures beside restored ones, and what was written to an `out` inside the folder."""

    def fail(error: OSError) -> None:
        raise error

    files = []
    for place, folders, names in os.walk(folder, onerror=fail):
        folders[:] = [name for name in folders if not name.startswith(".") and not _same(Path(place, name), out)]
        files += [
            Path(place, name)
            for name in names
            if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".") and not name.endswith(COMPANIONS)
        ]
    return sorted(files)


def _same(a: Path, b: Path) -> bool:
    return os.path.realpath(a) == os.path.realpath(b)


def _was_written(file: Path, fixed: Path, out: Path) -> bool:
    """Whether a file lies in an `out` that is itself inside the folder in which a pattern is looked for."""
    file, fixed, out = (Path(os.path.realpath(path)) for path in (file, fixed, out))
    return out != fixed and out.is_relative_to(fixed) and file.is_relative_to(out)


def _file_name(inputs: Sequence[str | Path], out: Path) -> Path | None:
    """`out` where it names a file; None for a folder."""
    first = Path(inputs[0])
    one = len(inputs) == 1 and not first.is_dir() and (first.exists() or not glob.has_magic(str(first)))
    if out.is_dir() or (not out.exists() and out.suffix.lower() not in SUFFIXES):
        return None
    if out.suffix.lower() not in SUFFIXES:
        raise NotADirectoryError(f"{out} is a file, and its name is no photograph's: give a folder, or another name")
    if not one:
        raise ValueError(f"{out} is the name of a file: what is made of several photographs needs a folder")
    return out


def _format(path: Path) -> str | None:
    return SUFFIXES.get(path.suffix.lower())


def _check_names(jobs: list[Job], folder: Path) -> None:
    """Long names would be found out after the work, and the longest are of files beside."""
    try:
        longest = os.pathconf(_existing(folder), "PC_NAME_MAX")
    except (AttributeError, ValueError, OSError):  # not on every system
        longest = 255
    for job in jobs:
        for output in job.outputs:
            bytes_ = len(os.fsencode(output.name))
            if bytes_ > longest:
                raise ValueError(
                    f"{output.name} has a name of {bytes_} bytes, and the file system takes {longest}: rename "
                    f"{job.source}"
                )


def _check_clashes(jobs: list[Job], force: bool) -> None:
    sources = {_identity(job.source): job.source for job in jobs if job.source.exists()}
    owners: dict[str, Path] = {}
    there = []
    for job in jobs:
        for output in job.outputs:
            place = os.path.realpath(output.parent) + os.sep + output.name
            if place in owners:
                raise ValueError(
                    f"{owners[place]} and {job.source} would both become {output}: restore them into two folders"
                )
            owners[place] = job.source
            if output.exists():
                there.append(output)
                if _identity(output) in sources:
                    raise ValueError(
                        f"{output} is one of the photographs to restore, and would be lost: choose another place"
                    )
                if output.is_dir():
                    raise IsADirectoryError(f"{output} is a folder, and a file is to have this name")
    if there and not force:
        more = f" and {len(there) - 1} more of the files to write exist" if len(there) > 1 else " exists"
        raise FileExistsError(f"{there[0]}{more}: give --force to replace what is there")


def _identity(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_dev, status.st_ino


def _existing(folder: Path) -> Path:
    """The folder, or the nearest one above that is there."""
    folder = Path(os.path.abspath(folder))
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    return folder


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryDirectory(prefix=".mofme-", dir=_existing(folder)):
            pass
    except OSError as error:
        raise OSError(f"{folder} cannot be written: {error.strerror or error}") from error
