"""What commands have in common: paths and configs on a command line."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mofme_jax.weights import DEFAULT, shipped, weights_file

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from mofme_jax.models import Restorer

RUN = Path("runs/default")
"""Where `make train` trains."""


def path(text: str) -> Path:
    """A path of the command line, ~ and all."""
    try:
        return Path(text or os.devnull).expanduser()  # "" is no way to say the current folder
    except RuntimeError as error:
        raise argparse.ArgumentTypeError(f"{text}: {error}") from None


def add_config(parser: argparse.ArgumentParser) -> None:
    """Adds --config, with which --config.field=value goes as well."""
    parser.add_argument("--config", metavar="FILE", help="the config (default: configs/default.py)")
    parser.set_defaults(takes_config=True)


def config_of(options: argparse.Namespace, rest: list[str]) -> "ConfigDict":
    """The config that a command line names and changes; raises as `read_config` does."""
    from mofme_jax.config_file import read_config

    return read_config([*([f"--config={options.config}"] if options.config else []), *rest])


def weights(text: str) -> str | Path:
    """Weights of the command line, as `mofme_jax.load` takes them: the name of shipped ones, or a path."""
    return text if text in shipped() else path(text)


def add_weights(parser: argparse.ArgumentParser, default: str | Path = DEFAULT) -> None:
    """Adds --weights, of any kind."""
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="W",
        default=default,
        help="a training run's folder, one of its checkpoints, a file that `mofme export` wrote, or the name of "
        f"weights that come with the package: {', '.join(shipped())} (default: {default})",
    )


def add_run(parser: argparse.ArgumentParser) -> None:
    """Adds --weights for commands that need the folder of a run, see `check_run`."""
    parser.add_argument(
        "--weights",
        type=weights,
        metavar="RUN",
        default=RUN,
        help=f"a training run's folder or one of its checkpoints (default: {RUN}, where `make train` trains)",
    )


def check_run(options: argparse.Namespace, why: str) -> None:
    """Raises ValueError, saying why, where --weights is a file, and FileNotFoundError where it is nothing."""
    if weights_file(options.weights) is not None:
        raise ValueError(f"{options.weights} is a file of weights, and {why}: give --weights a training run's folder")


def load_weights(options: argparse.Namespace) -> "tuple[Restorer, dict]":
    """The model and the parameters that --weights names; raises as `mofme_jax.load` does."""
    from mofme_jax import load
    from mofme_jax.compiled import keep_compiled

    keep_compiled()
    return load(options.weights)
