"""Can the network take weather away at all? It learns one photograph in one weather, and is judged on the same one.

    python benchmarks/overfit.py                                              # the four weathers, one after the other
    python benchmarks/overfit.py --only snow --steps 3000 --config.loss.kind=charbonnier   # other fields of a config

The crops are of one photograph, the weather is drawn anew for every one of them, so that it has to be recognised; only
the scene can be learnt by heart. A network that fails here fails for want of capacity, or of a loss that asks for it,
and no data will help. Judged on the middle of the photograph under weather never drawn in training, mean of the draws:

  PSNR           of the input, of the input after the best affine map of its colours that knows the truth ("tone": what
                 a network reaches that takes away the veil and leaves streaks, flakes and drops), and of the restored
  detail error   RMS of what is left of the difference from the truth after its blur (Gaussian, sigma 3 pixels) is taken
                 out, in levels of 255, of the same three: streaks and flakes that are still there
"""

import argparse
import platform
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from scipy.ndimage import gaussian_filter

from mofme_jax.config_file import read_config
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.weather import WEATHERS, degrade
from mofme_jax.training import sharding
from mofme_jax.training.build import build_init, build_optimiser, build_schedule, build_step, make_image_loss
from mofme_jax.training.options import Options, build_model, read_options
from mofme_jax.training.sharding import use_host_devices
from mofme_jax.viz import ProgressBar, picture_sheet

SIDE, DRAWS = 240, 8


def main() -> None:
    """Parses the command line, trains once for each weather, prints the table and writes the pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--only", choices=WEATHERS, nargs="+", default=WEATHERS, help="weathers (default: all four)")
    parser.add_argument("--photograph", choices=embedded_photographs(), default="coffee", help="(default: coffee)")
    parser.add_argument("--steps", type=int, default=1500, help="of training for each weather (default: 1500)")
    parser.add_argument("--out", type=Path, help="folder for a picture of each weather (default: none)")
    arguments, changes = parser.parse_known_args()
    try:
        config = read_config(changes)
        config.train.steps = arguments.steps
        config.train.warmup = min(config.train.warmup, arguments.steps // 8)
        config.data.clean_share = config.data.colour_share = config.data.sky_share = 0.0
        options = read_options(config)
    except (ValueError, OSError) as error:
        sys.exit(f"overfit.py: {error}")
    use_host_devices(options.train.host_devices)
    photograph = embedded_photographs()[arguments.photograph]
    if arguments.out:
        arguments.out.mkdir(parents=True, exist_ok=True)
    print(f"{'':<10}{'PSNR, dB':^28}   {'detail error, levels':^28}")
    print(f"{'weather':<10}" + 2 * f"{'input':>8}{'tone':>10}{'restored':>10}   " + f"{'ms a step':>10}", flush=True)
    for weather in arguments.only:
        restore, seconds = train(config, weather, photograph, arguments.steps)
        degraded, target = judged(photograph, weather)
        restored = np.concatenate([restore(image[None]) for image in degraded])
        tone = np.stack([best_tone(image, target) for image in degraded])
        images = (degraded, tone, restored)
        row = "".join(
            f"{np.mean([psnr(i, target) for i in each]):>{w}.2f}" for each, w in zip(images, (8, 10, 10), strict=True)
        )
        row += "   " + "".join(
            f"{np.mean([detail_error(i, target) for i in each]):>{w}.2f}"
            for each, w in zip(images, (8, 10, 10), strict=True)
        )
        print(f"{weather:<10}{row}   {1e3 * seconds:>10.0f}", flush=True)
        if arguments.out:
            rows = [
                [image, toned, new, target]
                for image, toned, new in zip(degraded[:3], tone[:3], restored[:3], strict=True)
            ]
            titles = ["degraded", "best tone", "restored", "truth"]
            picture_sheet(rows, titles, [f"draw {i}" for i in range(3)], arguments.out / f"{weather}.png")
    print(f"{arguments.photograph}, {arguments.steps} steps of {options.train.batch} crops of {options.data.crop}, "
          f"seed {options.seed}, {DRAWS} draws; {jax.device_count()} {jax.devices()[0].platform} device(s), "
          f"{platform.machine()}; jax {jax.__version__}")  # fmt: skip


def train(config, weather: str, photograph: np.ndarray, steps: int):
    """Returns `restore`, images (B, H, W, 3) in [0, 1] to the same by the averaged parameters, and seconds a step."""
    config = config.copy_and_resolve_references()
    config.data.weathers = (weather,)
    options: Options = read_options(config)
    model = build_model(config.model)
    mesh = sharding.make_mesh(options.train.batch, data=-1, fsdp=1, expert=1)
    optimiser = build_optimiser(options, build_schedule(options, options.train.batch)[1])
    state = build_init(options, model, optimiser, mesh)(np.uint32(options.seed))
    step = build_step(options, model, optimiser, make_image_loss(options), paired=False, mesh=mesh)
    rng, crop = np.random.default_rng(options.seed), options.data.crop
    clock, seconds = time.monotonic(), 0.0
    with ProgressBar(steps, weather) as bar:
        for n in range(steps):
            tops = rng.integers(0, np.array(photograph.shape[:2]) - crop + 1, (options.train.batch, 2))
            crops = np.stack([photograph[y : y + crop, x : x + crop] for y, x in tops])
            state, metrics = step(state, sharding.put_batch(crops, mesh))
            jax.block_until_ready(metrics)
            if n == 0:
                clock = time.monotonic()  # the first one compiled
            bar.update(n + 1)
        seconds = (time.monotonic() - clock) / max(steps - 1, 1)
    parameters = jax.device_put(jax.device_get(state.ema), jax.local_devices()[0])
    restore = jax.jit(lambda images: model.apply({"params": parameters}, images)[0])
    return lambda images: np.asarray(restore(images)), seconds


def judged(photograph: np.ndarray, weather: str) -> tuple[np.ndarray, np.ndarray]:
    """(DRAWS, SIDE, SIDE, 3) degraded and (SIDE, SIDE, 3) clean in [0, 1], with keys that no step of training has."""
    top, left = ((length - SIDE) // 2 for length in photograph.shape[:2])
    target = jnp.asarray(photograph[top : top + SIDE, left : left + SIDE], jnp.float32) / 255.0
    keys = jax.vmap(lambda n: jax.random.fold_in(jax.random.key(2024), n))(jnp.arange(DRAWS))
    degraded = jax.jit(jax.vmap(lambda key: degrade(key, target, weather)[0]))(keys)
    return np.asarray(degraded), np.asarray(target)


def best_tone(image: np.ndarray, target: np.ndarray) -> np.ndarray:
    """The affine map of the colours of (H, W, 3) that brings it nearest to the target, of the same shape."""
    colours = np.concatenate([image.reshape(-1, 3), np.ones((image[..., 0].size, 1))], axis=1)
    fitted, *_ = np.linalg.lstsq(colours, target.reshape(-1, 3), rcond=None)
    return np.clip(colours @ fitted, 0.0, 1.0).reshape(image.shape)


def psnr(image: np.ndarray, target: np.ndarray) -> float:
    """dB, of images in [0, 1]."""
    return float(-10.0 * np.log10(np.mean(np.square(image - target))))


def detail_error(image: np.ndarray, target: np.ndarray) -> float:
    """Levels of 255; see the module's text."""
    error = image - target
    return 255.0 * float(np.sqrt(np.mean(np.square(error - gaussian_filter(error, (3, 3, 0))))))


if __name__ == "__main__":
    main()
