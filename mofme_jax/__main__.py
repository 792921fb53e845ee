"""`python -m mofme_jax` is the command `mofme`."""

import sys

from mofme_jax.cli import main

sys.exit(main())
