"""A stand-in for a CUDA device on the CPU: copies back are late, memory is poisoned, graphs replay."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from workers.cuda import Cuda

POISON = 77


class FakeCuda(Cuda):
    """Runs on the CPU what would run on a GPU, and breaks what would break there.

    Attributes:
        log: What was done, in order.
        refuses: Batch sizes whose capture fails, and with what.
        forgets: Whether replays compute on the inputs of the capture, as a graph does whose input was replaced.
    """

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        self.log: list[Any] = []
        self.refuses: dict[int, Exception] = {}
        self.forgets = False
        self._there: dict[int, Tensor] = {}
        self._pinned: dict[int, Tensor] = {}

    def holds(self, tensor: Tensor) -> bool:
        return tensor.data_ptr() in self._there

    def put(self, tensor: Tensor) -> Tensor:
        """Say that a tensor lies on the device."""
        self._there[tensor.data_ptr()] = tensor
        return tensor

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        memory = torch.empty(tuple(shape), dtype=dtype).fill_(POISON)
        self._pinned[memory.data_ptr()] = memory
        return memory

    def send(self, host: Tensor) -> Tensor:
        assert host.data_ptr() in self._pinned, "a copy from pageable memory waits for the device"
        self.log.append(("send", tuple(host.shape), host.dtype))
        return self.put(host.clone())

    def adopt(self, tensor: Tensor) -> Tensor:
        assert self.holds(tensor)
        self.log.append("adopt")
        return tensor

    def fetch(self, values: Tensor, into: Tensor) -> Callable[[], None]:
        assert into.data_ptr() in self._pinned
        assert values.is_contiguous()
        self.log.append(("fetch", tuple(values.shape)))
        now = values.clone()

        def wait() -> None:
            self.log.append("wait")
            # The copy was launched where `into` was made; only its end is waited for here.
            with torch.inference_mode():
                into.copy_(now)

        return wait

    @contextmanager
    def beside(self) -> Iterator[None]:
        yield

    def check_capturable(self, compute: Callable[[], Tensor]) -> None:
        size = len(compute())
        if size in self.refuses:
            raise self.refuses[size]

    def capture(self, compute: Callable[[], Tensor], *, warm: int = 3) -> tuple[Callable[[], None], Tensor]:
        output = compute().clone()
        self.log.append(("capture", len(output)))
        first = output.clone()

        def replay() -> None:
            self.log.append(("replay", len(output)))
            output.copy_(first if self.forgets else compute())

        return replay, output

    def check(self) -> None:
        self.log.append("check")
