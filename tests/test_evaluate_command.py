"""`mofme evaluate` as a user has it: folders in, a table, CSV, JSON and a contact sheet out."""

import csv
import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from PIL import Image
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mofme_jax.cli import main
from mofme_jax.evaluation.evaluator import evaluate
from mofme_jax.evaluation.protocols import PROTOCOLS
from tests.conftest import small_config
from tests.fakes import Gain

ROOT = Path(__file__).parents[1]
GAIN = 0.8137  # of which no level from 0 to 255 is half way between two others
SIZES = [(40, 52), (33, 61), (64, 48), (48, 48), (37, 90), (70, 35)]
NAMES = ["a", "b", "c", "sub/d", "sub/e", "f"]


def save(path: Path, image: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(path)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """gt; worse, better and near, with ever less noise; and the arrays in them."""
    root, rng = tmp_path_factory.mktemp("folders"), np.random.default_rng(0)
    arrays: dict[str, list[np.ndarray]] = {}
    for name, size in zip(NAMES, SIZES, strict=True):
        low = rng.integers(0, 256, (4, 4, 3), dtype=np.uint8)
        truth = np.asarray(Image.fromarray(low).resize(size[::-1], Image.Resampling.BICUBIC))
        for folder, noise in (("gt", 0), ("worse", 40), ("better", 20), ("near", 3)):
            image = np.clip(truth + rng.normal(0, noise, truth.shape), 0, 255).astype(np.uint8) if noise else truth
            arrays.setdefault(folder, []).append(image)
            save(root / folder / f"{name}.png", image)
    return root, arrays


def figures(capsys, *arguments) -> dict:
    assert main(["evaluate", *map(str, arguments), "--json"]) == 0
    return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)


def skimage_scores(image, truth, **options):
    options = {"channel_axis": -1, "data_range": 255, **options} if image.ndim == 3 else options
    decibels = peak_signal_noise_ratio(truth, image, data_range=options["data_range"])
    return decibels, structural_similarity(truth, image, **options)


GAUSSIAN = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}


def luma(image: np.ndarray, weights=(65.481, 128.553, 24.966)) -> np.ndarray:
    return image / 255.0 @ np.array(weights) + 16.0


def resized(image: np.ndarray, width: int, height: int) -> np.ndarray:
    return np.asarray(Image.fromarray(image).resize((width, height), Image.Resampling.LANCZOS))


def up(side: int) -> int:
    return -(-side // 16) * 16


def expected_scores(protocol: str, image: np.ndarray, truth: np.ndarray) -> tuple[float, float]:
    """By scikit-image, written down from each protocol's definition."""
    height, width = truth.shape[:2]
    pair = image, truth
    if protocol == "native-rgb":
        return skimage_scores(*pair, **GAUSSIAN)
    if protocol == "basicsr-y":
        return skimage_scores(*map(luma, pair), data_range=255, **GAUSSIAN)
    if protocol == "weatherdiff-y":
        pair = (luma(resized(part, up(width), up(height))) for part in pair)
        return skimage_scores(*pair, data_range=255, **GAUSSIAN)
    if protocol == "histoformer":
        pair = (luma(part, (24.966, 128.553, 65.481)) / 255 for part in pair)
        return skimage_scores(*pair, data_range=1, win_size=11)
    if protocol == "centre16-rgb":
        top, left = height % 16 // 2, width % 16 // 2
        return skimage_scores(
            *(part[top : height - (height % 16 - top), left:][:, : width // 16 * 16] for part in pair)
        )
    raise AssertionError(protocol)


@pytest.mark.parametrize("protocol", [name for name in PROTOCOLS if name != "mofme"])
def test_a_folder_is_scored_as_scikit_image_does(folders, capsys, protocol):
    root, arrays = folders
    found = figures(capsys, "--pred", root / "better", "--gt", root / "gt", "--protocol", protocol)
    expected = np.array([expected_scores(protocol, *pair) for pair in zip(arrays["better"], arrays["gt"], strict=True)])
    assert [row["file"] for row in found["images"]] == sorted(NAMES, key=lambda name: name.split("/"))
    by_name = {row["file"]: row for row in found["images"]}
    np.testing.assert_allclose([by_name[name]["psnr"] for name in NAMES], expected[:, 0], atol=1e-6)
    np.testing.assert_allclose([by_name[name]["ssim"] for name in NAMES], expected[:, 1], atol=1e-6)
    [means] = found["means"]
    assert (means["protocol"], means["images"]) == (protocol, 6)
    for place, metric in enumerate(("psnr", "ssim")):
        mean = means["restored"][metric]
        assert mean["mean"] == pytest.approx(expected[:, place].mean(), abs=1e-6)
        assert expected[:, place].min() < mean["low"] < mean["mean"] < mean["high"] < expected[:, place].max()


def test_the_protocol_mofme_brings_truths_to_its_size(folders, tmp_path, capsys):
    """The PSNR by hand; the SSIM is piq's, which scoring is tested against."""
    root, arrays = folders
    expected = []
    for name, image, truth in zip(NAMES, arrays["better"], arrays["gt"], strict=True):
        pair = [Image.fromarray(part).resize((720, 480), Image.Resampling.BICUBIC) for part in (image, truth)]
        save(tmp_path / "restored" / f"{name}.png", np.asarray(pair[0]))
        error = np.subtract(*(np.asarray(part) / 255.0 for part in pair))
        expected.append(-10 * np.log10(np.square(error).mean() + 1e-8))
    by_size = [
        figures(capsys, "--pred", folder, "--gt", root / "gt", "--protocol", "mofme")
        for folder in (root / "better", tmp_path / "restored")
    ]
    assert by_size[0] == by_size[1]
    assert by_size[0]["means"][0]["restored"]["psnr"]["mean"] == pytest.approx(np.mean(expected), abs=1e-9)


def test_the_table(folders, capsys):
    root, _ = folders
    assert main(["evaluate", "--pred", str(root / "near"), "--gt", str(root / "gt"), "--protocol=all"]) == 0
    head, _, *rows, note = capsys.readouterr().out.splitlines()
    assert head.split() == ["protocol", "images", "PSNR", "95", "%", "SSIM", "95", "%"]
    assert [row.split()[0] for row in rows] == list(PROTOCOLS)
    found = figures(capsys, "--pred", root / "near", "--gt", root / "gt", "--protocol", "all")
    for row, means in zip(rows, found["means"], strict=True):
        psnr, ssim = means["restored"]["psnr"], means["restored"]["ssim"]
        assert row.split()[1:] == [
            "6", f"{psnr['mean']:.2f}", f"{psnr['low']:.2f}", "to", f"{psnr['high']:.2f}",
            f"{ssim['mean']:.4f}", f"{ssim['low']:.4f}", "to", f"{ssim['high']:.4f}",
        ]  # fmt: skip
    assert "10,000 resamples, seed 0" in note


def test_inputs_are_scored_as_well(folders, capsys, tmp_path):
    root, _ = folders
    given = ["--pred", root / "better", "--input", root / "worse", "--gt", root / "gt"]
    found = figures(capsys, *given, "--csv", tmp_path / "figures.csv")
    inputs = figures(capsys, "--pred", root / "worse", "--gt", root / "gt")
    for row, of_input in zip(found["images"], inputs["images"], strict=True):
        assert (row["psnr_input"], row["ssim_input"]) == (of_input["psnr"], of_input["ssim"])
        assert row["psnr"] > row["psnr_input"]
    assert found["means"][0]["input"] == inputs["means"][0]["restored"]
    gain = np.mean([row["psnr"] - row["psnr_input"] for row in found["images"]])
    assert found["means"][0]["difference"]["psnr"]["mean"] == pytest.approx(gain)
    with open(tmp_path / "figures.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["file", "protocol", "weather", "psnr", "ssim", "psnr_input", "ssim_input"]
    assert [float(row["psnr_input"]) for row in rows] == pytest.approx(
        [row["psnr_input"] for row in found["images"]], abs=1e-6
    )
    assert main(["evaluate", *map(str, given)]) == 0
    assert f"{gain:+.2f}" in capsys.readouterr().out


def test_two_folders_are_compared_image_by_image(folders, capsys, tmp_path):
    root, arrays = folders
    for i, name in enumerate(NAMES):  # as good as A in one image, better in three, worse in two
        source = ("worse", "near", "near", "near", "better", "better")[i]
        save(tmp_path / "B" / f"{name}.png", arrays[source][i])
        save(tmp_path / "A" / f"{name}.png", arrays["worse" if i < 4 else "near"][i])
    found = figures(capsys, "--compare", tmp_path / "A", tmp_path / "B", "--gt", root / "gt", "--protocol", "all")
    a, b = (figures(capsys, "--pred", tmp_path / x, "--gt", root / "gt", "--protocol", "all") for x in "AB")
    for row, of_a, of_b in zip(found["images"], a["images"], b["images"], strict=True):
        assert row["psnr_difference"] == of_b["psnr"] - of_a["psnr"]
        assert row["ssim_difference"] == of_b["ssim"] - of_a["ssim"]
    assert len(found["means"]) == 6
    for means, of_a, of_b in zip(found["means"], a["means"], b["means"], strict=True):
        for metric in ("psnr", "ssim"):
            difference = means["difference"][metric]
            paired = of_b["restored"][metric]["mean"] - of_a["restored"][metric]["mean"]
            assert difference["mean"] == pytest.approx(paired)
            assert difference["low"] < paired < difference["high"]
            assert difference["better"] == 3
    assert main(["evaluate", "--compare", f"{tmp_path}/A", f"{tmp_path}/B", "--gt", f"{root}/gt"]) == 0
    psnr_row = capsys.readouterr().out.splitlines()[2]
    assert psnr_row.endswith("3 of 6")
    assert f"{found['means'][0]['difference']['psnr']['mean']:+.2f}" in psnr_row


def test_identical_images_are_counted_and_not_averaged(folders, capsys, tmp_path):
    root, arrays = folders
    for i, name in enumerate(NAMES):
        save(tmp_path / "out" / f"{name}.png", arrays["gt" if i == 0 else "better"][i])
    given = ["--pred", tmp_path / "out", "--gt", root / "gt"]
    found = figures(capsys, *given)
    mean = found["means"][0]["restored"]["psnr"]
    assert found["images"][0]["psnr"] is None
    assert (mean["count"], mean["infinite"]) == (5, 1)
    assert mean["mean"] == pytest.approx(np.mean([row["psnr"] for row in found["images"][1:]]))
    assert main(["evaluate", *map(str, given), "--csv", f"{tmp_path}/figures.csv"]) == 0
    out = capsys.readouterr().out
    assert "native-rgb: 1 of 6 (restored) are identical with the truth; the mean PSNR is over the other 5" in out
    assert (tmp_path / "figures.csv").read_text().splitlines()[1] == "a,native-rgb,,inf,1.000000"

    compare = ["--compare", root / "better", tmp_path / "out", "--gt", root / "gt"]
    difference = figures(capsys, *compare)["means"][0]["difference"]["psnr"]
    assert (difference["mean"], difference["count"], difference["infinite"], difference["better"]) == (0.0, 5, 1, 1)
    assert main(["evaluate", *map(str, compare)]) == 0
    assert "in 1 only one of A and B is identical with the truth" in capsys.readouterr().out

    assert main(["evaluate", "--pred", f"{root}/gt", "--gt", f"{root}/gt", "--sheet", f"{tmp_path}/s.png"]) == 0
    assert capsys.readouterr().out.splitlines()[2].split()[:5] == ["native-rgb", "6", "inf", "-", "1.0000"]


def test_the_sheet_shows_the_worst_first(folders, tmp_path, capsys, monkeypatch):
    root, _ = folders
    drawn = []
    monkeypatch.setattr("mofme_jax.commands.evaluate.WORST", 3)
    monkeypatch.setattr("mofme_jax.viz.error_sheet", lambda *arguments: drawn.append(arguments))
    given = ["--gt", root / "gt", "--sheet", tmp_path / "sheet.png"]
    found = figures(capsys, "--pred", root / "better", *given)
    rows, titles, captions, judged, _ = drawn.pop()
    worst = sorted(found["images"], key=lambda row: row["psnr"])[:3]
    assert [caption.split(":")[0] for caption in captions] == [row["file"] for row in worst]
    assert f"PSNR {worst[0]['psnr']:.2f} dB, SSIM {worst[0]['ssim']:.3f}" in captions[0]
    assert (titles, judged) == (["restored", "truth"], 1)
    index = NAMES.index(worst[0]["file"])
    for shown, folder in zip(rows[0], ("better", "gt"), strict=True):
        np.testing.assert_array_equal(shown, folders[1][folder][index])
    found = figures(capsys, "--compare", root / "better", root / "worse", *given)
    _, titles, captions, judged, _ = drawn.pop()
    worst = sorted(found["images"], key=lambda row: row["psnr_difference"])[:3]
    assert [caption.split(":")[0] for caption in captions] == [row["file"] for row in worst]
    assert (titles, judged) == (["A", "B", "truth"], 2)


def test_names_may_be_any_bytes(tmp_path, capsys):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), dtype=np.uint8)
    name = b"a\xff\xe9.png".decode("utf-8", "surrogateescape")
    for folder in ("out", "gt"):
        save(tmp_path / folder / name, image)
    given = ["evaluate", "--pred", f"{tmp_path}/out", "--gt", f"{tmp_path}/gt"]
    assert main([*given, "--csv", f"{tmp_path}/figures.csv", "--sheet", f"{tmp_path}/sheet.png", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["images"][0]["file"] == Path(name).stem
    assert (tmp_path / "figures.csv").read_bytes().splitlines()[1] == b"a\xff\xe9,native-rgb,,inf,1.000000"


def test_nothing_is_written_over_without_force(folders, tmp_path, capsys):
    root, _ = folders
    given = ["evaluate", "--pred", f"{root}/near", "--gt", f"{root}/gt"]
    for option, name in (("--csv", "figures.csv"), ("--sheet", "sheet.png")):
        file = tmp_path / name
        file.write_text("mine")
        assert main([*given, f"{option}={file}"]) == 2
        assert f"{file} is there already: --force writes over it" in capsys.readouterr().err
        assert file.read_text() == "mine"
        assert main([*given, f"{option}={file}", "--force"]) == 0
        assert file.read_bytes() != b"mine"
        assert str(file) in capsys.readouterr().err
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert np.ptp(np.asarray(sheet)) == 255


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--pred=P"], "say --gt DIR"),
        (["--pred=P", "--gt=nowhere"], "there is no folder nowhere"),
        (["--pred=P", "--gt=P", "--protocol=psnr"], "protocol 'psnr' is unknown; choose one of native-rgb"),
        (["--pred=P", "--gt=P", "--config.data.crop=32"], "--config goes with --workdir alone"),
        (["--pred=P", "--gt=P", "--csv=no/such/folder.csv"], "there is no folder no/such"),
        (["--pred=P", "--gt=P", "--csv=P", "--force"], "P cannot be written: it is a folder"),
        (["--pred=P", "--gt=P", "--sheet=sheet.doc"], "must end in .png"),
        (["--compare", "P", "P", "--gt=P", "--input=P"], "no --input"),
        (["--workdir=P", "--gt=P"], "--input DIR and --gt DIR together"),
        (["--workdir=P"], "is not the folder of a training run"),
        (["--workdir=run", "--config.data.colour=1"], "colour"),
        (["--workdir=run", "--config.dta.crop=1"], "dta"),
        (["--workdir=run", "--config.data.crop=big"], "big"),
        (["--workdir=run", "--config.evaluation.tile=8"], "config.evaluation.tile=8 must be"),
        (["--workdir=run", "--config.model.num_experts=8"], "config.model differs from that of run"),
        (["--workdir=broken"], "broken/config.json is not the config of a run"),
        (["--workdir=list"], "list/config.json is not the config of a run"),
        (["--workdir=run"], "no checkpoint in"),
        (["--workdir=run", "--config=nowhere.py"], "nowhere.py"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(arguments, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "P" / "a.png", np.zeros((20, 20, 3), np.uint8))
    write_config(tmp_path / "run")
    for name, text in (("broken", '{"seed": 0}'), ("list", "[1]")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text(text)
    assert main(["evaluate", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("mofme: ")
    assert error.count("\n") == 1
    assert message in error


def test_one_of_the_three_is_needed(capsys):
    for arguments in ([], ["--pred=a", "--workdir=b"]):
        with pytest.raises(SystemExit) as left:
            main(["evaluate", *arguments])
        assert left.value.code == 2
        assert "usage: mofme evaluate" in capsys.readouterr().err


def test_the_help_names_every_protocol(capsys):
    with pytest.raises(SystemExit):
        main(["evaluate", "--help"])
    text = " ".join(capsys.readouterr().out.split()).replace("- ", "-")
    assert all(name in text for name in PROTOCOLS)


def write_config(workdir: Path) -> None:
    workdir.mkdir()
    (workdir / "config.json").write_text(small_config().to_json_best_effort())


class Seen(Gain):
    """Keeps the sides of the tiles that it is shown."""

    sides: ClassVar[set] = set()

    def __call__(self, images, train=False):
        self.sides.add(images.shape[1])
        return super().__call__(images, train)


@pytest.fixture
def run(tmp_path, monkeypatch):
    """The folder of a run that learnt to make images darker."""
    write_config(tmp_path / "run")
    Seen.sides.clear()
    monkeypatch.setattr("mofme_jax.training.checkpoint.load", lambda path: (Seen(), {"gain": np.float32(GAIN)}))
    return tmp_path / "run"


def darker(image: np.ndarray) -> np.ndarray:
    return np.round(image * np.float32(GAIN)).astype(np.uint8)


def test_a_run_is_judged_on_what_its_own_evaluation_sees(run, capsys):
    from mofme_jax.training.options import read_options
    from mofme_jax.training.sources import open_sources

    changes = {"evaluation.max_side": 20, "data.weathers": ("snow",)}
    found = figures(capsys, "--workdir", run, *(f"--config.{name}={value}" for name, value in changes.items()))
    cases = open_sources(read_options(small_config(**changes))).cases()
    expected, _ = evaluate(lambda image: (darker(image), np.zeros(1)), cases)
    assert [means["weather"] for means in found["means"]] == list(expected) == ["snow", "clean"]
    for means, row in zip(found["means"], expected.values(), strict=True):
        assert means["images"] == row["images"]
        assert means["restored"]["psnr"]["mean"] == pytest.approx(row["psnr"], abs=1e-3)
        assert means["restored"]["ssim"]["mean"] == pytest.approx(row["ssim"], abs=1e-4)
    assert found["means"][1]["input"]["psnr"]["mean"] is None
    assert main(["evaluate", "--workdir", str(run), "--config.evaluation.max_side=20"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0].split()[:3] == ["protocol", "weather", "images"]
    assert out[2].split()[:2] == ["native-rgb", "haze"]
    assert Seen.sides == {16}
    figures(capsys, "--workdir", run, "--config.evaluation.max_side=20", "--config.evaluation.tile=18")
    assert Seen.sides == {16, 18}


def test_a_run_may_be_judged_with_another_config_file(run, capsys, monkeypatch):
    monkeypatch.chdir(ROOT)
    given = ["--config=configs/smoke.py", "--config.data.weathers=('haze',)", "--config.evaluation.max_side=16"]
    with pytest.raises(AssertionError):
        figures(capsys, "--workdir", run, *given)
    assert "config.model differs" in capsys.readouterr().err
    overrides = [f"--config.model.overrides.{name}={value}" for name, value in
                 (("channels", "(8,)"), ("depth", 1), ("blocks", 0))]  # fmt: skip
    found = figures(capsys, "--workdir", run, *given, *overrides)
    assert [means["weather"] for means in found["means"]] == ["haze", "clean"]


def test_a_run_restores_a_folder_under_every_protocol(folders, run, capsys, tmp_path):
    """A gain restores each pixel alone: what is resized or cut before it may as well be after it, but for rounding."""
    root, arrays = folders
    given = ["--workdir", run, "--input", root / "better", "--gt", root / "gt", "--protocol", "all"]
    found = figures(capsys, *given)
    for name, image in zip(NAMES, arrays["better"], strict=True):
        save(tmp_path / "restored" / f"{name}.png", darker(image))
    pictures = ["--pred", tmp_path / "restored", "--input", root / "better", "--gt", root / "gt", "--protocol", "all"]
    expected = figures(capsys, *pictures)
    assert [row["file"] for row in found["images"]] == [row["file"] for row in expected["images"]]
    for row, other in zip(found["images"], expected["images"], strict=True):
        assert (row["psnr_input"], row["ssim_input"]) == (other["psnr_input"], other["ssim_input"])
        native = row["protocol"] in ("native-rgb", "basicsr-y", "histoformer")
        assert row["psnr"] == pytest.approx(other["psnr"], abs=1e-9 if native else 0.05)
        assert row["ssim"] == pytest.approx(other["ssim"], abs=1e-9 if native else 2e-3)
    for means, other in zip(found["means"], expected["means"], strict=True):
        native = means["protocol"] in ("native-rgb", "basicsr-y", "histoformer")
        assert (means["restored"]["psnr"] == other["restored"]["psnr"]) == native  # else in floats, or resized before
