"""The few calls of torch.cuda that copies and graphs are made of, and what is settled once for a device.

Everything else about CUDA is built from these, so that a stand-in for ``Cuda`` runs it on a machine without a GPU.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress

import torch
from torch import Tensor

logger = logging.getLogger("visionpipe.cuda")

GIB = 2**30
LEAST_SHARE = 0.01
"""A smaller share of a device's memory holds no network."""
CONTEXT_BYTES = GIB // 2
"""About what each process takes of a device besides what torch counts: its context, and decoders."""
SEARCHED = 4
"""So many of its kernels cuDNN tries for each convolution and batch size, at each start of a worker."""
CAPTURE_MARGIN = 4
"""A graph is captured where so many times the memory is left that one run takes: for its own, and for what serves."""


class Cuda:
    """One CUDA device, and its streams for copies, decoding and captures.

    Args:
        device: With its index.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self._copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._decoding = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._capturing = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._pool = torch.cuda.graph_pool_handle()

    def holds(self, tensor: Tensor) -> bool:
        """Whether a tensor lies on the device."""
        return tensor.device == self.device

    def pinned(self, shape: Sequence[int], dtype: torch.dtype) -> Tensor:
        """Give page-locked host memory, from torch's cache.

        Dropped while a copy still reads or writes it, the cache keeps it back until that copy is done.
        """
        return torch.empty(tuple(shape), dtype=dtype, pin_memory=True)

    def send(self, host: Tensor) -> Tensor:
        """Copy pinned memory to the device, beside what it computes; what this thread launches later waits for it."""
        computing = torch.cuda.current_stream(self.device)
        with torch.cuda.stream(self._copying):
            moved = host.to(self.device, non_blocking=True)
        computing.wait_stream(self._copying)
        # Allocated on the other stream: it must not be given to another copy while this one still reads it.
        moved.record_stream(computing)
        return moved

    def adopt(self, tensor: Tensor) -> Tensor:
        """Use here what another thread made on the device, and has waited for."""
        tensor.record_stream(torch.cuda.current_stream(self.device))
        return tensor

    def fetch(self, values: Tensor, into: Tensor) -> Callable[[], None]:
        """Begin to copy values of the device into pinned memory; gives what sleeps until they are there."""
        into.copy_(values, non_blocking=True)
        # A blocking event puts the thread to sleep, where others spin on a core that decodes could use.
        done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.device))
        return done.synchronize

    @contextmanager
    def beside(self) -> Iterator[None]:
        """Compute on a stream of its own what is launched inside, and sleep at the end until it is done."""
        with torch.cuda.device(self.device), torch.cuda.stream(self._decoding):
            try:
                yield
            finally:
                done = torch.cuda.Event(blocking=True)  # type: ignore[no-untyped-call]
                done.record(self._decoding)
                done.synchronize()

    def capture(self, compute: Callable[[], Tensor], *, warm: int = 3) -> tuple[Callable[[], None], Tensor]:
        """Record what some work launches; by the device thread alone.

        Args:
            compute: Reads and writes the same memory each time, and waits for nothing on the host.
            warm: So many runs before that, in which libraries choose their kernels and make their workspaces.

        Returns:
            What launches all of it again on the stream that is current then, and where its output lies each time.

        Raises:
            RuntimeError: Something in it cannot be recorded.
        """
        computing = torch.cuda.current_stream(self.device)
        self._capturing.wait_stream(computing)
        with torch.cuda.stream(self._capturing):
            for _ in range(warm):
                compute()
        computing.wait_stream(self._capturing)
        graph = torch.cuda.CUDAGraph()
        # A capture that fails may leave its own stream as the current one; the outer context sets that right. Other
        # threads may pin memory or decode meanwhile, which is no business of this capture.
        try:
            with (
                torch.cuda.stream(computing),
                torch.cuda.graph(graph, pool=self._pool, stream=self._capturing, capture_error_mode="thread_local"),
            ):
                output = compute()
        except BaseException:
            self._forsake_pool()
            raise
        computing.wait_stream(self._capturing)
        return graph.replay, output

    def _forsake_pool(self) -> None:
        """Let torch's allocator end a capture that failed, which torch itself leaves to it, and use another pool."""
        with suppress(RuntimeError, AttributeError, TypeError):
            torch._C._cuda_endAllocateToPool(self.device.index, self._pool)
            torch._C._cuda_releasePool(self.device.index, self._pool)
        self._pool = torch.cuda.graph_pool_handle()

    def check_capturable(self, compute: Callable[[], Tensor]) -> None:
        """Run some work, to find out before a capture whether it waits for the device or takes too much memory.

        Nobody else may wait for the device meanwhile: torch forbids that to the whole process.

        Raises:
            RuntimeError: It would spoil a capture, and what a spoilt one leaves behind in torch's allocator.
        """
        # What is made once for a size, such as anchors, may wait: a graph only replays what comes after.
        compute()
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        mode = torch.cuda.get_sync_debug_mode()
        try:
            with warnings.catch_warnings():
                # Torch says that it does not find every wait.
                warnings.simplefilter("ignore")
                torch.cuda.set_sync_debug_mode("error")
            compute()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
        needed, room = torch.cuda.max_memory_allocated(self.device) - before, self.room_bytes()
        if CAPTURE_MARGIN * needed > room:
            raise RuntimeError(f"a capture needs up to {CAPTURE_MARGIN * needed} bytes, {room} are left")

    def room_bytes(self) -> int:
        """How much more this process may allocate on the device."""
        free, total = torch.cuda.mem_get_info(self.device)
        allocated, reserved = torch.cuda.memory_allocated(self.device), torch.cuda.memory_reserved(self.device)
        allowed = int(torch.cuda.get_per_process_memory_fraction(self.device) * total)
        return min(free + reserved, allowed) - allocated

    def check(self) -> None:
        """Compute something small; raises if the device is of no more use."""
        torch.ones(1, device=self.device).add_(1).cpu()


def settle(device: torch.device, *, memory: float | None, workers: int) -> None:
    """Cap a worker's memory on a CUDA device and choose its arithmetic, before anything is put there.

    fp32 means fp32: torch would otherwise let cuDNN round the inputs of convolutions to TF32's 10 bits. Does nothing
    on a CPU.

    Args:
        device: Where the worker computes.
        memory: At most so much: up to 1 a share of the device's memory, above that GiB; unset: an equal part.
        workers: How many workers share the device.
    """
    if device.type != "cuda":
        return
    torch.cuda.set_device(device)
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark_limit = SEARCHED
    torch.set_float32_matmul_precision("highest")
    free, total = torch.cuda.mem_get_info(device)
    share = memory_share(memory, workers, free_bytes=free, total_bytes=total)
    torch.cuda.set_per_process_memory_fraction(share, device)
    logger.info("at most %.1f of %.1f GiB of %s", share * total / GIB, total / GIB, torch.cuda.get_device_name(device))


def memory_share(memory: float | None, workers: int, *, free_bytes: int, total_bytes: int) -> float:
    """Give the share of a device's memory that one worker may take, in (0, 1].

    Args:
        memory: What was asked for; see ``settle``.
        workers: How many workers share the device; each takes an equal part of all of it but for what processes take
            besides, and no more than is free.
        free_bytes: What nobody uses now.
        total_bytes: All of it.
    """
    if memory is None:
        part = total_bytes / workers - CONTEXT_BYTES if workers > 1 else total_bytes
        share = min(free_bytes, part) / total_bytes
    else:
        share = memory if memory <= 1 else memory * GIB / total_bytes
    return float(min(max(share, LEAST_SHARE), 1.0))
