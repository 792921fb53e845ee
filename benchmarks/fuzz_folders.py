"""Folders of images for `fuzz.py`, with links, pipes, odd names and lists; packages and Qt containers."""

import contextlib
import gzip
import io
import lzma
import os
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from fuzz_mutations import changed_bytes, changed_json, some
from PIL import Image

from mofme_jax.data import debian_package, fetch
from mofme_jax.data.doctor import examine
from mofme_jax.data.fetch import fetch_photographs, verify
from mofme_jax.data.folders import PairFolder, PhotographFolder, TrainingImages, open_pairs
from mofme_jax.data.qt_resources import QtResources
from mofme_jax.restoring.files import plan_jobs
from tests.rcc import write_rcc

_NAMES = ("..", "../../up", "a\nb", "\x1b[31m", "\udcff\udc80", "x" * 240, "a b, c", "'", "~", "$HOME", "*", "[a-",
          "-rf", "CON",
          "Ž🦒", ".hidden", "train", "gt", "input", "lost+found", "%s", "{0}", "\\", "a.jpg.png",
          "é".encode("latin-1"))  # fmt: skip
_TREES = (
    ("a.png", "b.png", "c.jpg"),
    ("train/a.png", "train/b.png", "validation/c.png"),
    ("train/input/a.png", "train/gt/a.png", "test/input/b.png", "test/gt/b.png"),
    ("input/a_rain.png", "gt/a_clean.png", "input/b.png", "gt/b.png"),
    ("train/input/a.png", "train/gt/a.png", "test_rain/input/im_0301_s80_a04.png", "test_rain/gt/im_0301.png"),
    ("allweather/input/a.png", "allweather/gt/a.png", "allweather.txt"),
    ("SOTS/outdoor/hazy/0001_0.8_0.2.png", "SOTS/outdoor/gt/0001.png", "OTS/hazy/0002_1.png", "OTS/clear/0002.png"),
    ("leftImg8bit_foggy/train/x/a_leftImg8bit_foggy_beta_0.01.png", "leftImg8bit/train/x/a_leftImg8bit.png"),
    ("Rain100H/rain/rain-001.png", "Rain100H/norain/norain-001.png"),
)
_LIST = b"allweather/input/a.png\n"
_RCC, _DOC = "usr/share/gcompris-qt/rcc", "usr/share/doc/gcompris-qt-data"


class Folders:
    """Sets of images, and packages; what is fed is a folder with images/ or package.deb."""

    one_line, names = False, False  # of a folder in no layout those known are shown

    def __init__(self, kept: Path, run: Path):
        kept.mkdir(parents=True, exist_ok=True)
        pictures = []
        for i, form in enumerate(("PNG", "PNG", "JPEG")):
            pixels = np.random.default_rng(i).integers(0, 255, (20, 24, 3), np.uint8)
            Image.fromarray(pixels).save(file := io.BytesIO(), form)
            pictures.append(file.getvalue())
        self._pictures = pictures
        self._containers = _containers(kept)
        self._deb = _deb(self._containers, lzma.compress, "data.tar.xz")

    def valid(self) -> list[Callable[[Path], Path]]:
        """Every tree, and the package."""

        def packed(folder: Path) -> Path:
            (folder / "images").mkdir()
            (folder / "package.deb").write_bytes(self._deb)
            return folder

        return [packed, *(lambda folder, tree=tree: self._set(folder, tree) for tree in _TREES)]

    def _set(self, folder: Path, tree: tuple[str, ...]) -> Path:
        self._tree(folder / "images", tree)
        return folder

    def _tree(self, root: Path, names: tuple[str, ...]) -> None:
        for i, name in enumerate(names):
            path = root / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(_LIST if path.suffix == ".txt" else self._pictures[i % 3])

    def make(self, rng: np.random.Generator, folder: Path) -> Path:
        """Writes a folder with one to six changes, or a package that is changed."""
        if rng.random() < 0.4:
            self._package(rng, folder)
            return folder
        root = folder / "images"
        self._tree(root, some(rng, _TREES))
        for _ in range(int(rng.integers(1, 7))):
            with contextlib.suppress(OSError, ValueError):  # a name that this file system does not take
                self._change(rng, root)
        return folder

    def _change(self, rng: np.random.Generator, root: Path) -> None:
        folders = [root, *(path for path in root.rglob("*") if path.is_dir() and not path.is_symlink())]
        files = [path for path in root.rglob("*") if path.is_file()] or [root / "a.png"]
        folder, file, what = some(rng, folders), some(rng, files), rng.random()
        name = some(rng, _NAMES)
        name = (os.fsdecode(name) if isinstance(name, bytes) else name) + some(
            rng, ("", ".png", ".jpg", ".tif", ".txt")
        )
        place = file if rng.random() < 0.4 else Path(os.path.normpath(folder / name))
        if not place.is_relative_to(root):
            place = folder / name.replace("/", "_")
        if what < 0.1:
            file.write_bytes(changed_bytes(rng, file.read_bytes(), self._pictures))
            return
        if what < 0.2:
            folder.rename(folder.with_name(some(rng, ("input", "gt", "train", "test", "data", "clear", "TRAIN", name))))
            return
        if place.is_file() or place.is_symlink():
            place.unlink()
        if what < 0.35:
            place.write_bytes(some(rng, (b"", b"text", _LIST, *self._pictures)))
        elif what < 0.5:
            os.mkfifo(place)
        elif what < 0.6:
            place.mkdir()
        elif what < 0.9:
            place.symlink_to(some(rng, (".", "..", "/", "/etc", "/dev/zero", "/dev/stdin", "/proc/self/mem", "nowhere",
                                        root, root / "..", place.name, file, folder, "/dev/tty",
                                        "/proc/self/fd")))  # fmt: skip
        else:
            lines = [some(rng, (*_NAMES[:-1], "allweather/input/a.png", "/etc/passwd", "input/", "a/input/../x",
                                "../input/a",
                                "allweather/input/../../../x", "\0", "x" * 9000)) for _ in range(5)]  # fmt: skip
            listed = "\n".join(lines).encode("utf-8", "surrogateescape")
            (folder / "allweather.txt").write_bytes(some(rng, (listed, b"\xff\xfe" + listed, listed * 1000)))

    def _package(self, rng: np.random.Generator, folder: Path) -> None:
        what = rng.random()
        (folder / "images").mkdir()
        package = folder / "package.deb"
        if what < 0.2:
            package.write_bytes(changed_bytes(rng, self._deb, [self._deb]))
            return
        if what < 0.25:
            package.write_bytes(_deb(self._containers, some(rng, (_bomb, lzma.compress)), "data.tar.xz"))
            return
        files = dict(self._containers)
        name = some(rng, list(files))
        files[name] = changed_bytes(rng, files[name], list(files.values()))
        if what < 0.3:
            files[some(rng, ("../../escaped.rcc", "/tmp/escaped", f"{_DOC}/../../x/gcompris-qt-data/copyright"))] = (
                b"escaped"
            )
        if what < 0.6:
            pack, ending = some(rng, ((lambda data: data, ""), (gzip.compress, ".gz"),
                                      (lambda data: changed_bytes(rng, data, [data]), "")))  # fmt: skip
            package.write_bytes(_deb(files, pack, f"data.tar{ending}"))
            return
        for place, data in files.items():
            path = package / place.strip("/").replace("..", "up")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        if what < 0.7:
            path.unlink()
            some(
                rng,
                (os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), lambda path: path.symlink_to(".")),
            )(path)
        text = b'{"version": 1, "package": "gcompris-qt-data", "files": [{"path": "train/../../x", "sha256": "0"}]}'
        manifest = folder / "images/manifest.json"
        some(rng, (os.mkfifo, lambda path: path.write_bytes(changed_json(rng, text))))(manifest)

    def steps(self, path: Path, out: Path) -> Iterator[Callable[[], object]]:
        """What reads it."""
        images, package = path / "images", path / "package.deb"
        yield lambda: verify(images)
        if not package.exists():
            yield lambda: _read_set(images)
            yield lambda: plan_jobs([images], out / "restored")
        else:
            yield lambda: fetch_photographs(package, out / "photos", lambda line: None)
            yield lambda: _read_containers(package)


def _read_all(source) -> None:
    for i in range(len(source)):
        source.size(i)
    for _ in TrainingImages(source, cache_bytes=2**24).fill():
        pass


def _read_set(root: Path) -> None:
    diagnosis = examine(root)
    diagnosis.report()
    diagnosis.to_json()
    if diagnosis.layout.name == "photographs":
        _read_all(PhotographFolder(root))
    else:
        _read_pairs(root)


def _read_pairs(root: Path) -> None:
    _, listing = open_pairs(root)
    for split in listing.splits:
        _read_all(PairFolder(listing, split))


def _read_containers(package: Path) -> None:
    for path in sorted(package.rglob("*.rcc")) if package.is_dir() else []:
        if path.is_file():
            with QtResources(path) as resources:
                for name in resources:
                    resources[name]


def _containers(work: Path) -> dict[str, bytes]:
    """The files of a package of tiny pictures, by path."""
    files = {f"{_DOC}/copyright": b"License: CC0-1.0", f"{_DOC}/changelog.Debian.gz": gzip.compress(b"a (3.1-2) b;")}
    Image.new("RGB", (8, 6), "red").save(picture := io.BytesIO(), "WEBP")
    for container in debian_package.CONTAINERS:
        wanted = {
            f"/a/{container}/{name}": picture.getvalue()
            for where, name in fetch._wanted().values()
            if where == container
        }
        path = write_rcc(work / f"{container}.rcc", wanted | {f"/a/{container}/README": b"made by"})
        files[f"{_RCC}/{container}.rcc"] = path.read_bytes()
    return files


def _deb(files: dict[str, bytes], pack: Callable[[bytes], bytes], member: str) -> bytes:
    tar = io.BytesIO()
    with tarfile.open(fileobj=tar, mode="w") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    data = b"!<arch>\n"
    for name, body in (("debian-binary", b"2.0\n"), ("control.tar.xz", b""), (member, pack(tar.getvalue()))):
        data += (
            f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(body):<10}`\n".encode() + body + b"\n" * (len(body) % 2)
        )
    return data


def _bomb(data: bytes) -> bytes:
    """Hundreds of kilobytes that unpack to gigabytes: one stream of zeros after the other."""
    zeros = lzma.compress(bytes(2**26))
    return lzma.compress(data) + zeros * 40
