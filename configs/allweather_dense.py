r"""`allweather_mofme` with one feed-forward network, no experts.

python train.py --config configs/allweather_dense.py --workdir runs/allweather_dense \
        --config.data.pairs=/path/to/allweather
"""

from ml_collections import ConfigDict

from configs import allweather_mofme


def get_config() -> ConfigDict:
    """One field differs."""
    config = allweather_mofme.get_config()
    config.model.feed_forward = "dense"
    return config
