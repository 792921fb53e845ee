"""A package of 95 tiny pictures stands for the real one; wherever it is taken from, the same set must come out."""

import gzip
import hashlib
import io
import json
import lzma
import os
import stat
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data import debian_package, fetch
from mofme_jax.data.fetch import cache_folder, fetch_photographs, verify
from mofme_jax.data.layouts import image_files
from mofme_jax.data.photos import read_photograph
from tests.rcc import write_rcc

RCC, DOC = "usr/share/gcompris-qt/rcc", "usr/share/doc/gcompris-qt-data"


def webp(seed):
    pixels = np.random.default_rng(seed).integers(0, 255, (6, 9, 3), np.uint8)
    Image.fromarray(pixels).save(file := io.BytesIO(), "WEBP")
    return file.getvalue()


PICTURES = {where: webp(i) for i, where in enumerate(fetch._wanted().values())}


def make_package(root, pictures):
    (root / RCC).mkdir(parents=True)
    (root / DOC).mkdir(parents=True)
    for container in debian_package.CONTAINERS:
        files = {f"/a/{container}/b/{name}": data for (where, name), data in pictures.items() if where == container}
        notes = {f"/a/{container}/README": f"Zoë made {container}".encode(), f"/a/{container}/other.webp": b"?"}
        write_rcc(root / RCC / f"{container}.rcc", files | notes)
    (root / DOC / "copyright").write_text("License: CC0-1.0")
    (root / DOC / "changelog.Debian.gz").write_bytes(gzip.compress(b"gcompris-qt (3.1-2) unstable; urgency=medium"))
    return root


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    return make_package(tmp_path_factory.mktemp("package"), PICTURES)


def make_tar(package, before=()):
    with tarfile.open(fileobj=(file := io.BytesIO()), mode="w") as archive:
        for member in before:
            archive.addfile(member)
        archive.add(package, ".")
    return file.getvalue()


def write_deb(path, name, data):
    """An `ar` archive; the first two members are of odd and even length."""
    path.write_bytes(b"!<arch>\n")
    with path.open("ab") as file:
        for member, content in (("debian-binary", b"2.0\n"), ("control.tar.xz", b"odd"), (name, data)):
            file.write(f"{member:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content)
            file.write(b"\n" * (len(content) % 2))
    return path


@pytest.fixture(scope="module")
def deb(package, tmp_path_factory):
    return write_deb(tmp_path_factory.mktemp("deb") / "g.deb", "data.tar.xz", lzma.compress(make_tar(package)))


@pytest.fixture
def said():
    return []


@pytest.fixture(autouse=True)
def programs(tmp_path_factory, monkeypatch):
    """The only folder with programs; the package is not installed."""
    folder = tmp_path_factory.mktemp("programs")
    monkeypatch.setenv("PATH", str(folder))
    monkeypatch.setattr(debian_package, "INSTALLED", folder / "none")
    return folder


def write_program(folder, name, script):
    (folder / name).write_text(f"#!/bin/sh\n{script}\n")
    (folder / name).chmod(stat.S_IRWXU)


def check_whole(target):
    """All 95, from the right places, untouched or halved."""
    assert verify(target) == []
    wanted = fetch._wanted()
    found = {p.relative_to(target).as_posix(): p for p in image_files(target)}
    assert found.keys() == wanted.keys()
    assert [sum(p.startswith(split) for p in found) for split in ("train", "validation")] == [91, 4]
    for path, where in wanted.items():
        original = PICTURES[where]
        if where[0] == "erase":
            halved = Image.open(io.BytesIO(original)).resize((4, 3), Image.Resampling.LANCZOS)
            np.testing.assert_array_equal(read_photograph(found[path]), np.asarray(halved))
        else:
            assert found[path].read_bytes() == original


def names_in(folder):
    return sorted(p.name for p in folder.iterdir())


@pytest.mark.parametrize("place", [".", "usr", "usr/share/gcompris-qt", RCC])
def test_from_a_folder(tmp_path, package, place, said):
    target = fetch_photographs(package / place, tmp_path / "new" / "photos", said.append)
    check_whole(target)
    assert names_in(tmp_path / "new") == ["photos"]
    assert names_in(target) == ["ATTRIBUTION.txt", "manifest.json", "train", "validation"]
    assert "License: CC0-1.0" in (target / "ATTRIBUTION.txt").read_text("utf-8")
    assert said[-1] == f"95 photographs are in {target}"


@pytest.mark.parametrize("pack", ["xz", "gz", "plain"])
def test_from_a_deb(tmp_path, package, pack, said):
    name, packer = {
        "xz": ("data.tar.xz", lzma.compress),
        "gz": ("data.tar.gz", gzip.compress),
        "plain": ("data.tar/", bytes),
    }[pack]
    deb = write_deb(tmp_path / "g.deb", name, packer(make_tar(package)))
    check_whole(fetch_photographs(str(deb), str(tmp_path / "photos"), said.append))


def test_manifest_and_attribution(tmp_path, deb, said):
    target = fetch_photographs(deb, tmp_path / "photos", said.append)
    manifest = json.loads((target / "manifest.json").read_text())
    assert [manifest[key] for key in ("version", "package", "package_version")] == [1, "gcompris-qt-data", "3.1-2"]
    records = {record["path"]: record for record in manifest["files"]}
    assert len(records) == 96
    for path, record in records.items():
        data = (target / path).read_bytes()
        assert (record["bytes"], record["sha256"]) == (len(data), hashlib.sha256(data).hexdigest())
    whole, halved = records["validation/details_Nagoya.webp"], records["train/erase_bee.png"]
    assert whole["origin"] == "details.rcc:/a/details/b/Nagoya_background.webp"
    assert [(r["width"], r["height"]) for r in (whole, halved)] == [(9, 6), (4, 3)]
    text = (target / "ATTRIBUTION.txt").read_text("utf-8")
    for part in ("3.1-2", "KDE", "halved", whole["origin"], "Zoë made erase", "Zoë made details", "License: CC0-1.0"):
        assert part in text


def test_the_papers_may_be_missing(tmp_path, package, said):
    (tmp_path / "bare").mkdir()
    for path in (package / RCC).iterdir():
        (tmp_path / "bare" / path.name).write_bytes(path.read_bytes())
    target = fetch_photographs(tmp_path / "bare", tmp_path / "photos", said.append)
    check_whole(target)
    assert json.loads((target / "manifest.json").read_text())["package_version"] is None
    assert "tracker.debian.org" in (target / "ATTRIBUTION.txt").read_text("utf-8")


def test_zstd_needs_dpkg(tmp_path, package, programs, said):
    deb = write_deb(tmp_path / "g.deb", "data.tar.zst", b"zstd")
    with pytest.raises(ValueError, match=r"g\.deb .*zst needs dpkg-deb"):
        fetch_photographs(deb, tmp_path / "photos", said.append)
    (tmp_path / "data.tar").write_bytes(make_tar(package))
    write_program(programs, "dpkg-deb", f'test "$*" = "--fsys-tarfile {deb}" && exec /bin/cat {tmp_path}/data.tar')
    check_whole(fetch_photographs(deb, tmp_path / "photos", said.append))
    write_program(programs, "dpkg-deb", f"/bin/cat {tmp_path}/data.tar; exit 2")
    with pytest.raises(ValueError, match=r"g\.deb .*dpkg-deb cannot"):
        fetch_photographs(deb, tmp_path / "again", said.append)


def test_the_installed_package_comes_first(tmp_path, package, monkeypatch, said):
    monkeypatch.setattr(debian_package, "INSTALLED", package / "usr/share/gcompris-qt")
    check_whole(fetch_photographs(None, tmp_path / "photos", said.append))


def test_apt_downloads(tmp_path, deb, programs, monkeypatch, said):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    write_program(programs, "apt-get", f"/bin/cp {deb} gcompris-qt-data_3.1-2_all.deb")
    target = fetch_photographs(report=said.append)
    assert target == tmp_path / "cache/mofme_jax/photos"
    check_whole(target)
    assert said[0].startswith("Downloading")


@pytest.mark.parametrize(
    ("script", "message"),
    [
        (None, "no apt-get here"),
        ("echo 'E: No packages found' >&2; exit 100", r"run `sudo apt-get update`"),
        ("echo 'E: Unable to locate package gcompris-qt-data' >&2; exit 100", r"run `sudo apt-get update`"),
        ("echo 'E: Failed to fetch http://x Temporary failure' >&2; exit 100", r"Failed to fetch.* a network\?"),
        ("exit 3", r"code 3"),
        ("exit 0", r"could not download"),
    ],
)
def test_what_apt_cannot_do_has_a_remedy(tmp_path, programs, script, message, said):
    if script:
        write_program(programs, "apt-get", script)
    with pytest.raises(OSError, match=rf"{message}.*packages\.debian\.org by hand .*--source"):
        fetch_photographs(None, tmp_path / "deep" / "photos", said.append)
    assert names_in(tmp_path) == []


def test_a_complete_set_is_left_alone(tmp_path, package, said):
    target = fetch_photographs(package, tmp_path / "photos", said.append)
    before = {p: p.stat().st_mtime_ns for p in target.rglob("*")}
    said.clear()
    assert fetch_photographs(tmp_path / "nowhere", target, said.append) == target
    assert {p: p.stat().st_mtime_ns for p in target.rglob("*")} == before
    assert said == [f"{target} is complete: nothing to do"]


def test_damage_is_noticed_and_mended(tmp_path, package, said):
    target = fetch_photographs(package, tmp_path / "photos", said.append)
    altered, missing = target / "train/erase_bee.png", target / "validation/details_Nagoya.webp"
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    missing.unlink()
    (target / "train/mine.jpg").write_text("foreign")
    wrong = ["train/erase_bee.png: altered", "validation/details_Nagoya.webp: missing"]
    assert verify(target) == wrong
    fetch_photographs(package, target, said.append)
    assert f"{target} is fetched anew: {'; '.join(wrong)}" in said
    assert (target / "train/mine.jpg").read_text() == "foreign"
    assert verify(target) == []
    (target / "train/mine.jpg").unlink()
    check_whole(target)
    assert names_in(tmp_path) == ["photos"]


@pytest.mark.parametrize("cut", [60, -20])
def test_a_damaged_manifest_is_mended(tmp_path, package, cut, said):
    target = fetch_photographs(package, tmp_path / "photos", said.append)
    manifest = target / "manifest.json"
    manifest.write_bytes(manifest.read_bytes()[:cut])
    assert verify(target) == ["manifest.json: cannot be read"]
    fetch_photographs(package, target, said.append)
    check_whole(target)


@pytest.mark.parametrize("foreign", ["a.jpg", "train/a.jpg", "manifest.json", ""])
def test_a_foreign_target_is_refused(tmp_path, package, foreign, said):
    path = tmp_path / "photos" / foreign
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("{}")
    with pytest.raises(FileExistsError, match="photos holds something else: give another target"):
        fetch_photographs(package, tmp_path / "photos", said.append)
    assert path.read_text() == "{}"
    assert not said
    assert names_in(tmp_path) == ["photos"]


def test_an_empty_target_is_taken_at_once(tmp_path, package, monkeypatch, said):
    (tmp_path / "photos").mkdir()
    replace, replaced = Path.replace, []
    monkeypatch.setattr(Path, "replace", lambda path, to: replaced.append(to) or replace(path, to))
    check_whole(fetch_photographs(package, tmp_path / "photos", said.append))
    assert replaced == [tmp_path / "photos"]


def test_where_nothing_can_be_written_nothing_is_read(tmp_path, monkeypatch, said):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(PermissionError, match="give another target"):
        fetch_photographs(tmp_path / "nowhere", tmp_path / "a/b", said.append)
    monkeypatch.undo()
    (tmp_path / "file").touch()
    with pytest.raises(PermissionError, match="give another target"):
        fetch_photographs(tmp_path / "nowhere", tmp_path / "file/b", said.append)


def test_missing_pictures_are_named_and_nothing_is_written(tmp_path, said):
    pictures = {k: v for k, v in PICTURES.items() if k not in [("erase", "bee.webp"), ("details", "Nagoya.webp")]}
    pictures.pop(("details", "Nagoya_background.webp"))
    package = make_package(tmp_path / "package", pictures)
    (package / RCC / "explore_farm_animals.rcc").unlink()
    lost = "erase.rcc:bee.webp, explore_farm_animals.rcc, details.rcc:Nagoya_background.webp"
    with pytest.raises(ValueError, match=rf"3 of .* 3\.1-2: {lost}\. Version 3\.1 has them all"):
        fetch_photographs(package, tmp_path / "deep" / "photos", said.append)
    assert names_in(tmp_path) == ["package"]


@pytest.mark.parametrize("where", [("erase", "bee.webp"), ("explore_monuments", "petra.webp")])
def test_a_picture_that_does_not_decode_is_named(tmp_path, where, said):
    package = make_package(tmp_path / "package", PICTURES | {where: PICTURES[where][:-30]})
    with pytest.raises(ValueError, match=rf"{where[0]}\.rcc:/a/{where[0]}/b/{where[1]} cannot be decoded"):
        fetch_photographs(package, tmp_path / "photos", said.append)
    assert names_in(tmp_path) == ["package"]


def test_a_full_disk_leaves_nothing(tmp_path, package, monkeypatch, said):
    write = Path.write_bytes

    def fail_late(path, data):
        if path.name == "manifest.json":
            raise OSError("no space left")
        write(path, data)

    monkeypatch.setattr(Path, "write_bytes", fail_late)
    with pytest.raises(OSError, match="no space left"):
        fetch_photographs(package, tmp_path / "photos", said.append)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize("path", ["../secret", "/{}/secret", "train/../../secret", 3])
def test_a_manifest_leads_nowhere_else(tmp_path, package, path, said):
    target = fetch_photographs(package, tmp_path / "photos", said.append)
    (tmp_path / "secret").write_text("mine")
    path = path.format(tmp_path) if isinstance(path, str) else path
    manifest = json.loads((target / "manifest.json").read_text())
    manifest["files"].append({"path": path, "bytes": 4, "sha256": hashlib.sha256(b"mine").hexdigest()})
    (target / "manifest.json").write_text(json.dumps(manifest))
    assert verify(target) == [f"{path!r}: in manifest.json, but not of this set"]
    fetch_photographs(package, target, said.append)
    check_whole(target)
    assert (tmp_path / "secret").read_text() == "mine"


@pytest.mark.parametrize("text", ["", "[]", "3", '{"version": 1}', '{"version": 1, "files": [3]}', "[" * 100_000])
def test_other_manifests_are_unreadable(tmp_path, text):
    (tmp_path / "manifest.json").write_text(text)
    assert verify(tmp_path) == ["manifest.json: cannot be read"]


def test_a_manifest_may_be_missing_short_or_of_another_version(tmp_path):
    assert verify(tmp_path / "nowhere") == ["manifest.json: missing"]
    (tmp_path / "manifest.json").write_text('{"version": 2, "files": []}')
    assert verify(tmp_path) == ["manifest.json: version 2, not 1"]
    (tmp_path / "manifest.json").write_text('{"version": 1, "files": []}')
    wrong = verify(tmp_path)
    assert len(wrong) == 96
    assert "train/erase_bee.png: not in manifest.json" in wrong


def test_names_in_a_package_lead_nowhere(tmp_path, package, said):
    """A file above the root is read under our name; links and folders are not."""
    link, folder, up = (tarfile.TarInfo(n) for n in ("./erase.rcc", "x/details.rcc", "../../../../erase_2clic.rcc"))
    link.type, link.linkname, folder.type = tarfile.SYMTYPE, "/etc/passwd", tarfile.DIRTYPE
    data = make_tar(package, before=[link, folder, up])
    deb = write_deb(tmp_path / "g.deb", "data.tar.gz", gzip.compress(data))
    check_whole(fetch_photographs(deb, tmp_path / "photos", said.append))
    assert names_in(tmp_path) == ["g.deb", "photos"]


def test_a_package_is_not_unpacked_without_end(tmp_path, deb, monkeypatch, said):
    monkeypatch.setattr(debian_package, "_MOST_UNPACKED", 20_000)
    with pytest.raises(ValueError, match=r"g\.deb .*more than 20000 bytes"):
        fetch_photographs(deb, tmp_path / "photos", said.append)
    monkeypatch.undo()
    monkeypatch.setattr(debian_package, "_MOST_BYTES", 1000)
    with pytest.raises(ValueError, match=r"g\.deb .*\.rcc has \d+ bytes"):
        fetch_photographs(deb, tmp_path / "photos", said.append)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "does not begin"),
        (b"PK" * 99, "does not begin"),
        (b"!<arch>\n", "no data.tar"),
        (b"!<arch>\n" + f"{'a':<48}{'-60':<10}`\n".encode() * 3, "no data.tar"),
        (b"!<arch>\n" + f"{'data.tar.bz2':<48}{'0':<10}`\n".encode(), "unknown way"),
    ],
)
def test_other_files_are_no_package(tmp_path, content, message, said):
    (tmp_path / "b.deb").write_bytes(content)
    with pytest.raises(ValueError, match=rf"b\.deb is no whole Debian package: .*{message}"):
        fetch_photographs(tmp_path / "b.deb", tmp_path / "photos", said.append)
    with pytest.raises(FileNotFoundError, match="gone"):
        fetch_photographs(tmp_path / "gone.deb", tmp_path / "photos", said.append)


@pytest.mark.parametrize(
    ("name", "pack"), [("data.tar.xz", lzma.compress), ("data.tar.gz", gzip.compress), ("data.tar", bytes)]
)
def test_truncated_and_altered_packages(tmp_path, package, name, pack):
    whole = write_deb(tmp_path / "g.deb", name, pack(make_tar(package))).read_bytes()
    damaged, refused = tmp_path / "damaged.deb", []
    rng = np.random.default_rng(0)
    last = len(whole) - (12_000 if name == "data.tar" else 0)  # a tar ends in padding
    contents = [whole[:size] for size in rng.integers(0, last, 60)]
    for _ in range(60):
        contents.append(bytearray(whole))
        for place in rng.integers(0, len(whole), 30):
            contents[-1][place] = rng.integers(256)
    for content in contents:
        damaged.write_bytes(content)
        try:
            debian_package._read_deb(damaged)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) == (120 if name != "data.tar" else len(refused))  # a plain one has no checksum
    assert len(refused) >= 60
    assert all(str(damaged) in message for message in refused)


def test_the_cache_is_where_xdg_says(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/x/cache")
    assert cache_folder() == Path("/x/cache/mofme_jax")
    for unset in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", unset)
        assert cache_folder() == Path.home() / ".cache/mofme_jax"


def test_a_pipe_does_not_keep_its_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "manifest.json")
    assert verify(tmp_path) == ["manifest.json: cannot be read"]
    with pytest.raises(ValueError, match=r"manifest\.json is no whole Debian package"):
        fetch_photographs(tmp_path / "manifest.json", tmp_path / "photos", print)
