"""Procedural randomness: every pixel finds the random objects near it by hashing the cells of a grid.

A field of streaks, flakes or drops is drawn without loops over objects, without convolution and without a
Fourier transform: the plane is cut into cells, a hash of the cell's integer coordinates and of the
picture's seed says what lies in the cell, and each pixel looks at the few cells whose object can reach it.
The work is elementwise, so a compiler fuses it on any backend, and the same seed gives the same field
whatever the batch.

Objects must end within half a cell of their centre; then a 2x2 block of cells is enough, and crossing a
cell's border changes nothing in the sum, so that float rounding cannot show.
"""

import jax
import jax.numpy as jnp
from jax import Array

_GOLDEN = 0x9E3779B9  # 2^32 / golden ratio: successive multiples are spread evenly over the integers


def mix(bits: Array) -> Array:
    """Scrambles 32-bit integers with the finaliser of MurmurHash3 (Appleby, public domain formula).

    Args:
      bits: uint32 array of any shape.

    Returns:
      uint32 array of that shape; each output bit depends on every input bit.
    """
    bits = bits ^ (bits >> 16)
    bits = bits * jnp.uint32(0x85EBCA6B)
    bits = bits ^ (bits >> 13)
    bits = bits * jnp.uint32(0xC2B2AE35)
    return bits ^ (bits >> 16)


def stir(bits: Array, salt: int | Array) -> Array:
    """Gives a further hash, independent of the first to the eye, from `bits` and a small integer `salt`."""
    return mix(bits + (jnp.asarray(salt) + 1).astype(jnp.uint32) * jnp.uint32(_GOLDEN))


def seeds_from_key(key: Array, count: int) -> Array:
    """Hashes a JAX key, typed or raw and of any kind, into (count,) uint32 seeds.

    A cipher, as `jax.random` runs for every draw, takes longer to compile than all the rest of a weather.
    """
    words = jax.random.key_data(key) if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else key
    seeds = jnp.arange(1, count + 1, dtype=jnp.uint32) * jnp.uint32(_GOLDEN)
    for word in words.astype(jnp.uint32):
        seeds = mix(seeds ^ word)
    return seeds


def halves(bits: Array) -> tuple[Array, Array]:
    """Splits hashes into two uniform float32 numbers in [0, 1) of 16 bits each."""
    return _unit(bits & 0xFFFF, 65536), _unit(bits >> 16, 65536)


def quarters(bits: Array) -> tuple[Array, Array, Array, Array]:
    """Splits hashes into four uniform float32 numbers in [0, 1) of 8 bits each, centred on their steps."""
    return tuple(_unit((bits >> shift) & 0xFF, 256) for shift in (0, 8, 16, 24))  # type: ignore[return-value]


def _unit(bits: Array, count: int) -> Array:
    # Through int32: its conversion to float is a single vector instruction on CPUs, that of uint32 is not.
    return (bits.astype(jnp.int32).astype(jnp.float32) + 0.5) * (1.0 / count)


def uniform(seed: Array, count: int) -> Array:
    """Returns (count,) uniform float32 numbers in [0, 1): a longer series begins as a shorter one does."""
    return _unit(mix(seed + jnp.arange(count, dtype=jnp.uint32) * jnp.uint32(_GOLDEN)) >> 16, 65536)


def pixel_grid(height: int, width: int) -> tuple[Array, Array]:
    """Returns the pixel coordinates y (H, 1) and x (1, W) in float32, ready to broadcast."""
    y = jnp.arange(height, dtype=jnp.float32)[:, None]
    x = jnp.arange(width, dtype=jnp.float32)[None, :]
    return y, x


def rotate(y: Array, x: Array, angle: Array) -> tuple[Array, Array]:
    """Turns coordinates: returns (along, across), `along` pointing down when `angle` (radians) is zero."""
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    return y * cosine + x * sine, x * cosine - y * sine


def cell(v: Array, u: Array, seed: Array, step_v: int | Array, step_u: int | Array) -> tuple[Array, Array, Array]:
    """One of the 2x2 cells whose objects can reach each point.

    Objects must end within half a cell of their centre, which lies anywhere in its cell.

    Args:
      v, u: coordinates in units of cells, any common shape (H, W).
      seed: uint32 scalar or (H, W); another seed is another field.
      step_v, step_u: which of the four cells, each 0 or 1, scalars or (H, W).

    Returns:
      (dv, du, bits): the offset of the point from the object's centre in cells, in (-0.5, 1.5) for step 0 and
      (-1.5, 0.5) for step 1; and the cell's hash, from which `stir` draws the object's other properties.
    """
    row, column = jnp.floor(v - 0.5) + step_v, jnp.floor(u - 0.5) + step_u
    bits = mix(_word(column) * jnp.uint32(0x27D4EB2F) ^ mix(_word(row) * jnp.uint32(_GOLDEN) + seed))
    jitter_v, jitter_u = halves(bits)
    return v - row - jitter_v, u - column - jitter_u, bits


def column_cell(v: Array, u: Array, seed: Array, step: int | Array) -> tuple[Array, Array, Array]:
    """One of the two cells whose objects can reach each point, for long objects in columns.

    Objects reach half a cell sideways from their centre and stay inside their cell along the column.
    Each column of cells is slid along v by a random amount, so that no rows show although an object never
    crosses the end of its cell.

    Args:
      v, u: coordinates in units of cells along and across the columns, any common shape (H, W).
      seed: uint32 scalar.
      step: which of the two columns, 0 or 1.

    Returns:
      (dv, du, bits): `dv` in [-0.5, 0.5) from the middle of the cell; `du` from the object's centre, which
      lies anywhere across the cell; and the cell's hash.
    """
    column = jnp.floor(u - 0.5) + step
    column_bits = mix(_word(column) * jnp.uint32(_GOLDEN) + seed)
    slide, _ = halves(column_bits)
    row = jnp.floor(v + slide)
    bits = mix(column_bits ^ (_word(row) * jnp.uint32(0x27D4EB2F)))
    jitter, _ = halves(bits)
    return v + slide - row - 0.5, u - column - jitter, bits


def bump(square: Array) -> Array:
    """A bell of compact support: (1 - s)^2 for s = `square` = (distance / radius)^2 below one, else zero."""
    rest = jnp.maximum(1.0 - square, 0.0)
    return rest * rest


def smooth(level: Array) -> Array:
    """Rises from 0 to 1 as `level` does, clipped, and sets out and arrives without a kink."""
    level = jnp.clip(level, 0.0, 1.0)
    return level * level * (3 - 2 * level)


def _word(whole: Array) -> Array:
    """Whole floats, also negative, as 32-bit words."""
    return whole.astype(jnp.int32).astype(jnp.uint32)
