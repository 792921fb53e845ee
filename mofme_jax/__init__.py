"""MoFME in JAX and Flax: photographs without the weather.

    from mofme_jax import Restorer, build, load, restore

`load` and `restore` are brought in when they are first used, so that importing the modules stays light.
"""

from mofme_jax.models import Restorer, build

__version__ = "0.1.0"
__all__ = ["Restorer", "build", "load", "restore"]


def __getattr__(name: str):
    if name == "load":
        from mofme_jax.training.checkpoint import load

        return load
    if name == "restore":
        from mofme_jax.evaluation.tiling import restore

        return restore
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
