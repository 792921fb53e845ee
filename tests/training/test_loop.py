"""A run as a whole: what it leaves, that it goes on where it stopped, what it says to input that will not do."""

import json
import shutil
import signal
from itertools import count
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from mofme_jax.training import build, loop, sharding, train_and_evaluate
from mofme_jax.training.logs import MetricsLog
from mofme_jax.training.options import read_options
from mofme_jax.training.period import summarise


def assert_same_bits(a, b):
    jax.tree.map(np.testing.assert_array_equal, a, b)
    assert jax.tree.structure(a) == jax.tree.structure(b)


def test_a_run_leaves_its_config_checkpoints_logs_report_and_picture(finished_run, make_config, logged):
    workdir, report = finished_run
    assert sorted(p.name for p in workdir.iterdir()) == [
        "checkpoints", "config.json", "metrics.jsonl", "report.json", "samples", "tensorboard", "uncertainty.json",
    ]  # fmt: skip
    assert json.loads((workdir / "config.json").read_text()) == json.loads(make_config().to_json_best_effort())
    assert sorted(p.name for p in (workdir / "checkpoints").iterdir()) == ["3", "6"]
    assert [line["step"] for line in logged(workdir)] == [2, 3, 4, 6]
    assert len(list((workdir / "tensorboard").glob("events.*"))) == 1
    on_disk = json.loads((workdir / "report.json").read_text(), parse_constant=pytest.fail)
    assert on_disk["scores"]["clean"].pop("psnr_input") is None  # JSON knows no infinity
    assert report["scores"]["clean"]["psnr_input"] == np.inf
    assert on_disk["scores"]["haze"] == report["scores"]["haze"]
    assert report["steps"] == 6
    with Image.open(workdir / "samples" / "step_6.png") as picture:
        assert picture.size == (4 * (24 + 4), 18 + 2 * (24 + 18))


def test_a_finished_run_only_reports_again(finished_run, make_config, capsys):
    workdir, report = finished_run
    metrics, events = (workdir / "metrics.jsonl").read_bytes(), list((workdir / "tensorboard").iterdir())
    again = train_and_evaluate(make_config(), workdir)
    assert "going on from step 6 of 6" in capsys.readouterr().out
    assert again["scores"] == report["scores"]
    assert again["training_seconds"] == report["training_seconds"]
    assert (workdir / "metrics.jsonl").read_bytes() == metrics
    assert list((workdir / "tensorboard").iterdir()) == events


@pytest.mark.parametrize("stop", [2, 4, 6])  # before a checkpoint, after one, inside a log period and at its end
def test_a_stopped_run_ends_as_an_undisturbed_one(
    stop, finished_run, make_config, logged, saved_state, tmp_path, monkeypatch
):
    write = MetricsLog.write

    def stop_there(self, step, figures):
        write(self, step, figures)
        if step == stop:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(MetricsLog, "write", stop_there)
        with pytest.raises(KeyboardInterrupt):
            train_and_evaluate(make_config(), tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')  # as a kill in the middle of a write leaves it
    train_and_evaluate(make_config(), tmp_path)

    undisturbed = finished_run[0]
    assert logged(tmp_path) == logged(undisturbed)
    assert_same_bits(saved_state(tmp_path, 6), saved_state(undisturbed, 6))


@pytest.fixture
def interrupt(monkeypatch):
    """interrupt(step): Ctrl-C in the middle of the `step`-th step that a run takes from here on; None for none."""

    def interrupt(step):
        taken = count(1)

        def put_batch(batch, mesh):
            if next(taken) == step:
                signal.raise_signal(signal.SIGINT)
            return sharding.put_batch(batch, mesh)

        monkeypatch.setattr(loop, "sharding", SimpleNamespace(**vars(sharding) | {"put_batch": put_batch}))

    found = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield interrupt
    signal.signal(signal.SIGINT, found)


@pytest.mark.parametrize("stop", [2, 3, 5, 6])  # at the end of a log period, at a checkpoint, in a period, at the end
def test_an_interrupted_run_has_saved_the_step_and_ends_as_an_undisturbed_one(
    stop, interrupt, finished_run, make_config, logged, saved_state, tmp_path
):
    interrupt(stop)
    with pytest.raises(KeyboardInterrupt, match=f"stopped at step {stop}, which is saved"):
        train_and_evaluate(make_config(), tmp_path)
    assert (tmp_path / "checkpoints" / str(stop)).is_dir()
    assert not (tmp_path / "report.json").exists()
    interrupt(None)
    for _ in range(2):  # a finished run only reports again
        train_and_evaluate(make_config(), tmp_path)
    assert logged(tmp_path) == logged(finished_run[0])
    assert_same_bits(saved_state(tmp_path, 6), saved_state(finished_run[0], 6))


def test_a_run_that_was_stopped_and_then_killed_has_each_line_once(
    interrupt, make_config, finished_run, logged, tmp_path, monkeypatch
):
    interrupt(2)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(make_config(), tmp_path)
    interrupt(None)
    with monkeypatch.context() as patch:

        def killed(*args):
            raise ZeroDivisionError

        patch.setattr(loop, "save", killed)  # of step 3: the line of step 2 is written by then
        with pytest.raises(ZeroDivisionError):
            train_and_evaluate(make_config(), tmp_path)
    train_and_evaluate(make_config(), tmp_path)
    assert logged(tmp_path) == logged(finished_run[0])


def test_a_signal_while_the_last_step_is_written_ends_the_run_behind_that(
    interrupt, finished_run, make_config, saved_state, tmp_path, monkeypatch
):
    interrupt(None)
    close, closed = loop.Checkpoints.close, []

    def interrupted_close(checkpoints):
        signal.raise_signal(signal.SIGINT)
        close(checkpoints)
        closed.append(checkpoints.latest_step())

    monkeypatch.setattr(loop.Checkpoints, "close", interrupted_close)
    with pytest.raises(KeyboardInterrupt):
        train_and_evaluate(make_config(), tmp_path)
    assert closed == [6]
    assert not (tmp_path / "report.json").exists()
    assert_same_bits(saved_state(tmp_path, 6), saved_state(finished_run[0], 6))


def test_a_checkpoint_without_a_window_is_gone_on_from(finished_run, make_config, logged, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    shutil.rmtree(run / "checkpoints" / "6")
    (file,) = (path for path in (run / "checkpoints" / "3" / "data").rglob("*") if b"window" in path.read_bytes())
    progress = json.loads(file.read_text())
    assert progress.pop("window") == []
    file.write_text(json.dumps(progress))
    train_and_evaluate(make_config(), run)
    assert logged(run) == logged(finished_run[0])


def test_what_is_saved_in_the_background_is_the_window_of_its_moment():
    saved = []
    checkpoints = SimpleNamespace(save=lambda state, progress: saved.append(progress))
    window = [{"loss": 1.0}]
    loop.save(checkpoints, SimpleNamespace(get_state=dict), [], None, 0.0, window)
    window.append({"loss": 2.0})
    assert saved[0]["window"] == [{"loss": 1.0}]


def test_parameters_moved_and_the_average_trails_them(finished_run, saved_state):
    early, late = (saved_state(finished_run[0], step) for step in (3, 6))
    moved = jax.tree.map(lambda a, b: float(np.abs(a - b).max()), early["params"], late["params"])
    assert min(jax.tree.leaves(moved)) > 0
    assert int(late["step"]) == 6


@pytest.fixture
def bad_steps(monkeypatch):
    """bad_steps(*steps): these steps of a run are bad; the figures of the others are their number."""

    def bad_steps(*steps):
        def make_step(*args, **kwargs):
            def step(state, photographs):
                taken = state.step + 1
                bad = jnp.isin(taken, jnp.array(steps))
                count = jnp.where(bad, state.opt_state.notfinite_count + 1, 0)
                figure = jnp.where(bad, jnp.nan, taken)
                metrics = dict.fromkeys(("loss", "psnr_rgb", "psnr_rgb_input", "grad_norm"), figure)
                counts = state.opt_state._replace(notfinite_count=count)
                return state.replace(step=taken, opt_state=counts), metrics | {"bad_steps": count}

            return step

        monkeypatch.setattr(build, "make_train_step", make_step)

    return bad_steps


def test_steps_that_stay_bad_stop_the_run_as_it_was_before_them(bad_steps, make_config, saved_state, tmp_path):
    bad_steps(1, 2, 3, 4)
    with pytest.raises(FloatingPointError, match=r"4 steps in a row, 1 to 4, .*config.train.learning_rate"):
        train_and_evaluate(make_config(**{"train.max_bad_steps": 3, "log_every": 2, "checkpoint_every": 4}), tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["0"]
    assert int(saved_state(tmp_path, 0)["step"]) == 0
    line = json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=pytest.fail)
    assert (line["step"], line["bad_steps"]) == (2, 2)
    assert line["loss"] is None  # JSON knows no NaN


def test_a_run_that_is_stopped_where_it_gives_up_gives_up(bad_steps, make_config, interrupt, tmp_path):
    bad_steps(2, 3, 4)
    config = make_config(**{"train.max_bad_steps": 2, "log_every": 6, "checkpoint_every": 6})
    interrupt(3)
    with pytest.raises(FloatingPointError, match="2 steps in a row, 2 to 3,"):
        train_and_evaluate(config, tmp_path)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["1"]


def test_a_stop_between_bad_steps_saves_what_was_before_them(bad_steps, make_config, interrupt, logged, tmp_path):
    bad_steps(4, 5)
    config = make_config(log_every=4, checkpoint_every=100)  # the first line is of good steps and a bad one
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    train_and_evaluate(config, whole)
    interrupt(5)
    with pytest.raises(KeyboardInterrupt, match="stopped at step 3, which is saved"):
        train_and_evaluate(config, stopped)
    assert [path.name for path in (stopped / "checkpoints").iterdir()] == ["3"]
    progress = json.loads((stopped / "checkpoints" / "3" / "data" / "metadata").read_text())
    assert progress["stream"] == {"batches": 3}
    interrupt(None)
    train_and_evaluate(config, stopped)
    assert logged(stopped) == logged(whole)
    assert [(line["step"], line["loss"], line["bad_steps"]) for line in logged(whole)] == [
        (4, 2.0, 1), (6, 6.0, 1),
    ]  # fmt: skip


def test_summarise_means_the_good_steps_and_counts_the_bad_ones():
    def step(loss, bad):
        return {"loss": np.float32(loss), "bad_steps": np.int32(bad)}

    window = [step(1.0, 0), step(np.nan, 1), step(np.nan, 2), step(2.0, 0)]
    assert summarise(window) == {"loss": 1.5, "bad_steps": 2}
    assert np.isnan(summarise([step(np.nan, 1)])["loss"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.variant": "huge"}, "variant 'huge' is unknown"),
        ({"model.top_k": 9}, "top_k=9 .* num_experts=4"),
        ({"data.photographs": ("/no/such/folder",)}, "no folder /no/such/folder"),
        ({"data.crop": 400}, r"photograph .* smaller than the 400 of config.data.crop"),
        ({"train.batch": 3, "data.weathers": ("haze", "snow")}, "train.batch=3 must be a multiple of 2"),
        (
            {"train.accumulate": 4},
            "train.batch=2 must be a multiple of 4: config.train.accumulate=4 micro-batches, each with 1 weather",
        ),
        ({"mesh.fsdp": 64}, "config.mesh.fsdp=64 x config.mesh.expert=1 need 64 devices"),
        ({"train.steps": 0}, "train.steps=0 must be above 0 and config.train.epochs 0"),
        ({"train.steps": 2}, "train.warmup=2 leaves none of the run's 2 steps"),
        ({"loss.perceptual": 0.1}, r"pip install \"mofme-jax\[perceptual\]\""),
    ],
)
def test_bad_input_is_found_before_any_work(changes, message, make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "build_init", lambda *args: pytest.fail("work was begun"))
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)  # the extra is not installed
    with pytest.raises((ValueError, OSError, ImportError), match=message) as raised:
        train_and_evaluate(make_config(**changes), tmp_path)
    assert "\n" not in str(raised.value)
    assert not (tmp_path / "config.json").exists()  # the corrected config may have the folder


@pytest.mark.parametrize("kind", ["empty", "no image", "small"])
@pytest.mark.parametrize("section", ["photographs", "validation"])
def test_a_folder_of_photographs_is_looked_through_at_once(kind, section, make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "build_init", lambda *args: pytest.fail("work was begun"))
    folder = tmp_path / "photographs"
    folder.mkdir()
    if kind == "no image":
        (folder / "a.png").write_text("not a picture")
    if kind == "small":
        Image.new("RGB", (40, 10)).save(folder / "a.png")
    where = (str(folder),) if section == "photographs" else str(folder)
    message = {"empty": "No photograph in", "no image": "a.png cannot be read", "small": "a.png is 40 x 10 pixels"}
    with pytest.raises((ValueError, OSError), match=message[kind]):
        train_and_evaluate(make_config(**{f"data.{section}": where}), tmp_path / "run")


def write_pairs(root, sizes):
    rng = np.random.default_rng(0)
    for split, size in sizes.items():
        for i in range(2):
            for part in ("input", "gt"):
                (root / split / part).mkdir(parents=True, exist_ok=True)
                pixels = rng.integers(0, 256, (*size, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(root / split / part / f"{i}.png")


@pytest.mark.usefixtures("optimised")
def test_pairs_are_trained_on_and_each_other_split_is_a_row_of_the_report(make_config, tmp_path):
    write_pairs(tmp_path / "pairs", {"train": (20, 30), "test_rain": (12, 40), "test_fog": (24, 24)})
    changes = {"train.steps": 0, "train.epochs": 3, "model.overrides.depth": 0}
    config = make_config(**changes, **{"data.pairs": (str(tmp_path / "pairs"),)})
    report = train_and_evaluate(config, tmp_path / "run")
    assert report["steps"] == 3  # two pairs, batches of two
    assert list(report["scores"]) == ["test_fog", "test_rain"]
    assert all(row["images"] == 2 and np.isfinite(row["psnr"]) for row in report["scores"].values())


@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ({"train": (15, 30), "test": (20, 20)}, "0.png is 30 x 15 pixels, smaller than the 16 of config.data.crop"),
        ({"train": (20, 30), "test": (10, 20)}, "0.png is 20 x 10 pixels, smaller than the 11 of SSIM's window"),
        ({"train": (20, 30)}, "another to be judged on"),
    ],
)
def test_pairs_that_will_not_do_are_found_at_once(sizes, message, make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "build_init", lambda *args: pytest.fail("work was begun"))
    write_pairs(tmp_path / "pairs", sizes)
    with pytest.raises((ValueError, OSError), match=message):
        train_and_evaluate(make_config(**{"data.pairs": (str(tmp_path / "pairs"),)}), tmp_path / "run")


def test_a_damaged_or_unequal_pair_is_named_at_once(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "build_init", lambda *args: pytest.fail("work was begun"))
    write_pairs(tmp_path, {"train": (20, 30), "test": (20, 20)})
    config = make_config(**{"data.pairs": (str(tmp_path),)})
    Image.new("RGB", (20, 21)).save(tmp_path / "test" / "gt" / "1.png")
    with pytest.raises(ValueError, match=r"test/input/1.png and .*test/gt/1.png differ in size"):
        train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "train" / "gt" / "0.png").write_text("no picture")
    with pytest.raises(ValueError, match=r"train/gt/0.png cannot be read"):
        train_and_evaluate(config, tmp_path / "run")


def test_the_plan_counts_steps_or_epochs(make_config):
    total, rate = build.build_schedule(read_options(make_config()), images=5)
    assert total == 6
    assert rate(2) == pytest.approx(1e-3)  # the peak, behind two steps of warmup
    config = make_config(**{"train.steps": 0, "train.epochs": 4, "train.schedule": "reference", "train.warmup": 1})
    total, rate = build.build_schedule(read_options(config), images=5)
    assert total == 4 * 2  # batches of two from five images
    assert [float(rate(step)) for step in (0, 1, 2)] == pytest.approx([1e-3] * 3)
    assert rate(7) < rate(5) < 1e-3


def test_a_run_does_not_go_on_with_other_photographs(make_config, tmp_path):
    for i in range(3):
        (tmp_path / "photos").mkdir(exist_ok=True)
        pixels = np.random.default_rng(i).integers(0, 256, (24, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / f"{i}.png")
    config = make_config(**{"data.photographs": (str(tmp_path / "photos"),), "model.overrides.depth": 0})
    train_and_evaluate(config, tmp_path / "run")
    (tmp_path / "photos" / "0.png").rename(tmp_path / "photos" / "9.png")
    with pytest.raises(ValueError, match=r"began with other training images \(3 images .*bring those back"):
        train_and_evaluate(config, tmp_path / "run")


def test_a_run_begins_with_the_weights_it_is_given(finished_run, make_config, saved_state, tmp_path):
    workdir, report = finished_run
    config = make_config()
    config.train.update(weights=str(workdir), learning_rate=1e-12, floor=0.0, steps=3)
    fine_tuned = train_and_evaluate(config, tmp_path / "run")
    given, ended = saved_state(workdir, 6), saved_state(tmp_path / "run", 3)
    for name in ("params", "ema"):
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-7), given["ema"], ended[name])
    assert fine_tuned["scores"]["haze"] == pytest.approx(report["scores"]["haze"])


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ("mofme-small", r"are of another network than config.model describes: .*; set config.model to what it was"),
        ("nowhere", "there are no weights nowhere"),
    ],
)
def test_weights_that_will_not_do_are_refused_before_the_folder_is_taken(weights, message, make_config, tmp_path):
    config = make_config()
    config.train.weights = weights
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        train_and_evaluate(config, tmp_path)
    assert not (tmp_path / "config.json").exists()
