"""Weights in one file: parameters, the network that they belong to, and what its doubt is worth.

A safetensors file: a header of JSON, then arrays, nothing of which is executed. An array has the name of its place in
the tree of parameters, with "/" between the names. The header's metadata has one entry, `mofme_jax`, of JSON: `format`,
`steps`, `model` (that section of the config) and `calibrations`. Files may come from strangers: everything is checked
against the header, and the header against bounds, before memory is taken for it.
"""

import json
import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from mofme_jax.evaluation.calibration import Calibration, calibration_from
from mofme_jax.files import write_whole
from mofme_jax.models.restorer import Restorer
from mofme_jax.models.variants import build

SUFFIX = ".safetensors"
"""How such files end."""

FORMAT = 1
"""Version of the metadata that is written, and the only one that is read."""

_ENTRY = "mofme_jax"
_MOST_HEADER = 2**20  # bytes; of ours, 30 thousand
_MOST_PARAMETERS = 2**30  # 4 GiB in float32
# what costs time or memory, but few parameters
_MOST = {"depth": 64, "blocks": 64, "window": 64, "patch": 256, "router_passes": 256}
_MOST_SIZE, _MOST_LEVELS = 2**16, 8  # of any other field, of channels


@dataclass(frozen=True)
class Facts:
    """What a file says of its weights.

    Attributes:
      section: section `model` of the config that they were trained with.
      steps: of training.
      calibrations: of their uncertainty, see `mofme_jax.restoring.doubt`.
    """

    section: dict[str, Any]
    steps: int
    calibrations: dict[str, Calibration]


def save_weights(
    path: str | Path,
    section: Mapping[str, Any],
    params: Mapping[str, Any],
    *,
    steps: int,
    calibrations: Mapping[str, Calibration],
    dtype: Literal["float16", "float32"] = "float16",
) -> None:
    """Writes a file, whole or not at all, over one that is there.

    Args:
      path: of the file. section, steps, calibrations: see `Facts`.
      params: the parameters of the network that the section describes, nested by module, float32.
      dtype: what the file keeps them in.

    Raises:
      ValueError: parameters that are not finite, or too large for the type.
    """
    with np.errstate(over="ignore"):
        arrays = {name: np.asarray(array).astype(dtype) for name, array in flatten_dict(params, sep="/").items()}
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{name} has values that {dtype} cannot hold: they are not finite, or too large")
    plain = {name: asdict(calibration) for name, calibration in calibrations.items()}
    facts = {"format": FORMAT, "steps": steps, "model": dict(section), "calibrations": plain}
    write_whole(Path(path), save(arrays, {_ENTRY: json.dumps(facts, allow_nan=False)}))


def load_weights(path: str | Path) -> tuple[Restorer, dict[str, Any]]:
    """Reads the network and its parameters, float32 on the default device.

    Raises:
      ValueError: the file is damaged, of another kind or version, or its parameters are not those of the network that
        it describes; names the file and what is wrong.
      OSError: it cannot be read.
    """
    with _opened(path) as file:
        model = network_of(_facts(file).section)
        found = {name: file.get_slice(name) for name in file.keys()}  # noqa: SIM118, it is no mapping
        for name, part in found.items():
            if part.get_dtype() not in ("F16", "F32"):
                raise ValueError(f"{name!r:.80} is of type {part.get_dtype()}: float16 and float32 are read")
        check_shapes({name: tuple(part.get_shape()) for name, part in found.items()}, model)
        arrays = {name: file.get_tensor(name).astype(np.float32) for name in found}
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise ValueError(f"{name} has values that are not finite")
    return model, jax.tree.map(jnp.asarray, unflatten_dict(arrays, sep="/"))


def read_facts(path: str | Path) -> Facts:
    """What the file says of its weights, without reading them; raises as `load_weights`."""
    with _opened(path) as file:
        return _facts(file)


@contextmanager
def _opened(path: str | Path) -> Iterator[Any]:
    """The file, once its length and its header agree; what is wrong with it there or inside the block names it."""
    try:
        _check_length(Path(path))
        with safe_open(path, framework="numpy") as file:
            yield file
    except (ValueError, SafetensorError) as error:
        said = "".join(c if c.isprintable() else " " for c in str(error))  # it may repeat names of the file
        raise ValueError(f"{path} is damaged or no file of weights: {said}") from None


def _check_length(path: Path) -> None:
    """Raises ValueError where the header cannot be as long as the first eight bytes say."""
    size = path.stat().st_size
    if size < 8:
        raise ValueError(f"it has {size} bytes")
    with path.open("rb") as file:
        header = int.from_bytes(file.read(8), "little")
    if header > min(size - 8, _MOST_HEADER):
        raise ValueError(f"a header of {header} bytes, in a file of {size}; at most {_MOST_HEADER} are taken")


def _facts(file: Any) -> Facts:
    try:
        read = json.loads((file.metadata() or {})[_ENTRY], parse_constant=_no_constant)
    except KeyError:
        raise ValueError(f"its metadata has no entry {_ENTRY}: `mofme export` writes it") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"its metadata is no JSON: {error}") from None
    if not isinstance(read, dict) or read.get("format") != FORMAT:
        version = read.get("format") if isinstance(read, dict) else None
        raise ValueError(f"its metadata is of format {version!r:.40}, and this release reads {FORMAT}")
    section, steps, calibrations = read.get("model"), read.get("steps", -1), read.get("calibrations")
    if not isinstance(section, dict) or not isinstance(calibrations, dict) or not _is_count(steps):
        raise ValueError("its metadata lacks model, steps or calibrations")
    head = network_of(section).error_head
    try:
        found = {name: _read_calibration(name, fields, head) for name, fields in calibrations.items()}
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"its calibrations cannot be read: {error!r:.200}") from None
    return Facts(section, steps, found)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is no number")


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _read_calibration(name: str, fields: dict[str, Any], head: bool) -> Calibration:
    """A calibration with nothing in it that would be found out only where it is used; head: the network has one."""
    read = calibration_from(fields)
    numbers = [read.high, read.within, read.pooled, read.gap, read.typical, *read.alone.values()]
    if read.sparsification is not None:
        numbers.append(read.sparsification)
    counts = [read.images, read.photographs, read.step, read.passes]
    if not all(isinstance(n, float | int) and math.isfinite(n) for n in numbers) or not all(map(_is_count, counts)):
        raise ValueError(f"{name}: a figure that is none")
    kinds = {"routing": {"change", "routing"}, "passes": {"change", "routing", "spread"}}[name]
    kinds |= {"error"} if head else set()
    if not set() < set(read.curve.weights) <= kinds or (read.passes > 0) != (name == "passes"):
        raise ValueError(f"{name}: made of {', '.join(read.curve.weights) or 'nothing'}, with {read.passes} passes")
    return read


def network_of(section: Mapping[str, Any]) -> Restorer:
    """The network of a `model` section that may come from a stranger, as `build_model` of the training's options.

    Raises:
      ValueError: a field is none, of another type, or so large that it would cost much time or memory.
    """
    variant, overrides = section.get("variant"), section.get("overrides")
    if not isinstance(variant, str) or not isinstance(overrides, dict):
        raise ValueError("its network has no variant or no overrides")
    fields = {name: value for name, value in section.items() if name not in ("variant", "overrides")} | overrides
    fields = {name: tuple(value) if isinstance(value, list) else value for name, value in fields.items()}
    for name, value in fields.items():
        _check_field(name, value)
    return build(variant, **fields)


def _check_field(name: str, value: Any) -> None:
    field = Restorer.__dataclass_fields__.get(name)
    if field is None or name in ("parent", "name", "dtype", "remat"):
        raise ValueError(f"its network sets {name!r:.40}, which is no part of one")
    kind = type(field.default)
    if name == "window":
        good = value is None or _is_size(value, 1, _MOST[name])
    elif kind is tuple:
        good = (
            isinstance(value, tuple) and len(value) <= _MOST_LEVELS and all(_is_size(v, 1, _MOST_SIZE) for v in value)
        )
    elif kind is bool:
        good = isinstance(value, bool)
    elif kind is int:
        good = _is_size(value, 0 if name in ("blocks", "depth") else 1, _MOST.get(name, _MOST_SIZE))
    else:
        good = isinstance(value, str if kind is str else int | float) and not isinstance(value, bool)
        good = good and (kind is str or abs(value) <= _MOST_SIZE)  # a whole number may be past all floats
    if not good:
        raise ValueError(f"its network has {name}={value!r:.40}, of another type or too small or large")


def _is_size(value: Any, least: int, most: int) -> bool:
    return _is_count(value) and least <= value <= most


def check_shapes(found: Mapping[str, tuple[int, ...]], model: Restorer) -> None:
    """Raises ValueError where the shapes of arrays, by name with "/", are not those of the network's parameters."""
    if sum(math.prod(shape) for shape in found.values()) > _MOST_PARAMETERS:
        raise ValueError(f"more than {_MOST_PARAMETERS} parameters")
    if model.depth + 2 * model.blocks * len(model.channels) > len(found):  # before they are traced one by one
        raise ValueError(f"its network has more layers than the file has arrays, {len(found)}")
    images = jax.ShapeDtypeStruct((1, model.patch, model.patch, 3), jnp.float32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    wanted = {name: like.shape for name, like in flatten_dict(shapes, sep="/").items()}
    if differing := sorted(wanted.keys() ^ found.keys()):
        name = differing[0]
        raise ValueError(f"the network has no parameters {name!r:.80}" if name in found else f"{name} is missing")
    for name, shape in wanted.items():
        if found[name] != shape:
            raise ValueError(f"{name} has the shape {found[name]}, and the network's is {shape}")
