"""Trained weights: those that come with the package, those in a file, those of a training run.

Shipped weights are the .safetensors files beside this one; a file is known by its name without the suffix.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mofme_jax.models import Restorer

DEFAULT = "mofme-small"
"""The shipped weights that are taken where none are named."""

_FOLDER = Path(__file__).parent


def shipped() -> list[str]:
    """Names of the weights that come with the package."""
    return sorted(file.stem for file in _FOLDER.glob("*.safetensors"))


def weights_file(weights: str | Path) -> Path | None:
    """The file that is meant by `weights`, as `load` takes them; None where it is a folder: a run or a checkpoint.

    Raises:
      FileNotFoundError: there is neither, saying what may be given.
    """
    if isinstance(weights, str) and weights in shipped():
        return _FOLDER / f"{weights}.safetensors"
    path = Path(weights).expanduser()
    if path.is_dir():
        return None
    if path.is_file():
        return path
    raise FileNotFoundError(
        f"there are no weights {weights}: give the name of shipped ones ({', '.join(shipped())}), a file that "
        "`mofme export` wrote, or the folder of a training run or one of its checkpoints; `make train` trains one in "
        "runs/default"
    )


def load(weights: str | Path) -> "tuple[Restorer, dict[str, Any]]":
    """Loads a trained restorer.

    Args:
      weights: the name of shipped weights, as a string; or a path: a .safetensors file, a training run's folder (its
        newest checkpoint is taken), or one checkpoint, `<workdir>/checkpoints/<step>`. A name goes before a path of
        the same letters; of a run, the averaged (EMA) parameters are taken.

    Returns:
      The model and its parameters, float32, on the default device.

    Raises:
      FileNotFoundError: there are no such weights, saying what may be given; or no checkpoint in the folder.
      ValueError: the file is damaged or holds something else, naming it and what is wrong.
    """
    file = weights_file(weights)
    if file is None:
        from mofme_jax.training.checkpoint import load as load_checkpoint  # here: files need no Orbax

        return load_checkpoint(weights)
    from mofme_jax.weights.file import load_weights

    return load_weights(file)
