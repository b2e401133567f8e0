from __future__ import annotations

import numpy as np
import pytest
import torch

from models.detectors.letterbox import GREY, letterbox

SIZES_WH = [(640, 480), (333, 517), (1, 1), (4000, 3), (31, 2000), (320, 320), (1921, 1081)]


@pytest.mark.parametrize("size_wh", SIZES_WH)
@pytest.mark.parametrize("stretch", [False, True])
def test_corners_come_back_where_they_were(size_wh, stretch):
    prepared = letterbox(np.zeros((size_wh[1], size_wh[0], 3), np.uint8), side_px=320, stride=32, stretch=stretch)
    height, width = prepared.pixels.shape[1:]
    assert prepared.key == (width, height)
    assert width % 32 == height % 32 == 0
    assert max(width, height) == 320
    ink = (prepared.pixels[0] != GREY).nonzero()
    (top, left), (bottom, right) = ink.amin(0).tolist(), (ink.amax(0) + 1).tolist()
    back = prepared.to_picture(torch.tensor([[left, top, right, bottom]], dtype=torch.float32))
    assert back[0].tolist() == pytest.approx([0, 0, *size_wh], abs=1e-2)
    assert abs(left - (width - right)) <= 1
    assert (width - (right - left) < 32 and height - (bottom - top) < 32) or stretch


def test_what_lies_on_the_border_is_clipped_to_the_picture():
    prepared = letterbox(np.zeros((100, 200, 3), np.uint8), side_px=320, stride=32)
    assert prepared.to_picture(torch.tensor([[-50.0, -50.0, 900.0, 900.0]])).tolist() == [[0, 0, 200, 100]]


def test_a_picture_of_the_right_size_is_not_touched():
    levels = np.random.default_rng(0).integers(0, 256, (64, 96, 3), np.uint8)
    prepared = letterbox(levels, side_px=96, stride=32)
    assert np.array_equal(prepared.pixels.permute(1, 2, 0).numpy(), levels)


def test_grey_pictures_keep_their_one_channel():
    assert letterbox(np.zeros((50, 70, 1), np.uint8), side_px=96, stride=32).pixels.shape == (1, 96, 96)


def test_a_side_that_is_no_multiple_of_the_stride_is_rounded_up():
    assert letterbox(np.zeros((50, 50, 3), np.uint8), side_px=100, stride=32).pixels.shape == (3, 128, 128)
