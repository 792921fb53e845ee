"""A run of seconds, for tests: the tiny network, twenty steps."""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The default, shrunk."""
    config = default.get_config()
    config.model.variant = "tiny"
    config.data.crop = 32
    config.train.steps = 20
    config.train.warmup = 2
    config.log_every = 5
    config.checkpoint_every = 10
    config.evaluation.repeats = 1
    config.evaluation.max_side = 96
    config.evaluation.tile = 96
    return config
