"""Pictures of doubt and of experts, on numbers one can check by eye."""

import numpy as np

from mofme_jax.restoring.pictures import (
    doubt_overlay,
    eight_bits,
    expert_colours,
    expert_picture,
    expert_sheet,
    uncertainty_picture,
)


def test_uncertainty_goes_from_black_to_white():
    picture = uncertainty_picture(np.array([[0.0, 1.0, 2.0, 9.0]]), 0.0, 2.0)
    assert picture.dtype == np.uint8
    assert picture[0, 0].tolist() == [0, 0, 0]
    assert picture[0, 2].tolist() == picture[0, 3].tolist() == [255, 255, 255]
    assert (picture[0, 1] > 0).any()
    assert (picture[0, 1] < 255).any()


def test_the_overlay_leaves_what_is_sure_and_paints_half_of_what_is_not():
    restored = np.full((1, 3, 3), 90, np.uint8)
    painted = doubt_overlay(restored, np.array([[0.1, 0.5, 7.0]]), 0.1, 0.9)
    assert painted[0, 0].tolist() == [90, 90, 90]
    assert painted[0, 1].tolist() == [131, 68, 118]  # a quarter of (255, 0, 200), three of 90
    assert painted[0, 2].tolist() == [172, 45, 145]


def test_colours_differ_however_many_experts():
    for count in (1, 4, 8, 9, 64, 128):
        colours = expert_colours(count)
        assert colours.shape == (count, 3)
        assert len(np.unique(colours, axis=0)) == count
    np.testing.assert_array_equal(expert_colours(128)[:4], expert_colours(4))


def test_a_token_is_a_block_of_its_experts_colour():
    experts = np.array([[0, 1], [1, 3]])
    picture = expert_picture(np.zeros((3, 4, 3), np.uint8), experts, 2, 4)
    half = np.round(expert_colours(4) / 2).astype(np.uint8)
    assert picture.shape == (3, 4, 3)
    np.testing.assert_array_equal(picture[:2, :2], np.broadcast_to(half[0], (2, 2, 3)))
    np.testing.assert_array_equal(picture[2, 2:], np.broadcast_to(half[3], (2, 3)))


def test_a_sheet_shows_every_layer_and_every_expert():
    experts = np.array([[[0, 0], [1, 2]], [[2, 2], [2, 2]]])
    sheet = np.asarray(expert_sheet(np.zeros((200, 240, 3), np.uint8), experts, 120, 3))
    assert sheet.shape[1] == 2 * 244
    np.testing.assert_array_equal(
        sheet[:200, :240], expert_picture(np.zeros((200, 240, 3), np.uint8), experts[0], 120, 3)
    )
    legend = {tuple(colour) for colour in sheet[200:].reshape(-1, 3).tolist()}
    assert {tuple(colour) for colour in expert_colours(3).tolist()} <= legend
    assert expert_sheet(np.zeros((1, 1, 3), np.uint8), experts[:, :1, :1], 8, 3).height > 16  # room for the words


def test_sixteen_bits_are_shown_by_their_upper_eight():
    pixels = np.array([[[0, 257, 65535]]], np.uint16)
    assert eight_bits(pixels).tolist() == [[[0, 1, 255]]]
    assert eight_bits(np.uint8([[[7, 8, 9]]])).tolist() == [[[7, 8, 9]]]
