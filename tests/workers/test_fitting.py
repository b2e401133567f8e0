"""Inputs cut or continued to a shape."""

from __future__ import annotations

import pytest
import torch

from workers.fitting import fitted


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 2, 9), (2, 11, 3), (2, 1, 1)], ids=str)
def test_an_input_has_the_shape_and_is_the_same_where_both_are(shape: tuple[int, int, int]) -> None:
    x_CHW = torch.arange(24).reshape(2, 3, 4)
    made = fitted(x_CHW, shape)
    assert made.shape == shape
    rows, columns = min(3, shape[1]), min(4, shape[2])
    assert torch.equal(made[:, :rows, :columns], x_CHW[:, :rows, :columns])


def test_what_is_missing_is_the_reflection() -> None:
    assert fitted(torch.tensor([[[1, 2, 3]]]), (1, 1, 6)).tolist() == [[[1, 2, 3, 2, 1, 2]]]
