"""`mofme licences`: under which terms the packages are that this one needs."""

import argparse
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofme_jax.commands.licences_of import Package


def add(groups) -> None:
    """Adds the command to the parser's groups of commands."""
    licences = groups.add_parser(
        "licences",
        help="list the packages this one needs, and their licences",
        description="Every installed package that mofme-jax needs, directly or through another: version, licence as "
        "the package states it, and who asks for it. Licences that are unknown or copyleft are marked with * and "
        "counted at the end. Exit status 0 whatever they are.",
        allow_abbrev=False,
    )
    licences.set_defaults(run=_licences)
    licences.add_argument(
        "--extra",
        action="append",
        default=[],
        metavar="NAME",
        help="with what this extra needs as well: demo, test ...",
    )
    licences.add_argument("--json", action="store_true", help="print all of it as JSON")


def _licences(options: argparse.Namespace, _: list[str]) -> int:
    from mofme_jax.commands.licences_of import needed, requirements_of  # other commands need no packaging

    packages, missing = needed(requirements_of("mofme-jax", options.extra), "mofme-jax")
    if options.json:
        found = [asdict(package) | {"marked": package.marked} for package in packages]
        print(json.dumps({"packages": found, "not_installed": missing}, indent=2))
    else:
        print(_table(packages, missing))
    return 0


def _table(packages: "list[Package]", missing: list[str]) -> str:
    """A line a package, and one that counts."""
    rows = [("", "package", "version", "licence", "asked for by")]
    for package in packages:
        licence = package.licence if package.file is None else f"{package.licence}; see {package.file}"
        rows.append(
            ("*" if package.marked else "", package.name, package.version, licence, ", ".join(package.asked_by))
        )
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join([*map(str.ljust, row, widths), row[4]]).rstrip() for row in rows]
    if missing:
        lines.append(f"not installed: {', '.join(missing)}")
    unknown = sum(package.unknown for package in packages)
    copyleft = sum(package.copyleft for package in packages)
    return "\n".join([*lines, f"{len(packages)} packages: {unknown} of unknown licence, {copyleft} copyleft"])
