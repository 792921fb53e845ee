"""What the data doctor found, as a report for people and as JSON for programs."""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mofme_jax.data.layouts import Layout

KINDS = {
    "lost": "inputs without a target: they are of no use",
    "absent": "files that are listed and missing",
    "doubled": "two inputs or two targets of one name: nothing says which is meant",
    "unused": "targets of no input",
    "unread": "folders of pairs that the layout has no use for: they are left out of everything",
    "unreadable": "files and folders that cannot be read",
    "mode": "images that are no plain RGB of 8 bits: other programs may read other pixels",
    "size": "pairs of two sizes",
    "small": "images with a side below 16 pixels",
    "same": "inputs that are their own target, pixel by pixel",
    "swapped": "inputs that show another input's target",
    "leak": "training inputs that show scenes of another split: they are left out of the training",
    "duplicate": "pictures of the training in another split, pixel by pixel: what is learnt is judged on",
    "near": "pictures of the training in another split, encoded anew or resized: what is learnt is judged on",
    "count": "splits of another size than published",
    "ignored": "folders whose images are not used",
    "format": "files whose names say another format",
}
"""The kinds of findings, in the order of a report, and what each is."""

_SHOWN = 10
"""Findings of a kind that a report shows."""


@dataclass(frozen=True, order=True)
class Finding:
    """One thing found.

    Attributes:
      kind: one of `KINDS`. paths: the files, below the folder examined, with / between the parts.
      text: what is known besides, and the remedy; may be "".
    """

    kind: str
    paths: tuple[str, ...]
    text: str = ""

    def line(self) -> str:
        """The files, four at most, and the text; what a terminal cannot print is escaped."""
        shown = ", ".join(printable(path) for path in self.paths[:4])
        more = f" and {len(self.paths) - 4:,} more" if len(self.paths) > 4 else ""
        return shown + more + (f": {printable(self.text)}" if self.text and shown else self.text)


@dataclass(frozen=True)
class Diagnosis:
    """What the doctor says.

    Attributes:
      folder: the one that the set was found in. layout: the set's.
      counts: of each split the pairs (or images) found and those published, None where that is not known.
      problems: what should be mended. notes: what may be as it should.
      files: how many were read. seconds: the time it took.
    """

    folder: Path
    layout: Layout
    counts: dict[str, tuple[int, int | None]]
    problems: list[Finding]
    notes: list[Finding]
    files: int
    seconds: float

    def to_json(self) -> dict:
        """All of it but the time, in a form that stays: of `json.dumps`, whatever characters the names have."""
        splits = {name: {"found": found, "published": known} for name, (found, known) in self.counts.items()}
        problems, notes = (
            [{"kind": f.kind, "paths": list(f.paths), "text": f.text} for f in findings]
            for findings in (self.problems, self.notes)
        )
        return {
            "version": 1,
            "folder": str(self.folder),
            "layout": self.layout.name,
            "title": self.layout.title,
            "splits": splits,
            "problems": problems,
            "notes": notes,
            "files": self.files,
        }

    def report(self) -> str:
        """What is printed: the splits, the findings by kind, the ten first of each, and a verdict."""
        lines = [f"{printable(str(self.folder))}: {self.layout.title} (layout {self.layout.name})", ""]
        lines.append(f"{'split':<16}{'found':>12}{'published':>12}")
        for split, (found, known) in self.counts.items():
            lines.append(f"{printable(split):<16}{found:>12,}{'' if known is None else f'{known:,}':>12}".rstrip())
        lines += [*_shown(self.problems), *_shown(self.notes, "note: "), ""]
        count, files = len(self.problems), f"{self.files:,} file{'' if self.files == 1 else 's'}"
        told = f"{count:,} problem{'' if count == 1 else 's'} in" if count else "nothing wrong found in"
        return "\n".join([*lines, f"{told} {files} ({self.seconds:.0f} s)"])


def _shown(findings: list[Finding], start: str = "") -> Iterator[str]:
    for kind, group in groupby(findings, lambda finding: finding.kind):
        lines = [f"  {finding.line()}" for finding in group]
        yield from ("", f"{start}{KINDS[kind]} ({len(lines):,})", *lines[:_SHOWN])
        if len(lines) > _SHOWN:
            yield f"  ... and {len(lines) - _SHOWN:,} more; --json lists all"


def printable(text: str) -> str:
    """The text with what a terminal cannot print, such as a name's bytes that are no character, escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
