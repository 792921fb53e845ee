"""The sets of the field as TFDS sets of array_record files, built from a folder that the user has.

One large file is kinder to network disks than many small ones, and a set can be carried to another machine and read
there by anything that reads TFDS. `mofme_jax.data.prepared` opens them in a line; the way of every TFDS set:

    import tensorflow_datasets as tfds
    import mofme_jax.data.builders

    builder = tfds.builder("snow100k", data_dir="/sets", file_format="array_record")  # TFDS does not know ~
    builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir="/data/Snow100K"))
    source = builder.as_data_source("train")

Nothing of this needs TensorFlow; without `file_format` TFDS would write TFRecord, which does. `as_data_source` decodes
the images with OpenCV where that is installed, else with Pillow, and logs that OpenCV is faster; it gives weather as
a number and texts as bytes. Input and target are stored for each pair, though a set may show one target in many.
"""

import json
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import tensorflow_datasets as tfds
from absl import logging
from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

from mofme_jax.data.entries import (
    Entries,
    Entry,
    Progress,
    Report,
    embedded_entries,
    fingerprint,
    pair_entries,
    photograph_entries,
    read_entries,
    shards,
)
from mofme_jax.data.folders import open_pairs
from mofme_jax.data.layouts import WEATHER_LABELS, Layout
from mofme_jax.data.sets import layout_named


class _Info(tfds.core.DatasetInfo):
    """Looks for no metadata in TFDS's bucket: what looks leaves an empty temporary folder behind each time."""

    def initialize_from_bucket(self) -> None:
        """Nothing: these sets are not there."""


# Shards written one by one, in order: the shuffling of GeneratorBasedBuilder needs TensorFlow from 1 GB on.
class PreparedSet(ShardBasedBuilder, skip_registration=True):  # type: ignore[call-arg]
    """A set built from entries, in their order. Its metadata holds the fingerprint of each split.

    Beside the records lies index-<split>.json: the names and the (H, W) of the examples, to be known without reading.

    Attributes:
      entries: what to build from; None: what is in TFDS's manual folder, or in a folder of the set's name in it.
      report: gets a line of progress now and then.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it from the class)
    entries: Entries | None = None
    report: Report = staticmethod(logging.info)

    def find(self, dl_manager) -> Entries:
        """Finds what to build from."""
        raise NotImplementedError

    def _shard_iterators_per_split(self, dl_manager):
        entries = self.find(dl_manager) if self.entries is None else self.entries
        self.info.metadata.update({split: fingerprint(found) for split, found in entries.items()})
        progress = Progress(sum(map(len, entries.values())), self.report)
        self._index: dict[str, dict[str, list]] = {split: {"names": [], "sizes": []} for split in entries}
        return {
            split: [partial(self._examples, split, shard, progress) for shard in shards(found)]
            for split, found in entries.items()
        }

    def _examples(self, split: str, shard: list[Entry], progress: Progress) -> Iterator[tuple[str, dict]]:
        index = self._index[split]
        for entry, example, size in read_entries(shard):
            index["names"].append(entry.name)
            index["sizes"].append(size)
            yield entry.name, example
            progress.step()

    def _download_and_prepare(self, dl_manager, download_config=None) -> None:
        super()._download_and_prepare(dl_manager, download_config)
        for split, index in self._index.items():
            (self.data_path / index_file(split)).write_text(json.dumps(index))


def index_file(split: str) -> str:
    """The name of the file of names and sizes."""
    return f"index-{split}.json"


def _manual_folder(dl_manager, name: str) -> Path:
    """TFDS's manual folder, or the folder in it that is the set's, where many sets are kept side by side."""
    manual_dir = Path(dl_manager.manual_dir)
    return manual_dir / name if (manual_dir / name).is_dir() else manual_dir


class Photographs(PreparedSet):
    """The TFDS set `photographs`: features image (encoded) and name, sorted by name in every split.

    Configs: "embedded", the photographs inside packages; "folder", those in a folder of the user's.
    """

    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="embedded", description="Seven photographs inside Python packages."),
        tfds.core.BuilderConfig(name="folder", description="The photographs in a folder."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For the config "folder" put photographs (jpg, png, webp, bmp, tif; folders in it count) into train/ in the
    manual folder or in a folder "photographs" in it, and those to evaluate on, if any, into validation/. Without
    train/ all that is there is the split train. The config "embedded" needs nothing.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return _Info(
            builder=self,
            description="Clean photographs, to synthesise weather on.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(), "name": tfds.features.Text(doc="path within its split")}
            ),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def find(self, dl_manager) -> Entries:
        """Finds the photographs of its config."""
        if self.builder_config.name == "embedded":
            return embedded_entries()
        return photograph_entries(_manual_folder(dl_manager, self.name))


class Pairs(PreparedSet, skip_registration=True):  # type: ignore[call-arg]
    """A set of pairs of a degraded and a clean image: features input and target (encoded), weather and names."""

    @property
    def real(self) -> bool:
        """Whether its images are real ones, without a target."""
        return False

    @property
    def layout(self) -> Layout:
        """What its folder looks like."""
        return layout_named(self.name)

    def _info(self) -> tfds.core.DatasetInfo:
        text = tfds.features.Text
        features = {
            "input": tfds.features.Image(doc="the degraded image"),
            "weather": tfds.features.ClassLabel(names=WEATHER_LABELS),
            "scene": text(doc="pairs of one scene show the same view"),
            "input_name": text(doc="path within the set's folder"),
        }
        if not self.real:
            features |= {"target": tfds.features.Image(doc="the clean image"), "target_name": text()}
        return _Info(
            builder=self,
            description=f"{self.layout.title}.\n\n{self.layout.terms}",
            features=tfds.features.FeaturesDict(features),
            supervised_keys=None if self.real else ("input", "target"),
            citation=self.layout.citation,
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def find(self, dl_manager) -> Entries:
        """Lists the folder by the set's layout."""
        folder = _manual_folder(dl_manager, self.name)
        _, listing = open_pairs(folder, self.layout.name)
        if entries := pair_entries(listing, self.real):
            return entries
        raise ValueError(
            f"{folder} has no {'real images' if self.real else 'pairs'}; it has {', '.join(listing.splits)}"
        )


def _instructions(*layouts: str) -> str:
    trees = (f"{layout.title}:\n\n{layout.tree}" for layout in map(layout_named, layouts))
    return "\n\n".join(("Lay the set out as follows, in the manual folder or a folder of its name in it.", *trees))


class AllWeather(Pairs):
    """The TFDS set `all_weather`; its configs are two layouts of the same images."""

    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="mofme", description="Laid out by MoFME, with a folder for each test."),
        tfds.core.BuilderConfig(name="transweather", description="Laid out by TransWeather, with lists of files."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("all_weather", "all_weather_transweather")

    @property
    def layout(self) -> Layout:
        """That of the config."""
        return layout_named("all_weather" if self.builder_config.name == "mofme" else "all_weather_transweather")


class Snow100k(Pairs):
    """The TFDS set `snow100k`; its config "realistic" has no targets."""

    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="synthetic", description="Snow laid over photographs, in three sizes."),
        tfds.core.BuilderConfig(name="realistic", description="Photographs of snow, without a clean counterpart."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("snow100k")

    @property
    def real(self) -> bool:
        """By config."""
        return self.builder_config.name == "realistic"


class Raindrop(Pairs):
    """The TFDS set `raindrop`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("raindrop")


class OutdoorRain(Pairs):
    """The TFDS set `outdoor_rain`; the scenes of Test1 are in its split test1 and not in train."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("outdoor_rain")


class RainCityscapes(Pairs):
    """The TFDS set `rain_cityscapes`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("rain_cityscapes")


class FoggyCityscapes(Pairs):
    """The TFDS set `foggy_cityscapes`."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("foggy_cityscapes")


class Reside(Pairs):
    """The TFDS set `reside`; a target larger than its input is cut to its middle."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("reside")


class Rain13k(Pairs):
    """The TFDS set `rain13k`, with its five tests."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("rain13k")


class PairedFolder(Pairs):
    """The TFDS set `paired_folder`: any folder of pairs."""

    MANUAL_DOWNLOAD_INSTRUCTIONS = _instructions("paired_folder")


_SETS = (AllWeather, Snow100k, Raindrop, OutdoorRain, RainCityscapes, FoggyCityscapes, Reside, Rain13k, PairedFolder)

BUILDERS = {builder.name: builder for builder in _SETS}
"""The sets of pairs by name."""
