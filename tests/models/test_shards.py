"""What is computed device by device stays there: no images travel, and sums over devices are made once."""

import os
import subprocess
import sys

from tests.conftest import OPTIMISED

SCRIPT = """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from mofme_jax.models import attention, convolution

mesh = jax.make_mesh((4, 2), ("data", "fsdp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
split, whole = NamedSharding(mesh, P(("data", "fsdp"))), NamedSharding(mesh, P())
normal = lambda seed, *shape: jax.random.normal(jax.random.key(seed), shape)

def count(kinds, compiled):
    return len(re.findall(rf" (?:{kinds})(?:-start)?[(]", compiled.as_text()))

for images in (8, 6):
    x, g = normal(0, images, 6, 10, 3), normal(1, images, 6, 10, 4)
    place = split if images == 8 else whole
    with jax.set_mesh(mesh):
        compiled = jax.jit(convolution.kernel_gradient, in_shardings=place, out_shardings=whole).lower(x, g).compile()
    got = compiled(*jax.device_put((x, g), place))
    np.testing.assert_allclose(got, convolution.kernel_gradient(x, g), rtol=1e-5, atol=1e-5)
    assert count("all-gather|all-to-all|collective-permute", compiled) == 0
    assert count("all-reduce", compiled) == (images == 8), images

attention.CACHED = 1
arrays = [normal(seed, 8, 9, 3, 4) for seed in range(3)]
gradients = jax.grad(lambda *a: jnp.sin(attention.attend(*a)).sum(), (0, 1, 2))
with jax.set_mesh(mesh):
    compiled = jax.jit(gradients, in_shardings=split, out_shardings=split).lower(*arrays).compile()
got = compiled(*jax.device_put(arrays, split))
jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6), list(got), list(gradients(*arrays)))
assert count("all-gather|all-to-all|collective-permute|all-reduce", compiled) == 0
"""


def test_convolutions_and_attention_keep_to_their_devices():
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": "8", **OPTIMISED}
    result = subprocess.run(
        [sys.executable, "-c", SCRIPT], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr[-3000:]
