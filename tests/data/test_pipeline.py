"""The training stream: what it yields, that its seed decides it, and that it goes on where it stopped."""

import hashlib
import json
import multiprocessing
import os
import signal
import subprocess
import sys
from itertools import product

import numpy as np
import pytest

from mofme_jax.data.folders import PhotographFolder, TrainingImages
from mofme_jax.data.pipeline import RandomCrop, training_stream

CROP = 6


def photograph(index, height, width):
    """(H, W, 3) uint8 in which a pixel says where it is: [photograph, row, column]."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([np.full_like(rows, index), rows, columns], axis=-1).astype(np.uint8)


PHOTOGRAPHS = [photograph(0, 11, 17), photograph(1, 9, 7), photograph(2, CROP, CROP)]


def stream(photographs=PHOTOGRAPHS, *, batch=4, min_scale=1.0, seed=0, **others):
    sources = others.pop("sources", [photographs])
    return training_stream(sources, batch=batch, crop=CROP, min_scale=min_scale, seed=seed, **others)


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


TWO_SOURCES = [PHOTOGRAPHS, [photograph(3, 8, 8), photograph(4, 10, 6)]]


def digest(processes=1, stop=None, **others):
    """Hash of the first 200 global batches, each the processes' parts one behind the other; stopped once on the way."""

    def start(positions):
        settings = dict(sources=TWO_SOURCES, batch=8, min_scale=0.5, process_count=processes, **others)
        streams = [stream(process_index=index, **settings) for index in range(processes)]
        for part, position in zip(streams, positions, strict=True):
            part.set_state(json.loads(position))
        return streams

    found = hashlib.sha256()
    parts = start(['{"batches": 0}'] * processes)
    for number in range(200):
        if number == stop:  # nothing but the positions is left
            positions = [json.dumps(part.get_state()) for part in parts]
            for part in parts:
                part.close()
            parts = start(positions)
        found.update(np.concatenate([next(part) for part in parts]).tobytes())
    for part in parts:
        part.close()
    return found.hexdigest()


@pytest.fixture(scope="module")
def whole():
    return digest()


@pytest.mark.parametrize("processes", [2, 4])
def test_the_first_batches_are_the_same_on_any_number_of_processes(processes, whole):
    assert digest(processes) == whole


@pytest.mark.parametrize("stop", [1, 2, 63, 199])
def test_the_first_batches_are_the_same_across_a_stop(stop, whole):
    assert digest(stop=stop) == whole


@pytest.mark.parametrize(("workers", "processes", "stop"), [(3, 1, None), (1, 2, 100)])
def test_the_first_batches_are_the_same_with_workers(workers, processes, stop, whole):
    assert digest(processes, stop, workers=workers) == whole


def test_workers_leave_signals_to_their_parent():
    iterator = stream(workers=2)
    next(iterator)
    workers = multiprocessing.active_children()
    assert len(workers) == 2
    for worker in workers:
        for number in (signal.SIGINT, signal.SIGTERM):
            os.kill(worker.pid, number)
    take(iterator, 50)  # more than they had read ahead
    assert multiprocessing.active_children() == workers
    iterator.close()
    assert not multiprocessing.active_children()


def test_a_stream_that_nobody_closed_keeps_no_program_from_ending():
    program = (
        "import numpy as np\n"
        "from mofme_jax.data.pipeline import training_stream\n"
        "if __name__ == '__main__':\n"
        "    photographs = [np.zeros((8, 8, 3), np.uint8)]\n"
        "    stream = training_stream([photographs], batch=2, crop=4, min_scale=1.0, seed=0, workers=1)\n"
        "    print(next(stream).shape)\n"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, timeout=120, check=True)
    assert ended.stdout == b"(2, 4, 4, 3)\n"


def test_processes_read_no_image_of_another():
    read = []

    class Noted(list):
        def __getitem__(self, index):
            read.append(index)
            return super().__getitem__(index)

    images = Noted(photograph(i, CROP, CROP) for i in range(64))
    part = stream(images, batch=8, process_index=1, process_count=4)
    seen = {int(i) for i in take(part, 8)[..., 0].ravel()}
    part.close()
    assert len(seen) == 16
    # what is read ahead, at most 16 batches of 2 in 2 threads, comes from later passes
    assert len(read) <= 16 + 2 * (16 + 4)


def test_processes_may_take_one_image_each():
    both = take(stream(sources=TWO_SOURCES, batch=2), 5)
    for index in range(2):
        part = take(stream(sources=TWO_SOURCES, batch=2, process_index=index, process_count=2), 5)
        np.testing.assert_array_equal(part, both[:, index : index + 1])


def test_sources_are_mixed_by_their_weights():
    few, many = [photograph(0, CROP, CROP)], [photograph(i, CROP, CROP) for i in range(1, 10)]
    for weights, share in [((), 0.1), ((1, 1), 0.5), ((3.0, 1.0), 0.75)]:
        indices = take(stream(sources=[few, many], weights=weights, batch=20), 10)[..., 0, 0, 0]
        assert np.mean(indices == 0) == pytest.approx(share, abs=0.006)
        # evenly, not in a run of the one and then of the other
        assert np.abs(np.mean(indices == 0, axis=1) - share).max() <= 0.05


def test_each_source_is_shuffled_anew_each_pass():
    sources = [[photograph(10 * s + i, CROP, CROP) for i in range(5)] for s in range(2)]
    order = take(stream(sources=sources, batch=10), 6)[..., 0, 0, 0].astype(int)
    places = [order[order // 10 == s].reshape(6, 5) % 10 for s in range(2)]
    for passes in places:
        np.testing.assert_array_equal(np.sort(passes, axis=1), np.tile(np.arange(5), (6, 1)))
        assert len({tuple(p) for p in passes}) > 1
    assert (places[0] != places[1]).any()  # nor alike


@pytest.mark.parametrize("weights", [(1.0,), (1.0, 0.0), (1.0, -1.0), (1.0, float("inf"))])
def test_weights_that_will_not_do_are_an_error(weights):
    with pytest.raises(ValueError, match="above 0 for each of the 2 sources"):
        stream(sources=TWO_SOURCES, weights=weights)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_damaged_file_is_named(workers, tmp_path):
    (tmp_path / "b.png").write_bytes(b"no picture")
    images = TrainingImages(PhotographFolder(tmp_path))
    broken = stream(images, workers=workers)
    with pytest.raises(ValueError, match=r"b\.png cannot be read"):
        next(broken)
    broken.close()


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
