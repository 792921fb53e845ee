"""The study as people run it: trained, killed, gone on with, judged, printed; and its arithmetic on made-up runs."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]

TINY = {
    "model.variant": "tiny",
    "model.overrides.channels": (8,),
    "model.overrides.depth": 1,
    "model.overrides.blocks": 0,
    "data.photographs": (),
    "data.validation": "",
    "data.weathers": ("haze",),
    "data.crop": 16,
    "data.colour_share": 0.0,
    "data.sky_share": 0.0,
    "train.batch": 2,
    "evaluation.max_side": 16,
    "evaluation.tile": 16,
}


@pytest.fixture
def study(monkeypatch):
    """study(name): a module of the study."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    return importlib.import_module


@pytest.fixture
def start(tmp_path):
    """start(*arguments) -> the process of a study in tmp_path/runs, the leader of a session."""
    processes = []

    def start(*arguments):
        command = [sys.executable, "benchmarks/study.py", f"--runs={tmp_path / 'runs'}", *arguments]
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
        with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
            processes.append(subprocess.Popen(command, cwd=ROOT, env=environment, stdout=out, stderr=err))
        return processes[-1]

    yield start
    for process in processes:
        process.terminate()  # it ends what it started
        process.wait()


def said(tmp_path):
    return (tmp_path / "out").read_text() + (tmp_path / "err").read_text()


def test_a_stopped_study_goes_on(start, tmp_path):
    runs = tmp_path / "runs"
    arguments = ["--only", "routers", "--arms", "dense", "mofme-linear", "--seeds=1", "--steps=4", "--side=16"]
    arguments += [f"--config.{name}={value}" for name, value in TINY.items()]
    process = start(*arguments)
    first = runs / "dense-0" / "checkpoints"
    end = time.monotonic() + 100
    while not (first / "1").exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 1
    assert "stopped; the same command goes on" in said(tmp_path)
    assert not list(runs.glob("*/study.json"))

    assert start(*arguments).wait(200) == 0, said(tmp_path)
    assert "2/2 runs (100%)" in said(tmp_path)
    assert "going on from step" in (runs / "dense-0" / "output.txt").read_text()
    judged = {path.parent.name: json.loads(path.read_text()) for path in runs.glob("*/study.json")}
    assert sorted(judged) == ["dense-0", "mofme-linear-0"]
    images = judged["mofme-linear-0"]["images"]
    places = [(one["photograph"], one["weather"], one["draw"]) for one in images]
    kinds = [("haze", 2), ("rain", 2), ("snow", 2), ("raindrop", 2), ("clean", 1)]
    assert places == [
        (name, kind, n) for name in ("china", "motorcycle") for kind, count in kinds for n in range(count)
    ]
    assert [one["psnr_input"] is None for one in images] == [one["weather"] == "clean" for one in images]
    assert judged["mofme-linear-0"]["seed"] == 0
    assert judged["mofme-linear-0"]["steps"] == 4

    # what is finished is not touched, and an arm that fails does not end the study
    times = {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}
    others = ["mofme-temperature-2" if one == "dense" else one for one in arguments]
    assert start(*others, "--config.model.nonsense=1").wait(60) == 1
    assert "were made with --steps 4 --side 16" in said(tmp_path)
    assert start("--only", "routers", "--steps=8", "--print").wait(60) == 1
    assert "choose another --runs" in said(tmp_path)
    assert start("--only", "routers", "--print", "--markdown", f"--plots={tmp_path / 'plots'}").wait(60) == 0
    assert "| dense | 1 | " in said(tmp_path)
    assert "| dense less mofme-linear | 1 | " in said(tmp_path)
    assert "| moe | not run |" in said(tmp_path)
    assert (tmp_path / "plots" / "results_routers.png").stat().st_size > 1000
    assert times == {path: path.stat().st_mtime_ns for path in runs.rglob("*") if path.is_file()}


def test_a_failed_arm_is_named_and_the_study_goes_on(start, tmp_path):
    arguments = ["--only", "routers", "--arms", "dense", "moe", "--seeds=1", "--steps=4", "--side=16"]
    assert start(*arguments, "--config.model.nonsense=1").wait(60) == 0, said(tmp_path)
    for arm in ("dense", "moe"):
        assert f"{arm}-0 FAILED: train.py: unknown field config.model.nonsense" in said(tmp_path)
        assert f"{arm}, seed 0, failed: train.py: unknown field" in said(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--print"], "no study in"),
        (["--only", "routers", "--arms", "nobody"], "there is no nobody in routers"),
        (["--nonsense"], "unexpected argument '--nonsense'"),
        (["--seeds=0"], "must be at least 1"),
        (["--steps=1"], "must be at least 2"),
    ],
)
def test_what_cannot_be_is_refused(start, tmp_path, arguments, message):
    assert start(*arguments).wait(60) != 0
    assert message in said(tmp_path)
    assert not (tmp_path / "runs").exists()


def test_arms_are_named_once_and_differ(study):
    groups = study("study_arms").GROUPS.values()
    arms = {}
    for group in groups:
        for arm in group.arms:
            assert arms.setdefault(arm.name, arm).overrides == arm.overrides
        assert {name for pair in group.comparisons for name in pair} <= {arm.name for arm in group.arms}
    values = [sorted(map(str, arm.overrides.items())) for arm in arms.values()]
    assert all(values.count(value) == 1 for value in values)
    # no name is another's with a number behind it: folders end in the seed
    assert not [(a, b) for a in arms for b in arms if b.startswith(f"{a}-") and b[len(a) + 1 :].isdigit()]


def test_every_arm_is_a_config(study, tmp_path):
    from mofme_jax.config_file import read_config
    from mofme_jax.training.options import read_options
    from mofme_jax.training.sources import batch_groups

    settings = study("study").Settings()
    for group in study("study_arms").GROUPS.values():
        for arm in group.arms:
            options = read_options(read_config(study("study").train_flags(arm, 1, settings)))
            assert batch_groups(options, paired=False) >= 1
            assert (options.seed, options.train.warmup, options.checkpoint_every) == (1, 200, 500)


def runs_of(tables, *psnrs, weather="haze"):
    """Made-up runs of an arm, a seed each, from the PSNRs of the photographs a, a, b."""
    judged = {}
    for seed, values in enumerate(psnrs):
        images = [
            {"photograph": name, "weather": weather, "draw": n, "psnr": psnr, "psnr_input": 10.0, "ssim": 0.5}
            for n, (name, psnr) in enumerate(zip("aab", values, strict=True))
        ]
        judged[seed] = tables.Run({"images": images}, None)
    return tables.Runs(judged, {})


def test_differences_are_paired_by_seed_and_image(study):
    tables = study("study_tables")
    ours = runs_of(tables, [20.0, 22.0, 30.0], [21.0, 23.0, np.inf], [1.0, 1.0, 1.0])
    theirs = runs_of(tables, [19.0, 20.0, 31.0], [20.0, 20.0, np.inf])
    found = tables.differences(ours, theirs, "psnr", ["haze"])
    np.testing.assert_allclose(found, [[1.5, -1.0], [2.0, 0.0]])  # the third seed has no counterpart
    student, bootstrap = tables.compare(ours, theirs)
    assert student.mean == bootstrap.mean == pytest.approx(0.625)
    # the seeds' means are 0.25 and 1: half their distance is the standard error; by a table: t(0.975, 1) = 12.706
    assert student.high - student.mean == pytest.approx(12.706 * 0.375, rel=1e-3)
    assert (bootstrap.low, bootstrap.high) == (-1.0, 2.0)
    assert tables.compare(ours, tables.Runs({}, {})) is None
    assert ours.judged[0].gain("haze") == 14.0


def test_runs_judged_on_different_images_are_not_compared(study, tmp_path):
    tables = study("study_tables")
    for seed, psnr_input in enumerate((10.0, 11.0)):
        folder = tmp_path / f"moe-{seed}"
        folder.mkdir()
        image = {"photograph": "a", "weather": "haze", "draw": 0, "psnr": 20.0, "psnr_input": psnr_input}
        (folder / "study.json").write_text(json.dumps({"images": [image]}))
    with pytest.raises(ValueError, match=r"moe-0 and .*moe-1 were judged on different images"):
        tables.read_runs(tmp_path, ["moe"])
    assert list(tables.read_runs(tmp_path, ["moe"], without=1)["moe"].judged) == [1]


def test_none_is_judged_on_that_is_trained_on(study, tmp_path):
    from PIL import Image

    from mofme_jax.data.photos import embedded_photographs

    judge = study("study_judge")
    options = importlib.import_module("mofme_jax.training.options")
    default = importlib.import_module("configs.default").get_config()
    train = tmp_path / "train"
    train.mkdir()
    Image.fromarray(embedded_photographs("train")["coffee"]).save(train / "cup.png")  # under another name
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(train / "rocket.png")  # another picture of that name
    default.data.photographs = (str(tmp_path),)
    unseen = judge.unseen_photographs(options.read_options(default).data)
    assert sorted(unseen) == ["astronaut", "chelsea", "china", "flower", "motorcycle"]
