r"""`allweather_mofme` with a mixture of feed-forward networks (the paper's baseline).

python train.py --config configs/allweather_moe.py --workdir runs/allweather_moe \
        --config.data.pairs=/path/to/allweather
"""

from ml_collections import ConfigDict

from configs import allweather_mofme


def get_config() -> ConfigDict:
    """One field differs."""
    config = allweather_mofme.get_config()
    config.model.feed_forward = "moe"
    return config
