"""Folders of images prepared as TFDS sets: built once where they are not yet, checked against their folder, read.

source = photograph_source("~/sets", "train")  # the photographs inside packages
source = pair_source("~/sets", "train", "~/Snow100K")  # builds the set, or checks that the folder is the same
source = pair_source("~/sets", "train", layout="snow100k")  # the set alone, without its folder
"""

import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from absl import logging
from PIL import Image

from mofme_jax.data.builders import BUILDERS, Pairs, Photographs, PreparedSet, index_file
from mofme_jax.data.entries import Entries, Report, embedded_entries, fingerprint, pair_entries, photograph_entries
from mofme_jax.data.folders import Source, open_pairs
from mofme_jax.data.layouts import find_layout
from mofme_jax.data.sets import LAYOUTS, layout_named


class PreparedSource(Source):
    """A split of a set that has been built: the same examples as those of the folder, names and pixels to the bit.

    Safe to use from threads; in a worker process it opens its files anew.

    Args:
      folder: of the set, with its version. split: one of its splits.

    Attributes:
      names: of the examples: of a photograph, or of the input of a pair.

    Raises:
      ValueError: the set has no such split.
    """

    def __init__(self, folder: str | Path, split: str):
        self._folder, self._split = Path(folder), split
        builder = tfds.builder_from_directory(str(folder))
        if split not in builder.info.splits:
            raise ValueError(f"the set has no split {split!r}; it has {', '.join(builder.info.splits)}")
        index = json.loads((self._folder / index_file(split)).read_text())
        self.names: list[str] = index["names"]
        self._sizes: list[list[int]] = index["sizes"]
        self._features = dict(builder.info.features)
        images = [name for name, feature in self._features.items() if isinstance(feature, tfds.features.Image)]
        # Pillow decodes below: where OpenCV is installed TFDS would take that, which may round JPEG otherwise
        decoders = {name: tfds.decode.SkipDecoding() for name in images}
        self._records = builder.as_data_source(split, decoders=decoders)

    def __getitem__(self, index):
        if not 0 <= index < len(self):
            raise IndexError(index)
        record = self._records[int(index)]
        return {name: _value(feature, record[name]) for name, feature in self._features.items()}

    def size(self, index: int) -> tuple[int, int]:
        """(H, W) of the images of an example, which were noted when the set was built."""
        height, width = self._sizes[index]
        return height, width

    def __reduce__(self):
        return type(self), (self._folder, self._split)


def _value(feature, stored):
    """A value as the sources of folders give it."""
    if isinstance(feature, tfds.features.Image):
        with Image.open(io.BytesIO(stored)) as image:
            return np.array(image)
    return feature.int2str(int(stored)) if isinstance(feature, tfds.features.ClassLabel) else stored.decode()


def photograph_source(
    data_dir: str | Path, split: str, config: str = "embedded", manual_dir: str | Path | None = None
) -> PreparedSource:
    """Opens a split of the set of clean photographs, which is built first where `data_dir` does not have it.

    The photographs and their order are those of `embedded_photographs` or `PhotographFolder`, to the bit.

    Args:
      data_dir: folder of TFDS sets; this one goes to photographs/<config>/<version> in it.
      split: "train" or "validation".
      config: "embedded" or "folder".
      manual_dir: for "folder": where the photographs lie, see `Photographs.MANUAL_DOWNLOAD_INSTRUCTIONS`; not
        needed once the set is built.

    Raises:
      ValueError: an unknown config, a split that the set does not have, no `manual_dir` to build from, a
        `manual_dir` whose files have other names or sizes than those that the set was built from, or a damaged
        photograph.
      OSError: `manual_dir` is missing or holds no photograph, or the disk has no room.
    """
    if config not in (known := [c.name for c in Photographs.BUILDER_CONFIGS]):
        raise ValueError(f"config={config!r} is unknown; choose one of {', '.join(known)}")
    builder = _builder(Photographs, data_dir, config)
    if config == "embedded":
        entries = None if builder.data_path.exists() else embedded_entries()
    else:
        entries = None if manual_dir is None else photograph_entries(Path(manual_dir).expanduser().absolute())
    _prepare(builder, entries, manual_dir, logging.info)
    return PreparedSource(builder.data_dir, split)


def pair_source(
    data_dir: str | Path, split: str, manual_dir: str | Path | None = None, layout: str | None = None
) -> PreparedSource:
    """Opens a split of a set of pairs, which is built first where `data_dir` does not have it.

    The pairs and their order are those of `PairFolder`, to the bit.

    Args:
      data_dir: folder of TFDS sets.
      split: one of the set's.
      manual_dir: the set's folder, see `open_pairs`; not needed once the set is built.
      layout: the name of its layout; None: the one that `manual_dir` is found to have.

    Raises:
      ValueError: a split that the set does not have, neither `manual_dir` nor `layout`, no set yet, a `manual_dir`
        whose files have other names or sizes than those that the set was built from, or what `open_pairs` and
        `read_pair` say.
      OSError: `manual_dir` is missing or holds no set, or the disk has no room.
    """
    entries = None
    if manual_dir is not None:
        found, listing = open_pairs(manual_dir, layout)
        layout = found.name
        if split not in listing.splits:
            raise ValueError(f"{listing.root} has no split {split!r}; it has {', '.join(listing.splits)}")
        entries = pair_entries(listing, _is_real(layout, split))
    elif layout is None:
        raise ValueError("name manual_dir, the folder of the set, or the layout of a set that has been built")
    builder = _pair_builder(data_dir, layout, _is_real(layout, split))
    _prepare(builder, entries, manual_dir, logging.info)
    return PreparedSource(builder.data_dir, split)


def build(manual_dir: str | Path, data_dir: str | Path, layout: str | None = None, report: Report = print) -> Path:
    """Builds the set that is in a folder, pairs or photographs; one that is there is compared with the folder.

    Args:
      manual_dir: the set's folder. data_dir: folder of TFDS sets.
      layout: the name of its layout; None: the one that `manual_dir` is found to have.
      report: gets a line now and then: how many examples are done, how fast, the time left.

    Returns:
      The folder of the set in `data_dir`, in which its configs, if it has some, and versions lie.

    Raises:
      ValueError, OSError: see `photograph_source` and `pair_source`.
    """
    found, listing = find_layout(manual_dir, LAYOUTS if layout is None else [layout_named(layout)])
    builder: PreparedSet
    if found.name == "photographs":
        builder = _builder(Photographs, data_dir, "folder")
        _prepare(builder, photograph_entries(listing.root), manual_dir, report)
        return _root(data_dir) / builder.name
    found, listing = open_pairs(manual_dir, found.name)
    for real in (False, True):
        if entries := pair_entries(listing, real):
            builder = _pair_builder(data_dir, found.name, real)
            _prepare(builder, entries, manual_dir, report)
    return _root(data_dir) / builder.name


def _root(data_dir: str | Path) -> Path:
    return Path(data_dir).expanduser().resolve()


def _builder(builder: type[PreparedSet], data_dir: str | Path, config: str | None) -> PreparedSet:
    return builder(data_dir=str(_root(data_dir)), config=config, file_format="array_record")


def _is_real(layout: str, split: str) -> bool:
    """Whether the images of a split have no target: they are a config of their own."""
    return (layout, split) == ("snow100k", "realistic")


def _pair_builder(data_dir: str | Path, layout: str, real: bool) -> Pairs:
    configs = {
        "all_weather": "mofme",
        "all_weather_transweather": "transweather",
        "snow100k": "realistic" if real else "synthetic",
    }
    name = "all_weather" if layout == "all_weather_transweather" else layout_named(layout).name
    if name not in BUILDERS:
        raise ValueError(f"the set {name} has no pairs; those that have are {', '.join(BUILDERS)}")
    builder = _builder(BUILDERS[name], data_dir, configs.get(layout))
    assert isinstance(builder, Pairs)
    return builder


def _prepare(builder: PreparedSet, entries: Entries | None, manual_dir: str | Path | None, report: Report) -> None:
    """Builds a set that is not there yet; of one that is, checks that it was built from the same entries."""
    if builder.data_path.exists():
        if entries is not None:
            _check_same(builder, entries, manual_dir)
            report(f"{builder.data_dir} is there, built from files of the same names and sizes")
        return
    if entries is None:
        raise ValueError(f"no set in {builder.data_dir} yet: name manual_dir, the folder to build it from")
    _check_can_build(builder, entries)
    builder.entries, builder.report = entries, report
    try:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(try_download_gcs=False))
    except FileExistsError:  # another process has built it meanwhile
        if not builder.data_path.exists():
            raise
        _check_same(builder, entries, manual_dir)
    report(f"{builder.data_dir} is built")


def _check_same(builder: PreparedSet, entries: Entries, manual_dir: str | Path | None) -> None:
    """Raises ValueError if the set was built from other files."""
    now, then = ({s: fingerprint(e) for s, e in entries.items()}, dict(builder.info.metadata))
    if now == then:
        return
    kind = "photographs" if isinstance(builder, Photographs) else "pairs"
    split = next(split for split in {**now, **then} if now.get(split) != then.get(split))
    had, has = (found[split]["examples"] if split in found else 0 for found in (then, now))
    raise ValueError(
        f"the set in {builder.data_dir} was built from other {kind} than {manual_dir} has now ({split}: {had} then, "
        f"{has} now{', of other names or sizes' if had == has else ''}): delete it to build it anew, or name another "
        "data_dir"
    )


def _check_can_build(builder: PreparedSet, entries: Entries) -> None:
    """Raises what TFDS would only after hours."""
    for split in entries:
        if not re.fullmatch(r"[\w-]+", split) or split.lower() == "all":
            raise ValueError(f"TFDS takes no split called {split!r}: rename its folder to letters, digits, _ and -")
    for name in (name for found in entries.values() for entry in found for name, _ in entry.files):
        if not name.isprintable():
            raise ValueError(f"TFDS takes no file called {name!r}: rename it")
    place = next(path for path in Path(builder.data_dir).parents if path.exists())
    needed, free = sum(e.bytes for found in entries.values() for e in found), shutil.disk_usage(place).free
    if needed > free:
        raise OSError(f"{place} has {free / 1e9:.1f} GB left; the set needs {needed / 1e9:.1f}: name another data_dir")
