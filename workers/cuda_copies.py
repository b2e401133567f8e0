"""The way of a micro-batch to a CUDA device and back, beside what it computes; on a CPU nothing is copied.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
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

    def stack(self, images: Sequence[Tensor]) -> Tensor:
        """Bring images of one shape and dtype to the device as one batch.

        Args:
            images: Each (C, H, W), in host memory, or on the device already and complete.

        Returns:
            (N, C, H, W), which later work of this thread may read.
        """
        if self._cuda is None:
            return torch.stack(list(images))
        at_home = [image for image in images if not self._cuda.holds(image)]
        if len(at_home) == len(images):
            return self._cuda.send(self._pinned(images))
        there = iter(self._cuda.send(self._pinned(at_home)).unbind() if at_home else ())
        return torch.stack([self._cuda.adopt(image) if self._cuda.holds(image) else next(there) for image in images])

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

    def _pinned(self, images: Sequence[Tensor]) -> Tensor:
        pinned = self._cuda.pinned((len(images), *images[0].shape), images[0].dtype) if self._cuda else None
        return torch.stack(list(images), out=pinned)
