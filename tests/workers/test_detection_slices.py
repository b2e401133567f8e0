"""Which pieces an image is looked at in, and how many at once."""

from __future__ import annotations

import pytest

from visionpipe.schemas.requests.detection import Slicing
from workers.detection_slices import pieces


def test_the_whole_image_comes_first_and_slices_are_of_one_size() -> None:
    boxes = pieces((1000, 700), Slicing(size_wh=(400, 300)))
    assert boxes[0] == (0, 0, 1000, 700)
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes[1:]} == {(400, 300)}
    assert boxes[1:] == pieces((1000, 700), Slicing(size_wh=(400, 300), whole_image=False))


@pytest.mark.parametrize("whole_image", [True, False])
def test_an_image_that_fits_into_a_slice_is_one_piece(whole_image: bool) -> None:
    assert pieces((300, 200), Slicing(size_wh=(400, 300), whole_image=whole_image)) == [(0, 0, 300, 200)]
