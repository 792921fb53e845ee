"""The command `mofme restore`, in this process: what it writes, what it prints, its exit status."""

import io
import os
import sys

import numpy as np
import pytest
from PIL import Image

from mofme_jax.cli import main
from tests.fakes import Gain

RNG = np.random.default_rng(0)


@pytest.fixture
def weights(monkeypatch):
    """A network that halves everything, in the place of any weights; a list of how often it was loaded."""
    loaded = []

    def load(options):
        loaded.append(options.weights)
        return Gain(), {"gain": np.float32(0.5)}

    monkeypatch.setattr("mofme_jax.commands.restore.load_weights", load)
    return loaded


@pytest.fixture
def folder(tmp_path):
    """Four photographs, one of them in a folder."""
    for name in ("in/a.png", "in/b.bmp", "in/c.tif", "in/deep/d.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True, parents=True)
        Image.fromarray(RNG.integers(0, 256, (20, 30, 3), np.uint8)).save(tmp_path / name)
    return tmp_path


def restore(*arguments):
    return main(["restore", "--tile=16", *map(str, arguments)])


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} if folder.is_dir() else set()


def test_a_folder_is_restored_into_a_folder(folder, weights, capsys):
    out = folder / "out"
    assert restore(folder / "in", "-o", out) == 0
    assert files(out) == files(folder / "in")
    for name in files(out):
        with Image.open(folder / "in" / name) as before, Image.open(out / name) as after:
            np.testing.assert_allclose(np.asarray(after), np.asarray(before) / 2, atol=0.51)
    printed = capsys.readouterr()
    assert sorted(printed.out.splitlines()) == sorted(str(out / name) for name in files(out))
    assert "mofme:" not in printed.err  # but a slow machine shows progress
    assert len(weights) == 1


def test_one_file_gets_a_name_and_a_comparison(folder, weights, capsys):
    assert restore(folder / "in" / "a.png", "--out", folder / "new" / "x.png", "--compare") == 0
    assert files(folder / "new") == {"x.png", "x.compare.jpg"}
    assert capsys.readouterr().out.splitlines() == [str(folder / "new" / name) for name in ("x.png", "x.compare.jpg")]


def test_twice_the_same_command_gives_the_same_bytes(folder, weights, capsys):
    out = folder / "out"
    assert restore(folder / "in", "-o", out, "--compare") == 0
    once = {name: (out / name).read_bytes() for name in files(out)}
    assert restore(folder / "in", "-o", out, "--compare") == 2
    assert "exist: give --force" in capsys.readouterr().err
    assert restore(folder / "in", "-o", out, "--compare", "--force") == 0
    assert {name: (out / name).read_bytes() for name in files(out)} == once


def test_bad_files_are_said_and_the_rest_goes_on(folder, weights, capsys):
    (folder / "in" / "0.png").write_text("no picture")
    (folder / "in" / "b.jpg").symlink_to(folder / "gone.jpg")
    half = (folder / "in" / "a.png").read_bytes()
    (folder / "in" / "half.png").write_bytes(half[: len(half) // 2])
    assert restore(folder / "in", "-o", folder / "out") == 1
    assert files(folder / "out") == {"a.png", "b.bmp", "c.tif", "deep/d.png"}
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 3
    for line, name in zip(lines, ("0.png", "b.jpg", "half.png"), strict=True):
        assert line.startswith("mofme: ")
        assert name in line


def test_notes_are_said(folder, weights, capsys):
    Image.new("CMYK", (16, 16)).save(folder / "inks.jpg")
    assert restore(folder / "inks.jpg", "-o", folder / "out") == 0
    assert capsys.readouterr().err == f"mofme: {folder / 'inks.jpg'}: CMYK became RGB of 8 bits\n"


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("RESOURCE_EXHAUSTED: out of memory\nallocating")])
def test_too_little_memory_is_said_in_a_line(folder, weights, capsys, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr("mofme_jax.evaluation.tiling.observe", fail)
    assert restore(folder / "in" / "a.png", "-o", folder / "out") == 1
    message = capsys.readouterr().err
    assert message.count("\n") == 1
    assert "out of memory. Take a smaller --tile." in message


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["gone.png", "-o", "out"], "gone.png: there is no such file or folder"),
        (["in", "-o", "in"], "would be lost"),
        (["in", "-o", "in/a.png/out"], "in/a.png/out cannot be written"),
        (["in", "-o", "x.png"], "needs a folder"),
        (["in/*.gif", "-o", "out"], "no file is of this pattern"),
        (["in", "-o", "out", "--tile=15"], "--tile=15 is too small"),
    ],
)
def test_what_cannot_be_done_is_said_before_weights_are_loaded(
    folder, weights, capsys, monkeypatch, arguments, message
):
    monkeypatch.chdir(folder)
    before = files(folder)
    assert main(["restore", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error
    assert weights == []
    assert files(folder) == before
    assert not (folder / "out").exists()


def test_missing_weights_are_said(folder, capsys):
    assert restore(folder / "in", "-o", folder / "out", "--weights", folder / "run") == 2
    assert f"there are no weights {folder / 'run'}" in capsys.readouterr().err
    assert not (folder / "out").exists()


@pytest.mark.parametrize("arguments", [[], ["in"], ["-o", "out"], ["in", "-o", "out", "--tile=big"], ["in", "-x"]])
def test_a_wrong_command_line_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(["restore", *arguments])
    assert left.value.code == 2
    assert "usage: mofme" in capsys.readouterr().err


@pytest.mark.parametrize("where", ["PIL.Image.Image.save", "mofme_jax.evaluation.tiling.observe"])
def test_an_interrupt_leaves_no_half_file(folder, weights, capsys, monkeypatch, where):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    (folder / "in" / "b.bmp").unlink()
    monkeypatch.setattr(where, interrupted)
    before = files(folder)
    assert restore(folder / "in", "-o", folder / "out") == 130
    assert capsys.readouterr().err == "mofme: stopped\n"
    assert files(folder) == before


def test_of_many_files_the_number_is_said(folder, weights, capsys):
    data = (folder / "in" / "a.png").read_bytes()
    for i in range(25):
        (folder / "in" / f"{i}.png").write_bytes(data)
    (folder / "in" / "7.png").write_bytes(b"")
    assert restore(folder / "in", "-o", folder / "out") == 1
    assert capsys.readouterr().out == f"28 of 29 photographs are restored, in {folder / 'out'}\n"


def test_names_that_the_terminal_cannot_show(folder, weights, monkeypatch):
    names = ("写真.png", os.fsdecode(b"\xff.png"))
    for name in names:
        (folder / name).write_bytes((folder / "in" / "a.png").read_bytes())
    for encoding in ("ascii", "utf-8"):
        stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stdout", stream)
            assert restore(*(folder / name for name in names), "-o", folder / encoding) == 0
        assert files(folder / encoding) == set(names)
        assert stream.buffer.getvalue().count(b"\n") == 2


def test_the_bar_counts_the_tiles_of_all_files(folder, weights, monkeypatch):
    told = []

    class Bar:
        def __init__(self, total, what):
            self.total = total

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def update(self, done):
            told.append((done, self.total))

    monkeypatch.setattr("mofme_jax.viz.ProgressBar", Bar)
    (folder / "in" / "0.png").write_text("no picture")
    assert restore(folder / "in", "-o", folder / "out") == 1
    counts = [done for done, _ in told]
    assert counts == sorted(counts)
    assert counts[-1] == told[-1][1] >= 4 * 6
    assert len(set(counts)) >= 4 * 3


def test_doubt_and_experts_are_written_beside(finished_run, tmp_path, capsys):
    source = tmp_path / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save(source)
    arguments = ["restore", str(source), "--weights", str(finished_run[0]), "--tile=16"]
    written = ["photo.png", "photo.uncertainty.png", "photo.uncertainty.npz", "photo.doubt.jpg", "photo.experts.jpg"]
    folders = [tmp_path / name for name in ("first", "second")]
    for folder in folders:
        assert main([*arguments, "-o", str(folder), "--uncertainty", "--experts"]) == 0
        told = capsys.readouterr()
        assert told.out.split() == [str(folder / name) for name in written]
        assert "mofme:" not in told.err
    for name in written:
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    with np.load(folders[0] / "photo.uncertainty.npz") as numbers:
        assert "expected error" in str(numbers["legend"])
        assert numbers["doubt"].shape == (40, 60)
        assert numbers["experts"].shape == (1, 5, 8)
    with Image.open(folders[0] / "photo.uncertainty.png") as picture:
        assert picture.size == (60, 40)
    # of passes this run has no calibration: the map is there, and what it is not is said
    assert main([*arguments, "-o", str(tmp_path / "third"), "--uncertainty", "--passes=2"]) == 0
    assert "is not calibrated; `mofme calibrate" in capsys.readouterr().err
    with np.load(tmp_path / "third" / "photo.uncertainty.npz") as numbers:
        assert "spread of passes" in str(numbers["legend"])
    assert main([*arguments, "-o", str(tmp_path / "fourth"), "--passes=2"]) == 2
    assert "--passes are for --uncertainty" in capsys.readouterr().err
    assert not (tmp_path / "fourth").exists()
