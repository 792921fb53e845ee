"""Clean photographs as a TFDS data set in array_record files: built once, then read at random by Grain.

One large file is kinder to network disks than many small ones, and the set can be carried to another machine
and read there by anything that reads TFDS. Nothing here needs TensorFlow.

    source = photograph_source("~/sets", "train")  # the embedded photographs
    source = photograph_source("~/sets", "train", config="folder", manual_dir="~/photos")
"""

import io
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import numpy as np
import tensorflow_datasets as tfds
from PIL import Image
from tensorflow_datasets.core.dataset_builder import ShardBasedBuilder

from mofme_jax.data.folders import CachedImages
from mofme_jax.data.photos import embedded_photographs, folder_photographs, read_photograph

_SPLITS = ("train", "validation")
_SHARD_BYTES = 2**28  # of files in a shard, which TFDS holds in memory while it writes them


# Shards written one by one, in order: the shuffling of GeneratorBasedBuilder needs TensorFlow from 1 GB on.
class Photographs(ShardBasedBuilder):
    """The TFDS set `photographs`: features image (encoded) and name, sorted by name in every split.

    Configs: "embedded", the photographs inside packages; "folder", those in a folder of the user's.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First version."}  # noqa: RUF012 (TFDS reads it from the class)
    BUILDER_CONFIGS = [  # noqa: RUF012
        tfds.core.BuilderConfig(name="embedded", description="Seven photographs inside Python packages."),
        tfds.core.BuilderConfig(name="folder", description="The photographs in a folder."),
    ]
    MANUAL_DOWNLOAD_INSTRUCTIONS = """
    For the config "folder" put photographs (jpg, png, webp, bmp, tif; folders in it count) into train/ in the
    manual folder, and those to evaluate on, if any, into validation/. Without train/ all that is in the manual
    folder is the split train. The config "embedded" needs nothing.
    """

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Clean photographs, to synthesise weather on.",
            features=tfds.features.FeaturesDict(
                {"image": tfds.features.Image(), "name": tfds.features.Text(doc="path within its split")}
            ),
            metadata=tfds.core.MetadataDict(),  # {split: {name: bytes}} of what it was built from
            disable_shuffling=True,
        )

    def _shard_iterators_per_split(self, dl_manager):
        if self.builder_config.name == "embedded":
            for split in _SPLITS:
                found = embedded_photographs(split)
                self.info.metadata[split] = {name: image.nbytes for name, image in found.items()}
            return {split: [partial(_embedded_examples, split)] for split in _SPLITS}
        folders = _split_folders(dl_manager.manual_dir)
        self.info.metadata.update({split: _sizes(folder) for split, folder in folders.items()})
        return {
            split: [partial(_folder_examples, folder, names) for names in _shards(self.info.metadata[split])]
            for split, folder in folders.items()
        }


class PreparedPhotographs(CachedImages):
    """A split of a prepared set as a random-access source of (H, W, 3) uint8 photographs.

    Attributes:
      names: of the photographs, in order.
    """

    def __init__(self, builder: Photographs, split: str, cache_bytes: int):
        # Pillow decodes below: TFDS itself would ask for OpenCV
        decoders = {"image": tfds.decode.SkipDecoding()}
        self._records = builder.as_data_source(split, decoders=decoders)
        self.names = list(builder.info.metadata[split])
        super().__init__(len(self._records), cache_bytes)

    def _read(self, index: int) -> np.ndarray:
        with Image.open(io.BytesIO(self._records[index]["image"])) as image:
            return np.array(image)


def photograph_source(
    data_dir: str | Path,
    split: str,
    config: str = "embedded",
    manual_dir: str | Path | None = None,
    *,
    cache_bytes: int = 0,
) -> PreparedPhotographs:
    """Opens a split of the set, which is built first where `data_dir` does not have it.

    The photographs and their order are those of `embedded_photographs` or `PhotographFolder`, to the bit.

    Args:
      data_dir: folder of TFDS sets; this one goes to photographs/<config>/<version> in it.
      split: "train" or "validation".
      config: "embedded" or "folder".
      manual_dir: for "folder": where the photographs lie, see `Photographs.MANUAL_DOWNLOAD_INSTRUCTIONS`; not
        needed once the set is built.
      cache_bytes: memory that decoded photographs may take.

    Raises:
      ValueError: an unknown config, a split that the set does not have, no `manual_dir` to build from, a
        `manual_dir` whose files are no longer those that the set was built from, or a damaged photograph.
      FileNotFoundError: `manual_dir` is missing or holds no photograph.
    """
    if config not in (known := [c.name for c in Photographs.BUILDER_CONFIGS]):
        raise ValueError(f"config={config!r} is unknown; choose one of {', '.join(known)}")
    builder = Photographs(
        data_dir=str(Path(data_dir).expanduser().resolve()), config=config, file_format="array_record"
    )
    prepared = builder.data_path.exists()
    if config == "folder" and manual_dir is not None:
        manual_dir = Path(manual_dir).expanduser().resolve()
        found = {name: _sizes(folder) for name, folder in _split_folders(manual_dir).items()}
        if prepared and found != dict(builder.info.metadata):
            raise ValueError(
                f"the set in {builder.data_dir} was built from other photographs than {manual_dir} has now: "
                "delete it to build it anew, or name another data_dir"
            )
    elif config == "folder" and not prepared:
        raise ValueError(f"no set in {builder.data_dir} yet: name manual_dir, the folder to build it from")
    if not prepared:
        builder.download_and_prepare(download_config=tfds.download.DownloadConfig(manual_dir=manual_dir))
    if split not in builder.info.splits:
        raise ValueError(f"the set has no split {split!r}; it has {', '.join(builder.info.splits)}")
    return PreparedPhotographs(builder, split, cache_bytes)


def _split_folders(root: Path) -> dict[str, Path]:
    root = Path(root)
    if not (root / "train").is_dir():
        return {"train": root}
    return {split: root / split for split in _SPLITS if (root / split).is_dir()}


def _sizes(folder: Path) -> dict[str, int]:
    """Bytes of each photograph's file, by its path within the folder."""
    return {p.relative_to(folder).as_posix(): p.stat().st_size for p in folder_photographs(folder)}


def _shards(sizes: dict[str, int]) -> list[list[str]]:
    """Names in runs of about `_SHARD_BYTES`."""
    shards: list[list[str]] = []
    room = 0
    for name, size in sizes.items():
        if size > room:
            shards.append([])
            room = _SHARD_BYTES
        shards[-1].append(name)
        room -= size
    return shards


def _embedded_examples(split: str) -> Iterator[tuple[str, dict]]:
    for name, photograph in embedded_photographs(split).items():
        yield name, {"image": _png(photograph), "name": name}


def _folder_examples(folder: Path, names: list[str]) -> Iterator[tuple[str, dict]]:
    for name in names:
        yield name, {"image": _encoded(folder / name), "name": name}


def _encoded(path: Path) -> bytes:
    """The file itself if it is a JPEG in which every reader sees the same picture, else a PNG of 8-bit RGB."""
    photograph = read_photograph(path)
    with Image.open(path) as image:
        same = image.format == "JPEG" and image.mode == "RGB" and np.array_equal(np.asarray(image), photograph)
    return path.read_bytes() if same else _png(photograph)


def _png(photograph: np.ndarray) -> bytes:
    file = io.BytesIO()
    Image.fromarray(photograph).save(file, "PNG")
    return file.getvalue()
