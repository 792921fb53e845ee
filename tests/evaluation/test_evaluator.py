"""Scores: the means are over images, an input that is its target is told apart."""

import numpy as np
import pytest

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.evaluator import evaluate
from mofme_jax.evaluation.metrics import psnr, ssim

RNG = np.random.default_rng(0)


def picture(height=24, width=24):
    return RNG.integers(0, 256, (height, width, 3), dtype=np.uint8)


def unchanged(image):
    return image, np.zeros(image.shape[:2], np.float32)


def test_scores_are_means_over_images_and_the_first_of_each_group_is_kept():
    cases = [Case("fog", str(i), picture(), picture()) for i in range(3)] + [Case("rain", "3", picture(), picture())]
    restored = {case.name: picture() for case in cases}
    uncertainty = RNG.random((24, 24))
    by_content = {case.degraded.tobytes(): restored[case.name] for case in cases}
    scores, examples = evaluate(lambda image: (by_content[image.tobytes()], uncertainty), cases)

    assert list(scores) == ["fog", "rain"]
    assert [scores[group]["images"] for group in scores] == [3, 1]
    fog = cases[:3]
    for name, images in [("", [restored[c.name] for c in fog]), ("_input", [c.degraded for c in fog])]:
        pairs = [(a / np.float32(255), c.target / np.float32(255)) for a, c in zip(images, fog, strict=True)]
        np.testing.assert_allclose(scores["fog"][f"psnr{name}"], np.mean([psnr(*pair) for pair in pairs]), rtol=1e-5)
        np.testing.assert_allclose(scores["fog"][f"ssim{name}"], np.mean([ssim(*pair) for pair in pairs]), rtol=1e-4)
    assert [example.case.name for example in examples] == ["0", "3"]
    np.testing.assert_array_equal(examples[1].restored, restored["3"])
    assert examples[0].uncertainty is uncertainty


@pytest.mark.parametrize("side", [24, 25, 48, 96])
@pytest.mark.usefixtures("optimised")
def test_an_input_that_is_its_target_scores_infinity_at_every_size(side):
    image = picture(side, side)  # compiled, x / 255 - x / 255 may be fused into something that is not zero
    scores, _ = evaluate(unchanged, [Case("clean", "a", image, image.copy())])
    assert scores["clean"] == {
        "psnr_input": np.inf, "ssim_input": 1.0, "psnr": np.inf, "ssim": 1.0, "images": 1,
    }  # fmt: skip


def test_one_level_apart_everywhere_is_48_decibels():
    image = np.full((16, 16, 3), 100, np.uint8)
    scores, _ = evaluate(unchanged, [Case("a", "a", image, image + np.uint8(1))])
    assert scores["a"]["psnr"] == pytest.approx(20 * np.log10(255), abs=1e-3)
