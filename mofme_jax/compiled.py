"""What XLA compiled is kept, so that the same command starts sooner the next time."""

import jax

from mofme_jax.data.fetch import cache_folder


def keep_compiled() -> None:
    """Keeps every program that takes a second or more to compile in the user's cache, for commands to call.

    JAX_COMPILATION_CACHE_DIR names another folder, JAX_ENABLE_COMPILATION_CACHE=0 keeps nothing.
    """
    if jax.config.jax_compilation_cache_dir:  # type: ignore[attr-defined]
        return
    try:
        jax.config.update("jax_compilation_cache_dir", str(cache_folder() / "compiled"))
    except FileNotFoundError:  # who has no home compiles anew
        return
