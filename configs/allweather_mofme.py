r"""The paper's recipe on All-Weather, E = 4, K = 2. Bring the data: see the README.

    python train.py --config configs/allweather_mofme.py --workdir runs/allweather \
        --config.data.pairs=/path/to/allweather

Figures: none yet; the published ones could not be had, and ours need the data and an accelerator.
"""

from ml_collections import ConfigDict

from configs import default


def get_config() -> ConfigDict:
    """The published network and training, as far as they are known."""
    config = default.get_config()
    config.model.variant = "base"
    config.model.dropout = 0.1
    config.data.pairs = ("allweather",)  # either layout, see `mofme data doctor`
    config.data.resize = (480, 720)  # (H, W), input and target, bicubic
    config.data.crop = 240
    config.data.min_scale = 1.0
    config.data.cache_gigabytes = 16.0
    config.data.workers = 8
    config.train.batch = 64
    config.train.steps = 0
    config.train.epochs = 200
    config.train.schedule = "reference"
    config.train.learning_rate = 4e-4  # 2e-4 for each 32 images of the batch
    config.train.warmup = 3  # epochs
    config.train.floor = 1e-6
    config.train.clip_norm = 0.0  # published: called before backward, so it clipped nothing
    config.loss.kind = "smooth_l1"
    config.loss.gradient = 0.0
    config.loss.perceptual = 0.04  # needs the extra "perceptual"
    config.checkpoint_every = 1000
    config.evaluation.max_side = 720
    return config
