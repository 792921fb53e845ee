"""Weights in one file: what is written comes back, what comes with the package restores, what is wrong is said."""

import json
import shutil
import struct
import subprocess
import sys
import tracemalloc
from pathlib import Path

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

import mofme_jax
from mofme_jax.cli import main
from mofme_jax.data.photos import embedded_photographs
from mofme_jax.evaluation.calibration import Calibration, Curve, read_calibrations
from mofme_jax.evaluation.cases import weather_cases
from mofme_jax.evaluation.metrics import psnr
from mofme_jax.restoring.doubt import calibrations_of
from mofme_jax.weights import DEFAULT, shipped, weights_file
from mofme_jax.weights.file import load_weights, read_facts, save_weights

ROOT = Path(__file__).parents[1]
SECTION = {
    "variant": "tiny",
    "overrides": {"channels": [8], "depth": 1, "blocks": 0, "width": 8, "heads": 1, "head_dim": 4},
    "num_experts": 2,
}
MODEL = mofme_jax.build("tiny", **{**SECTION["overrides"], "channels": (8,)}, num_experts=2)
PARAMS = MODEL.init(jax.random.key(0), np.zeros((1, 8, 8, 3), np.float32))["params"]
CURVE = Curve({"change": 0.5, "routing": 0.1}, (-4.0, -1.0), (0.01, 0.1))
CALIBRATION = Calibration(CURVE, 0.08, 9, 2, 6, 0, True, 0.5, 0.6, {"change": 0.5, "routing": 0.2}, 0.01, 0.05, 0.7)
MOST_MEMORY = 2**25  # bytes taken for what turns out to be wrong; the tiny file has a few thousand


def saved(path: Path, dtype="float32") -> Path:
    save_weights(path, SECTION, PARAMS, steps=6, calibrations={"routing": CALIBRATION}, dtype=dtype)
    return path


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    return saved(tmp_path_factory.mktemp("good") / "good.safetensors").read_bytes()


def header_of(data: bytes) -> dict:
    return json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])


def with_header(data: bytes, header: dict | bytes) -> bytes:
    """The same file under another header."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data[8 + struct.unpack("<Q", data[:8])[0] :]


def with_facts(data: bytes, change) -> bytes:
    """The same file whose metadata `change` has changed in place, or a text in their place."""
    header = header_of(data)
    if callable(change):
        facts = json.loads(header["__metadata__"]["mofme_jax"])
        change(facts)
        change = json.dumps(facts)
    header["__metadata__"]["mofme_jax"] = change
    return with_header(data, header)


def with_arrays(data: bytes, change) -> bytes:
    """The same file whose list of arrays `change` has changed in place."""
    header = header_of(data)
    change(header)
    return with_header(data, header)


def test_what_is_written_comes_back(tmp_path):
    model, params = mofme_jax.load(saved(tmp_path / "exact.safetensors"))
    assert model == MODEL
    assert jax.tree.structure(params) == jax.tree.structure(PARAMS)
    jax.tree.map(np.testing.assert_array_equal, params, PARAMS)
    facts = read_facts(tmp_path / "exact.safetensors")
    assert (facts.section, facts.steps, facts.calibrations) == (SECTION, 6, {"routing": CALIBRATION})

    _, rounded = load_weights(saved(tmp_path / "half.safetensors", "float16"))
    assert {leaf.dtype.name for leaf in jax.tree.leaves(rounded)} == {"float32"}
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, np.asarray(b).astype(np.float16)), rounded, PARAMS)
    assert (tmp_path / "half.safetensors").stat().st_size < 0.7 * (tmp_path / "exact.safetensors").stat().st_size
    assert len(list(tmp_path.iterdir())) == 2


def test_twice_the_same_weights_give_the_same_bytes(tmp_path, good):
    assert saved(tmp_path / "again.safetensors").read_bytes() == good


@pytest.mark.parametrize("value", [np.inf, np.nan, 1e5])
def test_what_a_type_cannot_hold_is_not_written(tmp_path, value):
    params = jax.tree.map(lambda leaf: np.asarray(leaf) * 0 + np.float32(value), PARAMS)
    with pytest.raises(ValueError, match="that float16 cannot hold"):
        save_weights(tmp_path / "x.safetensors", SECTION, params, steps=1, calibrations={})
    assert not list(tmp_path.iterdir())


def test_what_comes_with_the_package_takes_haze_away():
    assert DEFAULT in shipped()
    for name in shipped():
        model, params = mofme_jax.load(name)
        assert calibrations_of(name)["routing"].photographs > 1
        cases = weather_cases(embedded_photographs("validation"), ["haze"], repeats=1, max_side=240)
        gains = []
        for case in cases:
            if case.group == "haze":
                restored = mofme_jax.restore(model, params, case.degraded)
                before, after = (psnr(image / 255.0, case.target / 255.0) for image in (case.degraded, restored))
                gains.append(float(after - before))
        assert min(gains) > 4.0, (name, gains)


def test_reading_a_file_needs_no_library_of_the_training():
    code = (
        "import sys, mofme_jax\nfrom mofme_jax.restoring.doubt import calibrations_of\n"
        f"mofme_jax.load({DEFAULT!r}), calibrations_of({DEFAULT!r})\n"
        "heavy = ('orbax', 'grain', 'tensorflow', 'tensorflow_datasets', 'ml_collections')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, cwd=ROOT).stdout
    assert out.splitlines()[-1] == "[]"


def test_names_files_and_folders(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / DEFAULT).mkdir()
    assert weights_file(DEFAULT).parent == Path(mofme_jax.__file__).parent / "weights"
    assert weights_file(f"./{DEFAULT}") is weights_file(Path(DEFAULT)) is None  # a folder
    saved(tmp_path / "mine.safetensors")
    assert weights_file("mine.safetensors") == Path("mine.safetensors")
    for unknown in ("mofme-larg", tmp_path / "gone.safetensors", "/dev/null"):
        with pytest.raises(FileNotFoundError, match=f"no weights {unknown}: give the name of shipped ones .*{DEFAULT}"):
            mofme_jax.load(unknown)


def first(header: dict) -> dict:
    return header[min(name for name in header if name != "__metadata__")]


def of_network(**fields):
    return lambda data: with_facts(data, lambda facts: facts["model"]["overrides"].update(fields))


def of_calibration(**fields):
    return lambda data: with_facts(data, lambda facts: facts["calibrations"]["routing"].update(fields))


def not_finite(data: bytes) -> bytes:
    return data[:-4] + np.float32(np.nan).tobytes()


DAMAGED = {
    "empty": (lambda data: b"", "it has 0 bytes"),
    "seven bytes": (lambda data: data[:7], "it has 7 bytes"),
    "no such format": (lambda data: b"PK\x03\x04 a zip, or a pickle" * 9, "a header of"),
    "cut in the header": (lambda data: data[:100], "a header of"),
    "cut in the arrays": (lambda data: data[:-1], ""),
    "longer than it says": (lambda data: data + b"\0", ""),
    "a header longer than the file": (lambda data: struct.pack("<Q", 2**63) + data[8:], "a header of"),
    "a header longer than any": (
        lambda data: with_header(data, json.dumps(header_of(data)).encode() + b" " * 2**20),
        "at most 1048576 are taken",
    ),
    "a header that is no JSON": (lambda data: with_header(data, b"{" * 50), ""),
    "no metadata": (lambda data: with_arrays(data, lambda h: h.pop("__metadata__")), "no entry mofme_jax"),
    "other metadata": (
        lambda data: with_arrays(data, lambda h: h.update(__metadata__={"format": "pt"})),
        "no entry mofme_jax",
    ),
    "metadata that are no JSON": (lambda data: with_facts(data, "{'a': 1}"), "is no JSON"),
    "metadata that are too deep": (lambda data: with_facts(data, "[" * 10**5), "is no JSON"),
    "metadata with NaN": (of_calibration(high=np.nan), "NaN is no number"),
    "metadata that are a list": (lambda data: with_facts(data, "[]"), "is of format None"),
    "of the future": (lambda data: with_facts(data, lambda facts: facts.update(format=2)), "is of format 2"),
    "no network": (lambda data: with_facts(data, lambda facts: facts.pop("model")), "lacks model"),
    "steps that are none": (lambda data: with_facts(data, lambda facts: facts.update(steps="6")), "steps"),
    "a calibration without a curve": (of_calibration(curve=None), "calibrations cannot be read"),
    "a calibration without a number": (of_calibration(typical="1"), "calibrations cannot be read"),
    "a calibration past all numbers": (of_calibration(high=10**400), "calibrations cannot be read"),
    "a sparsification that is none": (of_calibration(sparsification="1"), "calibrations cannot be read"),
    "a calibration by an error head that is none": (
        of_calibration(curve={"weights": {"error": 1.0}, "score": [-4.0, -1.0], "error": [0.01, 0.1]}),
        "calibrations cannot be read",
    ),
    "a calibration of more": (of_calibration(more=1), "calibrations cannot be read"),
    "a calibration of no such kind": (
        lambda data: with_facts(data, lambda facts: facts["calibrations"].update(a=facts["calibrations"]["routing"])),
        "calibrations cannot be read",
    ),
    "no such variant": (lambda data: with_facts(data, lambda facts: facts["model"].update(variant="x")), "'x' is unk"),
    "no such field": (of_network(colour=1), "sets 'colour'"),
    "a field that is no part of it": (of_network(dtype="bfloat16"), "sets 'dtype'"),
    "a field of another type": (of_network(width="8"), "width='8'"),
    "fields that make no network": (of_network(patch=7), "patch=7"),
    "a division by zero": (of_network(tail_channels=0, skip="none"), "tail_channels=0"),
    "a gigantic width": (of_network(width=2**16), "has the shape"),
    "a width past all": (of_network(width=2**62), "width=4611686018427387904"),
    "gigantic in all": (of_network(width=2**16, mlp_ratio=2**16, heads=2**16, head_dim=2**16), "has the shape"),
    "gigantic depth": (of_network(depth=10**9), "depth=1000000000"),
    "more blocks than arrays": (of_network(blocks=64), "more layers than"),
    "more levels than any": (of_network(channels=[8] * 9), "channels=(8, 8"),
    "endless passes": (of_network(router="stochastic", router_passes=10**6), "router_passes=1000000"),
    "a temperature past all numbers": (of_network(router_temperature=10**400), "router_temperature=1000"),
    "a window as wide as a photograph": (of_network(window=128), "window=128"),
    "tiles as large as a photograph": (of_network(patch=2048), "patch=2048"),
    "another network's arrays": (of_network(depth=2), "is missing"),
    "more arrays than the network's": (of_network(depth=0), "the network has no parameters 'block_0"),
    "experts of another number": (of_network(num_experts=3), "has the shape"),
    "an array of another name": (
        lambda data: with_arrays(data, lambda h: h.update({"../a": h.pop("embed/bias")})),
        "the network has no parameters '../a'",
    ),
    "an array of another type": (lambda data: with_arrays(data, lambda h: first(h).update(dtype="I32")), "of type I32"),
    "an array of another length": (lambda data: with_arrays(data, lambda h: first(h).update(shape=[10**12])), ""),
    "arrays that overlap": (
        lambda data: with_arrays(data, lambda h: h["embed/bias"].update(data_offsets=[0, 32])),
        "",
    ),
    "NaN": (not_finite, "not finite"),
}


@pytest.mark.parametrize(("damage", "said"), DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_said_before_memory_is_taken(tmp_path, good, damage, said):
    file = tmp_path / "bad.safetensors"
    file.write_bytes(damage(good))
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"bad\.safetensors is damaged or no file of weights: ") as raised:
            mofme_jax.load(file)
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()
    assert said in str(raised.value)
    assert len(str(raised.value)) < 600


def test_a_file_as_large_as_it_says_is_not_read_for_being_so(tmp_path):
    """Sixteen gigabytes of nothing, which take no room on the disk."""
    header = {"a": {"dtype": "F32", "shape": [2**16, 2**16], "data_offsets": [0, 2**34]}}
    facts = {"format": 1, "steps": 1, "model": {"variant": "tiny", "overrides": {}}, "calibrations": {}}
    data = with_header(struct.pack("<Q", 0), {**header, "__metadata__": {"mofme_jax": json.dumps(facts)}})
    with (tmp_path / "vast.safetensors").open("wb") as file:
        file.write(data)
        file.truncate(len(data) + 2**34)
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match="more than 1073741824 parameters"):
            mofme_jax.load(tmp_path / "vast.safetensors")
        assert tracemalloc.get_traced_memory()[1] < MOST_MEMORY
    finally:
        tracemalloc.stop()


@settings(max_examples=150, deadline=None, derandomize=True)
@given(draw=st.data())
def test_changed_bytes_give_weights_or_an_error_that_is_expected(tmp_path_factory, good, draw):
    data = bytearray(good)
    header = 8 + struct.unpack("<Q", good[:8])[0]
    for _ in range(draw.draw(st.integers(1, 3))):
        at = draw.draw(st.integers(0, header - 1) | st.integers(0, len(data) - 1))
        data[at] = draw.draw(st.sampled_from(b'0123456789{}[]",:-e') | st.integers(0, 255))
    file = tmp_path_factory.getbasetemp() / "changed.safetensors"
    file.write_bytes(data[: draw.draw(st.just(len(data)) | st.integers(0, len(data)))])
    said = "changed.safetensors"
    try:
        mofme_jax.load(file)
    except (ValueError, OSError) as error:
        said = str(error)
    assert "changed.safetensors" in said


def test_a_run_is_exported_and_restores_as_the_run_does(finished_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    run = str(finished_run[0])
    assert main(["export", "--weights", run, "--out", "run.safetensors", "--dtype", "float32"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0] == "run.safetensors"
    assert "after 6 steps, float32" in told[1]
    assert told[2] == "calibrated: routing"
    assert "at most 0.000 of 255 levels" in told[3]
    model, params = mofme_jax.load("run.safetensors")
    expected = mofme_jax.load(run)
    assert model == expected[0]
    jax.tree.map(np.testing.assert_array_equal, params, expected[1])
    assert calibrations_of("run.safetensors") == read_calibrations(finished_run[0])

    assert main(["export", "--weights", run, "--out", "run.safetensors"]) == 2
    assert "run.safetensors is there already" in capsys.readouterr().err
    assert main(["export", "--weights", run, "--out", "run.safetensors", "--force"]) == 0
    assert "float16" in capsys.readouterr().out

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)).save("photo.png")
    arguments = ["restore", "photo.png", "--tile=16", "--uncertainty", "-o", "out", "--weights", "run.safetensors"]
    assert main(arguments) == 0
    assert "mofme:" not in capsys.readouterr().err
    with np.load("out/photo.uncertainty.npz") as numbers:
        assert "expected error" in str(numbers["legend"])
    assert main([*arguments, "--force", "--passes=2"]) == 0
    assert "run.safetensors has no calibration of 2 passes" in capsys.readouterr().err


def test_restoring_needs_no_weights_of_ones_own(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(embedded_photographs("validation")["china"][:100, :120]).save("photo.png")
    assert main(["restore", "photo.png", "--out", "restored", "--uncertainty"]) == 0
    assert "mofme:" not in capsys.readouterr().err
    with Image.open("restored/photo.uncertainty.png") as picture:
        assert "expected error" in picture.text["Description"]
    (file,) = mofme_jax.restore_file("photo.png", "again.png")
    assert file.read_bytes() == Path("restored/photo.png").read_bytes()


def test_pictures_are_judged_with_a_file(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "mine.safetensors")
    photograph = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8))
    for name in ("input", "gt"):
        Path(name).mkdir()
        photograph.save(f"{name}/a.png")
    arguments = ["evaluate", "--workdir", "mine.safetensors"]
    assert main([*arguments, "--input", "input", "--gt", "gt", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)
    assert main(arguments) == 2
    assert "mine.safetensors does not say what to judge it on" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["restore", "photo.png", "-o", "out", "--weights", "mofme-larg"], "no weights mofme-larg: give the name of"),
        (["restore", "photo.png", "-o", "out", "--weights", "photo.png"], "photo.png is damaged or no file of weights"),
        (["calibrate", "--weights", DEFAULT], f"{DEFAULT} is a file of weights, and a calibration is learnt"),
        (["export", "--weights", DEFAULT, "--out", "x.safetensors"], f"{DEFAULT} is a file of weights"),
        (["export", "--weights", "gone", "--out", "x.safetensors"], "no weights gone"),
        (["export", "--weights", "run", "--out", "x.safetensors"], "is not the folder of a training run"),
        (["export", "--weights", "run", "--out", "x.npz"], "--out x.npz must end in .safetensors"),
        (["export", "--weights", "run", "--out", "no/x.safetensors"], "there is no folder"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run").mkdir()
    Image.new("RGB", (16, 16)).save("photo.png")
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error
    assert not Path("x.safetensors").exists()


def test_a_checkpoint_of_a_run_is_exported(finished_run, tmp_path):
    shutil.copytree(finished_run[0], tmp_path / "run")
    file = tmp_path / "third.safetensors"
    assert main(["export", "--weights", str(tmp_path / "run" / "checkpoints" / "3"), "--out", str(file)]) == 0
    facts = read_facts(file)
    assert facts.steps == 3
    assert facts.calibrations == {}  # the run's are of its newest checkpoint


def test_names_in_a_damaged_file_do_not_break_the_line(tmp_path, good):
    def change(header):
        next(array for name, array in header.items() if name != "__metadata__")["dtype"] = "a\n\x1b[31mb"

    path = tmp_path / "a.safetensors"
    path.write_bytes(with_arrays(good, change))
    with pytest.raises(ValueError, match="damaged or no file of weights") as raised:
        load_weights(path)
    assert str(raised.value).isprintable()
