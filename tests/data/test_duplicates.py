"""Thumbnails: one picture and two, measured on photographs."""

import io

import numpy as np
import pytest
from PIL import Image

from mofme_jax.data import duplicates
from mofme_jax.data.duplicates import ALIKE, SIDE, digest, figures, most_alike, thumbnail
from mofme_jax.data.photos import embedded_photographs


@pytest.fixture(scope="module")
def photographs() -> dict[str, np.ndarray]:
    return {**embedded_photographs("train"), **embedded_photographs("validation")}


def similarity(one: np.ndarray, other: np.ndarray) -> float:
    a, b = figures(np.stack([thumbnail(one), thumbnail(other)]))
    return float(a @ b)


def jpeg(pixels: np.ndarray, quality: int) -> np.ndarray:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file))


def resized(pixels: np.ndarray, share: float) -> np.ndarray:
    height, width = (round(share * side) for side in pixels.shape[:2])
    return np.asarray(Image.fromarray(pixels).resize((width, height), Image.Resampling.BICUBIC))


@pytest.mark.parametrize(
    "change",
    [
        lambda x: jpeg(x, 75),
        lambda x: jpeg(x, 50),
        lambda x: resized(x, 0.5),
        lambda x: resized(x, 0.9),
        lambda x: jpeg(resized(x, 0.5), 75),
        lambda x: np.clip(x * 1.1, 0, 255).astype(np.uint8),
        lambda x: (x * 0.9).astype(np.uint8),
    ],
    ids=["q75", "q50", "half", "0.9", "half q75", "brighter", "darker"],
)
def test_a_photograph_is_like_itself(change, photographs):
    for pixels in photographs.values():
        assert similarity(pixels, change(pixels)) > ALIKE + 0.02


def test_photographs_are_unlike_each_other(photographs):
    found = figures(np.stack([thumbnail(pixels) for pixels in photographs.values()]))
    products = found @ found.T
    np.testing.assert_allclose(products.diagonal(), 1.0, rtol=1e-5)
    assert (products - np.eye(len(products))).max() < 0.5


def test_skies_with_a_roof_in_one_corner_are_not_compared():
    skies = np.full((2, 160, 160, 3), 200, np.uint8)
    skies[0, 140:, :20], skies[1, 145:, :25] = 60, 90
    assert similarity(*skies) == 0.0


def test_what_horizons_have_in_common_does_not_count():
    rows = np.mgrid[0:160, 0:160][0]
    horizon = np.where(rows < 80, 220, 60)[..., None] + np.zeros(3)
    rng = np.random.default_rng(0)
    scenes = [horizon + np.kron(rng.normal(0, 12, (16, 16)), np.ones((10, 10)))[..., None] for _ in range(2)]
    assert abs(similarity(*(np.clip(scene, 0, 255).astype(np.uint8) for scene in scenes))) < 0.3


@pytest.mark.parametrize("block", [3, 4, 100])
def test_the_most_alike_is_found_whatever_the_blocks(block, monkeypatch):
    monkeypatch.setattr(duplicates, "_BLOCK", block)
    rng = np.random.default_rng(1)
    others = rng.integers(0, 256, (10, SIDE, SIDE), dtype=np.uint8)
    ones = others[[7, 0, 9, 3, 3]] // 2 + 20
    index, found = most_alike(ones, others)
    assert index.tolist() == [7, 0, 9, 3, 3]
    assert (found > 0.99).all()


def test_nothing_is_like_a_picture_without_detail():
    index, found = most_alike(np.full((2, SIDE, SIDE), 9, np.uint8), np.full((3, SIDE, SIDE), 9, np.uint8))
    assert index.tolist() == [-1, -1]
    assert found.tolist() == [0, 0]
    index, found = most_alike(np.zeros((0, SIDE, SIDE), np.uint8), np.zeros((3, SIDE, SIDE), np.uint8))
    assert len(index) == len(found) == 0


def test_a_hash_is_of_size_and_pixels():
    pixels = np.arange(36, dtype=np.uint8).reshape(3, 4, 3)
    assert digest(pixels) == digest(np.asfortranarray(pixels))
    assert digest(pixels) != digest(pixels.reshape(4, 3, 3))
    assert digest(pixels) != digest(pixels + 1)
