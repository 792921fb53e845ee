"""The command `mofme`, in this process: what it prints, its exit status, its one-line errors."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from configs import default
from mofme_jax.cli import main
from mofme_jax.config_file import read_config
from mofme_jax.evaluation.calibration import read_calibrations
from tests.trees import make_tree

ROOT = Path(__file__).parents[1]


def test_the_doctor_finds_nothing_in_a_clean_set(tmp_path, capsys):
    make_tree("raindrop", tmp_path)
    assert main(["data", "doctor", str(tmp_path)]) == 0
    out = capsys.readouterr().out
    assert "RainDrop" in out
    assert "nothing wrong" in out


def test_the_doctor_names_what_is_wrong_with_status_1(tmp_path, capsys):
    expected = make_tree("raindrop", tmp_path)
    lost = expected.splits["train"][0].target
    (expected.place / lost).unlink()
    assert main(["data", "doctor", str(tmp_path), "--json"]) == 1
    found = json.loads(capsys.readouterr().out)
    assert expected.splits["train"][0].input in json.dumps(found["problems"])
    assert main(["data", "doctor", str(tmp_path), "--layout", "raindrop"]) == 1
    assert Path(expected.splits["train"][0].input).name in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["data", "doctor", "/no/such/folder"], "/no/such/folder"),
        (["data", "doctor", ".", "--layout", "snow"], "layout 'snow' is unknown; choose one of all_weather"),
        (["data", "fetch-photos", "--source", "/no/such.deb"], "/no/such.deb"),
        (["data", "build", "/no/such/folder", "--to", "sets"], "/no/such/folder"),
        (["data", "preview", "--config=nowhere.py"], "nowhere.py'"),
        (["data", "preview", "--config.data.colour=1"], "unknown field config.data.colour"),
        (["data", "preview", "--config.data.crop=big"], "big"),
        (["data", "preview", "--config.dta.crop=32"], "unknown field"),
        (["data", "preview", "--count=0"], "count=0"),
        (["data", "preview", "--out=sheet.doc"], "sheet.doc cannot be written"),
        (["data", "preview", "--out=/no/such/sheet.png"], "/no/such/sheet.png cannot be written"),
        (["params", "huge"], "variant 'huge' is unknown; choose one of tiny, small, base"),
        (["params", "tiny", "--config=configs/smoke.py"], "a VARIANT or a --config, not both"),
        (["params", "tiny", "--config.model.num_experts=0"], "num_experts=0"),
        (["params", "--side=0"], "side=0"),
        (["calibrate", "--weights=/no/such/run"], "there are no weights /no/such/run"),
        (["calibrate", "--weights=configs"], "is not the folder of a training run"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line_with_status_2(arguments, message, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["data"],
        ["data", "nothing"],
        ["data", "doctor"],
        ["data", "doctor", ".", "-x"],
        ["data", "doctor", "~nobody-of-this-name"],
    ],
)
def test_a_wrong_command_line_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        main(arguments)
    assert left.value.code == 2
    assert "usage: mofme" in capsys.readouterr().err


def test_an_interrupt_is_no_traceback(monkeypatch, capsys):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("mofme_jax.data.doctor.examine", interrupted)
    assert main(["data", "doctor", "."]) == 130
    assert capsys.readouterr().err == "mofme: stopped\n"


def test_preview_draws_what_it_is_asked_for(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    picture = tmp_path / "sheet.png"
    arguments = ["--config=configs/smoke.py", "--config.data.weathers=('haze',)", "--count=3", f"--out={picture}"]
    assert main(["data", "preview", *arguments]) == 0
    assert capsys.readouterr().out == f"{picture}\n"
    with Image.open(picture) as sheet:
        assert sheet.width > 4 * 32
        assert np.ptp(np.asarray(sheet)) == 255


def test_build_says_where_the_set_is(tmp_path, capsys):
    make_tree("rain13k", tmp_path / "set", scenes=2)
    assert main(["data", "build", str(tmp_path / "set"), "--to", str(tmp_path / "sets")]) == 0
    folder = Path(capsys.readouterr().out.splitlines()[-1])
    assert folder.is_relative_to(tmp_path / "sets" / "rain13k")
    assert list(folder.rglob("*.array_record*"))


def test_a_config_is_read_with_its_changes(monkeypatch):
    monkeypatch.chdir(ROOT)
    assert read_config([]) == default.get_config().lock()
    changed = read_config(["--config=configs/smoke.py", "--config.data.pairs=/a", "--config.train.steps=7"])
    assert (changed.model.variant, changed.data.pairs, changed.train.steps) == ("tiny", ("/a",), 7)
    assert read_config(["--config.data.pairs=('/a', '/b')"]).data.pairs == ("/a", "/b")
    assert read_config(["--config.data.pairs=/with space, and comma"]).data.pairs == ("/with space, and comma",)
    assert read_config(["--config.data.pairs=/a", "--config.data.pairs=/b c"]).data.pairs == ("/a", "/b c")
    with pytest.raises(ValueError, match="unexpected argument 'x'"):
        read_config(["x"])


def test_commands_wait_for_no_library_they_do_not_need():
    code = (
        "import sys; from mofme_jax.cli import main; sys.argv[0] = 'mofme'\n"
        "try: main(['data', '--help'])\nexcept SystemExit: pass\nimport mofme_jax.data.doctor, mofme_jax.data.fetch\n"
        "print([m for m in ('jax', 'flax', 'grain', 'orbax', 'tensorflow_datasets', 'tensorflow') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert out.splitlines()[-1] == "[]"


def test_params_counts_a_named_network_outside_the_repository(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["params", "tiny", "--side=32", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["parameters"] == 61_930
    monkeypatch.chdir(ROOT)
    assert main(["params", "tiny", "--side=32", "--config.model.num_experts=8"]) == 0
    assert "used a token" in capsys.readouterr().out


def test_calibrate_keeps_what_it_finds_in_the_folder_of_the_run(finished_run, tmp_path, capsys):
    run = tmp_path / "run"
    shutil.copytree(finished_run[0], run)
    assert (run / "uncertainty.json").is_file()  # training ends with it
    (run / "uncertainty.json").unlink()
    newest = max((run / "checkpoints").iterdir(), key=lambda step: int(step.name))
    assert main(["calibrate", "--weights", str(newest), "--passes=2"]) == 0
    said = capsys.readouterr().out
    assert "with 2 passes" in said
    assert f"picture {run / 'uncertainty.png'}" in said
    assert (run / "uncertainty.png").stat().st_size > 1000
    found = read_calibrations(run)
    assert set(found) == {"routing", "passes"}
    assert found["routing"] == read_calibrations(finished_run[0])["routing"]
    assert found["passes"].passes == 2
    assert main(["calibrate", "--weights", str(run), "--passes=1"]) == 2
    assert "at least 2" in capsys.readouterr().err


def test_an_error_of_the_system_is_said_without_its_number(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("mofme_jax.commands.calibrate._calibrate", lambda *_: (tmp_path / "none").read_text())
    assert main(["calibrate"]) == 2
    assert capsys.readouterr().err == f"mofme: {tmp_path / 'none'}: no such file or directory\n"


@pytest.mark.parametrize(
    "argument", ["--config.data.weathers[9]=haze", "--config.data.weathers[0]=haze", "--config.seed=\n"]
)
def test_arguments_that_are_no_field_are_said_in_a_line(argument):
    with pytest.raises(ValueError, match=r"index|invalid") as raised:
        read_config([argument])
    assert "\n" not in str(raised.value)
