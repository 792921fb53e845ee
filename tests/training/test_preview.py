"""The contact sheet shows the very examples that a run learns from."""

import jax
import numpy as np
import optax
import pytest

from mofme_jax.data.pipeline import training_stream
from mofme_jax.training import preview as module
from mofme_jax.training.options import read_options
from mofme_jax.training.preview import preview
from mofme_jax.training.sources import open_sources
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.step import make_train_step
from tests.fakes import Gain
from tests.trees import make_tree


@pytest.fixture
def shown(monkeypatch):
    """What `preview` draws: [(degraded, target)], captions."""
    sheets = []
    monkeypatch.setattr(module, "pair_sheet", lambda pairs, captions, path: sheets.append((pairs, captions)))
    return sheets


def test_it_shows_what_the_steps_of_a_run_see(make_config, shown, tmp_path):
    changes = {"data.weathers": ("haze", "rain"), "data.clean_share": 0.4, "data.sky_share": 0.5, "seed": 3}
    config = make_config(**changes)
    captions = preview(config, tmp_path / "x.png", step=2, count=4)
    pairs = shown[0][0]

    options = read_options(config)
    stream = training_stream(open_sources(options).training, batch=2, crop=16, min_scale=0.35, seed=3)
    optimiser = make_optimiser(optax.constant_schedule(0.0), weight_decay=0.0, b2=0.9, clip_norm=None)
    seen = []

    def loss(restored, target):
        jax.debug.callback(lambda r, t: seen.append((r, t)), restored, target)
        return ((restored - target) ** 2).mean(axis=(1, 2, 3))

    model = Gain()  # restored = input times one number, 1 at first
    step = make_train_step(
        model, optimiser, loss, weathers=options.data.weathers, clean_share=0.4, severity={},
        colour_share=0.0, sky_share=0.5, decay=0.9, router_weights=dict(importance=0.0, load=0.0, z=0.0),
    )  # fmt: skip
    state = init_state(model, optimiser, jax.random.key(3), 16)
    gain = float(jax.tree.leaves(state.params)[0])
    for _ in range(4):
        state, _ = jax.jit(step)(state, next(stream))
    jax.effects_barrier()
    stream.close()
    restored = np.concatenate([r for r, _ in seen[2:]])
    target = np.concatenate([t for _, t in seen[2:]])
    np.testing.assert_allclose([degraded for degraded, _ in pairs], restored / gain, atol=1.01 / 255)
    np.testing.assert_allclose([clean for _, clean in pairs], target, atol=1e-6)
    for (degraded, clean), caption in zip(pairs, captions, strict=True):
        assert (caption == "left clean") == np.array_equal(degraded, clean)


def test_captions_tell_weather_and_severity(make_config, shown, tmp_path):
    config = make_config(**{"data.weathers": ("rain", "raindrop"), "data.clean_share": 0.0, "train.batch": 4})
    captions = preview(config, tmp_path / "x.png", count=4)
    assert [caption.split(":")[0] for caption in captions] == ["rain", "raindrop", "rain", "raindrop"]
    assert all(name in captions[0] for name in ("beta", "density", "length", "angle", "strength"))
    assert captions[0] != captions[2]


def test_pairs_are_shown_with_their_names(make_config, shown, tmp_path):
    make_tree("all_weather", tmp_path / "set")
    config = make_config(**{"data.pairs": (str(tmp_path / "set"),)})
    captions = preview(config, tmp_path / "x.png", step=1, count=6)
    sources = open_sources(read_options(config)).training
    by_name = {example["input_name"]: example for example in sources[0].source}
    for (degraded, target), caption in zip(shown[0][0], captions, strict=True):
        weather, name = caption.split(": ")
        assert by_name[name]["weather"] == weather
        # a crop, shrunk by less than half: its mean colour is near that of some place of the picture it names
        for image, whole in ((degraded, by_name[name]["input"]), (target, by_name[name]["target"])):
            low, high = whole.min(axis=(0, 1)), whole.max(axis=(0, 1))
            mean = 255 * image.mean(axis=(0, 1))
            assert ((low <= mean) & (mean <= high)).all()
    assert len(set(captions)) > 1


@pytest.mark.parametrize("wrong", [dict(step=-1), dict(count=0)])
def test_what_cannot_be_shown_is_an_error(wrong, make_config, tmp_path):
    with pytest.raises(ValueError, match="must be at least"):
        preview(make_config(), tmp_path / "x.png", **wrong)
