"""Weather of other people's making: what is asked for, what is said where it is missing, and the arithmetic by hand."""

import importlib
from pathlib import Path
from unittest.mock import patch
from warnings import catch_warnings

import numpy as np
import pytest
from PIL import Image

PACKAGES = ("albumentations", "imagecorruptions", "imgaug")


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("other_weather")


@pytest.fixture
def run(benchmark, monkeypatch):
    """run(*arguments): the command, whose packages are all there, said to be installed."""

    def run(*arguments):
        monkeypatch.setattr("sys.argv", ["other_weather.py", *arguments])
        benchmark.main()

    monkeypatch.setattr(benchmark, "installed", lambda package: benchmark.PINNED.get(package, ""))
    return run


@pytest.fixture
def photograph():
    return np.random.default_rng(0).integers(60, 180, (48, 64, 3)).astype(np.uint8)


def test_what_is_missing_or_another_version_is_named(benchmark):
    there = dict(benchmark.PINNED, pkg_resources="")
    assert benchmark.missing(there.get) == []
    assert benchmark.missing((there | {"imgaug": "0.3.0"}).get) == ["imgaug is 0.3.0, not 0.4.0"]
    del there["imgaug"], there["pkg_resources"]
    assert benchmark.missing(there.get) == ["imgaug is not installed", "setuptools has no pkg_resources"]


def test_without_the_packages_the_command_says_what_installs_them(benchmark, run, monkeypatch):
    monkeypatch.setattr(benchmark, "installed", lambda package: None)
    monkeypatch.setattr(benchmark, "held_out", lambda: pytest.fail("work began"))
    with pytest.raises(SystemExit) as stopped:
        run()
    message = str(stopped.value)
    for package in PACKAGES:
        assert f"{package} is not installed" in message
        assert f"{package}=={benchmark.PINNED[package]}" in message
    assert "pip install" in message


def test_bad_arguments_are_named_before_any_weather_is_made(benchmark, run, monkeypatch, tmp_path):
    monkeypatch.setattr(benchmark, "generators", lambda: pytest.fail("work began"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(benchmark, "keep_compiled", lambda: None)
    for arguments, named in (
        (["--weights", "nowhere"], "nowhere"),
        (["--sheet", "sheet.docx"], "sheet.docx"),
        (["--sheet", str(tmp_path / "no" / "sheet.jpg")], str(tmp_path / "no")),
    ):
        with pytest.raises(SystemExit, match=r"^other_weather\.py: ") as stopped:
            run(*arguments)
        assert named in str(stopped.value)


def test_photographs_are_the_embedded_ones_and_those_fetched_for_validation(benchmark, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    alone = benchmark.held_out()
    assert list(alone) == ["china", "motorcycle"]
    assert alone["china"].shape == (427, 480, 3)
    pixels = np.arange(500 * 600, dtype=np.uint32).reshape(500, 600)[..., None] % [256, 255, 254]
    for split in ("train", "validation"):
        folder = tmp_path / "mofme_jax" / "photos" / split
        folder.mkdir(parents=True)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}.png")
    photographs = benchmark.held_out()
    assert list(photographs) == ["china", "motorcycle", "validation"]
    np.testing.assert_array_equal(photographs["validation"], pixels[10:490, 60:540])


def test_every_image_has_a_seed_of_its_own(benchmark, photograph):
    made = benchmark.weathered(lambda image, seed: image + np.uint8(seed), {"a": photograph, "b": photograph[:40]})
    assert [[int(np.unique(image - photograph[: len(image)]).item()) for image in one] for one in made] == [
        [0, 1, 2],
        [3, 4, 5],
    ]


def test_tone_mends_what_is_colour_and_nothing_else(benchmark, photograph):
    darker = photograph // 2
    figures = benchmark.judge(darker, darker, photograph)
    by_hand = -10 * np.log10(np.mean(np.square(darker / 255.0 - photograph / 255.0)))
    assert figures.psnr_input == pytest.approx(by_hand)
    assert (figures.psnr, figures.ssim) == (figures.psnr_input, figures.ssim_input)
    assert figures.psnr_tone > 45  # but for what halving rounded off
    holed = photograph.copy()
    holed[10:20, 10:20] = 255
    figures = benchmark.judge(holed, photograph - np.uint8(1), photograph)
    assert figures.psnr == pytest.approx(20 * np.log10(255))
    assert figures.psnr_input < figures.psnr_tone < figures.psnr - 20  # no colour map closes the hole


def test_a_row_is_means_over_images_and_an_interval_over_photographs(benchmark):
    def image(gain):
        return benchmark.Figures(20.0, 25.0, 20.0 + gain, 0.5, 0.75)

    assert benchmark.row([[image(1), image(-2)], [image(3), image(4)]]).split() == [
        *("20.00", "25.00", "21.50", "+1.50", "too", "few", "0.500", "0.750", "75%")
    ]
    # draws of a photograph are no independent evidence: with every photograph's mean the same nothing is left to chance
    assert "+1.00 to +1.00" in benchmark.row([[image(0), image(2)]] * 5)


def test_networks_are_compared_row_by_row(benchmark, monkeypatch, photograph, capsys, tmp_path):
    photographs = {"a": photograph, "b": photograph[::-1]}
    made = {"grey": benchmark.weathered(lambda image, seed: image // 2 + np.uint8(40 + seed), photographs)}
    undo = {"does nothing": (0, None), "mends": (40, None)}

    def restore(model, params, image):
        return 2 * (image - np.uint8(model)) if model else image

    monkeypatch.setattr("mofme_jax.restore", restore)
    benchmark.print_table(made, photographs, undo)
    rows = [line for line in capsys.readouterr().out.splitlines() if "%" in line][1:]
    assert [line.split("  ")[0] for line in rows] == ["grey", "grey", "all of them", "all of them"]
    assert [line.split()[-1] for line in rows] == ["0%", "100%", "0%", "100%"]
    benchmark.write_sheet(made, photographs, undo, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (4 * (64 + 4), 18 + 48 + 18)


def test_generators_make_weather_that_their_seed_decides(benchmark):
    for package in PACKAGES:
        if benchmark.installed(package) != benchmark.PINNED[package]:
            pytest.skip(f"{package} {benchmark.PINNED[package]} is not installed")
    image = np.random.default_rng(0).integers(60, 180, (96, 128, 3)).astype(np.uint8)
    kept = image.copy()
    with patch.multiple(np, create=True, **benchmark.REMOVED_NAMES), catch_warnings(action="ignore"):
        made = {name: [make(image, seed) for seed in (0, 0, 1)] for name, make in benchmark.generators().items()}
    assert len(made) == 7
    np.testing.assert_array_equal(image, kept)
    for name, (one, again, other) in made.items():
        assert (one.shape, one.dtype) == (image.shape, np.uint8), name
        np.testing.assert_array_equal(one, again, err_msg=name)
        assert (one != other).any(), name
        assert (one != image).any(), name
