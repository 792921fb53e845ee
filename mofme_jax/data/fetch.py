"""Fetches 95 photographs of monuments and animals to train on, out of the Debian package gcompris-qt-data.

Seven embedded photographs are few. GCompris, a free educational suite, has many that are freely licensed, and
Debian's mirrors carry them: no registration, and nothing to download by hand where there is apt-get.

Packages and manifests come from elsewhere. Nothing is written under a name that either of them gives.
"""

import gzip
import hashlib
import io
import json
import os
import re
import tempfile
import zlib
from pathlib import Path, PurePath
from typing import Any

from PIL import Image

from mofme_jax.data.debian_package import CHANGES, CONTAINERS, COPYRIGHT, PACKAGE, REMEDY, Report, package_files
from mofme_jax.data.photos import DAMAGED
from mofme_jax.data.qt_resources import QtResources

_TRAIN = {
    "explore_monuments": """
        ajantaCave arlesAmphitheater aulaPalatina berlinCathedral brandenburgGate canyondeChelly charminar
        chateaudeChambord chateaudeChenonceau chichenItza citedeCarcassonne colosseum eiffelTower fortSumter
        greatPyramidOfGiza greatStupa greatWallofChina hawaMahal konarkSunTemple machuPicchu montStMichel
        mountRushmore mysorePalace navajo neuschwansteinCastle palaisdesPapes petra pontduGard qutubMinar rangGhar
        reimsCathedral rocamadour schwerinPalace statueofLiberty tajMahal trierImperialBaths victoriaMemorial
        wormsCathedral""",
    "erase": """
        alpaca bee butterfly calf camels caterpillar chamaeleon cheetah crab flying_fox gibbon giraffe goat gorilla
        gosling heron horse kingfisher kitten long_nosed_monkey macaque meerkats northern_harrier nubian_ibex penguin
        pika red_panda rhinoceros spoonbills squirrel toucan""",
    "explore_world_animals": """
        bison chameleon crocodile dragon giraffe hedgehog jaguar kangaroo koala lemur moose panda polar_bear
        scarlet_macaw""",
    "explore_farm_animals": "chicken cow dog duck horse owl pig sheep",
}
_VALIDATION = "EgeskovSlotSpejling EilanDonanCastle FanoeWindmill Nagoya"
_HALVED = "erase"  # at 1920 x 1080 these are twice as large as the others, and softer
_MANIFEST, _ATTRIBUTION = "manifest.json", "ATTRIBUTION.txt"
_VERSION = 1  # of the manifest
_UNDECODABLE = (Image.DecompressionBombError, *DAMAGED)


def cache_folder() -> Path:
    """The folder for what can be fetched or made again: $XDG_CACHE_HOME/mofme_jax, or ~/.cache/mofme_jax.

    Raises:
      FileNotFoundError: the user has no home, as in some containers.
    """
    base = os.environ.get("XDG_CACHE_HOME", "")
    try:
        return (Path(base) if os.path.isabs(base) else Path.home() / ".cache") / "mofme_jax"
    except RuntimeError:
        raise FileNotFoundError("this user has no home folder: set XDG_CACHE_HOME to a folder for caches") from None


def photographs_folder() -> Path:
    """Where the photographs are fetched to unless another folder is named."""
    return cache_folder() / "photos"


def fetch_photographs(
    source: str | Path | None = None, target: str | Path | None = None, report: Report = print
) -> Path:
    """Puts 91 photographs into `target`/train and 4 into `target`/validation, with a manifest and the licences.

    They are the package's own files; those of the activity "erase" are halved and become PNG. A target that is
    complete is left as it is. One that is damaged is mended; no file that is not of this set is touched. A new one
    appears whole or not at all.

    Args:
      source: a .deb of gcompris-qt-data, or a folder with what was in it; None takes the installed package or
        else asks apt-get for it (44 MB; no root needed).
      target: the folder to make; None is `photographs_folder()`.
      report: gets a line at every stage.

    Returns:
      The target, absolute.

    Raises:
      OSError: the source does not exist, apt-get is missing or fails (the message says what to do), the target
        holds other files, or it cannot be written.
      ValueError: the source is damaged, or has not all of the pictures, which are named.
    """
    target = (Path(target).expanduser() if target else photographs_folder()).resolve()
    if _is_complete(target, report):
        return target
    with tempfile.TemporaryDirectory() as work:
        contents = package_files(source, Path(work), report)
        report(f"Taking {len(_wanted())} photographs, of which those of {_HALVED!r} are halved")
        files = _take(contents)
    _write(files, target)
    report(f"{len(_wanted())} photographs are in {target}")
    return target


def verify(target: str | Path) -> list[str]:
    """Compares a fetched set with its manifest.

    Args:
      target: the folder that `fetch_photographs` made. Other files in it do not matter.

    Returns:
      What is wrong, a line each, beginning with the path; empty if all is right.
    """
    target = Path(target).expanduser()
    if (target / _MANIFEST).exists() and not (target / _MANIFEST).is_file():  # a pipe would keep its reader waiting
        return [f"{_MANIFEST}: cannot be read"]
    try:
        manifest = json.loads((target / _MANIFEST).read_bytes())
        version, records = manifest["version"], {record["path"]: record for record in manifest["files"]}
    except (FileNotFoundError, NotADirectoryError):
        return [f"{_MANIFEST}: missing"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return [f"{_MANIFEST}: cannot be read"]
    if version != _VERSION:
        return [f"{_MANIFEST}: version {version}, not {_VERSION}"]
    ours = {*_wanted(), _ATTRIBUTION}
    wrong = [f"{path}: not in {_MANIFEST}" for path in sorted(ours - records.keys())]
    for path, record in records.items():
        if path not in ours:  # and so is not opened: it may lead anywhere
            wrong.append(f"{path!r}: in {_MANIFEST}, but not of this set")
        elif not (target / path).is_file():
            wrong.append(f"{path}: missing")
        elif _digest(target / path) != record.get("sha256"):
            wrong.append(f"{path}: altered")
    return wrong


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wanted() -> dict[str, tuple[str, str]]:
    """What is taken: container and name of the file in it, by our path."""
    train = {
        f"train/{container}_{name}.{'png' if container == _HALVED else 'webp'}": (container, f"{name}.webp")
        for container, names in _TRAIN.items()
        for name in names.split()
    }
    return train | {f"validation/details_{n}.webp": ("details", f"{n}_background.webp") for n in _VALIDATION.split()}


def _is_complete(target: Path, report: Report) -> bool:
    """Says what is there already, and raises if nothing may be written there."""
    manifest = target / _MANIFEST
    if manifest.is_file() and PACKAGE.encode() in manifest.read_bytes():
        wrong = verify(target)
        if not wrong:
            report(f"{target} is complete: nothing to do")
            return True
        report(f"{target} is fetched anew: {'; '.join(wrong[:3])}{', ...' if len(wrong) > 3 else ''}")
    elif target.exists() and not (target.is_dir() and not any(target.iterdir())):
        raise FileExistsError(f"{target} holds something else: give another target, or move it away.")
    above = next(path for path in target.parents if path.exists())
    if not (above.is_dir() and os.access(above, os.W_OK | os.X_OK)):
        raise PermissionError(f"Nothing can be written into {above}: give another target than {target}.")
    return False


def _write(files: dict[str, bytes], target: Path) -> None:
    """Renames a new folder into place; files of a damaged one are replaced one by one, the manifest last."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}.", dir=target.parent) as beside:
        new = Path(beside) / "new"  # whose permissions are the usual ones
        for path, data in files.items():
            (new / path).parent.mkdir(parents=True, exist_ok=True)
            (new / path).write_bytes(data)
        if not target.exists() or not any(target.iterdir()):
            new.replace(target)
            return
        for path in files:
            (target / path).parent.mkdir(exist_ok=True)
            (new / path).replace(target / path)


def _take(contents: dict[str, Path]) -> dict[str, bytes]:
    """Makes all files of the set, by path; the manifest is the last."""
    files: dict[str, bytes] = {}
    records: list[dict[str, Any]] = []
    notes: list[str] = []
    lost: list[str] = []
    version = _version(contents)
    for container in CONTAINERS:
        wanted = {path: name for path, (where, name) in _wanted().items() if where == container}
        if f"{container}.rcc" not in contents:
            lost.append(f"{container}.rcc")
            continue
        with QtResources(contents[f"{container}.rcc"]) as resources:
            places = {PurePath(place).name: place for place in sorted(resources, reverse=True)}
            for path, name in wanted.items():
                if name not in places:
                    lost.append(f"{container}.rcc:{name}")
                    continue
                origin = f"{container}.rcc:{places[name]}"
                files[path], size = _picture(resources[places[name]], container == _HALVED, origin)
                records.append(_record(path, files[path], origin, *size))
            if "README" in places:
                notes.append(f"{container}.rcc:{places['README']}\n\n{_text(resources[places['README']])}")
    if lost:
        raise ValueError(
            f"{len(lost)} of the wanted files are not in this {PACKAGE} {version or '(of unknown version)'}: "
            f"{', '.join(lost)}. Version 3.1 has them all. {REMEDY}"
        )
    copyright_file = _text(contents[COPYRIGHT].read_bytes()) if COPYRIGHT in contents else ""
    files[_ATTRIBUTION] = _attribution(version, records, notes, copyright_file).encode()
    records.append(_record(_ATTRIBUTION, files[_ATTRIBUTION], None, None, None))
    manifest = {"version": _VERSION, "package": PACKAGE, "package_version": version, "files": records}
    files[_MANIFEST] = json.dumps(manifest, indent=1).encode()
    return files


def _record(path: str, data: bytes, origin: str | None, width: int | None, height: int | None) -> dict[str, Any]:
    digest = hashlib.sha256(data).hexdigest()
    return dict(path=path, bytes=len(data), sha256=digest, origin=origin, width=width, height=height)


def _picture(data: bytes, halve: bool, origin: str) -> tuple[bytes, tuple[int, int]]:
    """A picture's file and its (width, height): as it is, once it has been seen to decode, or halved."""
    try:
        with Image.open(io.BytesIO(data)) as image:
            picture = image.convert("RGB")
        if not halve:
            return data, picture.size
        picture = picture.resize((picture.width // 2, picture.height // 2), Image.Resampling.LANCZOS)
    except _UNDECODABLE as error:
        raise ValueError(f"{origin} cannot be decoded: {error}") from error
    halved = io.BytesIO()
    picture.save(halved, "PNG", compress_level=3)
    return halved.getvalue(), picture.size


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _version(contents: dict[str, Path]) -> str | None:
    """The package's version, from the head of its changelog, which a .deb and an unpacked package both have."""
    if CHANGES not in contents:
        return None
    try:
        with gzip.open(contents[CHANGES]) as file:
            found = re.match(rb"\S+ \(([\w.+:~-]+)\)", file.read(200))
    except (OSError, EOFError, zlib.error):
        return None
    return found[1].decode() if found else None


def _attribution(version: str | None, records: list[dict[str, Any]], notes: list[str], copyright_file: str) -> str:
    origins = "\n".join(f"{record['path']}  <-  {record['origin']}" for record in records)
    return f"""\
These photographs come from GCompris, an educational software suite of the KDE community (https://gcompris.net,
https://invent.kde.org/education/gcompris), by way of the Debian package {PACKAGE}, version {version or "unknown"}.

What was changed: the pictures train/{_HALVED}_* were halved in width and height (Lanczos) and written as PNG. The
others are the package's own files, byte for byte; only their names are new.

Who made each picture, its licence and its source are in the README of its container, below. Debian's copyright file
comes after them, complete, with the texts of the licences; it also names pictures of other releases.


Where each file comes from

{origins}


{f"{chr(10)}{chr(10)}".join(notes)}


The package's copyright file

{copyright_file or f"It was not at hand. See https://tracker.debian.org/pkg/gcompris-qt{chr(10)}"}"""
