"""What is judged on: the cases are fixed, and kept in a file that is named after all they depend on."""

import numpy as np
import pytest

from mofme_jax.data import depth
from mofme_jax.evaluation import cases as module
from mofme_jax.evaluation.cases import cut_to_middle, weather_cases

RNG = np.random.default_rng(0)


def picture(height=24, width=24):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def photographs():
    return {"a": picture(), "b": picture(40, 24)}


@pytest.fixture(scope="module")
def cases(photographs):
    return list(weather_cases(photographs, ("haze",), repeats=2, max_side=24))


def again(photographs, cache=None, weathers=("haze",)):
    return list(weather_cases(photographs, weathers, repeats=2, max_side=24, cache=cache))


def assert_same(cases, others):
    for case, other in zip(cases, others, strict=True):
        assert (case.group, case.name) == (other.group, other.name)
        np.testing.assert_array_equal(case.degraded, other.degraded)
        np.testing.assert_array_equal(case.target, other.target)


def test_every_photograph_gets_every_weather_and_once_none(cases, photographs):
    assert [(case.name, case.group) for case in cases] == [
        ("a", "haze"), ("a", "haze"), ("a", "clean"), ("b", "haze"), ("b", "haze"), ("b", "clean"),
    ]  # fmt: skip
    for case in cases:
        assert case.degraded.dtype == case.target.dtype == np.uint8
        assert case.degraded.shape == case.target.shape == (24, 24, 3)
        assert np.array_equal(case.degraded, case.target) == (case.group == "clean")
    np.testing.assert_array_equal(cases[0].target, photographs["a"])
    np.testing.assert_array_equal(cases[3].target, photographs["b"][8:32])
    assert not np.array_equal(cases[0].degraded, cases[1].degraded)  # two draws


def test_the_cases_are_the_same_at_every_call(cases, photographs):
    assert_same(cases, again(photographs))


def test_a_weather_named_twice_is_judged_once(cases, photographs):
    assert_same(cases, again(photographs, weathers=("haze", "haze")))


def test_another_weather_beside_it_changes_no_case(cases, photographs):
    both = [c for c in again(photographs, weathers=("clean", "haze")) if c.group == "haze"]
    assert_same([c for c in cases if c.group == "haze"], both)


def test_kept_cases_are_not_made_again(cases, photographs, tmp_path, monkeypatch):
    assert_same(cases, again(photographs, tmp_path / "cache"))
    assert len(list((tmp_path / "cache").iterdir())) == 1
    monkeypatch.setattr(module, "_degrade_uint8", lambda *_: pytest.fail("made again"))
    assert_same(cases, again(photographs, tmp_path / "cache"))


@pytest.mark.parametrize("change", ["pixel", "weather", "order", "code", "jax"])
def test_what_cases_depend_on_makes_other_ones(change, photographs, tmp_path, monkeypatch):
    again(photographs, tmp_path)
    weathers = ("haze",)
    photographs = {name: image.copy() for name, image in photographs.items()}
    if change == "pixel":
        photographs["b"][20, 3, 1] ^= 1
    if change == "weather":
        weathers = ("haze", "clean")
    if change == "order":
        photographs = dict(reversed(photographs.items()))
    if change == "code":
        (tmp_path / "depth.py").write_text("# another depth")
        monkeypatch.setattr(depth, "__file__", str(tmp_path / "depth.py"))
    if change == "jax":
        monkeypatch.setattr("jax.__version__", "0")
    again(photographs, tmp_path, weathers)
    assert len(list(tmp_path.glob("*.cases"))) == 2


@pytest.mark.parametrize("damage", [b"", b"no arrays", None])
def test_a_damaged_file_is_made_anew(damage, cases, photographs, tmp_path):
    again(photographs, tmp_path)
    (file,) = tmp_path.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2] if damage is None else damage)
    assert_same(cases, again(photographs, tmp_path))
    assert file.read_bytes() == whole
    assert list(tmp_path.iterdir()) == [file]


def test_a_cache_that_cannot_be_written_costs_only_time(cases, photographs, tmp_path):
    (tmp_path / "file").write_text("in the way")
    assert_same(cases, again(photographs, tmp_path / "file"))


def test_a_large_set_is_not_kept(cases, photographs, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_KEPT_BYTES", sum(case.target.nbytes for case in cases) - 1)
    again(photographs, tmp_path)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("size", "expected"), [((10, 10), (0, 0, 10, 10)), ((20, 5), (4, 0, 12, 5)), ((13, 40), (0, 14, 12, 12))]
)
def test_the_middle_of_an_image(size, expected):
    image = picture(*size)
    top, left, height, width = expected
    np.testing.assert_array_equal(cut_to_middle(image, 12), image[top : top + height, left : left + width])
