"""The notebooks: run from top to bottom with few steps of a little network, and kept fit to be committed."""

import ast
import base64
import io
import json
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import nbformat
import numpy as np
import pytest
from ml_collections import ConfigDict
from nbclient import NotebookClient
from PIL import Image

from configs import default

ROOT = Path(__file__).parents[2]
NAMES = ("mofme_quickstart", "mofme_routing")
FILES = """
from pathlib import Path
from PIL import Image

def upload():
    Image.new("RGB", (40, 30), "grey").save("holiday.png")
    return {"holiday.png": Path("holiday.png").read_bytes()}
"""
DRIVE = """
from pathlib import Path

def mount(folder):
    (Path(folder) / "MyDrive").mkdir(parents=True)
"""


def read(name: str) -> nbformat.NotebookNode:
    return nbformat.read(ROOT / "colab" / f"{name}.ipynb", 4)


def source(name: str, cell: str) -> str:
    return next(c.source for c in read(name).cells if c.id == cell)


def run(name: str, values: dict, folder: Path) -> dict[str, list]:
    """Runs a notebook in `folder`, with other values in its parameters. Returns the outputs of each cell."""
    notebook = read(name)
    (settings,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", [])]
    assigned = {line.split(" = ")[0] for line in settings.source.splitlines()}
    assert assigned == set(values)
    settings.source = "\n".join(f"{field} = {value!r}" for field, value in values.items())
    spec = folder / "jupyter" / "kernels" / "python3" / "kernel.json"
    spec.parent.mkdir(parents=True)
    argv = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    spec.write_text(json.dumps({"argv": argv, "display_name": "Python 3", "language": "python"}))
    colab = folder / "fake" / "google" / "colab"
    colab.mkdir(parents=True)
    (colab / "__init__.py").touch()
    (colab / "files.py").write_text(FILES)
    (colab / "drive.py").write_text(DRIVE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_PATH", str(folder / "jupyter"))
        patch.setenv("JUPYTER_PLATFORM_DIRS", "1")  # or jupyter_core warns that it will be so
        for place in ("JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "IPYTHONDIR"):
            patch.setenv(place, str(folder / place))
        patch.setenv("JAX_PLATFORMS", "cpu")
        patch.setenv("JAX_NUM_CPU_DEVICES", "1")
        patch.setenv("PYTHONPATH", str(folder / "fake"))
        patch.setenv("PIP_DRY_RUN", "1")  # whatever a notebook does, nothing is installed
        work = folder / "work"
        work.mkdir()
        resources = {"metadata": {"path": str(work)}}
        NotebookClient(notebook, timeout=120, kernel_name="python3", resources=resources).execute()
    return {cell.id: cell.outputs for cell in notebook.cells if cell.cell_type == "code"}


def text(outputs: list) -> str:
    return "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")


def shown(outputs: list, kind: str) -> list:
    return [output.data[kind] for output in outputs if kind in output.get("data", {})]


def pictures(outputs: list) -> list[np.ndarray]:
    """The PNGs of a cell; none may be all of one colour."""
    found = [np.asarray(Image.open(io.BytesIO(base64.b64decode(png)))) for png in shown(outputs, "image/png")]
    assert all(picture.std() > 0 for picture in found)
    return found


def differing(config: ConfigDict, base: ConfigDict, before: str = "") -> dict:
    """The fields of a config that `base` has otherwise, by dotted name."""
    found = {}
    for name, value in config.items():
        if isinstance(value, ConfigDict):
            found |= differing(value, base[name], f"{before}{name}.")
        elif name not in base or value != base[name]:
            found[before + name] = value
    return found


@pytest.fixture(scope="module")
def least(finished_run) -> dict:
    """SOURCE, and STEPS and FIELDS of the run that other tests share, so that its step is not compiled again."""
    config = ConfigDict(json.loads((finished_run[0] / "config.json").read_text()))
    fields = differing(config, ConfigDict(json.loads(default.get_config().to_json())))
    return {"SOURCE": str(ROOT), "STEPS": fields.pop("train.steps"), "FIELDS": fields}


@pytest.fixture(scope="module")
def quickstart(tmp_path_factory, compiled_once, least) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("quickstart")
    return run("mofme_quickstart", least | {"WORKDIR": "run", "DRIVE": "drive"}, folder), folder / "work"


@pytest.fixture(scope="module")
def routing(tmp_path_factory, compiled_once, least) -> tuple[dict, Path]:
    folder = tmp_path_factory.mktemp("routing")
    return run("mofme_routing", least | {"RUN": "run", "SIDE": 24}, folder), folder / "work"


def test_quickstart_trains_and_goes_on(quickstart):
    outputs, work = quickstart
    assert "installed: nothing" in text(outputs["packages"])
    assert "of kind cpu" in text(outputs["devices"])
    assert "step 6/6" in text(outputs["train"])
    assert "going on from step 6 of 6" in text(outputs["on"])
    assert "step 6/6" not in text(outputs["on"])  # nothing is trained again
    assert (work / "run" / "report.json").is_file()


def test_quickstart_shows_pictures(quickstart):
    outputs, _ = quickstart
    (weather,) = pictures(outputs["weather"])
    assert weather.shape[1] == 5 * 244
    for cell, count in (("restore", 1), ("doubt", 1), ("experts", 2)):
        assert len(pictures(outputs[cell])) == count, cell
    assert "expected error" in text(outputs["doubt"])


def test_quickstart_has_the_report_in_a_table(quickstart):
    outputs, work = quickstart
    (table,) = shown(outputs["table"], "text/markdown")
    report = json.loads((work / "run" / "report.json").read_text())
    row = report["scores"]["haze"]
    assert f"| haze | {row['psnr_input']:.2f} | {row['psnr']:.2f} |" in table
    assert f"{report['mean_gain']:+.2f}" in table.splitlines()[-1]
    assert "| clean | |" in table


def test_quickstart_restores_uploads_and_copies_to_drive(quickstart):
    outputs, work = quickstart
    assert (work / "restored" / "holiday.png").is_file()
    assert len(shown(outputs["upload"], "image/jpeg")) == 2
    assert (work / "drive" / "MyDrive" / "mofme_jax" / "run" / "checkpoints" / "6").is_dir()


@pytest.mark.parametrize("cell", ["upload", "drive"])
def test_off_colab_a_line_says_what_is_skipped(cell, capsys):
    namespace = {"Path": Path, "WORKDIR": "run", "DRIVE": "drive"}
    exec(source("mofme_quickstart", cell), namespace)
    assert capsys.readouterr().out.startswith("not on Colab")


def test_routing_shows_pictures(routing):
    outputs, _ = routing
    for cell, count in {"pictures": 1, "who": 1, "legend": 2, "gates": 1, "off": 1, "stability": 1, "kinds": 1}.items():
        assert len(pictures(outputs[cell])) == count, cell


def test_routing_prints_tables(routing):
    outputs, _ = routing
    assert "layer 0: mean gate" in text(outputs["gates"])
    assert "layer 0, without all" in text(outputs["kept"])
    table = {line.split()[0]: line.split() for line in text(outputs["kinds"]).splitlines()}
    assert float(table["deterministic"][1]) == 1.0  # the kind it was trained with agrees with itself
    assert float(table["linear"][3]) > 0.0
    assert float(table["paper"][1]) < 1.0
    rows = [line.split() for line in text(outputs["passes"]).splitlines()[1:]]
    assert float(rows[-1][1]) < float(rows[0][1]) / 2  # more passes come nearer to the moments


def test_noise_disturbs_the_choice_more_the_more_there_is(routing):
    outputs, _ = routing
    lines = [line.split(":")[1].split() for line in text(outputs["stability"]).splitlines() if "all tokens" in line]
    assert lines
    for line in lines:
        first, *_, last = [float(value) for value in line[2:7]]
        assert 1.0 >= first >= last >= 0.0


def test_the_atlas_is_in_the_notebook(routing):
    outputs, work = routing
    (frame,) = shown(outputs["atlas"], "text/html")
    assert "<iframe srcdoc=" in frame
    assert "Expert atlas of run" in frame
    assert (work / "run" / "atlas.html").is_file()


@pytest.mark.parametrize("name", NAMES)
def test_fit_to_be_committed(name):
    raw = (ROOT / "colab" / f"{name}.ipynb").read_text()
    notebook = read(name)
    nbformat.validate(notebook)
    assert raw == json.dumps(json.loads(raw), indent=1, ensure_ascii=False, sort_keys=True) + "\n"
    for cell in notebook.cells:
        assert len(cell.source.splitlines()) <= 25, cell.id
        if cell.cell_type == "code":
            assert not cell.outputs, cell.id
            assert cell.execution_count is None, cell.id
            assert max(map(len, cell.source.splitlines())) <= 120, cell.id


def test_notebooks_are_all_tested():
    assert {path.stem for path in (ROOT / "colab").glob("*.ipynb")} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_imports_resolve(name):
    code = "\n".join(cell.source for cell in read(name).cells if cell.cell_type == "code")
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module != "google.colab":
            module = import_module(node.module)
            for alias in node.names:
                assert hasattr(module, alias.name), f"from {node.module} import {alias.name}"


@pytest.fixture
def found(monkeypatch):
    """found(SOURCE): the checkout that the notebook takes."""

    def found(place: str) -> Path:
        namespace = {"SOURCE": place}
        exec(source("mofme_routing", "checkout"), namespace)
        return namespace["checkout"]

    monkeypatch.setattr(sys, "path", [*sys.path])
    return found


def test_both_install_alike():
    for cell in ("checkout", "packages"):
        assert source("mofme_quickstart", cell) == source("mofme_routing", cell)


def test_without_a_checkout_it_says_what_to_set(found, monkeypatch, tmp_path):
    (tmp_path / "deep").mkdir()
    monkeypatch.chdir(tmp_path / "deep")
    with pytest.raises(FileNotFoundError, match="set SOURCE"):
        found("")


@pytest.mark.parametrize("folder", [ROOT, ROOT / "colab"])
def test_a_checkout_here_or_above_is_taken(found, monkeypatch, folder):
    monkeypatch.chdir(folder)
    assert found("") == ROOT
    assert sys.path[0] == str(ROOT)


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_an_address_is_cloned_once(found, monkeypatch, tmp_path):
    origin = tmp_path / "origin"
    (origin / "configs").mkdir(parents=True)
    (origin / "configs" / "default.py").touch()
    git = ["git", "-C", str(origin), "-c", "user.name=n", "-c", "user.email=e@example.org"]
    for command in (["init", "--quiet"], ["add", "."], ["commit", "--quiet", "-m", "m"]):
        subprocess.run([*git, *command], check=True)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert found(origin.as_uri()) == tmp_path / "mofme_jax_checkout"
    assert (tmp_path / "mofme_jax_checkout" / "configs" / "default.py").is_file()


@pytest.fixture
def install(monkeypatch, tmp_path):
    """install(): runs the cell on a checkout that needs a package nobody has. Returns the calls of pip."""
    needs = '[project]\ndependencies = ["numpy>=2.0", "mofme-no-such-package>=1"]\n'
    (tmp_path / "pyproject.toml").write_text(needs)
    calls: list = []
    monkeypatch.setattr(subprocess, "run", lambda command, check: calls.append(command))

    def install() -> list:
        before = source("mofme_routing", "checkout").split("\n\n")[0]  # its imports
        exec(before + "\n" + source("mofme_routing", "packages"), {"checkout": tmp_path})
        return calls

    return install


def test_only_on_colab_is_anything_installed(install, monkeypatch):
    with pytest.raises(ModuleNotFoundError, match="mofme-no-such-package>=1"):
        install()
    monkeypatch.setitem(sys.modules, "google.colab", object())
    (call,) = install()
    assert "mofme-no-such-package>=1" in call
    assert "numpy>=2.0" not in call
