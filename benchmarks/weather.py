"""How bad the synthetic weather is, how long it takes, and what it looks like.

    python benchmarks/weather.py                            # the table
    python benchmarks/weather.py --sheet docs/weather.jpg   # a contact sheet instead

The table holds, per weather, PSNR and SSIM (RGB, scikit-image's, whole photographs) of the degraded against the
clean photograph, averaged over the embedded photographs and some keys; and the median time of a 64x64 crop in
a batch of eight and of a whole 741x500 photograph, after compilation. On a machine with several cores, pin the
process to one (`taskset -c 0`) to compare times.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import skimage
from PIL import Image, ImageDraw
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mofme_jax.data.photos import embedded_photographs
from mofme_jax.data.weather import WEATHERS, degrade

MIXTURES = ("rain+haze", "raindrop+rain")
BATCH, CROP, REPEATS = 8, 64, 30


def main() -> None:
    """Parses the command line and prints the table or writes the sheet."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--keys", type=int, default=8, help="pictures per photograph and weather (default: 8)")
    parser.add_argument("--sheet", type=Path, help="write a contact sheet to this image file and no table")
    options = parser.parse_args()
    photographs = embedded_photographs("train") | embedded_photographs("validation")
    if options.sheet:
        contact_sheet(photographs).save(options.sheet, quality=88)
        print(f"{options.sheet}: {options.sheet.stat().st_size / 1e6:.2f} MB")
    else:
        print_table(photographs, options.keys)


def print_table(photographs: dict[str, np.ndarray], keys: int) -> None:
    """Prints a row per weather, and on which machine with which versions the times were taken."""
    print(f"{'weather':<14} {'PSNR dB':>8} {'SSIM':>6} {'crop ms':>8} {'photograph ms':>14}")
    for weather in (*WEATHERS, *MIXTURES):
        psnr, ssim = quality(photographs, weather, keys)
        crop, whole = times(photographs["motorcycle"], weather)
        print(f"{weather:<14} {psnr:>8.2f} {ssim:>6.3f} {crop:>8.3f} {whole:>14.1f}", flush=True)
    device = jax.devices()[0]
    print(f"{len(photographs)} photographs, {keys} keys; {device.platform} {device.device_kind}, {processor()};")
    print(f"Python {platform.python_version()}, JAX {jax.__version__}, NumPy {np.__version__},", end=" ")
    print(f"scikit-image {skimage.__version__}")


def quality(photographs: dict[str, np.ndarray], weather: str, keys: int) -> tuple[float, float]:
    """Mean PSNR in dB and SSIM of degraded photographs."""
    make = jax.jit(partial(degrade, weather=weather))
    scores = []
    for index, photograph in enumerate(photographs.values()):
        clean = photograph.astype(np.float32) / 255
        for key in jax.random.split(jax.random.key(index), keys):
            degraded = np.asarray(make(key, clean)[0])
            psnr = peak_signal_noise_ratio(clean, degraded, data_range=1)
            scores.append((psnr, structural_similarity(clean, degraded, channel_axis=-1, data_range=1)))
    return tuple(np.mean(scores, axis=0))


def times(photograph: np.ndarray, weather: str) -> tuple[float, float]:
    """Median milliseconds per crop of a batch, and per whole photograph."""
    whole = jnp.asarray(photograph, jnp.float32) / 255
    corners = [(40 * i, 80 * i) for i in range(BATCH)]
    crops = jnp.stack([whole[y : y + CROP, x : x + CROP] for y, x in corners])
    keys = jax.random.split(jax.random.key(0), BATCH)
    one = jax.jit(partial(degrade, weather=weather))
    batch = jax.jit(jax.vmap(partial(degrade, weather=weather)))
    return median_ms(lambda: batch(keys, crops)) / BATCH, median_ms(lambda: one(keys[0], whole))


def median_ms(call: Callable) -> float:
    """Median time of a call in milliseconds, the first (which compiles) left out."""
    jax.block_until_ready(call())
    taken = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        jax.block_until_ready(call())
        taken.append(1e3 * (time.perf_counter() - start))
    return statistics.median(taken)


def processor() -> str:
    """The processor's name, where the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def contact_sheet(photographs: dict[str, np.ndarray], tile: tuple[int, int] = (300, 200)) -> Image.Image:
    """Rows of photographs, columns of weather: middle crops at full size, so that streaks show as they are."""
    columns = ("clean", *WEATHERS, MIXTURES[0], MIXTURES[1])
    width, height = tile
    title = 22
    sheet = Image.new("RGB", (len(columns) * (width + 4) - 4, title + len(photographs) * (height + 4) - 4), "white")
    pen = ImageDraw.Draw(sheet)
    for column, weather in enumerate(columns):
        pen.text((column * (width + 4) + 4, 2), weather, fill="black", font_size=15)
        make = jax.jit(jax.vmap(partial(degrade, weather=weather)))
        rows = np.stack([middle(photograph, width, height) for photograph in photographs.values()])
        keys = jax.random.split(jax.random.key(4), len(rows))
        degraded = np.asarray(make(keys, rows / np.float32(255))[0])
        for row, pixels in enumerate(np.round(degraded * 255).astype(np.uint8)):
            sheet.paste(Image.fromarray(pixels), (column * (width + 4), title + row * (height + 4)))
    return sheet


def middle(photograph: np.ndarray, width: int, height: int) -> np.ndarray:
    """The middle of a photograph."""
    top, left = (photograph.shape[0] - height) // 2, (photograph.shape[1] - width) // 2
    return photograph[top : top + height, left : left + width]


if __name__ == "__main__":
    main()
