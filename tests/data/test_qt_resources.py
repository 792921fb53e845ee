"""Containers are written here as Qt's rcc writes them, then damaged: only a ValueError may come out, and soon."""

import os
import re
import struct
import zlib

import numpy as np
import pytest

from mofme_jax.data.qt_resources import QtResources
from tests.rcc import write_rcc

FILES = {
    "/activities/erase/bee.webp": b"a bee" * 20,
    "/activities/erase/Žirafa 🦒.webp": b"a giraffe",
    "/activities/README": b"who made them",
    "/empty": b"",
}


def read(path):
    with QtResources(path) as resources:
        return dict(resources)


@pytest.mark.parametrize("version", [1, 2, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_all_is_read(tmp_path, version, packed):
    assert read(write_rcc(tmp_path / "a.rcc", FILES, version, packed)) == FILES


def test_an_entry_is_unpacked_only_when_asked_for(tmp_path):
    path = write_rcc(tmp_path / "a.rcc", FILES)
    whole = path.read_bytes()
    broken = whole.replace(zlib.compress(FILES["/activities/README"]), b"?" * 21)
    assert broken != whole
    path.write_bytes(broken)
    with QtResources(path) as resources:
        assert set(resources) == set(FILES)
        assert resources["/activities/erase/bee.webp"] == FILES["/activities/erase/bee.webp"]
        with pytest.raises(ValueError, match=r"a\.rcc .*/activities/README"):
            resources["/activities/README"]
        with pytest.raises(KeyError):
            resources["/nowhere"]


def test_of_equal_paths_the_first_is_taken(tmp_path):
    path = write_rcc(tmp_path / "a.rcc", {"/a1": b"one", "/a2": b"two"})
    path.write_bytes(path.read_bytes().replace("a2".encode("utf-16-be"), "a1".encode("utf-16-be")))
    assert read(path) == {"/a1": b"one"}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"PNG" * 20, "no Qt resource container"),
        (b"qres", "beyond its end"),
        (b"qres" + struct.pack(">4I", 4, 20, 20, 20) + bytes(60), "version 4"),
        (b"qres" + struct.pack(">4I", 0, 20, 20, 20) + bytes(60), "version 0"),
    ],
)
def test_other_files_are_refused(tmp_path, content, message):
    (tmp_path / "b.rcc").write_bytes(content)
    with pytest.raises(ValueError, match=rf"b\.rcc.*{message}"):
        QtResources(tmp_path / "b.rcc")


def test_a_missing_file_is_missing(tmp_path):
    with pytest.raises(FileNotFoundError, match="gone"):
        QtResources(tmp_path / "gone.rcc")


def test_zstd_is_named(tmp_path):
    path = write_rcc(tmp_path / "z.rcc", {"/a": b"1"}, flags=4)
    with QtResources(path) as resources, pytest.raises(ValueError, match=r"z\.rcc: /a .*zstd"):
        resources["/a"]


@pytest.mark.parametrize(
    ("declared", "message"), [(9, "not unpack"), (11, "not unpack"), (2**26 + 1, "above"), (2**32 - 1, "above")]
)
def test_nothing_unpacks_to_more_or_less_than_it_declares(tmp_path, declared, message):
    path = write_rcc(tmp_path / "a.rcc", {"/a": b"0123456789"})
    stream = zlib.compress(b"0123456789")
    path.write_bytes(path.read_bytes().replace(struct.pack(">I", 10) + stream, struct.pack(">I", declared) + stream))
    with QtResources(path) as resources, pytest.raises(ValueError, match=rf"/a .*{message}"):
        resources["/a"]


def test_a_bomb_does_not_go_off(tmp_path, monkeypatch):
    """64 MiB of zeros that declare 1000 bytes; no more than those and one are unpacked."""
    bomb = zlib.compress(bytes(2**26))
    path = write_rcc(tmp_path / "a.rcc", {"/a": struct.pack(">I", 1000) + bomb}, packed=False, flags=1)
    asked = []

    class Watched:
        def __init__(self):
            self._real = unpacker()

        def decompress(self, data, most):
            asked.append(most)
            return self._real.decompress(data, most)

        def __getattr__(self, name):
            return getattr(self._real, name)

    unpacker = zlib.decompressobj
    monkeypatch.setattr(zlib, "decompressobj", Watched)
    with QtResources(path) as resources, pytest.raises(ValueError, match="1000 bytes it declares"):
        resources["/a"]
    assert asked == [1001]


def _tree(path, *nodes):
    """Version 1: folders (count, first) without names."""
    tree = b"".join(struct.pack(">IHII", 0, 2, *node) for node in nodes)
    path.write_bytes(b"qres" + struct.pack(">4I", 1, 20, 20 + len(tree), 20 + len(tree)) + tree + bytes(6))
    return path


@pytest.mark.parametrize(
    "nodes",
    [[(1, 0)], [(1, 1), (1, 0)], [(1, 1), (1, 1)], [(2, 1), (1, 2), (0, 0)], [(2, 1), (1, 3), (1, 3), (0, 0)]],
)
def test_cycles_and_shared_folders_are_refused(tmp_path, nodes):
    with pytest.raises(ValueError, match=r"c\.rcc .*cycles"):
        QtResources(_tree(tmp_path / "c.rcc", *nodes))


def test_a_tree_is_no_larger_than_its_file(tmp_path):
    for count in (2, 2**31, 2**32 - 1):
        with pytest.raises(ValueError, match="beyond its end"):
            QtResources(_tree(tmp_path / "c.rcc", (count, 1)))


def test_too_many_and_too_deep(tmp_path):
    wide = 2**16
    with pytest.raises(ValueError, match="too many"):
        QtResources(_tree(tmp_path / "wide.rcc", (wide, 1), *[(0, 0)] * wide))
    with pytest.raises(ValueError, match="too long"):
        QtResources(_tree(tmp_path / "deep.rcc", *[(1, 1 + i) for i in range(2000)], (0, 0)))


def test_the_root_is_a_folder(tmp_path):
    path = _tree(tmp_path / "c.rcc", (0, 0))
    path.write_bytes(path.read_bytes().replace(b"\0\2", b"\0\0", 1))
    with pytest.raises(ValueError, match="its root is no folder"):
        QtResources(path)


def test_names_are_utf_16(tmp_path):
    path = write_rcc(tmp_path / "a.rcc", {"/ab": b"1"})
    path.write_bytes(path.read_bytes().replace("ab".encode("utf-16-be"), b"\xd8\x00\x00a"))
    with pytest.raises(ValueError, match=r"a\.rcc .*UTF-16"):
        QtResources(path)


@pytest.mark.parametrize("version", [1, 3])
def test_truncated_anywhere(tmp_path, version):
    whole = write_rcc(tmp_path / "a.rcc", FILES, version).read_bytes()
    cut = tmp_path / "cut.rcc"
    for size in range(len(whole)):
        cut.write_bytes(whole[:size])
        with pytest.raises(ValueError, match=re.escape(str(cut))):
            read(cut)


@pytest.mark.parametrize("version", [1, 2, 3])
def test_altered_bytes_do_no_harm(tmp_path, version):
    whole = write_rcc(tmp_path / "a.rcc", FILES, version).read_bytes()
    rng = np.random.default_rng(version)
    altered, refused = tmp_path / "altered.rcc", []
    for _ in range(500):
        content = bytearray(whole)
        for _ in range(rng.integers(1, 5)):
            content[rng.integers(len(whole))] = rng.choice([0, 1, 2, 4, 255, rng.integers(256)])
        altered.write_bytes(content)
        try:
            read(altered)
        except ValueError as error:
            refused.append(str(error))
    assert len(refused) > 100
    assert all(str(altered) in message for message in refused)


def test_a_pipe_does_not_keep_its_reader_waiting(tmp_path):
    os.mkfifo(tmp_path / "a.rcc")
    with pytest.raises(ValueError, match=r"a\.rcc .*no file"):
        QtResources(tmp_path / "a.rcc")
