r"""The default run on 91 photographs of monuments and animals, judged on four others.

    mofme data fetch-photos
    python train.py --config configs/photos.py --workdir runs/photos

Figures of this run: README.md.
"""

from ml_collections import ConfigDict

from configs import default
from mofme_jax.data.fetch import photographs_folder


def get_config() -> ConfigDict:
    """Two fields differ."""
    config = default.get_config()
    config.data.photographs = (str(photographs_folder() / "train"),)
    config.data.validation = str(photographs_folder() / "validation")
    return config
