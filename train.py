"""Trains MoFME: `python train.py --config configs/default.py --workdir runs/default [--config.field=value]`."""

import sys

from absl import app, flags, logging
from ml_collections import config_flags

flags.DEFINE_string("workdir", "runs/default", "Where the run is kept; a run there is gone on with.")


def parse(argv: list[str]) -> list[str]:
    """Parses the command line; one that will not do ends in one line on stderr, status 1."""
    try:
        # Here, because the fields of the default config are parsed as soon as it is defined. Not locked, so that any
        # field of config.model.overrides can be set; one that does not exist is found, with its neighbours named,
        # when the config is read.
        config_flags.DEFINE_config_file(
            "config", "configs/default.py", "The config file.", lock_config=False, accept_new_attributes=True
        )
        return flags.FLAGS(argv)
    except flags.Error as error:
        sys.exit(f"train.py: {error}")
    except (AttributeError, KeyError, TypeError, ValueError) as error:  # a section that does not exist
        reason: object = error
        while isinstance(reason, Exception) and reason.args:  # ml_collections wraps one in the other
            reason = reason.args[0]
        sys.exit(f"train.py: unknown field: {' '.join(str(reason).split())}")
    except OSError as error:
        sys.exit(_no_config(error))


def main(argv: list[str]) -> None:
    """Runs the training; a config, folder or file that will not do ends in one line on stderr, status 1."""
    if len(argv) > 1:
        sys.exit(f"train.py: unexpected argument {argv[1]!r}; fields are set as --config.field=value")
    logging.set_verbosity(logging.WARNING)  # the libraries report every file they rename
    try:
        config = flags.FLAGS.config.lock()
    except OSError as error:
        sys.exit(_no_config(error))
    from mofme_jax.training import train_and_evaluate

    try:
        train_and_evaluate(config, flags.FLAGS.workdir)
    except (ValueError, OSError, ImportError, FloatingPointError) as error:
        sys.exit(f"train.py: {error}")
    except KeyboardInterrupt:
        sys.exit("train.py: stopped; the same command goes on from the last checkpoint")


def _no_config(error: OSError) -> str:
    reason = str(error).split("\n")[-1].strip()  # ml_collections says before it where it looked
    return f"train.py: {reason}: give --config the path of a config, such as configs/default.py"


if __name__ == "__main__":
    app.run(main, flags_parser=parse)
