"""A photograph's file restored into another file."""

import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from mofme_jax.evaluation.calibration import Calibration
from mofme_jax.restoring.doubt import calibrations_of, doubt_of, save_numbers, save_uncertainty
from mofme_jax.restoring.files import Job, plan_jobs
from mofme_jax.restoring.image_file import ImageFile, read_image, whole_file, write_image
from mofme_jax.restoring.pictures import doubt_overlay, eight_bits, expert_sheet
from mofme_jax.weights import DEFAULT, load

if TYPE_CHECKING:
    from mofme_jax.evaluation.tiling import Observation

JPEG_SIDE = 65500
"""Pixels on the longest side of a JPEG."""


def restore_file(
    source: str | Path,
    target: str | Path,
    *,
    weights: str | Path | tuple[Any, Any] = DEFAULT,
    tile: int | None = None,
    uncertainty: bool = False,
    passes: int = 0,
    experts: bool = False,
    compare: bool = False,
    force: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """Restores one photograph's file; format, depth, alpha, EXIF, ICC profile and resolution stay what they are.

    What a file cannot keep, as the inks of CMYK, is said in a warning.

    Args:
      source: a JPEG, PNG, WEBP, TIFF or BMP.
      target: the restored file, of the source's format; or a folder for a file of the same name.
      weights: what `mofme_jax.load` takes, at first those that come with the package; or the (model, parameters) that
        it gives, whose uncertainty then has no calibration.
      tile: pixels on a tile's side, at least 16; the default of `mofme_jax.restore` when None.
      uncertainty: writes as well NAME.uncertainty.png, how far off each pixel may be; NAME.uncertainty.npz, the same
        and what it is made of in numbers, see `mofme_jax.restoring.doubt`; and NAME.doubt.jpg, the restored photograph
        with what may be invented in magenta.
      passes: M, of the routers' dropout, to take into the uncertainty; 0: none.
      experts: writes NAME.experts.jpg as well: which expert took which token, layer by layer.
      compare: writes NAME.compare.jpg as well: before | after.
      force: replaces files that exist.
      progress: called with tiles done and tiles in all.

    Returns:
      The files written, the restored photograph first.

    Raises:
      FileNotFoundError: no such source, no such weights, or no checkpoint in them.
      FileExistsError: without `force`, what would be written exists.
      ValueError: the source is damaged or not to be restored, the target is a name that it cannot have, or the file of
        weights is damaged.
      OSError: the target cannot be written.
    """
    if not Path(source).is_file():
        raise FileNotFoundError(f"{source}: there is no such file")
    if passes and not uncertainty:
        raise ValueError(f"passes={passes} are for the uncertainty: ask for both")
    beside = endings(uncertainty=uncertainty, experts=experts, compare=compare)
    (job,) = plan_jobs([Path(source)], target, beside=beside, force=force)
    calibrations: dict[str, Calibration] = {}
    if not isinstance(weights, tuple):
        calibrations = calibrations_of(weights) if uncertainty else {}
        weights = load(weights)
    check_experts(weights[0], experts)
    return run_job(job, *weights, calibrations=calibrations, tile=tile, passes=passes, progress=progress)


def endings(*, uncertainty: bool = False, experts: bool = False, compare: bool = False) -> dict[str, str]:
    """What is written beside a restored NAME, as `plan_jobs` and `side_files` take it."""
    pictures = {"uncertainty": ".uncertainty.png", "numbers": ".uncertainty.npz", "doubt": ".doubt.jpg"}
    asked = pictures if uncertainty else {}
    return asked | ({"experts": ".experts.jpg"} if experts else {}) | ({"compare": ".compare.jpg"} if compare else {})


def check_experts(model, asked: bool) -> None:
    """Raises ValueError where pictures of experts are asked of a network without them."""
    if asked and getattr(model, "feed_forward", "dense") == "dense":
        raise ValueError("this network has no experts to show (feed_forward='dense')")


def run_job(
    job: Job,
    model,
    params,
    *,
    calibrations: Mapping[str, Calibration] = MappingProxyType({}),
    tile: int | None = None,
    passes: int = 0,
    progress: Callable[[int, int], None] | None = None,
) -> list[Path]:
    """`restore_file` of a job that is planned, with weights and calibrations that are loaded."""
    from mofme_jax.evaluation.tiling import observe

    image = read_image(job.source)
    for note in image.notes:
        warnings.warn(f"{job.source}: {note}", stacklevel=2)
    error = "uncertainty" in job.beside
    seen = observe(model, params, image.pixels, tile=tile, passes=passes, error=error, progress=progress)
    try:
        job.target.parent.mkdir(parents=True, exist_ok=True)
        write_image(image, seen.restored, job.target)
        side_files(job.beside, image, seen, calibrations, getattr(model, "num_experts", 0))
    except OSError as error:
        raise OSError(f"{error.filename or job.target} cannot be written: {error.strerror or error}") from error
    return job.outputs


def side_files(
    beside: dict[str, Path],
    image: ImageFile,
    seen: "Observation",
    calibrations: Mapping[str, Calibration],
    num_experts: int,
) -> None:
    """Writes the pictures that are asked for beside the restored photograph.

    Args:
      beside: the files, by what they show, see `endings`.
      image: the photograph.
      seen: what the network made of it.
      calibrations: see `doubt_of`. num_experts: E.
    """
    # of grey ones the profile is of grey
    profile = {} if image.grey else {n: image.options[n] for n in ("icc_profile",) if n in image.options}
    if "numbers" in beside:
        doubt = doubt_of(image.pixels, seen, calibrations)
        with whole_file(beside["uncertainty"]) as part:
            save_uncertainty(part, doubt)
        with whole_file(beside["numbers"]) as part, part.open("wb") as file:
            save_numbers(file, doubt, seen)
        painted = doubt_overlay(eight_bits(seen.restored), doubt.values, doubt.paint_from, doubt.high)
        save_jpeg(beside["doubt"], Image.fromarray(painted), profile)
    if "experts" in beside:
        save_jpeg(beside["experts"], expert_sheet(eight_bits(image.pixels), seen.experts, seen.patch, num_experts), {})
    if "compare" in beside:
        save_jpeg(beside["compare"], comparison(image.pixels, seen.restored), profile)


def save_jpeg(path: Path, picture: Image.Image, options: dict[str, Any]) -> None:
    """Writes a picture beside a photograph, made smaller where a JPEG could not hold it."""
    picture.thumbnail((JPEG_SIDE, JPEG_SIDE))
    with whole_file(path) as part:
        picture.save(part, "JPEG", quality=95, subsampling=0, **options)


def comparison(before: np.ndarray, after: np.ndarray) -> Image.Image:
    """Two (H, W, 3) pictures of 8 or 16 bits side by side."""
    return Image.fromarray(eight_bits(np.concatenate([before, after], axis=1)))
