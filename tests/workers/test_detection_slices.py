"""Which pieces an image is looked at in, and how many at once."""

from __future__ import annotations

import pytest
import torch

from visionpipe.schemas.requests.detection import Slicing
from workers.detection_slices import Pace, pieces

CPU = torch.device("cpu")


def test_the_whole_image_comes_first_and_slices_are_of_one_size() -> None:
    boxes = pieces((1000, 700), Slicing(size_wh=(400, 300)))
    assert boxes[0] == (0, 0, 1000, 700)
    assert {(right - left, bottom - top) for left, top, right, bottom in boxes[1:]} == {(400, 300)}
    assert boxes[1:] == pieces((1000, 700), Slicing(size_wh=(400, 300), whole_image=False))


@pytest.mark.parametrize("whole_image", [True, False])
def test_an_image_that_fits_into_a_slice_is_one_piece(whole_image: bool) -> None:
    assert pieces((300, 200), Slicing(size_wh=(400, 300), whole_image=whole_image)) == [(0, 0, 300, 200)]


def test_a_pace_grows_while_steps_are_quick_and_shrinks_when_they_are_slow() -> None:
    pace = Pace(most=8)
    for expected in (2, 4, 8, 8):
        pace.adapt(0.01, pace.size)
        assert pace.size == expected
    pace.adapt(1.0, 8)
    assert pace.size == 4
    pace.adapt(0.01, 1)
    assert pace.size == 4
    pace.adapt(0.2, 4)
    assert pace.size == 4


def test_where_the_memory_does_not_suffice_fewer_are_tried() -> None:
    pace, tried = Pace(most=8, size=8), []

    def step(num: int) -> None:
        tried.append(num)
        if num > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")

    pace.attempt(step, CPU)
    assert (tried, pace.most, pace.size) == ([8, 4, 2], 2, 2)


def test_other_faults_are_raised_and_so_is_one_piece_that_is_too_large() -> None:
    def broken(_: int) -> None:
        raise RuntimeError("no such kernel")

    def too_large(_: int) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(RuntimeError, match="no such kernel"):
        Pace(most=8, size=8).attempt(broken, CPU)
    with pytest.raises(torch.OutOfMemoryError):
        Pace(most=8, size=8).attempt(too_large, CPU)
