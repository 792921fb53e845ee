"""Packages that a package needs, and what they say of their licences.

What their wheels bundle besides, under other licences, is not looked into.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from importlib import metadata

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

UNKNOWN = "unknown"
_LONGEST = 100  # characters of a licence's name; what is longer is its text
_COPYLEFT = re.compile(
    r"\b([AL]?GPL|MPL|EPL|CDDL|EUPL)|\bGNU (Affero |Lesser |Library or Lesser )?General Public|\bMozilla Public",
    re.IGNORECASE,
)
_TEXTS = re.compile(r"(licen[cs]e|copying|notice)[^/]*", re.IGNORECASE)


@dataclass(frozen=True)
class Package:
    """An installed package.

    Attributes:
      name: as it writes it.
      version: of what is installed.
      licence: as its metadata state it; "unknown" where they do not.
      file: name of the licence's text among its files, where its licence is unknown and there is one.
      asked_by: names of those that need it.
    """

    name: str
    version: str
    licence: str
    file: str | None
    asked_by: tuple[str, ...]

    @property
    def unknown(self) -> bool:
        """Whether nothing is stated."""
        return self.licence == UNKNOWN

    @property
    def copyleft(self) -> bool:
        """Whether a licence that asks for changes to be shared is named (GPL's family, or MPL's), be it with others."""
        return _COPYLEFT.search(self.licence) is not None

    @property
    def marked(self) -> bool:
        """Whether somebody should look at it."""
        return self.unknown or self.copyleft


def requirements_of(name: str, extras: Iterable[str] = ()) -> list[str]:
    """What an installed package needs, itself and for extras, as `needed` takes it; markers hold for this machine.

    Raises:
      ValueError: the package is not installed, or has no such extra; names those it has.
    """
    try:
        distribution = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        raise ValueError(f"{name} is not installed, so nothing says what it needs: install it with pip") from None
    provided = distribution.metadata.get_all("Provides-Extra") or []
    for extra in extras:
        if extra not in provided:
            raise ValueError(f"{name} has no extra {extra!r}; choose one of {', '.join(provided)}")
    return [line for extra in ("", *extras) for line in _asked(distribution, extra)]


def needed(requirements: Iterable[str], asking: str) -> tuple[list[Package], list[str]]:
    """All that is needed here for some requirements, directly or through other packages.

    Args:
      requirements: as in `pyproject.toml`.
      asking: the name of the package whose they are; it is not among them itself.

    Returns:
      The packages that are installed, by name, and the names of those that are not.
    """
    left = [(asking, line) for line in requirements]
    found: dict[str, metadata.Distribution] = {}
    asked_by: dict[str, set[str]] = {}
    missing: set[str] = set()
    seen: set[tuple[str, str]] = set()
    while left:
        name, line = left.pop()
        requirement = Requirement(line)
        wanted: str = canonicalize_name(requirement.name)
        if (requirement.marker and not requirement.marker.evaluate({"extra": ""})) or wanted == canonicalize_name(
            asking
        ):
            continue
        try:
            found[wanted] = distribution = metadata.distribution(wanted)
        except metadata.PackageNotFoundError:
            missing.add(requirement.name)
            continue
        if wanted != canonicalize_name(name):  # an extra of its own
            asked_by.setdefault(wanted, set()).add(name)
        for extra in {"", *requirement.extras}:
            if (wanted, extra) not in seen:
                seen.add((wanted, extra))
                left += [(distribution.metadata["Name"], line) for line in _asked(distribution, extra)]
    packages = []
    for wanted, distribution in sorted(found.items()):
        licence = licence_of(distribution)
        file = licence_file(distribution) if licence == UNKNOWN else None
        asked = tuple(sorted(asked_by.get(wanted, ()), key=str.lower))
        packages.append(Package(distribution.metadata["Name"], distribution.version, licence, file, asked))
    return packages, sorted(missing, key=str.lower)


def _asked(distribution: metadata.Distribution, extra: str) -> list[str]:
    """What a package needs for an extra, or for "" by itself, on this machine; without the markers."""
    lines = []
    for requirement in map(Requirement, distribution.requires or []):
        if requirement.marker is None or requirement.marker.evaluate({"extra": extra}):
            requirement.marker = None
            lines.append(str(requirement))
    return lines


def licence_of(distribution: metadata.Distribution) -> str:
    """What the metadata state, in this order: License-Expression, License, classifiers; or "unknown".

    License counts where it is a name: some packages put the whole text there, whose first lines name no licence.
    """
    stated = distribution.metadata
    expression, name = ((stated.get_all(field) or [""])[0].strip() for field in ("License-Expression", "License"))
    if expression:
        return expression
    if name and name.upper() != "UNKNOWN" and len(name) <= _LONGEST and "\n" not in name:
        return name
    classifiers = [entry for entry in stated.get_all("Classifier") or [] if entry.startswith("License ::")]
    names = [entry.split(" :: ")[-1] for entry in classifiers if entry.split(" :: ")[-1] != "OSI Approved"]
    return ", ".join(names) or UNKNOWN


def licence_file(distribution: metadata.Distribution) -> str | None:
    """The name of a licence's text among the files of a package; None where there is none."""
    return min((str(file) for file in distribution.files or [] if _TEXTS.fullmatch(file.name)), key=len, default=None)
