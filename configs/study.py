"""A run of the study: the photographs' run, made cheap enough to be repeated for many arms and seeds.

    mofme data fetch-photos
    python benchmarks/study.py --only routers --seeds 3 --jobs 2 --runs runs/study

benchmarks/study.py judges the runs itself, on more photographs than the report at a run's end, which is kept short.
"""

from ml_collections import ConfigDict

from configs import photos


def get_config() -> ConfigDict:
    """Smaller crops, fewer steps, one device, a checkpoint at every sixth of the run."""
    config = photos.get_config()
    config.data.crop = 64
    config.data.colour_share = 1.0  # these two as the first runs had them
    config.data.sky_share = 0.5
    config.train.batch = 8
    config.train.steps = 3000
    config.train.host_devices = 1  # runs go side by side, one a core
    config.checkpoint_every = 500
    config.keep_checkpoints = 12  # for measures over training; stops leave more than the six
    config.evaluation.repeats = 1
    config.evaluation.max_side = 64
    config.evaluation.tile = 64
    return config
