"""Signed values as pictures."""

from __future__ import annotations

import numpy as np
import torch

from models.visualization.pictures import cropped, picture, signed_to_rgb, unit_to_rgb


def test_zero_is_grey_and_the_scale_is_shared_by_the_colours() -> None:
    values = torch.zeros(3, 4, 4)
    values[0, 0, 0], values[1, 1, 1] = 2.0, -1.0
    pixels = signed_to_rgb(values)
    assert pixels[0, 0].tolist() == [255, 128, 128]
    assert pixels[1, 1].tolist() == [128, 64, 128]
    assert pixels[3, 3].tolist() == [128, 128, 128]


def test_nothing_is_all_grey() -> None:
    assert np.unique(signed_to_rgb(torch.zeros(1, 5, 5))).tolist() == [128]


def test_a_lone_spike_is_shown_although_few_extremes_are_clipped() -> None:
    values = torch.zeros(1, 100, 100)
    values[0, 5, 5] = 1e-3
    assert signed_to_rgb(values)[5, 5].tolist() == [255, 255, 255]


def test_other_numbers_of_channels_become_a_montage() -> None:
    pixels = signed_to_rgb(torch.ones(5, 4, 6))
    assert pixels.shape == (2 * 5 - 1, 3 * 7 - 1, 3)


def test_small_pictures_are_enlarged_by_whole_factors() -> None:
    assert picture(np.zeros((5, 7, 3), np.uint8)).size == (126, 90)
    assert picture(np.zeros((90, 70, 3), np.uint8)).size == (70, 90)


def test_pixels_are_rounded_and_boxes_cut_at_the_border() -> None:
    assert unit_to_rgb(torch.tensor([[[0.0, 0.5, 2.0]]]))[0, :, 0].tolist() == [0, 128, 255]
    assert cropped(torch.zeros(3, 10, 12), (-2, 3, 5, 40)).shape == (3, 7, 5)


def test_few_extremes_do_not_turn_the_rest_to_grey() -> None:
    values = torch.full((1, 100, 100), 0.5)
    values[0, 0, 0] = 1000.0
    assert signed_to_rgb(values)[9, 9].tolist() == [255, 255, 255]
