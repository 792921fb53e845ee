"""What people look at."""

import io
import re

import numpy as np
import pytest
from PIL import Image

from mofme_jax import viz
from mofme_jax.viz import Progress, ProgressBar, duration, error_sheet, heat, picture_sheet, score_table


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set."""
    now = [100.0]
    monkeypatch.setattr(viz.time, "monotonic", lambda: now[0])
    return now


def test_the_line_of_progress(clock):
    stream = io.StringIO()
    progress = Progress(total=200, start=50, batch=8, stream=stream)
    clock[0] += 10
    assert progress.report(100, {"loss": 0.12345678, "PSNR": 21.5}) == pytest.approx(5.0)
    assert stream.getvalue() == "step 100/200 ( 50%)  40.0 images/s  0:20 left  loss 0.1235  PSNR 21.5\n"
    clock[0] += 5
    assert progress.report(110, {}) == pytest.approx(2.0)  # of the last period, not of the whole run
    clock[0] += 50  # a save
    progress.restart_clock(110)
    clock[0] += 2
    assert progress.report(120, {}) == pytest.approx(5.0)
    assert "  0:16 left" in stream.getvalue().splitlines()[2]


def test_a_period_without_a_step_has_no_rate(clock):
    stream = io.StringIO()
    assert np.isnan(Progress(10, 1, 8, stream).report(1, {"loss": 0.5}))
    assert stream.getvalue() == "step 1/10 ( 10%)  loss 0.5\n"


def test_progress_goes_to_the_standard_output_of_the_moment(capsys):
    Progress(10, 0, 8).report(1, {})
    assert capsys.readouterr().out.startswith("step 1/10 ( 10%)")


def test_the_line_of_a_count(clock):
    stream = io.StringIO()
    with ProgressBar(40, "scoring images", stream) as bar:
        for seconds, done in ((0.5, 5), (2, 20), (5, 30), (20, 40)):
            clock[0] = 100.0 + seconds
            bar.update(done)
    assert stream.getvalue().splitlines() == [
        "scoring images 20/40 ( 50%)  10/s  0:02 left",
        "scoring images 40/40 (100%)  2/s  0:00 left",
    ]
    stream = io.StringIO()
    clock[0] = 100.0
    bar = ProgressBar(0, "scoring images", stream)  # of images that are made as they are asked for
    clock[0] += 4
    bar.update(3)
    assert stream.getvalue() == "scoring images 3  0.75/s\n"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0:00"), (0.4, "0:00"), (59.6, "1:00"), (95, "1:35"), (3599, "59:59"), (3700, "1:01:40"), (36000, "10:00:00")],
)
def test_durations(seconds, text):
    assert duration(seconds) == text


def test_the_table_of_scores():
    scores = {
        "haze": dict(psnr_input=12.25, psnr=20.0, ssim_input=0.5, ssim=0.75, images=2),
        "clean": dict(psnr_input=np.inf, psnr=40.0, ssim_input=1.0, ssim=0.999, images=1),
    }
    head, rule, haze, clean = score_table(scores).splitlines()
    assert re.split(r"\s{2,}", head) == ["weather", "PSNR input", "restored", "gain", "SSIM input", "restored"]
    assert haze.split() == ["haze", "12.25", "20.00", "+7.75", "0.500", "0.750"]
    assert clean.split() == ["clean", "inf", "40.00", "1.000", "0.999"]  # no gain over a perfect input
    assert {len(line) for line in (head, rule, haze, clean)} == {len(head)}


def test_the_sheet_of_pictures(tmp_path):
    colours = np.array([[[1.0, 0, 0], [0, 1.0, 0]], [[0, 0, 1.0], [2.0, -1.0, 0.5]]])  # the last is out of range
    rows = [[np.broadcast_to(colours[i, j], (20 + i, 30 + j, 3)) for j in range(2)] for i in range(2)]
    picture_sheet(rows, ["left", "right"], ["one", "two"], tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (18 + 2 * (20 + 18), 2 * (30 + 4), 3)  # all cut to the least height and width
    for i in range(2):
        for j in range(2):
            top, left = 18 + i * 38, j * 34
            expected = np.round(np.clip(colours[i, j], 0, 1) * 255)
            assert (sheet[top : top + 20, left : left + 30] == expected).all()
    assert (sheet[:18] < 255).any()  # titles
    assert (sheet[38:56] < 255).any()  # and names are written


def test_the_sheet_of_errors(tmp_path):
    truth = np.full((60, 640, 3), 100, np.uint8)
    floats = np.full((300, 200, 3), 0.5)
    worse, half = truth.copy(), truth.copy()
    worse[:, 320:] += np.uint8(80)  # on the right, all three channels
    half[:, 320:, 0] += np.uint8(120)  # one of the three: 40 on the mean
    rows = [[worse, half, truth], [floats, floats, floats]]
    error_sheet(rows, ["A", "B", "truth"], ["one", "two"], 2, tmp_path / "sheet.png")
    with Image.open(tmp_path / "sheet.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == (24 + (30 + 30) + (480 + 30), 6 + 5 * 326, 3)
    for column, value in enumerate((180, (220, 100, 100), 100)):
        assert (sheet[24:54, 6 + column * 326 + 200 : 6 + column * 326 + 310] == value).all()
    for column, colour in ((3, (255, 255, 255)), (4, (255, 128, 0))):  # 80 levels are the scale's end, 40 its middle
        left = 6 + column * 326
        assert (sheet[24:54, left : left + 150] == 0).all()
        assert (sheet[24:54, left + 170 : left + 310] == colour).all()
    assert (sheet[84:564, 6:326] == 128).all()  # the second row, as high as it may be
    assert (sheet[:24] < 255).any()
    assert (sheet[54:84] < 255).any()
    assert (sheet[564:] < 255).any()


def test_a_row_more_than_names_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="zip"):
        picture_sheet([[np.zeros((4, 4, 3))]], ["a"], [], tmp_path / "sheet.png")


def test_heat_goes_from_black_through_red_and_yellow_to_white():
    values = np.array([[-1.0, 0.0, 1.0, 2.0, 3.0, 9.0]])
    expected = [[0, 0, 0], [0, 0, 0], [1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]]
    np.testing.assert_allclose(heat(values, 0.0, 3.0)[0], expected, atol=1e-12)
    assert np.isfinite(heat(np.zeros((2, 2)), 0.0, 0.0)).all()  # no router: no uncertainty, no scale
