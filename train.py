"""Trains MoFME: `python train.py --config configs/default.py --workdir runs/default [--config.field=value]`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

CONFIG = config_flags.DEFINE_config_file("config", "configs/default.py", "The config file.", lock_config=True)
WORKDIR = flags.DEFINE_string("workdir", "runs/default", "Where the run is kept; a run there is gone on with.")


def main(argv: list[str]) -> None:
    """Runs the training; a config, folder or file that will not do ends in one line on stderr, status 1."""
    if len(argv) > 1:
        raise app.UsageError(f"unexpected argument {argv[1]!r}; fields are set as --config.field=value")
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they rename
    from mofme_jax.training import train_and_evaluate

    try:
        train_and_evaluate(CONFIG.value, WORKDIR.value)
    except (ValueError, OSError, FloatingPointError) as error:
        sys.exit(f"train.py: {error}")


if __name__ == "__main__":
    app.run(main)
