"""What visitors of the demonstration may take: counted, looked through, thrown away."""

import os
import time

import pytest

from mofme_jax.restoring.demo_limits import Form, Rates, RefusedError, make_room

HEAD = b'--x\r\nContent-Disposition: form-data; name="files"; filename="a.png"\r\n\r\n'


def test_requests_of_an_address_are_counted_by_the_minute():
    now = 59.0
    rates = Rates(lambda: now)
    for _ in range(3):
        rates.count("a", 3)
    with pytest.raises(RefusedError, match="More than 3 a minute") as caught:
        rates.count("a", 3)
    assert caught.value.status == 429
    rates.count("b", 3)
    rates.count("a", 4)  # other requests
    now = 60.0
    rates.count("a", 3)


@pytest.fixture
def filled(tmp_path):
    """A folder with files of 10 bytes, the older the smaller their number."""
    for number in range(6):
        (tmp_path / f"folder{number}").mkdir()
        (tmp_path / f"folder{number}" / "file").write_bytes(bytes(10))
        os.utime(tmp_path / f"folder{number}" / "file", (number, number))
    return tmp_path


def left(folder) -> list[int]:
    return sorted(int(path.parent.name[-1]) for path in folder.rglob("file"))


def test_the_oldest_files_go(filled):
    make_room(str(filled), (), 1000, 6)
    assert left(filled) == [0, 1, 2, 3, 4, 5]
    make_room(str(filled), (), 1000, 4)
    assert left(filled) == [2, 3, 4, 5]
    make_room(str(filled), (), 29, 4)
    assert left(filled) == [4, 5]


def test_files_that_were_there_stay_and_do_not_count(filled):
    make_room(str(filled), {str(filled / "folder0" / "file")}, 1000, 2)
    assert left(filled) == [0, 4, 5]


def test_folders_that_have_long_been_empty_go(filled):
    make_room(str(filled), (), 0, 0)
    assert len(list(filled.iterdir())) == 6  # something may be about to be put there
    for folder in filled.iterdir():
        os.utime(folder, (time.time() - 100,) * 2)
    make_room(str(filled), (), 0, 0)
    assert list(filled.iterdir()) == []


def form() -> Form:
    pytest.importorskip("python_multipart")
    return Form(b"multipart/form-data; boundary=x")


def test_a_form_may_come_in_any_pieces():
    for size in (1, 7, 1000):
        looked = form()
        body = HEAD + b"content\r\n--x--\r\n"
        for start in range(0, len(body), size):
            assert start > len(HEAD) or not looked.whole
            looked.feed(body[start : start + size])
        assert looked.whole
        assert looked.size == len(body)


@pytest.mark.parametrize(
    "body",
    [
        HEAD + b"a\r\n--x\r\nA: b\r\n\r\n",
        HEAD.replace(b"; filename", b"; file") + b"a",
        b"--x\r\nContent-Type: a; filename=a\r\n\r\n",
        b"no form",
    ],
)
def test_a_form_is_one_file(body):
    with pytest.raises(RefusedError) as caught:
        form().feed(body)
    assert caught.value.status == 400


def test_a_form_has_an_end():
    looked = form()
    looked.feed(HEAD)
    for _ in range(64):
        looked.feed(bytes(1 << 20))
    with pytest.raises(RefusedError, match="A file may have 64 MB") as caught:
        looked.feed(bytes(1 << 20))
    assert caught.value.status == 413
