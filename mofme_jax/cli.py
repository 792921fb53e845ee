"""The command `mofme`: its parser, its errors, its exit status. What it does is in `mofme_jax.commands`."""

import argparse
import sys
from collections.abc import Sequence

import mofme_jax
from mofme_jax.commands import atlas, calibrate, data, demo, evaluate, examine, export, licences, params, plan, restore


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command.

    Args:
      arguments: of the command line; None takes those of this process.

    Returns:
      The exit status: 0, 1 where something was examined and found wrong, 2 where the command could not be done,
      130 where it was interrupted.
    """
    parser = _parser()
    options, rest = parser.parse_known_args(arguments)
    if rest and not (hasattr(options, "takes_config") and all(word.startswith("--config") for word in rest)):
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    try:
        return options.run(options, rest)
    except (ValueError, OSError, ImportError) as error:
        print(f"mofme: {_said(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("mofme: stopped", file=sys.stderr)
        return 130


def _said(error: Exception) -> str:
    """An error in a line; one of the system's without its number."""
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.filename}: {error.strerror[0].lower()}{error.strerror[1:]}"
    return str(error)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="mofme", description="Rain, raindrops, snow and haze removed from photographs.", allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"mofme_jax {mofme_jax.__version__}")
    groups = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for command in (restore, demo, evaluate, atlas, calibrate, export, params, data, plan, examine, licences):
        command.add(groups)
    return parser


if __name__ == "__main__":
    sys.exit(main())
