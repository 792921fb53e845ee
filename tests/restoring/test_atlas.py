"""The atlas of experts: its figures by hand, and the page of a network whose experts are known."""

import json
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from PIL import Image

from configs import smoke
from mofme_jax.cli import main
from mofme_jax.commands.atlas import _of_the_run
from mofme_jax.evaluation.cases import Case
from mofme_jax.models import build
from mofme_jax.models.router import Routing, entropy, select
from mofme_jax.restoring import atlas
from mofme_jax.restoring.atlas import look, write_atlas
from mofme_jax.restoring.atlas_drawing import enlarged, palette
from mofme_jax.restoring.atlas_figures import View, by_weather, weather_information

DARK, LIGHT = 64, 192


class Known(nn.Module):
    """Expert 0 takes dark tokens and leaves them, 1 takes light ones and adds a sixteenth, 2 takes none."""

    depth: int = 1
    num_experts: int = 3
    top_k: int = 1
    patch: int = 4
    width: int = 3
    feed_forward: str = "mofme"
    router: str = "deterministic"
    norm_order: str = "topk_softmax"

    @nn.compact
    def __call__(self, images, train=False, kept=None):
        b, h, w, _ = images.shape
        means = images.reshape(b, h // 4, 4, w // 4, 4, 3).mean((2, 4, 5))
        light = (means > 0.5).astype(jnp.float32)
        probs = jnp.stack([0.6 - 0.3 * light, 0.3 + 0.3 * light, jnp.full_like(light, 0.1)], -1)
        gates, chosen = select(probs.reshape(-1, 3), 1, "topk_softmax", kept[0])
        gates, chosen = gates.reshape(probs.shape), chosen.reshape(*probs.shape[:3], 1)
        load = jnp.bincount(chosen.ravel(), length=3) / chosen.size
        added = (gates @ jnp.array([0.0, 1 / 16, 0.5])).repeat(4, 1).repeat(4, 2)[..., None]
        gain = self.param("gain", nn.initializers.ones, ())
        routing = Routing(gates, chosen, probs, jnp.log(probs), entropy(probs), 0.1 * light, load)
        return jnp.clip(gain * images + added, 0, 1), (routing,)


PARAMS = {"gain": jnp.ones(())}


def half_dark(group="haze", name="stripe"):
    image = np.full((8, 16, 3), DARK, np.uint8)
    image[:, 4:] = LIGHT
    return Case(group, name, image, image)


def view_of(group, name, leading):
    """A view of which only who leads is known."""
    leading = np.array([[leading]])
    nothing = np.zeros((1, 2))
    return View(Case(group, name, None, None), None, leading, nothing, nothing[0], None, None, 0.0, 0.0, nothing)


def test_chance_is_told_from_a_weather_that_experts_know():
    weathers = ("haze", "snow")
    knows = [view_of(w, n, [w == "snow"] * 6) for n in "abcdef" for w in weathers]
    found = weather_information(knows, 0)
    assert (found.bits, found.tokens) == (pytest.approx(1.0), 72)
    assert found.by_chance < found.chance_95 < 0.5
    assert found == weather_information(knows, 0)
    # experts that know the photograph and not the weather: every shuffle gives the same
    photographs = [view_of(w, n, [n > "c"] * 6) for n in "abcdef" for w in weathers]
    found = weather_information(photographs, 0)
    assert (found.bits, found.by_chance, found.chance_95) == pytest.approx((0, 0, 0))
    # one picture a photograph leaves nothing to shuffle
    alone = weather_information([view_of("haze", "a", [0]), view_of("snow", "b", [1])], 0)
    assert (alone.bits, alone.by_chance) == pytest.approx((1, 1))


def test_figures_are_put_together_by_weather():
    views = [view_of(group, "a", lead) for group, lead in (("snow", [0, 1]), ("haze", [1, 1]), ("snow", [1, 1]))]
    leads = by_weather(views, lambda view: view.leads)
    assert list(leads) == ["snow", "haze"]
    np.testing.assert_array_equal(leads["snow"], [[[0.5, 0.5]], [[0, 1]]])
    np.testing.assert_array_equal(leads["haze"], [[[0, 1]]])


def test_what_known_experts_do_is_what_is_seen():
    view = look(Known(), PARAMS, half_dark())
    np.testing.assert_array_equal(view.leading, [[[0, 1, 1, 1]] * 2])
    np.testing.assert_array_equal(view.choices, [[0.25, 0.75, 0]])
    np.testing.assert_array_equal(view.leads, view.choices)
    np.testing.assert_array_equal(view.lead, [1])
    np.testing.assert_allclose(view.entropy, -np.sum(np.log([0.6, 0.3, 0.1]) * [0.6, 0.3, 0.1]) / np.log(3), rtol=1e-5)
    assert (view.restored[:, :4] == DARK).all()
    assert (view.restored[:, 4:] == LIGHT + 16).all()
    assert view.psnr_input == np.inf
    error = 0.75 * 16**2
    assert view.psnr == pytest.approx(10 * np.log10(255**2 / error), abs=1e-3)
    # without 0, dark tokens are given to 1; without 1, light ones to 0; nobody misses 2
    assert view.psnr_without[0, 0] == pytest.approx(10 * np.log10(255**2 / 16**2), abs=1e-3)
    assert view.psnr_without[0, 1] == np.inf
    assert view.psnr_without[0, 2] == view.psnr


def test_a_restorer_is_seen_as_it_is():
    model = build("tiny", channels=(4, 8), blocks=0, depth=2, width=16, heads=1, num_experts=3, top_k=2)
    rng = np.random.default_rng(3)
    shapes = jax.eval_shape(lambda: model.init(jax.random.key(0), jnp.zeros((1, 8, 8, 3)))["params"])
    params = jax.tree.map(lambda x: 0.1 * rng.standard_normal(x.shape, np.float32), shapes)
    image = rng.integers(0, 256, (21, 18, 3), np.uint8)
    view = look(model, params, Case("haze", "noise", image, image))
    apply = jax.jit(model.apply)
    restored, aux = apply({"params": params}, image[None] / np.float32(255), kept=np.ones((2, 3)))
    assert np.abs(view.restored - 255.0 * restored[0]).max() <= 0.51
    np.testing.assert_array_equal(view.leading, [layer.chosen[0, ..., 0] for layer in aux])
    np.testing.assert_allclose(view.choices.sum(1), 1, rtol=1e-6)
    assert ((view.lead >= 0.5) & (view.lead <= 1)).all()
    off = apply({"params": params}, image[None] / np.float32(255), kept=np.array([[1, 1, 1], [1, 0, 1]]))[0][0]
    error = np.square(np.round(255.0 * off) - image).mean()
    assert view.psnr_without[1, 1] == pytest.approx(10 * np.log10(255**2 / error), abs=0.01)
    assert view.psnr_without.shape == (2, 3)


def test_colours_are_all_different_and_cover_their_tokens():
    for experts in (1, 8, 9, 128):
        assert len(set(palette(experts))) == len(palette(experts)) == experts
    tokens = np.array([[0, 1], [1, 2]])
    np.testing.assert_array_equal(enlarged(tokens, 2, (3, 4, 3)), [[0, 0, 1, 1], [0, 0, 1, 1], [1, 1, 2, 2]])


class Reader(HTMLParser):
    """Checks that every element that is opened is closed, and keeps what the page points to."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.pointers, self.words = [], set(), [], []

    def handle_starttag(self, tag, attrs):
        self.tags.add(tag)
        self.pointers += [value for name, value in attrs if name in ("src", "href", "srcset", "data", "action")]
        if tag not in ("meta", "img"):
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        assert tag in ("rect", "path")

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data)


@pytest.fixture
def one_weather(monkeypatch):
    monkeypatch.setattr(atlas, "WEATHERS", ("haze",))  # each takes seconds to compile


PHOTOGRAPHS = {"<b>&": np.tile(np.arange(0, 256, 16, np.uint8)[None, :, None], (16, 1, 3))}


def test_the_page_needs_nothing_else_and_is_the_same_again(tmp_path, one_weather):
    seen = []
    for name in ("a.html", "b.html"):
        write_atlas(Known(), PARAMS, PHOTOGRAPHS, tmp_path / name, title="runs/x", progress=lambda *n: seen.append(n))
    text = (tmp_path / "a.html").read_text()
    assert text == (tmp_path / "b.html").read_text()
    assert seen[:3] == [(1, 3), (2, 3), (3, 3)]
    assert len(list(tmp_path.iterdir())) == 2

    reader = Reader()
    reader.feed(text)
    reader.close()
    assert reader.open == []
    assert reader.tags.isdisjoint({"script", "link", "iframe", "base"})
    # haze and clean: degraded, restored, one layer, uncertainty
    assert len(reader.pointers) == 8
    assert all(pointer.startswith("data:image/jpeg;base64,") for pointer in reader.pointers)
    assert "http" not in text
    assert "url(" not in text
    words = "".join(reader.words)
    for said in ("runs/x", "<b>&", "E = 3", "haze 2, clean 1", "I(expert; weather)", "Never chosen here: expert 2."):
        assert said in words
    assert "nan" not in words


def test_more_experts_and_no_uncertainty_make_a_page_as_well(tmp_path, one_weather):
    model = Known(router="linear")
    views = [look(model, PARAMS, half_dark(group)) for group in ("haze", "clean")]
    views = [View(**{**vars(view), "uncertainty": 0 * view.uncertainty}) for view in views]
    text = atlas.page(model, 1, views, "x", 16)
    assert "knows no uncertainty" in text
    assert text.count("<img") == 6


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        (dict(model=build("tiny", feed_forward="dense")), ValueError, "feed_forward='dense'"),
        (dict(photographs={}), ValueError, "needs a photograph"),
        (
            dict(photographs={"dot": np.zeros((8, 99, 3), np.uint8)}),
            ValueError,
            r"dot must be .* not uint8 \(8, 99, 3\)",
        ),
        (dict(photographs={"grey": np.zeros((20, 20), np.uint8)}), ValueError, "grey must be"),
        (dict(tile=8), ValueError, "tile=8"),
        (dict(path="there.html"), FileExistsError, "there.html is there already.*--force"),
        (dict(path=".", force=True), FileExistsError, "is no file"),
        (dict(path="/dev/null", force=True), FileExistsError, "is no file"),
        (dict(path="no/atlas.html"), FileNotFoundError, "no folder"),
    ],
)
def test_what_cannot_be_shown_is_said(change, error, said, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.html").write_text("mine")
    given = dict(model=Known(), params=PARAMS, photographs=PHOTOGRAPHS, path="new.html") | change
    with pytest.raises(error, match=said):
        write_atlas(**given)
    assert (tmp_path / "there.html").read_text() == "mine"
    assert len(list(tmp_path.iterdir())) == 1


def test_the_command(tmp_path, monkeypatch, capsys, one_weather):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(PHOTOGRAPHS["<b>&"]).save("bars.png")
    for run in ("runs/x", "runs/default"):
        (tmp_path / run).mkdir(parents=True)
    monkeypatch.setattr("mofme_jax.training.checkpoint.load", lambda path: (Known(), PARAMS))
    assert main(["atlas", "bars.png", "--weights", "runs/x"]) == 0
    assert capsys.readouterr().out == "atlas.html\n"
    assert "bars.png" in (tmp_path / "atlas.html").read_text()
    assert main(["atlas", "bars.png"]) == 2
    assert "atlas.html is there already" in capsys.readouterr().err
    assert main(["atlas", "bars.png", "--force"]) == 0
    assert main(["atlas", "no.png", "--out=other.html"]) == 2
    assert "no.png" in capsys.readouterr().err
    monkeypatch.setattr("mofme_jax.training.checkpoint.load", lambda path: (build("tiny", feed_forward="dense"), {}))
    assert main(["atlas", "--out=other.html"]) == 2
    assert "has none" in capsys.readouterr().err


def test_a_runs_own_photographs_are_those_it_is_judged_on(tmp_path):
    run, mine = tmp_path / "run", tmp_path / "mine"
    for folder in (run / "checkpoints" / "7", mine):
        folder.mkdir(parents=True)
    Image.fromarray(PHOTOGRAPHS["<b>&"]).save(mine / "bars.png")
    assert list(_of_the_run(run)) == list(_of_the_run("mofme-small")) == ["china", "motorcycle"]
    config = smoke.get_config()
    config.data.validation = str(mine)
    (run / "config.json").write_text(json.dumps(config.to_dict()))
    for weights in (run, run / "checkpoints" / "7"):
        assert list(_of_the_run(weights)) == ["bars.png"]


def test_a_folder_that_allows_no_file_is_said_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr("os.access", lambda *_: False)
    with pytest.raises(PermissionError, match="allows no new files"):
        write_atlas(Known(), PARAMS, PHOTOGRAPHS, tmp_path / "new.html")
