"""The network that PyTorch's times are taken of is ours, and what the command counts and refuses. Needs torch."""

import importlib
from pathlib import Path

import jax
import numpy as np
import pytest

from mofme_jax.models import build

torch = pytest.importorskip("torch")

TINY = dict(
    width=32, heads=2, head_dim=8, channels=(8,), tail_channels=16, mlp_ratio=2, depth=1, blocks=1, num_experts=6
)


@pytest.fixture(autouse=True)
def small_images(benchmark, monkeypatch):
    for module in ("experts", "pytorch"):
        monkeypatch.setattr(importlib.import_module(module), "SIZE", 24)


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    return importlib.import_module("pytorch")


@pytest.mark.parametrize("form", ["loop", "dense", "top-k"])
def test_every_form_is_our_network(benchmark, form, capsys):
    model = build("base", **TINY)
    networks = benchmark.agreeing(model, benchmark.drawn(model), [form], "cpu")
    assert list(networks) == [form]
    assert all(parameter.grad is None for parameter in networks[form].parameters())
    assert f"E = 6, {form}" in capsys.readouterr().out


def test_another_network_is_refused(benchmark):
    model = build("base", **TINY)
    params = benchmark.drawn(model)
    network = benchmark.agreeing(model, params, ["dense"], "cpu")["dense"]
    gradients = benchmark.state_dict_of(params, model, "dense")
    assert max(importlib.import_module("torch_agreement").relative_differences(network, gradients))[0] == pytest.approx(
        1.0
    )  # it has none
    rows = {"ours": (None, 0.0, np.zeros(2)), "torch-dense": (None, 0.0, np.array([0.0, 1e-3]))}
    with pytest.raises(SystemExit, match="results differ"):
        benchmark.print_table(rows, 1, 1.0, exact=True)


@pytest.mark.parametrize("channels_last", [False, True])
def test_a_training_step_is_ours(benchmark, channels_last):
    model = build("base", **TINY)
    params = benchmark.drawn(model)
    network = benchmark.agreeing(model, params, ["top-k"], "cpu")["top-k"].to_format(channels_last)
    step_of_ours, _, loss_of_ours = benchmark.ours(model, params, 2, "training step")
    step, _, loss = benchmark.theirs(network, 2, "training step", compile_it=False)
    assert loss == pytest.approx(loss_of_ours, rel=1e-5)
    assert float(step()) == pytest.approx(float(step_of_ours()[0]), rel=1e-5)
    assert float(step()) != pytest.approx(float(loss), rel=1e-5)


def test_operations_are_those_of_the_dense_network_when_all_experts_are_chosen(benchmark):
    model = build("base", **TINY | dict(dispatch="dense", top_k=6))
    params, images = benchmark.drawn(model), benchmark.pixels(2)
    lowered = jax.jit(lambda params, images: model.apply(params, images)[0]).lower(params, images)
    counted = benchmark.flops(model, params, 2)
    assert counted == pytest.approx(lowered.compile().cost_analysis()["flops"], rel=0.1)
    chosen = build("base", **TINY | dict(top_k=2))
    assert benchmark.flops(chosen, params, 2) < counted


def test_machines_that_do_not_see_each_other(benchmark, monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ValueError, match="install PyTorch with CUDA"):
        benchmark.shared_device()
