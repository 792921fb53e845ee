"""Protocols: sizes by hand, what happens to pictures of each size, windows."""

import numpy as np
import pytest
from PIL import Image

from mofme_jax.evaluation.metrics import CONVENTIONS
from mofme_jax.evaluation.protocols import PROTOCOLS, average_windows, fit, fits, named, prepare

RNG = np.random.default_rng(0)


def picture(height, width):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


SIZES = [
    ("native-rgb", (37, 53), (37, 53)),
    ("basicsr-y", (37, 53), (37, 53)),
    ("histoformer", (37, 53), (37, 53)),
    ("mofme", (37, 53), (480, 720)),
    ("mofme", (1000, 500), (480, 720)),
    ("weatherdiff-y", (37, 53), (48, 64)),
    ("weatherdiff-y", (480, 720), (480, 720)),
    ("weatherdiff-y", (1024, 1000), (1024, 1008)),
    ("weatherdiff-y", (2048, 1501), (1024, 752)),  # 750.5, 751, 752
    ("weatherdiff-y", (700, 1400), (512, 1024)),
    ("weatherdiff-y", (701, 1400), (528, 1024)),  # 512.7, 513, 528
    ("centre16-rgb", (37, 53), (32, 48)),
    ("centre16-rgb", (480, 720), (480, 720)),
]


@pytest.mark.parametrize(("name", "size", "expected"), SIZES)
def test_sizes(name, size, expected):
    protocol = PROTOCOLS[name]
    assert protocol.size(size) == expected
    assert protocol.size(expected) == expected  # so that prepared images are left as they are
    assert prepare(np.zeros((*size, 3), np.uint8), protocol).shape == (*expected, 3)


def test_resizing_is_pillows_in_8_bits():
    image = picture(70, 51)
    for name, resampling in (("mofme", Image.Resampling.BICUBIC), ("weatherdiff-y", Image.Resampling.LANCZOS)):
        height, width = PROTOCOLS[name].size((70, 51))
        expected = np.asarray(Image.fromarray(image).resize((width, height), resampling))
        np.testing.assert_array_equal(prepare(image, PROTOCOLS[name]), expected)


def test_cutting_leaves_the_middle_the_odd_pixel_at_the_end():
    image = picture(37, 53)
    np.testing.assert_array_equal(prepare(image, PROTOCOLS["centre16-rgb"]), image[2:34, 2:50])


@pytest.mark.parametrize("name", PROTOCOLS)
def test_pictures_of_either_size_fit_and_no_other(name):
    protocol, truth = PROTOCOLS[name], picture(50, 70)
    expected = prepare(truth, protocol)
    own = picture(50, 70)
    image, fitted = fit(own, truth, protocol)
    np.testing.assert_array_equal(image, prepare(own, protocol))
    np.testing.assert_array_equal(fitted, expected)
    given = RNG.random(expected.shape, np.float32)  # of the protocol's size: compared as it is
    image, fitted = fit(given, truth, protocol)
    assert image is given
    np.testing.assert_array_equal(fitted, expected)
    assert not fits((50, 71), (50, 70), protocol)
    assert not fits((70, 50), (50, 70), protocol)
    with pytest.raises(ValueError, match=r"\(50, 71, 3\) does not fit"):
        fit(picture(50, 71), truth, protocol)


def test_names():
    assert named("all") == list(PROTOCOLS)
    assert named("mofme") == ["mofme"]
    with pytest.raises(ValueError, match=r"'psnr' is unknown; choose one of native-rgb, .* or all"):
        named("psnr")
    assert {protocol.convention for protocol in PROTOCOLS.values()} <= set(CONVENTIONS)


def test_windows_are_averaged_by_count_and_cut_off_after_that():
    image = RNG.random((8, 12, 3), np.float32)
    np.testing.assert_allclose(average_windows(lambda windows: windows, image, 4, 2), image, rtol=1e-6)

    rows = iter([1.5, 0.0, 0.9])  # the windows of the first row are all 1.5, of the second 0, of the third 0.9
    averaged = average_windows(lambda windows: np.full_like(windows, next(rows)), image, 4, 2)
    expected = np.repeat([1.0, 0.75, 0.45, 0.9], 2)  # 1.5 alone is cut to 1; (1.5 + 0) / 2 was not cut before
    np.testing.assert_allclose(averaged, np.broadcast_to(expected[:, None, None], image.shape), rtol=1e-6)
    with pytest.raises(ValueError, match="windows of 4 every 2 pixels do not fill an image of 11 x 8"):
        average_windows(lambda windows: windows, image[:, :11], 4, 2)
