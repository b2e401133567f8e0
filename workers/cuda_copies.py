"""The way of a micro-batch to a CUDA device and back, beside what it computes; on a CPU nothing is copied.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeGuard

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from workers.cuda import Cuda


@dataclass(frozen=True)
class Pending:
    """A tensor on its way from the device."""

    _values: Tensor
    _wait: Callable[[], object]

    def values(self) -> Tensor:
        """Wait, asleep, until it is there; gives it in host memory."""
        self._wait()
        return self._values


def arrived(outputs: Any) -> Any:
    """Wait for what is on its way from the device; everything else is there already."""
    return outputs.values() if isinstance(outputs, Pending) else outputs


class Copies:
    """Copies between the host and the device of one worker; used by the device thread alone.

    Each micro-batch has pinned memory of its own until its copy is done, so the next one can be stacked and sent while
    this one is computed.

    Args:
        cuda: The device; unset on a CPU.
    """

    def __init__(self, cuda: Cuda | None) -> None:
        self._cuda = cuda

    def stack(self, images: Sequence[Tensor | NDArray[Any]]) -> Tensor:
        """Bring images of one shape and dtype to the device as one batch.

        Args:
            images: Each (C, H, W), in host memory, as tensors or all as arrays, or on the device already and complete.

        Returns:
            (N, C, H, W), which later work of this thread may read.
        """
        if self._cuda is None:
            return _stack(images)
        at_home = [image for image in images if not self._holds(image)]
        if len(at_home) == len(images):
            return self._cuda.send(_stack(images, self._cuda.pinned))
        there = iter(self._cuda.send(_stack(at_home, self._cuda.pinned)).unbind() if at_home else ())
        return torch.stack([self._cuda.adopt(image) if self._holds(image) else next(there) for image in images])

    def move(self, batch_NCHW: Tensor) -> Tensor:
        """Bring a batch that is stacked already to the device."""
        if self._cuda is None or self._cuda.holds(batch_NCHW):
            return batch_NCHW
        pinned = self._cuda.pinned(batch_NCHW.shape, batch_NCHW.dtype)
        return self._cuda.send(pinned.copy_(batch_NCHW))

    def fetch(self, values: Tensor) -> Tensor | Pending:
        """Bring a result back: at once on a CPU, else as something to wait for."""
        if self._cuda is None:
            return values
        # Made contiguous there: a copy between layouts would be waited for, and finished on the host.
        values = values.contiguous()
        into = self._cuda.pinned(values.shape, values.dtype)
        return Pending(into, self._cuda.fetch(values, into))

    def _holds(self, image: Tensor | NDArray[Any]) -> TypeGuard[Tensor]:
        return isinstance(image, Tensor) and self._cuda is not None and self._cuda.holds(image)


def _stack(
    images: Sequence[Tensor | NDArray[Any]], memory: Callable[[Sequence[int], torch.dtype], Tensor] | None = None
) -> Tensor:
    """Stack tensors, or arrays, in new memory or in what is given for their shape and dtype."""
    first = torch.as_tensor(images[0])
    out = None if memory is None else memory((len(images), *first.shape), first.dtype)
    if isinstance(images[0], Tensor):
        return torch.stack([torch.as_tensor(image) for image in images], out=out)
    # As if they were one picture of many channels: numpy's own stack makes a view of each first.
    flat = np.concatenate(images, out=None if out is None else out.flatten(0, 1).numpy())
    return torch.from_numpy(flat).view(len(images), *first.shape) if out is None else out
