r"""The default run on 91 photographs of monuments and animals, judged on four others.

    mofme data fetch-photos
    python train.py --config configs/photos.py --workdir runs/photos

Figures of this run: README.md.
"""

from ml_collections import ConfigDict

from configs import default
from mofme_jax.data.fetch import photographs_folder


def get_config() -> ConfigDict:
    """The photographs differ, and how far they are changed: so many need less of it (docs/results.md)."""
    config = default.get_config()
    config.data.photographs = (str(photographs_folder() / "train"),)
    config.data.validation = str(photographs_folder() / "validation")
    config.data.colour_share = 0.5
    config.data.sky_share = 0.25
    return config
