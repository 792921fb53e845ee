"""Files restored into files: nothing but the pixels changes, nothing is lost, and what cannot be is said at once."""

import os

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

import mofme_jax
from mofme_jax.restoring.files import plan_jobs
from mofme_jax.restoring.image_file import ImageFile, read_image, write_image
from mofme_jax.restoring.restore_file import JPEG_SIDE, comparison, restore_file, save_jpeg
from tests.fakes import Gain

RNG = np.random.default_rng(0)
IDENTITY = (Gain(), {"gain": np.float32(1.0)})
HALF = (Gain(), {"gain": np.float32(0.5)})
FORMATS = {"png": "PNG", "tif": "TIFF", "bmp": "BMP", "webp": "WEBP"}
OPTIONS = {
    "PNG": {"pnginfo": PngInfo()},
    "TIFF": {"compression": "tiff_lzw", "tags": {}},
    "BMP": {},
    "WEBP": {"lossless": True, "exact": True},
}


def photograph(path, size=(20, 30), depth=np.uint8, grey=False, alpha=False):
    """A lossless file of any kind, in the format that the suffix says."""
    channels = RNG.integers(0, np.iinfo(depth).max + 1, (*size, 4)).astype(depth)
    pixels = np.repeat(channels[..., :1], 3, -1) if grey else channels[..., :3]
    format_ = FORMATS[path.suffix[1:]]
    path.parent.mkdir(parents=True, exist_ok=True)
    write_image(
        ImageFile(pixels, channels[..., 3] if alpha else None, grey, format_, 1, OPTIONS[format_]), pixels, path
    )
    return path


def kinds():
    for suffix in FORMATS:
        for depth in (np.uint8, np.uint16) if suffix in ("png", "tif") else (np.uint8,):
            for grey in (False, True) if suffix != "webp" else (False,):
                for alpha in (False, True):
                    deep_grey_alpha = depth == np.uint16 and grey and alpha
                    if not (suffix == "bmp" and grey and alpha) and not (suffix == "tif" and deep_grey_alpha):
                        yield suffix, depth, grey, alpha


@pytest.mark.parametrize("size", [(1, 1), (1, 40), (50, 31), (130, 200)])
@pytest.mark.parametrize(("suffix", "depth", "grey", "alpha"), list(kinds()))
def test_a_network_that_changes_nothing_loses_nothing(tmp_path, suffix, depth, grey, alpha, size):
    source = photograph(tmp_path / f"p.{suffix}", size, depth, grey, alpha)
    (written,) = restore_file(source, tmp_path / f"out.{suffix}", weights=IDENTITY, tile=32)
    before, after = read_image(source), read_image(written)
    assert (after.grey, after.format) == (before.grey, before.format) == (grey, FORMATS[suffix])
    assert after.pixels.dtype == depth
    np.testing.assert_array_equal(after.pixels, before.pixels)
    np.testing.assert_array_equal(after.alpha, before.alpha)
    with Image.open(source) as one, Image.open(written) as other:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other))


@pytest.mark.parametrize("depth", [np.uint8, np.uint16])
def test_what_the_network_does_is_in_the_file(tmp_path, depth):
    source = photograph(tmp_path / "p.png", depth=depth, alpha=True)
    (written,) = restore_file(source, tmp_path / "out.png", weights=HALF, tile=16)
    before, after = read_image(source), read_image(written)
    np.testing.assert_allclose(after.pixels, before.pixels / 2, atol=0.51)
    np.testing.assert_array_equal(after.alpha, before.alpha)


def test_the_same_again_gives_the_same_bytes(tmp_path):
    for suffix in FORMATS:
        source = photograph(tmp_path / f"p.{suffix}")
        first = restore_file(source, tmp_path / suffix, weights=HALF, tile=16, compare=True)
        once = [path.read_bytes() for path in first]
        again = restore_file(source, tmp_path / suffix, weights=HALF, tile=16, compare=True, force=True)
        assert again == first
        assert [path.read_bytes() for path in again] == once


def test_before_and_after_side_by_side(tmp_path):
    source = photograph(tmp_path / "p.png", depth=np.uint16)
    written = restore_file(source, tmp_path / "out", weights=IDENTITY, tile=16, compare=True)
    assert written == [tmp_path / "out" / "p.png", tmp_path / "out" / "p.compare.jpg"]
    with Image.open(written[1]) as pair:
        assert (pair.format, pair.size) == ("JPEG", (60, 20))
        pair = np.asarray(pair).astype(int)
    assert np.abs(pair[:, :30] - pair[:, 30:]).mean() < 10
    assert np.abs(pair[:, :30] - (read_image(source).pixels >> 8)).mean() < 10
    before = np.zeros((4, 5, 3), np.uint16)
    pair = np.asarray(comparison(before, before + 65535))
    assert (pair[:, :5] == 0).all()
    assert (pair[:, 5:] == 255).all()
    wide = tmp_path / "wide.jpg"
    save_jpeg(wide, comparison(*2 * [np.zeros((8, JPEG_SIDE, 3), np.uint8)]), {})
    with Image.open(wide) as picture:
        assert picture.size == (JPEG_SIDE, 4)


def test_tiles_done_are_told(tmp_path):
    told = []
    source = photograph(tmp_path / "p.png", (60, 70))
    restore_file(
        source, tmp_path / "out", weights=IDENTITY, tile=32, progress=lambda done, total: told.append((done, total))
    )
    assert told[-1][0] == told[-1][1] > 4
    assert [done for done, _ in told] == sorted(done for done, _ in told)


def test_inks_that_are_not_kept_are_said_in_a_warning(tmp_path):
    Image.new("CMYK", (16, 16)).save(tmp_path / "p.jpg")
    with pytest.warns(UserWarning, match=r"p\.jpg: CMYK became RGB"):
        restore_file(tmp_path / "p.jpg", tmp_path / "out", weights=IDENTITY, tile=16)


def test_weights_are_looked_for_when_the_rest_is_in_order(tmp_path):
    source = photograph(tmp_path / "p.png")
    with pytest.raises(FileNotFoundError, match=r"there are no weights .*run: give"):
        restore_file(source, tmp_path / "out.png", weights=tmp_path / "run")
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        restore_file(tmp_path / "gone.png", tmp_path / "out.png", weights=tmp_path / "run")
    assert mofme_jax.restore_file is restore_file
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.png"]


@pytest.mark.parametrize("failing", ["write_image", "side_files"])
def test_a_failed_write_leaves_nothing_half_written(tmp_path, monkeypatch, failing):
    source = photograph(tmp_path / "in" / "p.png")

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"mofme_jax.restoring.restore_file.{failing}", fail)
    with pytest.raises(OSError, match=r"p\.png cannot be written: No space left"):
        restore_file(source, tmp_path / "out", weights=IDENTITY, tile=16)
    assert all(path.name == "p.png" for path in (tmp_path / "out").iterdir())


# --- the plan of a command


def touch(folder, *names):
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def pairs(folder, inputs, out, **options):
    jobs = plan_jobs([folder / given for given in inputs], folder / out, **options)
    return [(str(job.source.relative_to(folder)), str(job.target.relative_to(folder))) for job in jobs]


def test_folders_keep_their_paths(tmp_path):
    touch(tmp_path, "in/b.png", "in/a.JPG", "in/notes.txt", "in/x/y/a.jpeg", "in/.hidden.png", "in/.trash/c.png")
    touch(tmp_path, "in/folder.png/d.tif", "more/e.bmp")
    expected = [
        ("in/a.JPG", "out/a.JPG"),
        ("in/b.png", "out/b.png"),
        ("in/folder.png/d.tif", "out/folder.png/d.tif"),
        ("in/x/y/a.jpeg", "out/x/y/a.jpeg"),
    ]
    assert pairs(tmp_path, ["in"], "out") == expected
    assert pairs(tmp_path, ["more", "in"], "out") == [("more/e.bmp", "out/e.bmp"), *expected]
    assert pairs(tmp_path, ["in", "in/b.png", "in"], "out") == expected
    assert not (tmp_path / "out").exists()


def test_an_out_inside_the_input_is_not_restored_again(tmp_path):
    touch(tmp_path, "in/a.png", "in/out/a.png", "in/out/old.png")
    assert pairs(tmp_path, ["in"], "in/out", force=True) == [("in/a.png", "in/out/a.png")]
    assert pairs(tmp_path, ["in/**/*.png"], "in/out", force=True) == [("in/a.png", "in/out/a.png")]


def test_patterns_that_no_shell_expanded(tmp_path):
    touch(tmp_path, "in/a.png", "in/b.jpg", "in/x/c.png", "in/y/c.png", "in/d[1].png")
    assert pairs(tmp_path, ["in/?.*"], "out") == [("in/a.png", "out/a.png"), ("in/b.jpg", "out/b.jpg")]
    assert pairs(tmp_path, ["in/[xy]/*.png"], "out") == [("in/x/c.png", "out/x/c.png"), ("in/y/c.png", "out/y/c.png")]
    assert len(pairs(tmp_path, ["in/**/*.png"], "out")) == 4
    assert pairs(tmp_path, ["in/d[1].png"], "out.png") == [("in/d[1].png", "out.png")]  # no pattern: it is there


def test_one_photograph_may_be_given_a_name(tmp_path):
    touch(tmp_path, "a.png", "b.JPG", "there.png/x")
    assert pairs(tmp_path, ["a.png"], "c.png") == [("a.png", "c.png")]
    assert pairs(tmp_path, ["a.png"], "deep/new/c.PNG") == [("a.png", "deep/new/c.PNG")]
    assert pairs(tmp_path, ["b.JPG"], "c.jpeg") == [("b.JPG", "c.jpeg")]
    assert pairs(tmp_path, ["a.png"], "c") == [("a.png", "c/a.png")]
    assert pairs(tmp_path, ["a.png"], "there.png") == [("a.png", "there.png/a.png")]


def test_every_name_that_a_file_can_have(tmp_path):
    names = ["ä ö.png", "写真.png", "a\nb.png", "-o.png", "%s.png", "a'\"b.png", os.fsdecode(b"\xff.png")]
    for name in names:
        photograph(tmp_path / "in" / name, (4, 5))
    jobs = plan_jobs([tmp_path / "in"], tmp_path / "out", beside={"compare": ".compare.jpg"})
    assert {job.target.name for job in jobs} == set(names)
    for job in jobs:
        written = restore_file(job.source, job.target, weights=IDENTITY, tile=16, compare=True)
        assert written == job.outputs
    assert len(list((tmp_path / "out").iterdir())) == 2 * len(names)


def test_names_of_255_bytes(tmp_path):
    longest = "x" * 251 + ".png"
    source = photograph(tmp_path / "in" / longest, (4, 5))
    (written,) = restore_file(source, tmp_path / "out", weights=IDENTITY, tile=16)
    assert written.name == longest
    with pytest.raises(ValueError, match=r"compare\.jpg has a name of 263 bytes, .* takes 255: rename .*/in/x"):
        restore_file(source, tmp_path / "new", weights=IDENTITY, tile=16, compare=True)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("inputs", "out", "error", "message"),
    [
        ([], "out", ValueError, "nothing to restore"),
        (["gone.png"], "out", FileNotFoundError, r"gone\.png: there is no such file or folder"),
        (["in", "gone"], "out", FileNotFoundError, "gone: there is no such file or folder"),
        (["*.bmp"], "out", FileNotFoundError, r"\*\.bmp: no file is of this pattern"),
        (["none"], "out", FileNotFoundError, r"none holds no photographs \(\.jpg, "),
        (["in/a.png", "in/b/a.png"], "out", ValueError, r"in/a\.png and .*in/b/a\.png would both become .*out/a\.png"),
        (["in", "more"], "out", ValueError, "would both become .* into two folders"),
        (["in"], "in", ValueError, r"in/a\.png is one of the photographs to restore, and would be lost"),
        (["in/a.png"], "in", ValueError, "would be lost"),
        (["in/a.png"], "in/a.png", ValueError, "would be lost"),
        (["in/a.png"], "in/b/../a.png", ValueError, "would be lost"),
        (["in/a.png"], "link.png", ValueError, "would be lost"),
        (["in/a.png", "link.png"], "in", ValueError, "would be lost"),
        (["in/a.png"], "old/a.png", FileExistsError, r"old/a\.png exists: give --force"),
        (["in"], "old", FileExistsError, r"old/a\.png and 1 more of the files to write exist: give --force"),
        (["in"], "old/a.png", ValueError, "several photographs needs a folder"),
        (["in"], "new.png", ValueError, r"new\.png is the name of a file: .* needs a folder"),
        (["in/a.png", "more/a.png"], "new.png", ValueError, "needs a folder"),
        (["in/a.png"], "c.jpg", ValueError, r"c\.jpg would be a JPEG and .*a\.png is a PNG"),
        (["in/a.png"], "notes.txt/out", OSError, r"notes\.txt/out cannot be written"),
        (["in/a.png"], "taken", IsADirectoryError, r"taken/a\.png is a folder"),
    ],
)
def test_what_cannot_be_is_said_before_any_work(tmp_path, inputs, out, error, message):
    touch(tmp_path, "in/a.png", "in/b/a.png", "more/a.png", "none/notes.txt", "old/a.png", "old/b/a.png", "notes.txt")
    (tmp_path / "link.png").symlink_to(tmp_path / "in" / "a.png")
    (tmp_path / "taken" / "a.png").mkdir(parents=True)
    there = sorted(tmp_path.rglob("*"))
    for force in (False, True):
        if force and error is FileExistsError:
            continue
        with pytest.raises(error, match=message) as raised:
            plan_jobs([tmp_path / given for given in inputs], tmp_path / out, force=force)
        assert "\n" not in str(raised.value)
    assert sorted(tmp_path.rglob("*")) == there


def test_files_beside_take_part_in_clashes(tmp_path):
    touch(tmp_path, "one/b.png", "one/b.compare.jpg", "out/c.compare.jpg", "c.png")
    beside = {"compare": ".compare.jpg"}
    with pytest.raises(ValueError, match=r"would both become .*b\.compare\.jpg"):
        plan_jobs([tmp_path / "one/b.png", tmp_path / "one/b.compare.jpg"], tmp_path / "new", beside=beside)
    assert len(plan_jobs([tmp_path / "one"], tmp_path / "new")) == 1  # of a folder, pictures beside are left alone
    with pytest.raises(FileExistsError, match=r"c\.compare\.jpg exists"):
        plan_jobs([tmp_path / "c.png"], tmp_path / "out", beside=beside)


def test_a_file_that_is_no_photograph_cannot_be_written_over(tmp_path):
    touch(tmp_path, "a.png", "notes")
    with pytest.raises(NotADirectoryError, match=r"notes is a file, and its name is no photograph's"):
        plan_jobs([tmp_path / "a.png"], tmp_path / "notes", force=True)


def test_names_beside_tell_suffixes_apart_where_they_have_to(tmp_path):
    touch(tmp_path, "in/a.png", "in/a.jpg", "in/b.png", "in/x/b.jpg")
    jobs = plan_jobs([tmp_path / "in"], tmp_path, beside={"compare": ".compare.jpg"})
    names = [str(job.beside["compare"].relative_to(tmp_path)) for job in jobs]
    assert names == ["a.jpg.compare.jpg", "a.png.compare.jpg", "b.compare.jpg", "x/b.compare.jpg"]


def test_a_folder_that_cannot_be_written_is_named_at_once(tmp_path, monkeypatch):
    """Made by hand: who runs the tests may be root, whom permissions do not stop."""

    def refuse(*_, **__):
        raise OSError(30, "Read-only file system")

    touch(tmp_path, "a.png")
    monkeypatch.setattr("tempfile.mkdtemp", refuse)
    with pytest.raises(OSError, match="out cannot be written: Read-only file system"):
        plan_jobs([tmp_path / "a.png"], tmp_path / "out")
