"""`restore` on images of any size: what goes in and comes out, and that tiles leave no trace."""

from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from hypothesis import given, settings
from hypothesis import strategies as st

import mofme_jax
from mofme_jax.evaluation import tiling
from mofme_jax.evaluation.tiling import Layout, lay_out, observe, restore_with_uncertainty, tile_starts
from mofme_jax.models.router import LEARN_VARIANCE
from tests.fakes import Gain

RNG = np.random.default_rng(0)
IDENTITY = {"gain": np.float32(1.0)}
HALF = {"gain": np.float32(0.5)}
SIZES = [(1, 1), (1, 40), (15, 16), (16, 16), (17, 33), (50, 31), (64, 64)]


def photograph(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


class Traced(Gain):
    """Counts how often it is traced, which is once for each program compiled."""

    shapes: ClassVar[list] = []

    def __call__(self, images, train=False):
        self.shapes.append(images.shape)
        return super().__call__(images, train)


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_a_local_model_gives_in_tiles_what_it_gives_whole(height, width):
    image = photograph(height, width)
    restored = mofme_jax.restore(Gain(), IDENTITY, image, tile=16)
    assert restored.dtype == np.uint8
    np.testing.assert_array_equal(restored, image)
    pixels = image.astype(np.float32) / 255
    restored = mofme_jax.restore(Gain(), HALF, pixels, tile=16)
    assert restored.dtype == np.float32
    # weights are multiplied in and divided out: one unit in the last place of float32, twice
    np.testing.assert_allclose(restored, 0.5 * pixels, rtol=3e-7)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_floats_come_back_in_their_own_dtype(dtype):
    image = RNG.random((20, 20, 3)).astype(dtype)
    restored = mofme_jax.restore(Gain(), IDENTITY, image, tile=16)
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored, image, rtol=3e-7)


def test_what_leaves_the_range_is_cut_off():
    white = np.full((3, 3, 3), 255, np.uint8)
    assert (mofme_jax.restore(Gain(), {"gain": np.float32(3.0)}, white, tile=16) == 255).all()
    assert (mofme_jax.restore(Gain(), {"gain": np.float32(-1.0)}, white / 255.0, tile=16) == 0).all()


def test_one_program_serves_every_size():
    Traced.shapes.clear()
    model = Traced()
    for height, width in SIZES:
        mofme_jax.restore(model, IDENTITY, photograph(height, width), tile=16)
        mofme_jax.restore(model, HALF, photograph(width, height) / 255, tile=16)
    assert Traced.shapes == [(tiling.tiles_at_once(), 16, 16, 3)]
    mofme_jax.restore(model, HALF, photograph(3, 3), tile=17)
    assert len(Traced.shapes) == 2


def test_the_default_tile_is_the_published_crop():
    Traced.shapes.clear()
    mofme_jax.restore(Traced(), IDENTITY, photograph(2, 2))
    assert Traced.shapes == [(tiling.tiles_at_once(), 240, 240, 3)]


def test_the_image_given_is_left_as_it_is():
    image = photograph(20, 24)[:, ::-1]  # not contiguous, and read only
    image.flags.writeable = False
    np.testing.assert_array_equal(mofme_jax.restore(Gain(), IDENTITY, image, tile=16), image)


@pytest.mark.parametrize(
    ("image", "tile", "error", "message"),
    [
        (np.zeros((4, 4), np.uint8), 16, ValueError, r"must be \(H, W, 3\)"),
        (np.zeros((4, 4, 4), np.uint8), 16, ValueError, r"not \(4, 4, 4\)"),
        (np.zeros((1, 4, 4, 3), np.uint8), 16, ValueError, r"must be \(H, W, 3\)"),
        (np.zeros((0, 4, 3), np.uint8), 16, ValueError, "at least one pixel"),
        (np.zeros((4, 4, 3), np.int32), 16, TypeError, "uint16 or float in .*, not int32"),
        (np.zeros((4, 4, 3), bool), 16, TypeError, "not bool"),
        (np.full((4, 4, 3), 200.0), 16, ValueError, "give 0-255 values as uint8"),
        (np.full((4, 4, 3), -0.1), 16, ValueError, r"in \[0, 1\]"),
        (np.full((4, 4, 3), np.nan), 16, ValueError, "finite"),
        (np.zeros((4, 4, 3), np.uint8), 15, ValueError, "tile=15 is too small: take at least 16"),
    ],
)
def test_what_is_no_image_is_refused(image, tile, error, message):
    with pytest.raises(error, match=message):
        mofme_jax.restore(Gain(), IDENTITY, image, tile=tile)


class Uncertain(nn.Module):
    """Two layers whose uncertainty is known: 1 and 3 nats, but 5 for the second layer's token at the top left."""

    @nn.compact
    def __call__(self, images, train=False):
        class Routing:
            def __init__(self, uncertainty):
                self.uncertainty = uncertainty
                self.chosen = jnp.zeros((*uncertainty.shape, 1), jnp.int32)

        ones = jnp.ones((images.shape[0], 2, 2)) + 0 * images[:, :2, :2, 0]
        return images, (Routing(ones), Routing((3 * ones).at[:, 0, 0].set(5.0)))


def test_uncertainty_is_the_mean_over_layers_a_value_a_token():
    _, uncertainty = restore_with_uncertainty(Uncertain(), {}, photograph(12, 16), tile=16)
    assert uncertainty.shape == (12, 16)
    expected = np.full((12, 16), 2.0)
    expected[:8, :8] = 3.0
    np.testing.assert_allclose(uncertainty, expected, rtol=1e-6)
    _, none = restore_with_uncertainty(Gain(), IDENTITY, photograph(12, 16), tile=16)
    np.testing.assert_array_equal(none, np.zeros((12, 16)))


@given(
    tokens=st.integers(1, 200),
    patch=st.sampled_from([1, 8, 16]),
    window=st.sampled_from([1, 2, 3]),
    tile=st.integers(16, 300),
)
@settings(deadline=None, max_examples=300)
def test_tiles_cover_every_pixel_and_share_the_overlap(tokens, patch, window, tile):
    class Network:
        def __init__(self):
            self.patch, self.window = patch, window

    layout = lay_out(Network(), tile)
    assert layout.tile >= tile
    assert layout.tile % patch == 0
    length = tokens * patch
    starts = tile_starts(length, layout)
    assert starts[0] == 0
    assert all(start % layout.grid == 0 for start in starts)
    last = starts[-1] + layout.tile
    assert last >= length
    if length > layout.tile:
        assert last - length < layout.grid  # beyond the end only as far as the grid demands
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= layout.tile - layout.overlap).all()  # neighbours share at least the overlap, nothing lies between
    sides = [layout.side(starts, i) for i in range(len(starts))]
    total = np.zeros(last)
    for start, side in zip(starts, sides, strict=True):
        assert (side >= 0).all()
        total[start : start + layout.tile] += side
    assert total.min() > 0.25  # there is always one that knows
    assert sides[0][0] == sides[-1][-1] == 1  # at the image's own border nothing is thrown away
    for i, side in enumerate(sides):
        assert i == 0 or (side[: layout.halo] == 0).all()
        assert i == len(sides) - 1 or (side[layout.tile - layout.halo :] == 0).all()


def test_neighbours_weights_sum_to_one():
    layout = Layout(tile=24, patch=1, grid=1, halo=2, overlap=8)
    assert tile_starts(40, layout) == [0, 16]
    left, right = layout.side([0, 16], 0), layout.side([0, 16], 1)
    np.testing.assert_allclose(left[16:] + right[:8], 1.0, rtol=1e-6)
    assert (np.diff(right[1:7]) > 0).all()
    np.testing.assert_array_equal(left[:16], 1.0)


def test_no_seam_where_tiles_disagree():
    class Brightness(nn.Module):
        """Adds the tile's own mean: neighbouring tiles disagree about every pixel."""

        @nn.compact
        def __call__(self, images, train=False):
            return 0.5 * images.mean(axis=(1, 2, 3), keepdims=True) + 0 * images, ()

    ramp = np.broadcast_to(np.linspace(0, 1, 64, dtype=np.float32)[None, :, None], (32, 64, 3))
    restored = mofme_jax.restore(Brightness(), {}, ramp, tile=32)
    assert restored.max() - restored.min() > 0.1
    assert np.abs(np.diff(restored, axis=1)).max() < 0.05
    np.testing.assert_allclose(jax.device_get(restored[0]), restored[-1], rtol=1e-5)


def windowed(window: int, depth: int = 2, **fields):
    """A network with a finite receptive field, far from its start, on which everything matters."""
    model = mofme_jax.build("tiny", window=window if depth else None, depth=depth, dispatch="dense", **fields)
    params = jax.jit(model.init)(jax.random.key(0), jnp.zeros((1, 32, 32, 3)))["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    moved = [leaf + 0.05 * jax.random.normal(key, leaf.shape) for leaf, key in zip(leaves, keys, strict=True)]
    return model, jax.tree.unflatten(tree, moved)


@pytest.mark.parametrize(("depth", "height", "width"), [(2, 336, 272), (2, 300, 250), (0, 300, 250)])
def test_tiled_equals_untiled_where_the_halo_holds_the_receptive_field(depth, height, width):
    model, params = windowed(2, depth)
    reach = model.receptive_field()
    tile = 4 * reach
    image = np.random.default_rng(0).random((height, width, 3), np.float32)
    whole = np.asarray(jax.jit(lambda x: model.apply({"params": params}, x)[0])(image[None]))[0]
    tiled = mofme_jax.restore(model, params, image, tile=tile)
    layout = lay_out(model, tile)
    assert layout.halo == reach
    assert len(tile_starts(-(-width // 8) * 8, layout)) > 1  # otherwise nothing is shown
    assert whole.std() > 0.1
    difference = np.abs(tiled - whole).max(-1) * 255
    # a tile that overhangs the image makes up what lies there; the network alone knows that nothing does
    rows, columns = (
        length if (length - layout.tile) % layout.grid == 0 else length - reach
        for length in (-(-height // 8) * 8, -(-width // 8) * 8)
    )
    assert difference[:rows, :columns].max() < 0.01
    # and the halo is what does it
    thin = Layout(layout.tile, layout.patch, layout.grid, 0, 8)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "lay_out", lambda *_: thin)
        torn = np.abs(mofme_jax.restore(model, params, image, tile=tile) - whole).max(-1) * 255
    assert torn[:rows, :columns].max() > 1


def test_the_spread_is_that_of_the_passes_and_has_no_seams():
    model, params = windowed(2)
    image = np.random.default_rng(0).random((40, 56, 3), np.float32)
    seen = observe(model, params, image, tile=64, passes=4)
    sampled = model.clone(router="stochastic", router_passes=1)
    padded = np.pad(image, ((0, 24), (0, 8), (0, 0)), mode="edge")[None]
    each = [
        sampled.apply({"params": params}, padded, rngs={"dropout": key})[0][0, :40, :56]
        for key in jax.random.split(jax.random.key(0), 4)
    ]
    np.testing.assert_allclose(seen.spread, np.std(each, axis=0, ddof=1).mean(-1), atol=2e-4)
    assert seen.spread.max() > 0.01
    np.testing.assert_array_equal(seen.spread, observe(model, params, image, tile=64, passes=4).spread)
    assert observe(model, params, image, tile=64).spread is None


@pytest.mark.parametrize("router", LEARN_VARIANCE)
def test_passes_of_a_router_that_learns_its_variance_draw_its_own_logits(router):
    model, params = windowed(2, router=router, router_dropout=0.0)  # which it has no use for
    image = np.random.default_rng(0).random((64, 64, 3), np.float32)
    seen = observe(model, params, image, tile=64, passes=4)
    np.testing.assert_array_equal(seen.spread, observe(model, params, image, tile=64, passes=4).spread)
    certain = jax.tree.map(lambda leaf: leaf, params)
    for block in ("block_0", "block_1"):
        certain[block]["mixture"]["router"]["variance_bias" if router == "heteroscedastic" else "spread"] -= 200.0
    assert seen.spread.max() > 0.01
    assert observe(model, certain, image, tile=64, passes=4).spread.max() < 1e-3


def test_the_default_tile_holds_the_receptive_field():
    assert lay_out(mofme_jax.build("tiny"), None).tile == 240  # which is the whole image
    near = mofme_jax.build("tiny", window=2)
    assert 4 * near.receptive_field() < 240
    assert lay_out(near, None).tile == 240
    wide = mofme_jax.build("tiny", window=8)
    assert lay_out(wide, None).tile >= 4 * wide.receptive_field() > 240
    assert lay_out(wide, None).halo == wide.receptive_field()
    assert lay_out(mofme_jax.build("small", window=16), None).tile == 240  # it would take too large a one
    assert lay_out(wide, 96).tile == 96


def test_experts_are_those_of_the_whole_image():
    model, params = windowed(2)
    tile = 4 * model.receptive_field()
    image = np.random.default_rng(0).random((336, 272, 3), np.float32)
    _, aux = jax.jit(lambda x: model.apply({"params": params}, x))(image[None])
    seen = observe(model, params, image, tile=tile)
    whole = np.stack([layer.chosen[0, ..., 0] for layer in aux])
    assert seen.experts.shape == whole.shape == (2, 42, 34)
    assert seen.patch == 8
    assert (seen.experts == whole)[:, :-8, :-8].mean() > 0.999  # but for ties that rounding decides
    assert len(np.unique(whole)) > 1


@pytest.mark.parametrize(
    ("changes", "passes", "message"),
    [
        ({}, 1, "at least 2"),
        ({"feed_forward": "dense"}, 3, "no routers"),
        ({"router_dropout": 0.0}, 3, "no router_?|0"),
    ],
)
def test_passes_that_cannot_differ_are_refused(changes, passes, message):
    with pytest.raises(ValueError, match=message):
        observe(mofme_jax.build("tiny", **changes), {}, np.zeros((4, 4, 3), np.uint8), passes=passes)


class Sky(nn.Module):
    """Takes a tile without contrast for haze, and darkens it; as one that looks at the whole of what it is given."""

    def receptive_field(self):
        return None

    @nn.compact
    def __call__(self, images, train=False):
        hazy = images.std(axis=(1, 2, 3), keepdims=True) < 0.05
        return jnp.where(hazy, images - 0.4, images), ()


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_the_tone_of_a_large_photograph_is_that_of_the_whole(dtype, monkeypatch):
    image = np.full((300, 1000, 3), 0.6, np.float32)
    image[:, :100] = np.random.default_rng(0).random((300, 100, 3))
    full = {np.uint8: 255, np.uint16: 65535, np.float32: 1}[dtype]
    given = (np.round(image * full) if full > 1 else image).astype(dtype)
    restored = mofme_jax.restore(Sky(), {}, given, tile=480)
    assert restored.dtype == dtype
    np.testing.assert_allclose(restored[:, 200:] / full, 0.6, atol=0.01)
    # what is fine stays the tiles': here as it was given
    assert np.corrcoef(restored[:, :80].ravel(), given[:, :80].ravel())[0, 1] > 0.99
    monkeypatch.setattr(tiling, "TONE_FROM", 1001)
    torn = mofme_jax.restore(Sky(), {}, given, tile=480) / full
    assert torn[:, 600:].mean() < 0.25  # and it is this that does it


def test_only_networks_that_see_the_whole_are_given_its_tone():
    assert lay_out(mofme_jax.build("tiny"), 240).whole
    assert not lay_out(mofme_jax.build("tiny", window=2), 240).whole
    assert not lay_out(Gain(), 240).whole


def test_sixteen_bits_stay_sixteen():
    image = np.random.default_rng(0).integers(0, 65536, (20, 40, 3), dtype=np.uint16)
    restored = mofme_jax.restore(Gain(), IDENTITY, image, tile=16)
    assert restored.dtype == np.uint16
    np.testing.assert_array_equal(restored, image)


def test_progress_counts_tiles():
    told = []
    observe(Gain(), IDENTITY, photograph(60, 70), tile=32, progress=lambda *counts: told.append(counts))
    assert told[-1] == (9, 9)
    assert sorted(told) == told
