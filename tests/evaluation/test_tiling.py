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
from mofme_jax.evaluation.tiling import blending_window, restore_with_uncertainty, tile_starts
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
    assert Traced.shapes == [(tiling.TILES_AT_ONCE, 16, 16, 3)]
    mofme_jax.restore(model, HALF, photograph(3, 3), tile=17)
    assert len(Traced.shapes) == 2


def test_the_default_tile_is_the_published_crop():
    Traced.shapes.clear()
    mofme_jax.restore(Traced(), IDENTITY, photograph(2, 2))
    assert Traced.shapes == [(tiling.TILES_AT_ONCE, 240, 240, 3)]


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
        (np.zeros((4, 4, 3), np.int32), 16, TypeError, "uint8 or float in .*, not int32"),
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


@given(length=st.integers(1, 2000), tile=st.integers(16, 300))
@settings(deadline=None, max_examples=300)
def test_tiles_cover_every_pixel_and_share_the_overlap(length, tile):
    overlap = tile // 4
    starts = tile_starts(length, tile, overlap)
    if length <= tile:
        assert starts == [0]
        return
    assert starts[0] == 0
    assert starts[-1] == length - tile
    steps = np.diff(starts)
    assert (steps > 0).all()
    assert (steps <= tile - overlap).all()  # so neighbours share at least the overlap, and no pixel lies between
    assert len(starts) == -(-(length - overlap) // (tile - overlap))  # and none is wasted


@pytest.mark.parametrize("tile", [16, 17, 96, 240])
def test_blending_weights_are_positive_and_fall_towards_the_edge_only(tile):
    overlap = tile // 4
    window = blending_window(tile, overlap)
    assert window.shape == (tile, tile, 1)
    assert window.min() > 0
    assert (window[overlap : tile - overlap, overlap : tile - overlap] == 1).all()
    np.testing.assert_array_equal(window, window[::-1, ::-1])
    middle = window[tile // 2, :, 0]
    assert (np.diff(middle[:overlap]) > 0).all()
    # where two tiles share just the overlap, their weights sum to 1
    np.testing.assert_allclose(middle[tile - overlap :] + middle[:overlap], 1.0, rtol=1e-6)


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
