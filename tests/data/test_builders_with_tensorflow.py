"""TFDS's own test of a set, for each of them.

It writes TFRecord and reads it as a tf.data pipeline, and so needs TensorFlow and dill, as nothing else here does;
where they are not installed it is passed over:

    pip install tensorflow-cpu dill && pytest tests/data/test_builders_with_tensorflow.py

TFDS looks for dummy data beside the builders; here they are written by `make_tree`, and the test is told where.
"""

import tempfile
from pathlib import Path

import pytest

pytest.importorskip("tensorflow")
pytest.importorskip("dill")

from tensorflow_datasets import testing

from mofme_jax.data.builders import BUILDERS, Photographs
from tests.trees import make_tree

pytestmark = pytest.mark.filterwarnings("default")  # TensorFlow's own


class SetTest(testing.DatasetBuilderTestCase):
    """What is common to all.

    Attributes:
      TREE: what `make_tree` writes. CONFIG: the one to test, whose splits are those of the tree.
    """

    TREE = ""
    CONFIG: str | None = None

    @classmethod
    def setUpClass(cls):
        folder = tempfile.TemporaryDirectory()
        cls.addClassCleanup(folder.cleanup)
        expected = make_tree(cls.TREE, Path(folder.name))
        cls.EXAMPLE_DIR = folder.name
        cls.BUILDER_CONFIG_NAMES_TO_TEST = [cls.CONFIG] if cls.CONFIG else None
        real = cls.CONFIG == "realistic"
        cls.SPLITS = {
            split: len(examples) for split, examples in expected.splits.items() if (examples[0].target is None) == real
        }
        super().setUpClass()


CASES = {
    "all_weather": ("all_weather", "mofme"),
    "all_weather_transweather": ("all_weather", "transweather"),
    "snow100k": ("snow100k", "synthetic"),
    "snow100k_realistic": ("snow100k", "realistic"),
    "photographs": ("photographs", "folder"),
    **{name: (name, None) for name in BUILDERS if name not in ("all_weather", "snow100k")},
}
"""The name of each test, the set and its config."""

for _case, (_set, _config) in CASES.items():
    _name = f"{_case.title().replace('_', '')}Test"
    globals()[_name] = type(
        _name,
        (SetTest,),
        {
            "DATASET_CLASS": {**BUILDERS, "photographs": Photographs}[_set],
            "TREE": _case.removesuffix("_realistic"),
            "CONFIG": _config,
        },
    )
del SetTest  # it has no set
