"""The config at the door: what is let in, and what is said to the rest."""

import json
from dataclasses import fields, is_dataclass
from importlib import import_module
from pathlib import Path
from typing import get_type_hints

import pytest
from ml_collections import ConfigDict

from configs import default, smoke
from mofme_jax.models import Restorer
from mofme_jax.training.options import Options, build_model, read_options

CONFIGS = sorted(p.stem for p in Path(default.__file__).parent.glob("[!_]*.py"))


def names(cls):
    """{field: True, or the names in it where it is a section}."""
    hints = get_type_hints(cls)
    return {f.name: names(hints[f.name]) if is_dataclass(hints[f.name]) else True for f in fields(cls)}


def names_of_config(config):
    return {name: names_of_config(v) if isinstance(v, ConfigDict) and name not in ("overrides", "severity") else True
            for name, v in config.items()}  # fmt: skip


def test_the_default_has_every_field_and_no_other():
    assert names_of_config(default.get_config()) == names(Options)


@pytest.mark.parametrize("name", CONFIGS)
def test_every_config_is_valid(name):
    config = import_module(f"configs.{name}").get_config()
    options = read_options(config)
    assert options.train.batch == config.train.batch
    assert options.data.weathers == config.data.weathers
    assert isinstance(options.train.learning_rate, float)


def test_there_are_configs():
    assert {"default", "smoke", "allweather_mofme", "allweather_moe", "allweather_dense"} <= set(CONFIGS)


def test_the_network_is_the_variant_with_the_fields_and_sizes_of_the_config():
    config = smoke.get_config()
    config.model.overrides = ConfigDict({"channels": [4, 8], "window": None, "width": 64})
    config.model.num_experts = 6
    model = build_model(config.model)
    assert (model.channels, model.window, model.width, model.num_experts) == ((4, 8), None, 64, 6)
    assert model.heads == 2  # tiny's
    assert build_model(config.to_dict()["model"]) == model
    read_options(config)


@pytest.mark.parametrize("name", sorted(set(Restorer.__dataclass_fields__) - {"parent", "name", "dtype", "remat"}))
def test_every_field_of_the_network_can_be_set(name):
    config = smoke.get_config()
    value = {"feed_forward": "dense", "router": "linear", "norm_order": "topk_softmax", "generator": "static",
             "skip": "none", "channels": (4,), "top_k": 1, "rank": 3, "window": 4, "tail_channels": 6,
             "router_dropout": 0.2, "dropout": 0.2, "heads": 3, "stem": 1, "patch": 16,
             "dispatch": "ragged", "error_head": False}.get(name, 7)  # fmt: skip
    section = config.model if name in config.model else config.model.overrides
    section[name] = value
    assert getattr(build_model(config.model), name) == value
    read_options(config)


def changed(**changes):
    config = smoke.get_config().to_dict()
    for path, value in changes.items():
        *sections, field = path.split("__")
        section = config
        for name in sections:
            section = section[name]
        if value is None:
            del section[field]
        else:
            section[field] = value
    return ConfigDict(config)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"data__crp": 3}, "unknown field config.data.crp; config.data has photographs, "),
        ({"dta": 3}, "unknown field config.dta; config has seed, model, "),
        ({"train__batch": None}, "config.train.batch is missing; configs/default.py has every field"),
        ({"loss": None}, "config.loss is missing"),
        ({"loss": 3}, "config.loss must be a section with fields, not 3"),
        ({"data__crop": "64"}, "config.data.crop='64' must be a int"),
        ({"data__crop": 64.0}, "config.data.crop=64.0 must be a int"),
        ({"train__batch": True}, "config.train.batch=True must be a int"),
        ({"data__weathers": "haze"}, "config.data.weathers='haze' must be a tuple"),
        ({"data__weathers": (3,)}, r"config.data.weathers=\(3,\) must be one name or more"),
        ({"data__weathers": ()}, r"config.data.weathers=\(\) must be one name or more"),
        ({"data__weathers": ("fog",)}, "Unknown weather 'fog': take .*haze, rain"),
        ({"data__resize": (480,)}, r"config.data.resize=\(480,\) must be empty or \(H, W\)"),
        ({"data__resize": ("a", "b")}, "must be empty or"),
        ({"data__resize": (480, 20)}, "at least config.data.crop=32 on both sides"),
        (
            {"data__severity": {"drop_siz": (1, 2)}},
            "config.data.severity.drop_siz: the weathers haze.* have air",
        ),
        ({"data__severity": {"beta": 1.0}}, r"config.data.severity.beta=1.0 must be two numbers, \(lowest, highest\)"),
        ({"data__severity": {"beta": (1.0, float("inf"))}}, "must be two numbers"),
        ({"data__severity": {"beta": (2, 1)}}, r"config.data.severity.beta=\(2, 1\): the first is the lowest"),
        ({"data__severity": {"beta": (1, 2)}, "data__pairs": ("a",)}, "config.data.severity must be empty where"),
        ({"data__min_scale": 0.0}, r"config.data.min_scale=0.0 must be in \(0, 1\]"),
        ({"data__cache_gigabytes": float("inf")}, "config.data.cache_gigabytes=inf"),
        ({"seed": -1}, "config.seed=-1 must be at least 0"),
        ({"seed": 2**32}, "config.seed=4294967296 must be"),
        ({"train__steps": 0}, "config.train.steps=0 must be above 0 and config.train.epochs 0"),
        ({"train__epochs": 5}, "or the other way round; epochs is 5"),
        ({"train__steps": -1, "train__epochs": 5}, "config.train.steps=-1 must be at least 0"),
        ({"train__learning_rate": float("nan")}, "config.train.learning_rate=nan must be above 0"),
        ({"train__floor": 1.0}, "config.train.floor=1.0 must be at least 0, at most train.learning_rate"),
        ({"train__clip_norm": -1.0}, "config.train.clip_norm=-1.0 must be at least 0"),
        ({"train__schedule": "linear"}, "config.train.schedule='linear' is unknown; choose one of cosine, reference"),
        ({"loss__kind": "l3"}, "config.loss.kind='l3' is unknown; choose one of "),
        ({"loss__z": float("nan")}, "config.loss=.*weights of at least 0"),
        ({"loss__gradient": -0.1}, "config.loss=.*weights of at least 0"),
        ({"evaluation__tile": 8}, "config.evaluation.tile=8 must be at least 16 pixels"),
        ({"train__dtype": "float16"}, "config.train.dtype='float16' is unknown; choose one of float32, bfloat16"),
        ({"train__remat": "all"}, "config.train.remat='all' is unknown; choose one of none, blocks"),
        ({"train__accumulate": 0}, "config.train.accumulate=0 must be above 0"),
        ({"model__overrides": {"dtype": "bfloat16"}}, "config.model.overrides.dtype: set config.train.dtype"),
        ({"mesh__data": 0}, "config.mesh.data=0 must be above 0, or -1 for the rest of the devices"),
        ({"mesh__fsdp": 0}, "config.mesh.fsdp=0 must be above 0"),
        ({"mesh__expert": -1}, "config.mesh.expert=-1 must be above 0"),
        ({"mesh__expert": 3}, "config.mesh.expert=3 must divide the experts, 4 in a layer"),
        ({"mesh__expert": 2, "model__feed_forward": "dense"}, "must divide the experts, 1 in a layer"),
        ({"log_every": 0}, "config.log_every=0 must be above 0"),
        ({"model__variant": "huge"}, "variant 'huge' is unknown; choose one of tiny"),
        ({"model__top_k": 9}, "top_k=9 .* num_experts=4: set top_k between 1 and 4"),
        ({"model__overrides": {"top_k": 9}}, "top_k=9 .* num_experts=4"),
        ({"model__overrides": {"widht": 9}}, r"unknown field\(s\) widht; a Restorer has channels, "),
        ({"model__overrides": {"name": "x"}}, r"unknown field\(s\) name"),
        ({"model__overrides": {"width": "wide"}}, "config.model.overrides.width='wide' must be a int"),
        ({"model__overrides": {"width": 0}}, "config.model.overrides.width=0 must be at least 1"),
        ({"model__overrides": {"channels": (8, -1)}}, "config.model.overrides.channels=.* must be at least 1"),
        ({"model__overrides": {"patch": 3}}, "patch=3 pixels must be a multiple"),
    ],
)
def test_a_config_that_will_not_do_is_answered_in_one_line(changes, message):
    with pytest.raises(ValueError, match=message) as raised:
        read_options(changed(**changes))
    assert "\n" not in str(raised.value)


def test_only_a_config_dict_is_read():
    with pytest.raises(ValueError, match="the config must be a ConfigDict, not dict"):
        read_options(smoke.get_config().to_dict())


def test_whole_numbers_may_stand_for_floats():
    assert read_options(changed(loss__gradient=1)).loss.gradient == 1.0


def test_a_config_from_before_a_field_was_added_is_read_as_what_it_was():
    config = smoke.get_config().to_dict()
    del config["model"]["router_temperature"], config["model"]["error_head"], config["data"]["severity"]
    read = read_options(ConfigDict(config))
    assert (read.model.router_temperature, read.model.error_head, read.data.severity) == (1.0, False, {})


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("train.learning_rate", 10**400, "config.train.learning_rate is a number too large"),
        ("data.severity", {"noise": [0, 10**400]}, "must be two numbers"),
    ],
)
def test_numbers_that_no_float_holds_are_said(make_config, name, value, message):
    plain = json.loads(make_config().to_json_best_effort())
    section, field = name.split(".")
    plain[section][field] = value
    with pytest.raises(ValueError, match=message):
        read_options(ConfigDict(plain))
