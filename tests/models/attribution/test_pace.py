"""The pace of device steps: growing to the time wanted, and halved where memory does not suffice."""

from __future__ import annotations

import time

import pytest
import torch

from models.attribution.pace import Pace


def test_steps_grow_to_the_time_wanted_and_stay_below_the_most_images() -> None:
    pace = Pace(64, 0.02)
    sizes = [pace.run(lambda number: time.sleep(0.002 * number), 1000)[1] for _ in range(8)]
    assert sizes[:3] == [1, 2, 4]
    assert 4 <= sizes[-1] <= 10
    quick = Pace(16, 0.1)
    assert max(quick.run(lambda number: None, 1000)[1] for _ in range(10)) == 16


def test_steps_are_short_while_others_want_the_device() -> None:
    awaited = False
    pace = Pace(64, 1.0, lambda: awaited)

    def compute(number: int) -> None:
        time.sleep(0.002 * number)

    assert max(pace.run(compute, 1000)[1] for _ in range(8)) == 64
    awaited = True
    pace.run(compute, 1000)
    assert max(pace.run(compute, 1000)[1] for _ in range(3)) <= 5
    awaited = False
    assert max(pace.run(compute, 1000)[1] for _ in range(8)) == 64


def test_the_last_step_takes_what_is_left() -> None:
    pace = Pace(16, 0.1)
    pace.size = 16
    assert pace.run(lambda number: number, 3) == (3, 3)


def test_a_step_that_does_not_fit_is_halved_and_one_image_that_does_not_fit_is_an_error() -> None:
    def compute(number: int) -> int:
        if number > 3:
            raise torch.OutOfMemoryError("no room")
        return number

    pace = Pace(64, 10.0)
    pace.size = 16
    assert pace.run(compute, 100) == (2, 2)
    assert pace.run(compute, 100)[1] <= 3

    def never(number: int) -> int:
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError):
        pace.run(never, 100)
