"""The training stream: what it yields, that its seed decides it, and that it goes on where it stopped."""

import json
from itertools import product

import numpy as np
import pytest

from mofme_jax.data.pipeline import RandomCrop, training_stream

CROP = 6


def photograph(index, height, width):
    """(H, W, 3) uint8 in which a pixel says where it is: [photograph, row, column]."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, index), rows, columns], axis=-1).astype(np.uint8)


PHOTOGRAPHS = [photograph(0, 11, 17), photograph(1, 9, 7), photograph(2, CROP, CROP)]


def stream(photographs=PHOTOGRAPHS, *, batch=4, min_scale=1.0, seed=0, **processes):
    return training_stream(photographs, batch=batch, crop=CROP, min_scale=min_scale, seed=seed, **processes)


def take(iterator, count):
    return np.stack([next(iterator) for _ in range(count)])


def unturn(crop):
    """Undoes the orientation of a crop of `photograph`: (upright crop, (rotations, mirrored))."""
    for turns, mirror in product(range(4), (False, True)):
        upright = np.rot90(crop[:, ::-1] if mirror else crop, turns)
        rows, columns = upright[..., 1].astype(int), upright[..., 2].astype(int)
        if (np.diff(rows, axis=0) == 1).all() and (np.diff(columns, axis=1) == 1).all():
            return upright, (turns, mirror)
    raise AssertionError("no orientation makes a piece of a photograph of this crop")


@pytest.mark.parametrize("min_scale", [1.0, 0.5])
def test_batches_are_uint8_crops(min_scale):
    batches = take(stream(min_scale=min_scale), 3)
    assert batches.shape == (3, 4, CROP, CROP, 3)
    assert batches.dtype == np.uint8


def test_crops_are_pixels_of_the_photographs_in_all_eight_orientations():
    crops = take(stream(), 64).reshape(-1, CROP, CROP, 3)
    seen, corners = set(), {index: set() for index in range(len(PHOTOGRAPHS))}
    for crop in crops:
        upright, orientation = unturn(crop)
        index, top, left = map(int, upright[0, 0])
        whole = PHOTOGRAPHS[index]
        np.testing.assert_array_equal(upright, whole[top : top + CROP, left : left + CROP])
        seen.add(orientation)
        corners[index].add((top, left))
    assert len(seen) == 8
    # every place of the two small photographs occurs, its last row and column included
    assert corners[1] == set(product(range(9 - CROP + 1), range(7 - CROP + 1)))
    assert corners[2] == {(0, 0)}


def test_each_epoch_has_every_photograph_once_in_another_order():
    photographs = [photograph(i, CROP, CROP) for i in range(7)]
    order = take(stream(photographs, batch=7), 6)[:, :, 0, 0, 0]
    np.testing.assert_array_equal(np.sort(order, axis=1), np.tile(np.arange(7), (6, 1)))
    assert len({tuple(epoch) for epoch in order}) > 1


def test_the_seed_decides_the_stream():
    first = take(stream(seed=3), 5)
    np.testing.assert_array_equal(take(stream(seed=3), 5), first)
    assert (take(stream(seed=4), 5) != first).any()


@pytest.mark.parametrize("position", [0, 1, 5, 12])
def test_it_goes_on_from_a_saved_position(position):
    iterator = stream(min_scale=0.5)
    for _ in range(position):
        next(iterator)
    state = json.loads(json.dumps(iterator.get_state()))
    expected = take(iterator, 6)
    fresh = stream(min_scale=0.5)
    fresh.set_state(state)
    np.testing.assert_array_equal(take(fresh, 6), expected)
    iterator.set_state(state)  # and backwards, in the iterator that went on
    np.testing.assert_array_equal(take(iterator, 6), expected)


def test_two_processes_share_the_elements_of_one():
    whole = take(stream(batch=4), 8)
    parts = [take(stream(batch=4, process_index=i, process_count=2), 8) for i in range(2)]
    assert parts[0].shape == (8, 2, CROP, CROP, 3)
    # turn by turn: together they are the one stream, so nothing is lost and nothing is in both
    np.testing.assert_array_equal(np.stack(parts, axis=2).reshape(whole.shape), whole)


def test_a_process_goes_on_from_its_own_position():
    shares = {"process_index": 1, "process_count": 2}
    iterator = stream(**shares)
    take(iterator, 3)
    state = iterator.get_state()
    expected = take(iterator, 3)
    fresh = stream(**shares)
    fresh.set_state(state)
    np.testing.assert_array_equal(take(fresh, 3), expected)


def test_a_batch_that_processes_cannot_share_is_an_error():
    with pytest.raises(ValueError, match="batch=5 cannot be shared by 2 processes"):
        stream(batch=5, process_index=0, process_count=2)


@pytest.mark.parametrize("min_scale", [1.0, 0.5])
def test_pairs_are_cut_alike(min_scale):
    images = np.random.default_rng(0).integers(0, 256, (3, 20, 16, 3), dtype=np.uint8)
    pairs = [np.concatenate([image, 255 - image], axis=-1) for image in images]
    crops = take(stream(pairs, min_scale=min_scale), 16)
    assert crops.shape == (16, 4, CROP, CROP, 6)
    error = np.abs(crops[..., 3:].astype(int) - (255 - crops[..., :3].astype(int)))
    assert error.max() <= (0 if min_scale == 1 else 1)  # a shrunk view is rounded twice


def test_a_small_min_scale_gives_shrunk_views():
    # neighbours in a crop are as many pixels of the photograph apart as it was shrunk
    wide = photograph(0, 60, 80)
    crops = take(stream([wide], min_scale=0.25), 40).reshape(-1, CROP, CROP, 3)
    spans = np.ptp(crops[..., 1].astype(float), axis=(1, 2))
    factors = spans / (CROP - 1)
    assert factors.min() < 1.3
    assert 3.5 < factors.max() < 4.3
    # log-uniform: as many below twice as above
    assert 0.35 < np.mean(factors < 2) < 0.65
    assert (np.ptp(take(stream([wide]), 8)[..., 1], axis=(2, 3)) == CROP - 1).all()


def test_a_view_is_bounded_by_its_photograph():
    # the square cannot be larger than 9 pixels, whatever is drawn, and 9 pixels it often is
    narrow = photograph(0, 9, 40)
    crop = RandomCrop(CROP, min_scale=0.01)
    spans = {int(np.ptp(crop.random_map(narrow, np.random.default_rng(seed))[..., 2])) for seed in range(50)}
    assert max(spans) <= 8
