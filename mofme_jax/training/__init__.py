"""How it is learnt: state, losses, step, checkpoints, the loop."""

from mofme_jax.training.loop import train_and_evaluate

__all__ = ["train_and_evaluate"]
