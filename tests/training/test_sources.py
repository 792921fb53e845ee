"""What a run opens: every layout, several sets at once, sets that TFDS keeps; and what it says before any work."""

from itertools import islice

import jax
import numpy as np
import optax
import pytest

from mofme_jax.data.pipeline import training_stream
from mofme_jax.training import losses
from mofme_jax.training.options import read_options
from mofme_jax.training.sources import open_sources
from mofme_jax.training.state import init_state, make_optimiser
from mofme_jax.training.step import make_train_step
from tests.fakes import Gain
from tests.trees import TREES, make_tree

PAIRED = [name for name in TREES if not name.startswith("photographs")]


@pytest.fixture(scope="module")
def step():
    """A compiled step on pairs, and its first state."""
    optimiser = make_optimiser(optax.constant_schedule(0.1), weight_decay=0.0, b2=0.999, clip_norm=None)
    made = make_train_step(
        Gain(), optimiser, losses.smooth_l1, weathers=None, clean_share=0.0, severity={},
        colour_share=0.0, sky_share=0.0, decay=0.9, router_weights=dict(importance=0.0, load=0.0, z=0.0),
    )  # fmt: skip
    return jax.jit(made), init_state(Gain(), optimiser, jax.random.key(0), 16)


def opened(make_config, **data):
    return open_sources(read_options(make_config(**{f"data.{name}": value for name, value in data.items()})))


def stream(sources, **settings):
    return training_stream(sources.training, batch=4, crop=16, min_scale=0.5, seed=0, **settings)


@pytest.mark.parametrize("name", PAIRED)
def test_every_layout_trains_a_step_and_is_judged(name, make_config, tmp_path, step):
    expected = make_tree(name, tmp_path)
    if "train" not in expected.splits or len(expected.splits) < 2:
        with pytest.raises(FileNotFoundError, match="a split train to learn from, and one of them another"):
            opened(make_config, pairs=(str(tmp_path),))
        return
    sources = opened(make_config, pairs=(str(tmp_path),))
    assert sources.paired
    assert len(sources.training[0]) == len(expected.splits["train"])
    batches = stream(sources)
    state, metrics = step[0](step[1], next(batches))
    batches.close()
    assert np.isfinite(metrics["loss"])
    # an input is its target with damage on it: alike, and not the same
    assert 8 < metrics["psnr_rgb_input"] < 45
    assert state.step == 1
    tests = {split: pairs for split, pairs in expected.splits.items() if split != "train" and pairs[0].target}
    cases = list(sources.cases())
    assert [(case.group, case.name) for case in cases] == [(s, pair.input) for s in tests for pair in tests[s]]
    assert all(case.degraded.shape == case.target.shape for case in cases)


def test_several_sets_are_mixed_by_weight(make_config, tmp_path):
    folders = [tmp_path / name for name in ("raindrop", "outdoor_rain")]
    trees = [make_tree(folder.name, folder) for folder in folders]
    sources = opened(make_config, pairs=tuple(map(str, folders)), weights=(3, 1))
    assert [len(images) for images in sources.training] == [len(tree.splits["train"]) for tree in trees]
    assert {case.group for case in sources.cases()} == {"raindrop/test_a", "raindrop/test_b", "outdoor_rain/test1"}
    batches = training_stream(sources.training, weights=(3, 1), batch=4, crop=24, min_scale=1.0, seed=0)
    crops = np.concatenate(list(islice(batches, 8)))
    batches.close()

    def is_of(crop, images):
        # a crop is all of the 24 rows, turned: its pixels are some picture's
        values = {tuple(pixel) for image in images for pixel in image[..., 3:].reshape(-1, 3)}
        return all(tuple(pixel) in values for pixel in crop[..., 3:].reshape(-1, 3))

    share = np.mean([is_of(crop, sources.training[0]) for crop in crops])
    assert share == pytest.approx(0.75, abs=0.05)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_set_that_tfds_keeps_trains_alike(workers, make_config, tmp_path):
    make_tree("all_weather", tmp_path / "set")
    folder = opened(make_config, pairs=(str(tmp_path / "set"),))
    kept = opened(make_config, pairs=(str(tmp_path / "set"),), tfds=str(tmp_path / "sets"), workers=workers)
    assert (tmp_path / "sets" / "all_weather" / "mofme").is_dir()
    streams = stream(folder), stream(kept, workers=workers)
    for _ in range(4):
        np.testing.assert_array_equal(*(next(batches) for batches in streams))
    for batches in streams:
        batches.close()
    for case, other in zip(folder.cases(), kept.cases(), strict=True):
        assert (case.group, case.name) == (other.group, other.name)
        np.testing.assert_array_equal(case.target, other.target)


def test_photographs_come_from_where_the_config_says(make_config, tmp_path):
    names = {}
    for name in ("photographs", "photographs/loose"):
        folder = tmp_path / name.replace("/", "_")
        make_tree(name, folder)
        names[name] = opened(make_config, photographs=(str(folder),)).training[0].source.names
        sets = tmp_path / f"sets_{folder.name}"
        kept = opened(make_config, photographs=(str(folder),), tfds=str(sets)).training[0].source.names
        assert kept == names[name]
    # a folder with train/ in it keeps apart what is not to be learnt from
    assert not [name for name in names["photographs"] if "validation" in name]
    both = tuple(str(tmp_path / folder) for folder in ("photographs", "photographs_loose"))
    assert [images.source.names for images in opened(make_config, photographs=both).training] == list(names.values())
    embedded = opened(make_config).training[0].source.names
    assert embedded == ["astronaut", "chelsea", "coffee", "flower", "rocket"]


def test_photographs_are_judged_by_what_is_kept_apart(make_config, tmp_path):
    expected = make_tree("photographs", tmp_path / "a")
    make_tree("photographs/loose", tmp_path / "b")
    folder = str(tmp_path / "a")
    apart = {example.target.removeprefix("validation/") for example in expected.splits["validation"]}
    assert {case.name for case in opened(make_config, photographs=(folder,)).cases()} == apart
    assert {case.name for case in opened(make_config, validation=folder).cases()} == apart
    assert {case.name for case in opened(make_config, photographs=(str(tmp_path / "b"),)).cases()} == {
        "china",
        "motorcycle",
    }
    with pytest.raises(ValueError, match="would be trained on and judged on"):
        opened(make_config, photographs=(str(tmp_path / "b"),), validation=str(tmp_path / "b"))


def test_photographs_that_were_not_fetched_are_asked_for(make_config):
    from configs import photos

    with pytest.raises(FileNotFoundError, match="mofme data fetch-photos"):
        open_sources(read_options(photos.get_config()))


def test_scenes_that_are_judged_on_are_left_out_aloud(make_config, tmp_path, capsys):
    expected = make_tree("outdoor_rain/divided", tmp_path)
    source = expected.place / "test1"
    for part in ("input", "in", "gt"):
        for path in (source / part).glob("im_*"):
            target = (
                expected.place / "train" / ("gt" if part == "gt" else expected.splits["train"][0].input.split("/")[1])
            )
            (target / path.name).write_bytes(path.read_bytes())
    sources = opened(make_config, pairs=(str(tmp_path),))
    assert len(sources.training[0]) == len(expected.splits["train"])
    assert f"{len(expected.splits['test1'])} training pairs are left out" in capsys.readouterr().out


def test_two_sets_of_one_name_keep_their_rows_apart(make_config, tmp_path):
    folders = [tmp_path / place / "set" for place in ("a", "b")]
    for folder in folders:
        make_tree("paired_folder", folder)
    groups = {case.group for case in opened(make_config, pairs=tuple(map(str, folders))).cases()}
    assert groups == {f"{folder}/test" for folder in folders}
    with pytest.raises(ValueError, match="keeps one set of a layout, and the folders are paired_folder, paired_folder"):
        opened(make_config, pairs=tuple(map(str, folders)), tfds=str(tmp_path / "sets"))
    assert not (tmp_path / "sets").exists()
    with pytest.raises(ValueError, match="names a folder twice"):
        opened(make_config, pairs=(str(folders[0]), f"{folders[0]}/"))


def test_pairs_are_no_photographs(make_config, tmp_path):
    make_tree("paired_folder", tmp_path)
    for data in (dict(photographs=(str(tmp_path),)), dict(validation=str(tmp_path))):
        with pytest.raises(FileNotFoundError, match="pairs"):
            opened(make_config, **data)


def test_an_archive_unpacked_a_level_deeper_gives_the_same_photographs(make_config, tmp_path):
    for wrapped in (False, True):
        make_tree("photographs", tmp_path / str(wrapped), wrapped=wrapped)
    names = [
        opened(make_config, photographs=(str(tmp_path / wrapped),)).training[0].source.names
        for wrapped in ("False", "True")
    ]
    assert names[0] == names[1]
    assert not [name for name in names[0] if "validation" in name]
    judged = {case.name for case in opened(make_config, validation=str(tmp_path / "True")).cases()}
    assert judged
    assert not judged & set(names[0])


def test_who_has_no_home_keeps_no_cache(make_config, monkeypatch):
    def no_home():
        raise RuntimeError("no home")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr("pathlib.Path.home", no_home)
    assert next(iter(opened(make_config).cases())).name == "china"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (dict(pairs=("/a",), photographs=("/b",)), "config.data.pairs=.* must be empty where"),
        (dict(pairs=("/a", "/a")), "each named once"),
        (dict(photographs=("",)), "config.data.photographs=.* must be folders"),
        (dict(photographs=("/a", "/b"), tfds="/c"), "one folder, or none, where config.data.tfds"),
        (dict(pairs=("/a", "/b"), weights=(1,)), "config.data.weights=.* a number above 0 for each folder"),
        (dict(pairs=("/a",), weights=(0,)), "config.data.weights"),
        (dict(weights=(1, 2)), "config.data.weights"),
        (dict(tfds="/a"), "config.data.tfds='/a' must be empty, or beside"),
        (dict(workers=-1), "config.data.workers=-1 must be from 0"),
    ],
)
def test_what_does_not_go_together_is_named(data, message, make_config):
    with pytest.raises(ValueError, match=message):
        opened(make_config, **data)
