"""Collectives out of HLO: every form it writes them in, and a program that XLA compiled for two devices."""

import json
import os
import subprocess
import sys

import pytest

from mofme_jax.training.collectives import Collective, find_collectives

HLO = """
HloModule step, is_scheduled=true

%add { ROOT %add.1 = f32[] add(f32[] %x, f32[] %y) }

ENTRY %main {
  %all-reduce.1 = f32[100]{0} all-reduce(%a), channel_id=1, replica_groups={{0,1,2,3}}, to_apply=%add
  ROOT %r.2 = (bf16[10,2]{1,0:T(8,128)S(1)}, pred[8], /*index=2*/f32[]) all-reduce(%b, %c), replica_groups=[2,2]<=[4]
  %all-reduce-start.3 = f32[10]{0} all-reduce-start(%d), replica_groups={}, to_apply=%add
  %all-reduce-done.3 = f32[10]{0} all-reduce-done(%all-reduce-start.3)
  %all-gather-start = (f32[25]{0}, f32[100]{0}) all-gather-start(%e), replica_groups=[1,4]<=[4], dimensions={0}
  %all-gather-done = f32[100]{0} all-gather-done(%all-gather-start)
  %reduce-scatter = f32[25]{0} reduce-scatter(%f), replica_groups={{0,1,2,3}}, dimensions={0}, to_apply=%add
  %permute-start = (s8[64], s8[64], u32[], u32[]) collective-permute-start(%g), source_target_pairs={{0,1}}
  %alone = f32[1000]{0} all-reduce(%h), replica_groups={{0},{1},{2},{3}}, to_apply=%add
  %use = f32[100]{0} fusion(%all-reduce.1), kind=kLoop, calls=%f, metadata={op_name="jit(step)/psum"}
}
"""


def test_every_form_counts_once_with_what_it_sends():
    found = find_collectives(HLO, 4)
    assert found == [
        Collective("all-reduce", 3, 400 + 52 + 40, 2 * 400 * 3 / 4 + 2 * 52 / 2 + 2 * 40 * 3 / 4),
        Collective("all-gather", 1, 400, 300.0),
        Collective("reduce-scatter", 1, 400, 300.0),
        Collective("collective-permute", 1, 64, 64.0),
    ]


TPU = """
%all-reduce-scatter.3 (input: f32[32,96]) -> f32[32,24] {
  %input = f32[32,96]{0,1} parameter(0)
  %all-reduce.80 = f32[32,96]{0,1} all-reduce(%input), channel_id=1, replica_groups=mesh['a'=4,'b'=2] {'a'}, to_apply=%add
  ROOT %slice = f32[32,24]{0,1} dynamic-slice(%all-reduce.80, %zero, %n), dynamic_slice_sizes={32,24}
}

%fused.1 (param: bf16[32,32]) -> bf16[128,32] {
  ROOT %all-gather.1 = bf16[128,32]{1,0:T(8,128)S(1)} all-gather(%param), channel_id=2, replica_groups=mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a'}, dimensions={0}
}

%fused.2 (param: bf16[32,32]) -> bf16[128,32] {
  ROOT %all-gather.2 = bf16[128,32]{1,0:T(8,128)} all-gather(%param), channel_id=2, replica_groups=mesh['a'=4,'b'=2], device_ids=([4,2]T(1,0)) {'a'}, dimensions={0}
}

ENTRY %main {
  %all-reduce.9 = f32[10]{0} all-reduce(%a), channel_id=3, replica_groups=mesh['a'=4,'b'=2] {'a','b'}, to_apply=%add
}
"""  # noqa: E501


def test_what_the_tpu_compiler_has_fused_counts_as_what_it_is():
    assert find_collectives(TPU, 8) == [
        Collective("all-reduce", 1, 40, 2 * 40 * 7 / 8),
        Collective("all-gather", 1, 128 * 32 * 2, 128 * 32 * 2 * 3 / 4),
        Collective("reduce-scatter", 1, 32 * 96 * 4, 32 * 96 * 4 * 3 / 4),
    ]


@pytest.mark.parametrize(
    ("dtype", "size"), [("pred", 1), ("bf16", 2), ("f8e4m3fn", 1), ("s4", 1), ("c64", 8), ("u32", 4)]
)
def test_sizes_of_types(dtype, size):
    text = f"  %x = {dtype}[1,1]{{1,0}} all-to-all(%y), replica_groups={{{{0,1}}}}"
    assert find_collectives(text, 2) == [Collective("all-to-all", 1, size, size / 2)]


def test_a_program_compiled_for_two_devices():
    code = """
import json, jax, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from mofme_jax.training.collectives import find_collectives
jax.config.update("jax_num_cpu_devices", 2)
mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
def place(*names): return NamedSharding(mesh, P(*names))
def kinds(f, shape, source, result):
    x = jax.ShapeDtypeStruct(shape, jnp.float32, sharding=place(*source))
    compiled = jax.jit(f, out_shardings=place(*result)).lower(x).compile()
    return [(c.kind, c.count, c.bytes, c.sent) for c in find_collectives(compiled.as_text(), 2)]
print(json.dumps([
    kinds(lambda x: x.sum(0), (8, 32), ("data",), ()),
    kinds(lambda x: x * 2, (8, 32), ("data",), ()),
    kinds(lambda x: x * 2, (8, 32), ("data",), ("data",)),
]))
"""
    out = subprocess.run(
        [sys.executable, "-c", code],
        check=True,
        capture_output=True,
        text=True,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    ).stdout
    summed, gathered, apart = json.loads(out)
    assert summed == [["all-reduce", 1, 32 * 4, 32 * 4]]
    assert gathered == [["all-gather", 1, 8 * 32 * 4, 8 * 32 * 4 / 2]]
    assert apart == []
