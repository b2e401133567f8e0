"""Pictures cut or continued to a given shape, to compare networks that take no other."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


def fitted(input_CHW: Tensor, shape_CHW: tuple[int, ...]) -> Tensor:
    """Cut an input at the right and bottom, or go on with its reflection.

    Args:
        input_CHW: Of any dtype.
        shape_CHW: What is wanted; as many channels.
    """
    rows, columns = (
        torch.from_numpy(np.pad(np.arange(there), (0, max(wanted - there, 0)), mode="reflect")[:wanted])
        for there, wanted in zip(input_CHW.shape[1:], shape_CHW[1:], strict=True)
    )
    return input_CHW[:, rows][:, :, columns]
