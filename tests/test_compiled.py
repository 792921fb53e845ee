"""What is compiled is kept, where the user wants it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = """
import jax
from mofme_jax.compiled import keep_compiled

keep_compiled()
jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
jax.jit(lambda x: x + 1)(jax.numpy.ones(3)).block_until_ready()
"""


@pytest.mark.parametrize(
    ("variables", "kept_in"),
    [
        ({}, "cache/mofme_jax/compiled"),
        ({"JAX_COMPILATION_CACHE_DIR": "mine"}, "mine"),
        ({"JAX_ENABLE_COMPILATION_CACHE": "0"}, None),
    ],
)
def test_programs_are_kept_in_the_users_cache_or_where_the_environment_says(variables, kept_in, tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {"JAX_PLATFORMS": "cpu", "XDG_CACHE_HOME": str(tmp_path / "cache")} | variables
    environment["PYTHONPATH"] = str(Path(__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert (done.returncode, done.stderr) == (0, "")
    folders = {str(path.parent.relative_to(tmp_path)) for path in tmp_path.rglob("*-cache")}
    assert folders == ({kept_in} if kept_in else set())
