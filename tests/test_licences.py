"""The packages that this one needs: the command that lists them, and the file that pins them."""

import json
import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from mofme_jax.cli import main
from mofme_jax.commands.licences_of import needed

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """installed(name, *lines): a package of this name is there, with these lines of metadata."""
    monkeypatch.syspath_prepend(tmp_path)

    def install(name: str, *lines: str, files: tuple[str, ...] = ()) -> None:
        folder = tmp_path / f"{name.replace('-', '_')}-1.2.dist-info"
        folder.mkdir()
        (folder / "METADATA").write_text(
            "\n".join(["Metadata-Version: 2.4", f"Name: {name}", "Version: 1.2", *lines, ""])
        )
        (folder / "RECORD").write_text("".join(f"{folder.name}/{file},,\n" for file in files))

    return install


@pytest.fixture
def five(installed):
    installed(
        "mofme-jax",
        "Requires-Dist: aaa-stated",
        "Requires-Dist: Bbb_Named[more]",
        "Requires-Dist: eee-elsewhere; sys_platform == 'nowhere'",
        "Requires-Dist: ddd-extra; extra == 'demo'",
        "Provides-Extra: demo",
    )
    installed("aaa-stated", "License-Expression: MIT", "License: GPL", "Requires-Dist: mofme-jax[demo]")
    installed(
        "bbb.named",
        "License: BSD",
        "Classifier: License :: OSI Approved :: MIT License",
        "Requires-Dist: ccc-classified; extra == 'more'",
        "Provides-Extra: more",
    )
    installed(
        "ccc-classified",
        "License: a whole text",
        "  " + 100 * "of it ",
        "Classifier: License :: OSI Approved :: GNU Lesser General Public License v3 (LGPLv3)",
        "Requires-Dist: aaa-stated>=1",
        "Requires-Dist: fff-not-here",
    )
    installed("ddd-extra", "License: UNKNOWN", files=("licenses/COPYING", "licenses/deeper/COPYING", "RECORD"))


def test_licences_are_listed_with_who_asks(five, capsys):
    assert main(["licences"]) == 0
    assert [re.split(r"  +", line.strip()) for line in capsys.readouterr().out.splitlines()] == [
        ["package", "version", "licence", "asked for by"],
        ["aaa-stated", "1.2", "MIT", "ccc-classified, mofme-jax"],
        ["bbb.named", "1.2", "BSD", "mofme-jax"],
        ["*", "ccc-classified", "1.2", "GNU Lesser General Public License v3 (LGPLv3)", "bbb.named"],
        ["not installed: fff-not-here"],
        ["3 packages: 0 of unknown licence, 1 copyleft"],
    ]


def test_what_is_unknown_is_said_and_marked(five, capsys):
    assert main(["licences", "--extra", "demo"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(
        r"\*  ddd-extra +1\.2 +unknown; see ddd_extra-1\.2\.dist-info/licenses/COPYING +mofme-jax", lines[4]
    )
    assert lines[-1] == "4 packages: 1 of unknown licence, 1 copyleft"


def test_licences_as_json(five, capsys):
    assert main(["licences", "--extra=demo", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["not_installed"] == ["fff-not-here"]
    assert [package["marked"] for package in found["packages"]] == [False, False, True, True]
    assert found["packages"][1] == {
        "name": "bbb.named",
        "version": "1.2",
        "licence": "BSD",
        "file": None,
        "asked_by": ["mofme-jax"],
        "marked": False,
    }


def test_an_extra_that_is_none_is_said_in_a_line(five, capsys):
    assert main(["licences", "--extra", "dmeo"]) == 2
    assert capsys.readouterr().err == "mofme: mofme-jax has no extra 'dmeo'; choose one of demo\n"


@pytest.mark.parametrize(
    ("licence", "marked"),
    [
        ("AGPL-3.0-only", 1),
        ("LGPLv2+", 1),
        ("MIT OR GPL-2.0", 1),
        ("GNU General Public License", 1),
        ("MPL-2.0 AND MIT", 1),
        ("Mozilla Public License 2.0 (MPL 2.0)", 1),
        ("Apache-2.0", 0),
    ],
)
def test_copyleft_is_marked(installed, licence, marked):
    installed("aaa-stated", f"License-Expression: {licence}")
    assert needed(["aaa-stated"], "mofme-jax")[0][0].marked == marked


def pinned() -> dict[str, str]:
    """What `constraints.txt` says of each package."""
    lines = (ROOT / "constraints.txt").read_text().split("\n")
    found = [(line, Requirement(line)) for line in lines if line and not line.startswith("#")]
    return {canonicalize_name(requirement.name): line for line, requirement in found}


def test_versions_are_pinned_exactly():
    for line in pinned().values():
        assert re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][A-Za-z0-9.!+]*", line), line


def test_all_that_is_needed_is_pinned():
    """Of what is installed here: another system may need others."""
    extras = PROJECT["optional-dependencies"]
    packages, missing = needed([*PROJECT["dependencies"], *extras["demo"], *extras["test"]], "mofme-jax")
    assert len(packages) > 100
    assert {canonicalize_name(package.name) for package in packages} - set(pinned()) == set()
    assert missing == []


def test_all_that_is_needed_comes_from_a_package_index():
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["build-system"]["requires"]
    extras = [line for lines in PROJECT["optional-dependencies"].values() for line in lines]
    for line in [*build, *PROJECT["dependencies"], *extras, *pinned().values()]:
        assert Requirement(line).url is None
        assert "/" not in line
    for file in ("constraints.txt", "Makefile", "pyproject.toml"):
        text = (ROOT / file).read_text()
        assert not re.search(r"--(extra-)?index-url|--find-links|git\+|https?://|dependency_links", text), file
