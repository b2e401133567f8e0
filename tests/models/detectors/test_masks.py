from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.models.detection.roi_heads import paste_masks_in_image

from models.detectors.masks import BoxMasks, InstanceMask, PrototypeMasks, union
from visionpipe.schemas.geometry import Rle


def whole(mask: InstanceMask, size_wh: tuple[int, int]) -> np.ndarray:
    size_hw, counts = mask.rle(size_wh)
    return Rle(size_hw=size_hw, counts=counts).to_array()


def test_run_lengths_cover_the_whole_picture():
    mask = InstanceMask(np.array([[True, False, True], [True, True, True]]), (4, 2))
    expected = np.zeros((6, 9), dtype=bool)
    expected[2:4, 4:7] = [[1, 0, 1], [1, 1, 1]]
    assert np.array_equal(whole(mask, (9, 6)), expected)


def test_a_mask_moves_with_its_slice():
    mask = InstanceMask(np.ones((2, 2), dtype=bool), (1, 1)).moved((10, 20))
    assert whole(mask, (40, 40))[21:23, 11:13].all()
    assert whole(mask, (40, 40)).sum() == 4


def test_masks_join():
    left, right = (InstanceMask(np.ones((3, 4), dtype=bool), corner) for corner in ((0, 0), (2, 5)))
    joined = union([left, right])
    both = whole(left, (20, 20)) | whole(right, (20, 20))
    assert np.array_equal(whole(joined, (20, 20)), both)
    assert union([left]) is left


BOXES = torch.tensor([[3.2, 4.7, 30.1, 22.9], [-5.0, -3.0, 12.0, 9.0], [40.0, 30.0, 66.0, 55.0], [7.0, 7.0, 7.1, 7.1]])


@pytest.mark.parametrize("index", range(len(BOXES)))
def test_masks_in_boxes_are_stretched_as_torchvision_does(index):
    torch.manual_seed(index)
    size_wh = (60, 50)
    maps = torch.rand(len(BOXES), 1, 28, 28)
    expected = paste_masks_in_image(maps, BOXES, (size_wh[1], size_wh[0]))[index, 0] > 0.5
    drawn = BoxMasks(maps, BOXES, size_wh).draw(index)
    assert np.array_equal(whole(drawn, size_wh), expected.numpy())


def test_prototypes_are_sampled_where_the_picture_lies_and_cut_to_the_box():
    # The grid holds a disc in the letterboxed input; four input pixels a cell, two input pixels a pixel of the picture.
    y, x = torch.meshgrid(torch.arange(40) + 0.5, torch.arange(60) + 0.5, indexing="ij")
    logits = 8.0 - ((x - 30) ** 2 + (y - 20) ** 2).sqrt()
    boxes = torch.tensor([[0.0, 0.0, 100.0, 60.0], [40.0, 21.0, 50.0, 40.0]])
    masks = PrototypeMasks(logits[None].repeat(2, 1, 1), boxes, (0.5, 0.5), (5.0, 4.0), (100, 60))
    rows, columns = np.mgrid[0.5:60, 0.5:100]
    disc = (columns - 50) ** 2 + (rows - 32) ** 2 < 16**2
    drawn = whole(masks.draw(0), (100, 60))
    assert (drawn != disc).sum() <= 0.02 * disc.sum()
    cut = np.zeros_like(disc)
    cut[21:40, 40:50] = drawn[21:40, 40:50]
    assert np.array_equal(whole(masks.draw(1), (100, 60)), cut)


def test_a_box_without_a_pixel_has_an_empty_mask():
    masks = PrototypeMasks(
        torch.ones(1, 8, 8), torch.tensor([[3.2, 3.2, 3.4, 3.4]]), (0.25, 0.25), (0.0, 0.0), (32, 32)
    )
    assert not whole(masks.draw(0), (32, 32)).any()
