"""What commands have in common: paths and configs on a command line."""

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ml_collections import ConfigDict

    from mofme_jax.models import Restorer


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


def add_weights(parser: argparse.ArgumentParser) -> None:
    """Adds --weights."""
    parser.add_argument(
        "--weights",
        type=path,
        metavar="W",
        default=Path("runs/default"),
        help="a training run's folder or one of its checkpoints (default: runs/default, where `make train` trains)",
    )


def load_weights(options: argparse.Namespace) -> "tuple[Restorer, dict]":
    """The model and the parameters that --weights names; raises as `mofme_jax.load` does."""
    from mofme_jax.compiled import keep_compiled
    from mofme_jax.training.checkpoint import load

    keep_compiled()
    return load(options.weights)
