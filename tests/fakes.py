"""Models that do next to nothing, for tests of what is around the model."""

import jax
from flax import linen as nn


class Gain(nn.Module):
    """Multiplies an image by one learnt number, 1 at first: as local as a network can be."""

    @nn.compact
    def __call__(self, images: jax.Array, train: bool = False) -> tuple[jax.Array, tuple]:
        """(B, H, W, 3) in and out, and no routing."""
        return images * self.param("gain", nn.initializers.ones, ()), ()
