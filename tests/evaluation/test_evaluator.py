"""Scores: the means are over images, an input that is its target is told apart."""

import numpy as np
import pytest
from PIL import Image

from mofme_jax.evaluation.cases import Case
from mofme_jax.evaluation.evaluator import differences, evaluate, judge_cases, summarise
from mofme_jax.evaluation.folders import Judged
from mofme_jax.evaluation.metrics import psnr, ssim
from mofme_jax.evaluation.protocols import PROTOCOLS
from mofme_jax.evaluation.scoring import score
from mofme_jax.evaluation.tiling import tiles_at_once

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


class Recording:
    """Makes every image white, and remembers the shapes that it was traced with."""

    def __init__(self):
        self.shapes = []

    def apply(self, variables, images, train):
        assert variables == {"params": {}}
        assert not train
        self.shapes.append(images.shape)
        return 0 * images + 1, ()


def test_a_model_sees_what_the_protocol_has_it_see():
    model, case = Recording(), Case("fog", "a", picture(50, 70), picture(50, 70))
    [judged] = judge_cases(model, {}, [case], ["mofme"])
    assert model.shapes == [(5, 240, 240, 3)]  # three rows of five windows, one program
    resized = [np.asarray(Image.fromarray(x).resize((720, 480), Image.BICUBIC)) for x in (case.degraded, case.target)]
    white = np.ones((480, 720, 3), np.float32)
    assert judged.scores["mofme"] == (score(*resized, "piq"), score(white, resized[1], "piq"))
    assert [image.shape for image in judged.pictures] == [(480, 720, 3)] * 3
    assert (judged.name, judged.group) == ("a", "fog")

    model.shapes.clear()
    [judged] = judge_cases(model, {}, [case], list(PROTOCOLS), tile=16)
    assert (tiles_at_once(), 16, 16, 3) in model.shapes
    assert list(judged.scores) == list(PROTOCOLS)
    assert [image.shape for image in judged.pictures] == [(50, 70, 3)] * 3  # of the first protocol
    np.testing.assert_array_equal(judged.pictures[0], case.degraded)
    white = np.full((50, 70, 3), 255, np.uint8)
    for name in ("native-rgb", "basicsr-y", "histoformer"):
        assert judged.scores[name][1] == score(white, case.target, PROTOCOLS[name].convention)


def test_protocols_that_differ_in_the_convention_alone_share_what_is_restored(monkeypatch):
    restored = []
    monkeypatch.setattr(
        "mofme_jax.evaluation.evaluator.restore", lambda model, params, image, tile: restored.append(image) or image
    )
    list(judge_cases(None, {}, [Case("", "a", picture(), picture())], ["native-rgb", "basicsr-y", "histoformer"]))
    assert len(restored) == 1
    list(judge_cases(None, {}, [Case("", "a", picture(), picture())], ["native-rgb", "centre16-rgb"]))
    assert [image.dtype for image in restored[1:]] == [np.uint8, np.float32]


def test_summaries_are_by_protocol_and_group():
    def judged(group, first, second):
        return Judged("", group, {"native-rgb": (first, second), "mofme": (second, second)}, ())

    images = [
        judged("rain", (20.0, 0.5), (22.0, 0.7)),
        judged("fog", (np.inf, 1.0), (30.0, 0.9)),
        judged("rain", (20.0, 0.5), (19.0, 0.5)),
        judged("rain", (np.inf, 1.0), (np.inf, 1.0)),
    ]
    rain, fog, *others = summarise(images)
    assert [(s.protocol, s.group, s.images) for s in (rain, fog, *others)] == [
        ("native-rgb", "rain", 3), ("native-rgb", "fog", 1), ("mofme", "rain", 3), ("mofme", "fog", 1),
    ]  # fmt: skip
    assert rain.means[1][0].mean == pytest.approx(20.5)
    assert rain.means[1][0].infinite == 1
    assert rain.means[1][1].mean == pytest.approx((0.7 + 0.5 + 1.0) / 3)
    assert rain.differences[0].mean == pytest.approx((2 - 1 + 0) / 3)  # two that are both perfect differ by nothing
    assert rain.differences[1].mean == pytest.approx(0.2 / 3)
    assert rain.better == (1, 1)
    assert fog.differences[0].infinite == 1
    assert fog.better == (0, 0)
    assert differences(images[0], "mofme") == (0.0, 0.0)
    assert summarise([Judged("", "", {"mofme": ((20.0, 0.5),)}, ())])[0].differences is None
