"""The plan: XLA's figures of the step that the loop runs, the roofline by hand, the largest batch, the errors."""

import importlib.util
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import jax
import pytest

from mofme_jax.cli import main
from mofme_jax.training import plan as planning
from mofme_jax.training.build import abstract_arguments, build_optimiser, build_schedule, build_step, make_image_loss
from mofme_jax.training.chips import CHIPS, parse_topology
from mofme_jax.training.collectives import Collective
from mofme_jax.training.options import build_model, read_options
from mofme_jax.training.sharding import make_mesh
from tests.conftest import small_config

ROOT = Path(__file__).parents[2]
PAIRS = {"data.pairs": ("/no/such/folder",)}
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="needs the extra tpu")


@pytest.fixture(scope="module")
def planned() -> planning.Plan:
    """The plan of the tests' smallest config, for pairs that nobody has, on one device of this machine."""
    return planning.plan_step(small_config(**PAIRS))


def test_figures_are_those_of_xla(planned):
    options = read_options(small_config(**PAIRS))
    model = build_model(small_config().model)
    optimiser, mesh = build_optimiser(options, build_schedule(options, images=2)[1]), make_mesh(1)
    step = build_step(options, model, optimiser, make_image_loss(options), paired=True, mesh=mesh)
    state, images = abstract_arguments(options, model, optimiser, paired=True, mesh=mesh)
    compiled = step.lower(state, images).compile()
    xla, memory = compiled.memory_analysis(), planned.memory
    assert memory.arguments == xla.argument_size_in_bytes
    assert memory.aliased == xla.alias_size_in_bytes > memory.parameters + memory.ema + memory.optimizer
    assert memory.outputs == xla.output_size_in_bytes
    assert memory.temporaries == xla.temp_size_in_bytes > 0
    assert planned.flops == compiled.cost_analysis()["flops"] > 0
    assert planned.bytes_accessed == compiled.cost_analysis()["bytes accessed"] > 0
    assert memory.total == memory.arguments + memory.outputs - memory.aliased + memory.temporaries + memory.program
    parameters = sum(leaf.size for leaf in jax.tree.leaves(state.params))
    assert (memory.parameters, memory.ema, memory.images) == (4 * parameters, 4 * parameters, 2 * 16 * 16 * 6)
    assert memory.optimizer == pytest.approx(8 * parameters, abs=64)
    assert memory.arguments == pytest.approx(16 * parameters + memory.images, abs=256)


def test_one_device_sends_nothing_and_has_no_published_rate(planned):
    assert (planned.target, planned.devices, planned.batch) == ("local", 1, 2)
    assert planned.collectives == []
    assert planned.roofline is None
    assert planned.fits
    assert planned.largest_batch.per_device > 1000


def test_the_report_and_the_json_say_the_same(planned):
    found = json.loads(json.dumps(planned.to_json()))
    assert set(found) == {
        "target", "device_kind", "devices", "batch", "micro_batches", "compile_seconds", "compile_cpu_seconds",
        "memory", "flops", "bytes_accessed", "collectives", "roofline", "largest_batch", "fits", "versions",
    }  # fmt: skip
    assert found["memory"]["total"] == planned.memory.total
    report = planned.report()
    assert f"{planned.flops / 1e9:.4g} GFLOP" in report
    assert f"{planned.memory.temporaries / 2**10:.2f} KiB" in report
    assert f"largest batch: {planned.largest_batch.per_device} a device" in report


def test_too_little_memory_is_said(planned):
    small = replace(planned, memory=replace(planned.memory, capacity=planned.memory.total - 1))
    assert not small.fits
    assert "DOES NOT FIT" in small.report()
    assert "DOES NOT FIT" not in planned.report()


def test_the_roofline_is_the_longest_of_three(planned):
    chip = CHIPS["v5e"]
    plan = replace(planned, devices=4, batch=8, flops=197e12, bytes_accessed=819e8, collectives=[])
    rates = planning.roofline(plan, chip)
    assert (rates.compute, rates.memory, rates.network) == (1.0, 0.1, 0.0)
    assert (rates.bound, rates.images_per_second) == ("compute", 8.0)
    rates = planning.roofline(replace(plan, collectives=[Collective("all-reduce", 1, 10**12, 8e11)]), chip)
    assert (rates.bound, rates.seconds) == ("network", 4.0)


def test_of_micro_batches_no_roofline_is_drawn(planned):
    plan = replace(planned, batch=8, micro_batches=4)
    assert "plan one alone, with config.train.batch=2 and config.train.accumulate=1" in plan.report()
    assert "work of a device and micro-batch" in plan.report()


def test_the_largest_batch_is_whole_micro_batches(planned, make_config, monkeypatch):
    monkeypatch.setattr(planning, "_compile", lambda *_: replace(_of(planned, 12, 4000), devices=1))
    monkeypatch.setattr(planning, "device_memory", lambda device: 11_000)
    found = planning.plan_step(make_config(**{"train.batch": 12, "train.accumulate": 4})).largest_batch
    assert found.per_device == 28  # 333 an image: 30 would fit


def _of(planned, batch, temporaries, images=0, fixed=1000, capacity=11_000):
    memory = replace(
        planned.memory, temporaries=temporaries, images=images, total=fixed + images + temporaries, capacity=capacity
    )
    return replace(planned, devices=2, batch=batch, memory=memory)


def test_the_largest_batch(planned):
    one, two = _of(planned, 8, 2000), _of(planned, 16, 3000)
    found = planning.fit_batch([one], 4)  # 500 an image: 20 fit in 10000
    assert (found.per_device, found.total, found.method) == (20, 40, "proportional")
    found = planning.fit_batch([one, two], 4)  # 250 an image over 2000: 36 fit
    assert (found.per_device, found.total, found.method) == (36, 72, "line")
    assert planning.fit_batch([_of(planned, 8, 2000, capacity=11_999)], 4).per_device == 20
    assert planning.fit_batch([_of(planned, 8, 2000, capacity=900)], 4).per_device == 0


def test_the_largest_batch_is_verified(planned, make_config, monkeypatch):
    """With a compiler of our own, which needs more memory than the line says and refuses what does not fit."""
    asked = []

    def compile_plan(options, mesh, target, chip, capacity):
        asked.append(options.train.batch)
        memory = 1000 + 250 * options.train.batch
        if options.train.batch > 36:
            raise planning.DoesNotFit("too large")
        return replace(_of(planned, options.train.batch, memory - 1000), devices=1)

    monkeypatch.setattr(planning, "_compile", compile_plan)
    monkeypatch.setattr(planning, "device_memory", lambda device: 11_000)
    found = planning.plan_step(make_config(**{"train.batch": 4}), find_largest=True).largest_batch
    assert asked == [4, 8, 40, 38, 37, 36]
    assert (found.per_device, found.verified, found.method) == (36, True, "line")


def test_the_perceptual_loss_needs_no_weights(make_config):
    from mofme_jax.models import vgg

    images = jax.ShapeDtypeStruct((1, 16, 16, 3), "float32")
    loss = make_image_loss(read_options(make_config(**{"loss.perceptual": 0.04})), vgg.stand_in())
    assert jax.eval_shape(loss, images, images).shape == (1,)


@pytest.mark.parametrize("name", ["v5e", "v5e:", "v9:2x2", "v5e:2x2x2", "v4:2x2", "v5e:0x4", "v5e:axb", "local"])
def test_unknown_topologies(name):
    with pytest.raises(ValueError, match="is unknown; there are, for example, v5e:1x1"):
        parse_topology(name)
    with pytest.raises(ValueError, match="v5e:16x32' has 512 chips; the largest v5e has 256"):
        parse_topology("v5e:16x32")
    assert parse_topology("v5p:4x4x8") == (CHIPS["v5p"], (4, 4, 8))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--topology=v9:2x2"], "v9:2x2"),
        (["--config.train.batch=7"], "config.train.batch=7 must be a multiple of 4"),
        (["--config.data.colour=1"], "unknown field config.data.colour"),
        (["--config=nowhere.py"], "nowhere.py"),
    ],
)
def test_what_cannot_be_planned_is_said_in_a_line_with_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(["plan", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error


def test_without_the_compiler_it_says_which_extra(capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["plan", "--topology=v5e:2x2"]) == 2
    assert "pip install 'jax[tpu]'" in capsys.readouterr().err


def test_the_command_prints_json_and_nothing_else(planned, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    monkeypatch.setattr("mofme_jax.training.plan.plan_step", lambda *_, **__: planned)
    assert main(["plan", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["devices"] == 1
    too_large = replace(planned, memory=replace(planned.memory, capacity=1))
    monkeypatch.setattr("mofme_jax.training.plan.plan_step", lambda *_, **__: too_large)
    assert main(["plan"]) == 1


@needs_libtpu
def test_a_slice_of_tpus(small_flags):
    command = [
        sys.executable,
        "-m",
        "mofme_jax",
        "plan",
        *small_flags,
        "--config.data.pairs=/none",
        "--topology=v5e:2x2",
    ]
    done = subprocess.run(
        [*command, "--config.train.batch=8", "--json"], check=True, capture_output=True, text=True, cwd=ROOT
    )
    plan = json.loads(done.stdout)
    assert (plan["devices"], plan["device_kind"], plan["fits"]) == (4, "TPU v5 lite", True)
    assert plan["collectives"][0]["kind"] == "all-reduce"
    assert plan["collectives"][0]["bytes"] >= plan["memory"]["parameters"]
    assert plan["roofline"]["seconds"] > 0
    done = subprocess.run([*command, "--config.train.batch=6"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert "cannot be split over the 4 chips of v5e:2x2: make it a multiple of 4" in done.stderr
