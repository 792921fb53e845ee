r"""How good are weights on weather that other people's code made? Ours is what they were trained on as well.

    python benchmarks/other_weather.py                                     # the weights that come with the package
    python benchmarks/other_weather.py --weights mofme-small runs/mine     # compared, row by row
    python benchmarks/other_weather.py --sheet other.jpg                   # and a picture: what was made of what

Three packages make it: no dependencies of this one, and nothing of theirs is copied. Where they are missing, or of
another version, the command says what pip is to install (two of them would bring an OpenCV that needs the libraries of
a screen, hence two steps).

imagecorruptions (Apache-2.0) and imgaug (MIT) are older than NumPy 2 and get the three names back that it took away,
while they run. albumentations (MIT up to this version; what came after it is under another licence).

What each does, and how much of it is asked for:

  fog, imagecorruptions         severity 2 of 5: clouds of noise added, then all divided by the brightest, so that it
                                is grey and what is bright gets darker; the same near and far
  fog, imgaug                   as it comes: white clouds of noise blended in, from thin to hardly anything left
  rain, imgaug                  as it comes: one to three layers of thin faint streaks, so dense as to be a veil as well
  rain, albumentations          bright lines an eighth of the height long, up to 10 pixels from upright, blurred over
                                3 pixels (comes with 7: bars), not darkened (comes with 0.7: a matter of exposure)
  flakes, imgaug                flake_size 0.4 to 0.8, speed 0.007 to 0.03 (comes with 0.2 to 0.7: hardly to be seen)
  snow, imagecorruptions        severity 1 of 5: streaked flakes, and everything made paler until bright places are
                                white: what was there is gone. More than 1 leaves little of a photograph
  drops, imagecorruptions       severity 3 of 5: bright blots, opaque, which refract nothing (1 can hardly be seen, 4
                                and 5 are mud)

Looked at and left out: albumentations' RandomSnow (one method whitens surfaces and makes no flakes, the other turns
the colours), its RandomFog (first of all a strong blur) and its Spatter (the drops above once more).

Judged on photographs held out of training: the two embedded ones and, where `mofme data fetch-photos` was run, its
four for validation; weights that were trained on these are not to be judged here. Middle of at most 480 pixels, three
seeds each, restored as `mofme restore` does it; protocol native-rgb. "tone" is the PSNR of the input after the best
affine map of its colours that knows the truth: a network above it has mended more than colour, one below may not have.
"better": images whose PSNR is above the input's. The interval is of the mean gain, over photographs, by the bootstrap
(five at least); with six it is too narrow, and it says nothing of another seed of training.
"""

import argparse
import os
import platform
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple
from unittest.mock import patch
from warnings import catch_warnings

import jax
import numpy as np
from overfit import best_tone
from PIL import Image
from weather import processor

import mofme_jax
from mofme_jax.compiled import keep_compiled
from mofme_jax.data.fetch import photographs_folder
from mofme_jax.data.folders import PhotographFolder
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation.cases import cut_to_middle
from mofme_jax.evaluation.evaluator import PROTOCOL
from mofme_jax.evaluation.protocols import PROTOCOLS
from mofme_jax.evaluation.scoring import score
from mofme_jax.evaluation.statistics import mean_of
from mofme_jax.viz import picture_sheet
from mofme_jax.weights import DEFAULT

SIDE, DRAWS = 480, 3
SHEET_SIDE = 320

PINNED = {
    "albumentations": "2.0.8",
    "opencv-python-headless": "5.0.0.93",
    "imagecorruptions": "1.1.2",
    "imgaug": "0.4.0",
}
REMEDY = """install them with
  pip install albumentations=={albumentations} opencv-python-headless=={opencv-python-headless} 'setuptools<81'
  pip install --no-deps imagecorruptions=={imagecorruptions} imgaug=={imgaug}""".format(**PINNED)

REMOVED_NAMES = dict(
    float_=np.float64,
    complex=complex,
    sctypes=dict(float=[np.float16, np.float32, np.float64], int=[np.int32, np.int64], uint=[np.uint8, np.uint16]),
)
"""Of NumPy 1, that the packages use."""


class Figures(NamedTuple):
    """Of one image: PSNR in dB and SSIM, of the input, the input with the best tone, and the restored."""

    psnr_input: float
    psnr_tone: float
    psnr: float
    ssim_input: float
    ssim: float


Make = Callable[[np.ndarray, int], np.ndarray]
"""(H, W, 3) uint8 and a seed -> the same in weather."""

Made = dict[str, list[list[np.ndarray]]]
"""By generator, for each photograph, its draws."""


def main() -> None:
    """Parses the command line, prints the table and, where asked for, writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--weights", nargs="+", default=[DEFAULT], help=f"as mofme_jax.load's (default: {DEFAULT})")
    parser.add_argument("--sheet", type=Path, help="write input | restored | truth, a row a generator, to this file")
    options = parser.parse_args()
    if wrong := missing(installed):
        sys.exit(f"other_weather.py: {', '.join(wrong)}: {REMEDY}")
    try:
        check_sheet(options.sheet)
        photographs = held_out()
        keep_compiled()
        networks = {weights: mofme_jax.load(weights) for weights in options.weights}
    except (ValueError, OSError) as error:
        sys.exit(f"other_weather.py: {error}")
    with patch.multiple(np, create=True, **REMOVED_NAMES), catch_warnings(action="ignore"):
        made = {name: weathered(make, photographs) for name, make in generators().items()}
    print_table(made, photographs, networks)
    if options.sheet:
        write_sheet(made, photographs, networks, options.sheet)


def installed(package: str) -> str | None:
    """The version of a package, or None; pkg_resources, which has none of its own, is "" where it is there."""
    if package == "pkg_resources":
        return "" if find_spec(package) else None
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def missing(installed: Callable[[str], str | None]) -> list[str]:
    """What keeps the packages from running as they did, a phrase each.

    Args:
      installed: a package's version, None where it is missing.
    """
    found = {package: installed(package) for package in PINNED}
    wrong = [
        f"{package} is {f'{found[package]}, not {wanted}' if found[package] else 'not installed'}"
        for package, wanted in PINNED.items()
        if found[package] != wanted
    ]
    return wrong if installed("pkg_resources") is not None else [*wrong, "setuptools has no pkg_resources"]


def check_sheet(path: Path | None) -> None:
    """Raises ValueError or FileNotFoundError where a picture is wanted that could not be written."""
    if path is None:
        return
    if path.suffix.lower() not in Image.registered_extensions():
        raise ValueError(f"{path} is no picture by its name: end it in .jpg or .png")
    if not path.parent.is_dir():
        raise FileNotFoundError(f"there is no folder {path.parent} to write {path.name} into")


def held_out() -> dict[str, np.ndarray]:
    """The middle of each photograph that is judged on, (H, W, 3) uint8, the embedded ones first."""
    photographs = embedded_photographs("validation")
    folder = photographs_folder() / "validation"
    if folder.is_dir():
        photographs |= {Path(each["name"]).stem: each["image"] for each in PhotographFolder(folder)}
    return {name: np.ascontiguousarray(cut_to_middle(image, SIDE)) for name, image in photographs.items()}


def generators() -> dict[str, Make]:
    """By name; see the module's text. To be called, and they, while NumPy has REMOVED_NAMES."""
    os.environ["NO_ALBUMENTATIONS_UPDATE"] = "1"  # else it asks the network for newer versions
    import albumentations
    import imagecorruptions
    import imgaug.augmenters as imgaug

    def corruption(name: str, severity: int) -> Make:
        def make(image: np.ndarray, seed: int) -> np.ndarray:
            np.random.seed(seed)  # noqa: NPY002 - it draws from NumPy's global generator
            return imagecorruptions.corrupt(image, severity=severity, corruption_name=name)

        return make

    def rain(image: np.ndarray, seed: int) -> np.ndarray:
        transform = albumentations.RandomRain(blur_value=3, brightness_coefficient=1.0, p=1.0)
        transform.set_random_seed(seed)
        return transform(image=image)["image"]

    def flakes(image: np.ndarray, seed: int) -> np.ndarray:
        return imgaug.Snowflakes(flake_size=(0.4, 0.8), speed=(0.007, 0.03), seed=seed)(image=image)

    return {
        "fog, imagecorruptions": corruption("fog", 2),
        "fog, imgaug": lambda image, seed: imgaug.Fog(seed=seed)(image=image),
        "rain, imgaug": lambda image, seed: imgaug.Rain(seed=seed)(image=image),
        "rain, albumentations": rain,
        "flakes, imgaug": flakes,
        "snow, imagecorruptions": corruption("snow", 1),
        "drops, imagecorruptions": corruption("spatter", 3),
    }


def weathered(make: Make, photographs: dict[str, np.ndarray]) -> list[list[np.ndarray]]:
    """DRAWS images of each photograph, each from a seed of its own: 0, 1, 2 for the first, and so on."""
    return [
        [make(photograph, DRAWS * index + draw) for draw in range(DRAWS)]
        for index, photograph in enumerate(photographs.values())
    ]


def judge(degraded: np.ndarray, restored: np.ndarray, truth: np.ndarray) -> Figures:
    """Scores one image; all are (H, W, 3) uint8."""
    convention = PROTOCOLS[PROTOCOL].convention
    psnr_input, ssim_input = score(degraded, truth, convention)
    psnr, ssim = score(restored, truth, convention)
    psnr_tone, _ = score(best_tone(degraded / 255.0, truth / 255.0), truth, convention)
    return Figures(psnr_input, psnr_tone, psnr, ssim_input, ssim)


def row(figures: Sequence[Sequence[Figures]]) -> str:
    """A row of the table, of the images of each photograph, as many of each."""
    table = np.array(figures)  # (photographs, images of each, figures)
    mean = Figures(*table.mean((0, 1)))
    gains = table[..., Figures._fields.index("psnr")] - table[..., Figures._fields.index("psnr_input")]
    gain = mean_of(gains.mean(1))
    interval = f"{gain.low:+.2f} to {gain.high:+.2f}" if np.isfinite(gain.low) else "too few"
    return (
        f"{mean.psnr_input:>7.2f}{mean.psnr_tone:>7.2f}{mean.psnr:>10.2f}{gain.mean:>+8.2f}{interval:>18}"
        f"{mean.ssim_input:>8.3f}{mean.ssim:>10.3f}{(gains > 0).mean():>8.0%}"
    )


def print_table(made: Made, photographs: dict[str, np.ndarray], networks: dict) -> None:
    """Prints a row for each generator and network, as they are judged, and last one over all generators."""
    wide = max(len(weights) for weights in networks)
    print(f"{len(photographs)} photographs ({', '.join(photographs)}), {DRAWS} seeds each, at most {SIDE} pixels;")
    print(f"protocol {PROTOCOL}; {jax.devices()[0].platform}, {processor()};")
    print(f"Python {platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__};", end=" ")
    print("; ".join(f"{package} {wanted}" for package, wanted in PINNED.items()))
    print(f"\n{'':<24}{'':<{wide}}{'PSNR, dB':>13}{'':>11}{'gain':>8}{'95 %':>18}{'SSIM':>8}")
    print(
        f"{'':<24}{'':<{wide}}{'input':>7}{'tone':>7}{'restored':>10}{'':>26}{'input':>8}{'restored':>10}{'better':>8}"
    )
    every: dict[str, list[list[Figures]]] = {weights: [[] for _ in photographs] for weights in networks}
    for name, images in made.items():
        for weights, (model, params) in networks.items():
            figures = [
                [judge(image, mofme_jax.restore(model, params, image), truth) for image in draws]
                for draws, truth in zip(images, photographs.values(), strict=True)
            ]
            for one, more in zip(every[weights], figures, strict=True):
                one.extend(more)
            print(f"{name:<24}{weights:<{wide}}{row(figures)}", flush=True)
    for weights, figures in every.items():
        print(f"{'all of them':<24}{weights:<{wide}}{row(figures)}")


def write_sheet(made: Made, photographs: dict[str, np.ndarray], networks: dict, path: Path) -> None:
    """Draws the middle of the first image of a photograph, another one in each row: input | restored | truth."""
    rows = []
    for index, images in enumerate(made.values()):
        photograph = index % len(photographs)
        image, truth = images[photograph][0], list(photographs.values())[photograph]
        restored = [mofme_jax.restore(model, params, image) for model, params in networks.values()]
        rows.append([cut_to_middle(each, SHEET_SIDE) / 255.0 for each in (image, *restored, truth)])
    picture_sheet(rows, ["input", *networks, "truth"], list(made), path)
    print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
