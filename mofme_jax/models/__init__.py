"""What is learnt: the restorer and its parts."""

from mofme_jax.models.restorer import Restorer
from mofme_jax.models.router import RouterDist, Routing
from mofme_jax.models.variants import VARIANTS, build

__all__ = ["VARIANTS", "Restorer", "RouterDist", "Routing", "build"]
