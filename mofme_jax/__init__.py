"""MoFME in JAX and Flax: photographs without the weather.

    from mofme_jax import Restorer, build, load, restore, restore_file

Names are brought in when they are first used: importing the modules pulls in no data pipeline, and commands that look
at data wait for no JAX.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mofme_jax.evaluation.tiling import restore
    from mofme_jax.models import Restorer, build
    from mofme_jax.restoring.restore_file import restore_file
    from mofme_jax.weights import load

__version__ = "0.1.0"
__all__ = ["Restorer", "build", "load", "restore", "restore_file"]

_HOMES = {
    "Restorer": "mofme_jax.models",
    "build": "mofme_jax.models",
    "load": "mofme_jax.weights",
    "restore": "mofme_jax.evaluation.tiling",
    "restore_file": "mofme_jax.restoring.restore_file",
}


def __getattr__(name: str):
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
