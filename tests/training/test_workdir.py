"""The folder of a run: whose it is, and its logs."""

import json
import struct
from pathlib import Path

import pytest
from tensorboardX.proto.event_pb2 import Event

from mofme_jax.training import train_and_evaluate
from mofme_jax.training.logs import MetricsLog
from mofme_jax.training.workdir import claim_workdir, only_run, prepare_workdir


def test_a_folder_is_made_and_belongs_to_the_config_that_claims_it(make_config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = prepare_workdir("runs/a", make_config())
    assert path == tmp_path / "runs" / "a"  # absolute: Orbax takes nothing else
    assert list(path.iterdir()) == []  # nothing is claimed yet
    assert prepare_workdir("runs/a", make_config(seed=3)) == path
    claim_workdir(path, make_config())
    assert prepare_workdir("runs/a", make_config()) == path
    with pytest.raises(ValueError, match="another config") as raised:
        prepare_workdir("runs/a", make_config(**{"seed": 3, "train.batch": 4, "data.weathers": ("haze", "snow")}))
    for difference in (
        "seed was 0, is 3",
        "train.batch was 2, is 4",
        "data.weathers was ['haze'], is ['haze', 'snow']",
    ):
        assert difference in str(raised.value)
    assert "train.steps" not in str(raised.value)
    assert "choose another --workdir, or run with the config it has" in str(raised.value)


def test_a_field_that_only_one_config_has_is_a_difference(make_config, tmp_path):
    theirs = json.loads(make_config().to_json_best_effort())
    del theirs["train"]["b2"]
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    with pytest.raises(ValueError, match=r"train.b2 was None, is 0.999"):
        prepare_workdir(tmp_path, make_config())


def test_a_run_from_before_a_field_was_added_goes_on(make_config, tmp_path):
    theirs = json.loads(make_config().to_json_best_effort())
    del theirs["model"]["router_temperature"], theirs["model"]["error_head"], theirs["train"]["weights"]
    del theirs["validate_every"]
    (tmp_path / "config.json").write_text(json.dumps(theirs))
    prepare_workdir(tmp_path, make_config(**{"model.error_head": False}))
    with pytest.raises(ValueError, match=r"\(model.error_head was False, is True\)"):
        prepare_workdir(tmp_path, make_config(**{"model.error_head": True}))


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff\xfe"])
def test_a_config_json_that_is_none_is_not_overwritten(content, make_config, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(ValueError, match=r"config.json is not the config of a run: move it away"):
        prepare_workdir(tmp_path, make_config())
    assert (tmp_path / "config.json").read_bytes() == content


def test_a_second_run_in_a_folder_refuses_and_the_first_is_not_touched(make_config, tmp_path):
    with only_run(tmp_path), pytest.raises(OSError, match=f"another run is training in {tmp_path}: wait for its end"):
        train_and_evaluate(make_config(), tmp_path)
    assert list(tmp_path.iterdir()) == []
    with only_run(tmp_path):  # the first has ended
        pass


def test_a_folder_that_cannot_be_locked_is_trained_in(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(95, "Operation not supported")

    warned = []
    monkeypatch.setattr("fcntl.flock", unsupported)
    monkeypatch.setattr("mofme_jax.training.workdir.logging.warning", lambda *said: warned.append(said))
    with only_run(tmp_path), only_run(tmp_path):
        assert [folder for _, folder in warned] == [tmp_path, tmp_path]


def test_a_folder_that_cannot_be_made_or_written(make_config, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(OSError, match=f"the workdir {path} cannot be written .*choose another"):
            prepare_workdir(path, make_config())

    def denied(self, *args, **kwargs):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "touch", denied)
    with pytest.raises(OSError, match=r"cannot be written \(Permission denied\)"):
        prepare_workdir(tmp_path / "readable", make_config())


def scalars(workdir):
    """What TensorBoard shows: (tag, step) of every event, in order, and ("restart", step) where it forgets the rest."""
    shown = []
    for file in sorted((workdir / "tensorboard").iterdir(), key=lambda p: p.stat().st_mtime_ns):
        data = file.read_bytes()
        while data:  # a record: 8 bytes of length, 4 of checksum, the event, 4 of checksum
            (length,) = struct.unpack("<Q", data[:8])
            event = Event.FromString(data[12 : 12 + length])
            data = data[16 + length :]
            shown += [(value.tag, event.step) for value in event.summary.value]
            shown += [("restart", event.step)] if event.session_log.status == 1 else []
    return shown


def test_the_log_has_each_step_once_though_the_run_was_killed(tmp_path):
    log = MetricsLog(tmp_path, 0)
    for step in (2, 4, 6):
        log.write(step, {"loss": 0.1 * step, "rate": float("nan")})
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')
    MetricsLog(tmp_path, 4).write(6, {"loss": 7.0, "rate": 1.0})
    text = (tmp_path / "metrics.jsonl").read_text()
    lines = [json.loads(line, parse_constant=pytest.fail) for line in text.splitlines()]
    assert lines == [
        {"step": 2, "loss": 0.2, "rate": None},
        {"step": 4, "loss": 0.4, "rate": None},
        {"step": 6, "loss": 7.0, "rate": 1.0},
    ]
    # the first event of a file makes TensorBoard forget what came at that step or later: step 4 must stay
    losses = [entry for entry in scalars(tmp_path) if entry[0] != "train/rate"]
    assert losses == [("restart", 1), ("train/loss", 2), ("train/loss", 4), ("train/loss", 6),
                      ("restart", 5), ("train/loss", 6)]  # fmt: skip
    assert scalars(tmp_path).count(("train/rate", 6)) == 1


def test_a_kill_while_lines_are_dropped_loses_none(tmp_path, monkeypatch):
    MetricsLog(tmp_path, 0).write(2, {"loss": 1.0})
    before = (tmp_path / "metrics.jsonl").read_bytes()

    def killed(self, target):
        raise KeyboardInterrupt

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        MetricsLog(tmp_path, 2)
    assert (tmp_path / "metrics.jsonl").read_bytes() == before
