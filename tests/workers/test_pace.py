"""Sizes of steps that are learned while they are taken."""

from __future__ import annotations

import pytest
import torch

from workers.pace import Pace

CPU = torch.device("cpu")


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
