"""The weights that come with the package: five trainings, each of which begins with the weights of the one before.

    mofme data fetch-photos
    for i in 1 2 3 4 5; do
        python train.py --config configs/mofme_small.py:$i --workdir runs/mofme-small/$i || break
    done
    mofme export --weights runs/mofme-small/5 --out mofme-small.safetensors

Small crops, of which many go through in an hour; then large ones, because a veil is judged by what is seen of it, and
photographs are restored in tiles of 240 pixels. From the third on rain and snow are of more kinds and drops of more
sizes than what is judged has. Drops take the longest to learn: they get up to half of the crops.
"""

from ml_collections import ConfigDict

from configs import photos

ALL = ("haze", "rain", "snow", "raindrop")
MORE_KINDS = {
    "rain_density": (0.1, 0.8),
    "rain_length": (25.0, 110.0),
    "rain_angle": (-0.65, 0.65),
    "rain_strength": (0.5, 2.5),
    "snow_size": (1.5, 6.5),
    "drop_size": (8.0, 38.0),
}
# crop, batch, steps, learning rate, warmup, weathers, share of clean crops
TRAININGS = {
    "1": (64, 8, 36_000, 1e-3, 500, ALL, 0.15),
    "2": (160, 8, 4_000, 3e-4, 200, ALL, 0.15),
    "3": (160, 10, 7_000, 3e-4, 200, (*ALL, "raindrop"), 0.25),
    "4": (80, 12, 13_000, 8e-4, 300, (*ALL, "raindrop", "raindrop"), 0.2),
    "5": (160, 10, 3_000, 3e-4, 200, (*ALL, "raindrop"), 0.25),
}


def get_config(training: str = "1") -> ConfigDict:
    """The config of a training, "1" to "5"."""
    if training not in TRAININGS:
        raise ValueError(f"configs/mofme_small.py:{training}: the trainings are {', '.join(TRAININGS)}")
    crop, batch, steps, learning_rate, warmup, weathers, clean_share = TRAININGS[training]
    number = int(training)
    config = photos.get_config()
    config.data.crop = crop
    config.data.colour_share = 1.0  # what the weights of the package were trained with
    config.data.sky_share = 0.5
    config.data.weathers = weathers
    config.data.clean_share = clean_share
    config.data.severity = MORE_KINDS if number > 2 else {}
    config.train.batch = batch
    config.train.steps = steps
    config.train.learning_rate = learning_rate
    config.train.warmup = warmup
    config.train.ema_decay = 0.999
    config.train.weights = f"runs/mofme-small/{number - 1}" if number > 1 else ""
    config.checkpoint_every = 500
    return config
