"""The config, checked once at the door and turned into typed values. Below this file nothing sees a ConfigDict."""

import json
import math
import sys
from collections.abc import Mapping
from dataclasses import MISSING, Field, asdict, dataclass, field, fields, is_dataclass
from typing import Any, Literal, get_args, get_origin, get_type_hints

from ml_collections import ConfigDict

from mofme_jax.data.weather import parse_weather, severity_ranges
from mofme_jax.models.restorer import Restorer
from mofme_jax.models.variants import build


@dataclass(frozen=True)
class ModelOptions:
    """Section `model`."""

    variant: str
    overrides: dict
    feed_forward: str
    num_experts: int
    top_k: int
    router: str
    norm_order: str
    router_dropout: float
    router_passes: int
    generator: str
    rank: int
    dispatch: str
    dropout: float
    # later than the first runs, whose config.json lacks them: what those were made with
    router_temperature: float = 1.0
    error_head: bool = False


@dataclass(frozen=True)
class DataOptions:
    """Section `data`; the meaning of every field of every section is said in configs/default.py."""

    photographs: tuple
    pairs: tuple
    weights: tuple
    tfds: str
    validation: str
    resize: tuple
    crop: int
    min_scale: float
    weathers: tuple
    clean_share: float
    colour_share: float
    sky_share: float
    cache_gigabytes: float
    workers: int
    severity: dict = field(default_factory=dict)


@dataclass(frozen=True)
class TrainOptions:
    """Section `train`."""

    steps: int
    epochs: int
    batch: int
    schedule: Literal["cosine", "reference"]
    learning_rate: float
    warmup: int
    floor: float
    weight_decay: float
    b2: float
    clip_norm: float
    ema_decay: float
    max_bad_steps: int
    host_devices: int
    dtype: Literal["float32", "bfloat16"]
    remat: Literal["none", "blocks"]
    accumulate: int
    weights: str = ""


@dataclass(frozen=True)
class LossOptions:
    """Section `loss`."""

    kind: Literal["rmse", "charbonnier", "smooth_l1"]
    gradient: float
    perceptual: float
    importance: float
    load: float
    z: float


@dataclass(frozen=True)
class EvaluationOptions:
    """Section `evaluation`."""

    repeats: int
    max_side: int
    tile: int


@dataclass(frozen=True)
class MeshOptions:
    """Section `mesh`."""

    data: int
    fsdp: int
    expert: int


@dataclass(frozen=True)
class Options:
    """A whole config."""

    seed: int
    model: ModelOptions
    data: DataOptions
    train: TrainOptions
    mesh: MeshOptions
    loss: LossOptions
    evaluation: EvaluationOptions
    log_every: int
    checkpoint_every: int
    keep_checkpoints: int
    validate_every: int = 0


def read_options(config: ConfigDict) -> Options:
    """Checks a config and gives it types.

    Raises:
      ValueError: naming each field that is unknown, missing, of another type, or out of its range.
    """
    try:
        plain = json.loads(config.to_json_best_effort())
    except AttributeError:
        raise ValueError(f"the config must be a ConfigDict, not {type(config).__name__}") from None
    options = _read(Options, plain, "config")
    _check(options)
    return options


def with_later_fields(plain: dict[str, Any]) -> dict[str, Any]:
    """A config of plain values, perhaps from before some fields were added: with those, as it was made with them."""
    filled = {f.name: _default(f) for f in fields(Options) if _default(f) is not MISSING} | plain
    for name, section in get_type_hints(Options).items():
        if is_dataclass(section) and isinstance(values := plain.get(name), dict):
            filled[name] = {f.name: _default(f) for f in fields(section) if _default(f) is not MISSING} | values
    return filled


def _default(of: Field) -> Any:
    """A field's default; MISSING where it has none."""
    return of.default if of.default_factory is MISSING else of.default_factory()


def _read(cls: type, values: Any, where: str) -> Any:
    if not isinstance(values, dict):
        raise ValueError(f"{where} must be a section with fields, not {values!r}")
    types = get_type_hints(cls)
    if unknown := sorted(set(values) - set(types)):
        raise ValueError(f"unknown field {where}.{unknown[0]}; {where} has {', '.join(types)}")
    if missing := [f.name for f in fields(cls) if f.name not in values and _default(f) is MISSING]:
        raise ValueError(f"{where}.{missing[0]} is missing; configs/default.py has every field")
    return cls(**{name: _value(types[name], value, f"{where}.{name}") for name, value in values.items()})


def _value(kind: Any, value: Any, where: str) -> Any:
    if hasattr(kind, "__dataclass_fields__"):
        return _read(kind, value, where)
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            raise ValueError(f"{where}={value!r} is unknown; choose one of {', '.join(get_args(kind))}")
        return value
    if kind is tuple and isinstance(value, list):
        return tuple(value)
    if kind is dict and isinstance(value, dict):
        return {name: tuple(v) if isinstance(v, list) else v for name, v in value.items()}
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        if abs(value) > sys.float_info.max:
            raise ValueError(f"{where} is a number too large to be used")
        return float(value)
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise ValueError(f"{where}={value!r} must be a {kind.__name__}")
    return value


def _check(options: Options) -> None:
    data, train, loss, evaluation = options.data, options.train, options.loss, options.evaluation
    weights = (loss.gradient, loss.perceptual, loss.importance, loss.load, loss.z)
    for name, good, remedy in [
        ("seed", 0 <= options.seed < 2**32, "at least 0 and below 2^32"),
        ("data.crop", data.crop >= 16, "at least 16 pixels"),
        ("data.min_scale", 0 < data.min_scale <= 1, "in (0, 1]"),
        ("data.weathers", data.weathers and all(isinstance(w, str) for w in data.weathers), "one name or more"),
        ("data.clean_share", 0 <= data.clean_share <= 1, "in [0, 1]"),
        ("data.colour_share", 0 <= data.colour_share <= 1, "in [0, 1]"),
        ("data.sky_share", 0 <= data.sky_share <= 1, "in [0, 1]"),
        ("data.resize", _is_size(data.resize), "empty or (H, W), in pixels"),
        (
            "data.resize",
            not _is_size(data.resize) or min(data.resize, default=data.crop) >= data.crop,
            f"at least config.data.crop={data.crop} on both sides",
        ),
        ("data.photographs", _are_folders(data.photographs), "folders, each named once"),
        ("data.pairs", _are_folders(data.pairs), "folders, each named once"),
        ("data.pairs", not (data.pairs and data.photographs), "empty where config.data.photographs are given"),
        (
            "data.photographs",
            not (data.tfds and len(data.photographs) > 1),
            "one folder, or none, where config.data.tfds names a set",
        ),
        (
            "data.tfds",
            not data.tfds or bool(data.pairs or data.photographs),
            "empty, or beside config.data.pairs or config.data.photographs, of which it keeps a copy",
        ),
        (
            "data.weights",
            not data.weights
            or (len(data.weights) == len(data.pairs or data.photographs) and all(_is_weight(w) for w in data.weights)),
            "empty, or a number above 0 for each folder to train on",
        ),
        ("data.workers", 0 <= data.workers <= 256, "from 0 to 256"),
        ("data.cache_gigabytes", 0 <= data.cache_gigabytes < math.inf, "at least 0"),
        ("train.steps", train.steps >= 0, "at least 0"),
        ("train.epochs", train.epochs >= 0, "at least 0"),
        (
            "train.steps",
            (train.steps > 0) != (train.epochs > 0),
            f"above 0 and config.train.epochs 0, or the other way round; epochs is {train.epochs}",
        ),
        ("train.batch", train.batch > 0, "above 0"),
        ("train.learning_rate", 0 < train.learning_rate < math.inf, "above 0"),
        ("train.floor", 0 <= train.floor <= train.learning_rate, "at least 0, at most train.learning_rate"),
        ("train.warmup", train.warmup >= 0, "at least 0"),
        ("train.weight_decay", 0 <= train.weight_decay < math.inf, "at least 0"),
        ("train.b2", 0 < train.b2 < 1, "in (0, 1)"),
        ("train.clip_norm", 0 <= train.clip_norm < math.inf, "at least 0; 0 does not clip"),
        ("train.ema_decay", 0 <= train.ema_decay < 1, "in [0, 1)"),
        ("train.max_bad_steps", train.max_bad_steps > 0, "above 0"),
        ("train.host_devices", train.host_devices > 0, "above 0"),
        ("train.accumulate", train.accumulate > 0, "above 0"),
        ("mesh.data", options.mesh.data > 0 or options.mesh.data == -1, "above 0, or -1 for the rest of the devices"),
        ("mesh.fsdp", options.mesh.fsdp > 0, "above 0"),
        ("mesh.expert", options.mesh.expert > 0, "above 0"),
        ("loss", all(0 <= weight < math.inf for weight in weights), "a kind and weights of at least 0"),
        ("log_every", options.log_every > 0, "above 0"),
        ("checkpoint_every", options.checkpoint_every > 0, "above 0"),
        ("keep_checkpoints", options.keep_checkpoints > 0, "above 0"),
        ("validate_every", options.validate_every >= 0, "at least 0"),
        ("evaluation.repeats", evaluation.repeats > 0, "above 0"),
        ("evaluation.max_side", evaluation.max_side >= 16, "at least 16 pixels"),
        ("evaluation.tile", evaluation.tile >= 16, "at least 16 pixels"),
    ]:
        if not good:
            section, _, field = name.partition(".")
            value = getattr(getattr(options, section), field) if field else getattr(options, section)
            raise ValueError(f"config.{name}={value!r} must be {remedy}")
    for weather in data.weathers:
        parse_weather(weather)
    _check_severity(data)
    for name, value in options.model.overrides.items():
        _check_size(name, value)
    model = build_model(asdict(options.model))
    stacked = 1 if model.feed_forward == "dense" else model.num_experts
    if stacked % options.mesh.expert:
        raise ValueError(f"config.mesh.expert={options.mesh.expert} must divide the experts, {stacked} in a layer")


def _check_severity(data: DataOptions) -> None:
    """Raises ValueError for bounds of a severity that no weather of the run has, or that are none."""
    if data.severity and data.pairs:
        raise ValueError("config.data.severity must be empty where config.data.pairs are given: their weather is there")
    known = {name for weather in data.weathers for name in severity_ranges(weather)}
    for name, bounds in data.severity.items():
        where = f"config.data.severity.{name}"
        if name not in known:
            raise ValueError(f"{where}: the weathers {', '.join(data.weathers)} have {', '.join(sorted(known))}")
        if not (isinstance(bounds, tuple) and len(bounds) == 2 and all(_is_number(bound) for bound in bounds)):
            raise ValueError(f"{where}={bounds!r} must be two numbers, (lowest, highest)")
        if bounds[0] > bounds[1]:
            raise ValueError(f"{where}={bounds!r}: the first is the lowest, and must not be above the second")


def _check_size(name: str, value: Any) -> None:
    """Raises ValueError for a field of config.model.overrides of another type than the Restorer's, or below 1."""
    if name in ("dtype", "remat"):
        raise ValueError(f"config.model.overrides.{name}: set config.train.{name}, it is no part of the network")
    field = Restorer.__dataclass_fields__.get(name)
    if field is None or name in ("parent", "name") or (name == "window" and value is None):
        return  # `build` knows what to say to an unknown field
    kind = int if name == "window" else type(field.default)
    value = _value(kind, value, f"config.model.overrides.{name}")
    least = 0 if name in ("blocks", "depth") else 1
    if any(isinstance(v, int) and v < least for v in (value if isinstance(value, tuple) else (value,))):
        raise ValueError(f"config.model.overrides.{name}={value!r} must be at least {least}")


def _are_folders(value: tuple) -> bool:
    return all(isinstance(folder, str) and folder for folder in value) and len(set(value)) == len(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max


def _is_weight(value: Any) -> bool:
    return _is_number(value) and value > 0


def _is_size(value: tuple) -> bool:
    return not value or (len(value) == 2 and all(isinstance(side, int) and side > 0 for side in value))


def build_model(section: Mapping[str, Any]) -> Restorer:
    """The restorer that the `model` section of a config, plain or ConfigDict, describes."""
    fields_of_model = {name: value for name, value in section.items() if name not in ("variant", "overrides")}
    sizes = {name: tuple(v) if isinstance(v, list) else v for name, v in section["overrides"].items()}
    return build(section["variant"], **fields_of_model | sizes)
