"""Config files on a command line: `--config path` and `--config.field=value`, for commands and for train.py."""

import re
import warnings
from collections.abc import Sequence

from absl import flags
from ml_collections import ConfigDict, config_flags

DEFAULT = "configs/default.py"


def quote_folders(arguments: Sequence[str]) -> list[str]:
    """Folders as people write them, spaces and commas in their names and all, as the tuples that the config has."""
    return [
        re.sub(r"^(--config\.data\.(?:pairs|photographs)=)([^(\[\"'].*)$", lambda m: m[1] + repr(m[2]), argument)
        for argument in arguments
    ]


def define_config(values: flags.FlagValues, arguments: list[str] | None = None) -> None:
    """Adds the flag, for `arguments` or those of this process.

    Not locked, so that any field of config.model.overrides can be set; one that does not exist is found, with its
    neighbours named, when the config is read.
    """
    config_flags.DEFINE_config_file(
        "config",
        DEFAULT,
        "The config file.",
        lock_config=False,
        accept_new_attributes=True,
        flag_values=values,
        sys_argv=arguments,
    )


def read_config(arguments: Sequence[str]) -> ConfigDict:
    """The config that arguments name and change.

    Raises:
      ValueError: an argument that is no field of the config, or a value of another type.
      FileNotFoundError: there is no such file.
    """
    values, command = flags.FlagValues(), ["mofme", *quote_folders(arguments)]
    try:
        with warnings.catch_warnings():  # ml_collections loads the file in a way that Python deprecates
            warnings.simplefilter("ignore", DeprecationWarning)
            define_config(values, command)
            rest = values(command)[1:]
        if rest:
            raise ValueError(f"unexpected argument {rest[0]!r}; fields are set as --config.field=value")
        return values.config.lock()
    except flags.Error as error:
        raise ValueError(" ".join(str(error).split())) from None
    except OSError as error:
        raise FileNotFoundError(no_config(error)) from None
    except (AttributeError, LookupError, TypeError) as error:
        raise ValueError(unknown_field(error)) from None


def unknown_field(error: Exception) -> str:
    """One line for what ml_collections raises at a section that does not exist: it wraps one error in the other."""
    reason: object = error
    while isinstance(reason, Exception) and reason.args:
        reason = reason.args[0]
    return f"unknown field: {' '.join(str(reason).split())}"


def no_config(error: OSError) -> str:
    """One line for a config file that is not there: ml_collections says before it where it looked."""
    reason = str(error).split("\n")[-1].strip()
    return f"{reason}: give --config the path of a config; {DEFAULT} is in the repository's folder"
