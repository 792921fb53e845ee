"""What a restorer is judged on: clean photographs with weather drawn from fixed keys, made once and kept.

Axis glossary: `H W` pixels.
"""

import hashlib
import math
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from mofme_jax.data import cells, coarse, depth, drops, light, precipitation, weather
from mofme_jax.data.weather import degrade

_CODE = (cells, coarse, depth, drops, light, precipitation, weather, sys.modules[__name__])
_KEPT_SETS = 8
_KEPT_BYTES = 2**29  # of a set; larger ones are made anew each time


@dataclass(frozen=True)
class Case:
    """One image to restore.

    Attributes:
      group: its row in the table. name: of its file or photograph.
      degraded, target: (H, W, 3) uint8.
      scene: what is one for all inputs of the same truth; "" where the name is.
    """

    group: str
    name: str
    degraded: np.ndarray
    target: np.ndarray
    scene: str = ""

    @property
    def photograph(self) -> str:
        """What it shows: two cases of one photograph are no independent evidence."""
        return self.scene or self.name


def weather_cases(
    photographs: Mapping[str, np.ndarray],
    weathers: Sequence[str],
    *,
    repeats: int,
    max_side: int,
    cache: Path | None = None,
) -> Iterator[Case]:
    """Synthesised weather over clean photographs, the same at every call: the keys are fixed.

    Args:
      photographs: (H, W, 3) uint8 by name.
      weathers: names for `degrade`, each judged once however often it is named (in training that means more of it);
        every photograph is also given clean, once.
      repeats: draws of each weather for each photograph.
      max_side: larger photographs are cut to their middle, pixels.
      cache: folder where the degraded images are kept, in a file named after all that they depend on: these
        arguments, the code of the weather, JAX's version and device. Most of the time goes into compiling for
        every size. None keeps nothing.
    """
    targets = {name: cut_to_middle(photograph, max_side) for name, photograph in photographs.items()}
    plan = [
        (index, name, kind, repeat)
        for index, name in enumerate(targets)
        for kind in (*dict.fromkeys(weathers), "clean")
        for repeat in range(repeats if kind != "clean" else 1)
    ]
    wanted = sum(targets[name].nbytes for _, name, _, _ in plan)
    file = None if cache is None or wanted > _KEPT_BYTES else cache / f"{_fingerprint(targets, plan)}.cases"
    kept = _load(file, [targets[name].shape for _, name, _, _ in plan])
    made = []
    for place, (index, name, kind, repeat) in enumerate(plan):
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(2024), index), repeat)
        degraded = kept[place] if kept else _degrade_uint8(key, targets[name], kind)
        if file and not kept:
            made.append(degraded)
        yield Case(kind, name, degraded, targets[name])
    if file and not kept and made:
        _save(file, made)


def cut_to_middle(image: np.ndarray, max_side: int) -> np.ndarray:
    """The middle of an (H, W, C) image, at most max_side pixels high and wide."""
    tops = [max(0, (length - max_side) // 2) for length in image.shape[:2]]
    return image[tops[0] : tops[0] + max_side, tops[1] : tops[1] + max_side]


def _degrade_uint8(key: jax.Array, image: np.ndarray, weather: str) -> np.ndarray:
    pixels = jnp.asarray(image, jnp.float32) / 255.0
    return np.round(np.asarray(_degraded(key, pixels, weather)) * 255.0).astype(np.uint8)


@partial(jax.jit, static_argnames="weather")  # here, so that each weather is compiled once for each size
def _degraded(key: jax.Array, pixels: jax.Array, weather: str) -> jax.Array:
    return degrade(key, pixels, weather)[0]


def _fingerprint(targets: Mapping[str, np.ndarray], plan: Iterable[tuple]) -> str:
    digest = hashlib.sha256(repr((jax.__version__, jax.devices()[0].device_kind, list(plan))).encode())
    for module in _CODE:
        assert module.__file__ is not None
        digest.update(Path(module.__file__).read_bytes())
    for image in targets.values():
        digest.update(repr(image.shape).encode() + image.tobytes())
    return digest.hexdigest()[:32]


def _load(file: Path | None, shapes: Sequence[tuple[int, ...]]) -> list[np.ndarray]:
    """The degraded images kept in a file: a hash, then their bytes; [] where there is none, or a damaged one."""
    try:
        data = file.read_bytes() if file else b""
    except OSError:
        return []
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    if len(data) != _HASH + ends[-1] or hashlib.sha256(data[_HASH:]).digest() != data[:_HASH]:
        return []
    parts = np.split(np.frombuffer(data, np.uint8, offset=_HASH), ends[:-1])
    return [part.reshape(shape) for part, shape in zip(parts, shapes, strict=True)]


_HASH = hashlib.sha256().digest_size


def _save(file: Path, images: Sequence[np.ndarray]) -> None:
    """Keeps the images, whole or not at all, and of the sets before them the newest few.

    A folder that cannot be written only costs the time to make them again.
    """
    payload = b"".join(image.tobytes() for image in images)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=file.parent) as beside:
            part = Path(beside) / file.name
            part.write_bytes(hashlib.sha256(payload).digest() + payload)
            part.replace(file)
        kept = sorted(file.parent.glob("*.cases"), key=lambda path: path.stat().st_mtime)
        for old in kept[:-_KEPT_SETS]:
            old.unlink()
    except OSError:
        return
