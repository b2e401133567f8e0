"""A device as a roofline: how fast it multiplies, and how fast it moves memory.

Williams, Waterman, Patterson: Roofline, an insightful visual performance model for multicore architectures, 2009.

Shape suffixes: N images, C channels, H height, W width.
"""

from __future__ import annotations

import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Names of the arithmetics that are measured."""
PRODUCT_SIDES = (1024, 2048)
"""Square matrices that are multiplied to find the peak."""
BIG_SIDE = 8192
"""The same on a GPU."""
COPIED_BYTES = 256 << 20
"""Copied to find the bandwidth: far more than any cache holds."""


@dataclass(frozen=True)
class Roofline:
    """What a device can do at best, as measured."""

    device: str
    """Its name."""
    precision: str
    """The arithmetic."""
    multiply_adds_per_s: float
    """Of a product of large matrices, or of a convolution where that is faster."""
    bytes_per_s: float
    """Of a large copy, read and written."""

    @property
    def ridge(self) -> float:
        """Multiply-adds per byte from which on arithmetic is what limits."""
        return self.multiply_adds_per_s / self.bytes_per_s

    def attainable_s(self, multiply_adds: float, num_bytes: float) -> float:
        """Give the shortest time in which work can be done: the longer one of computing and moving."""
        return max(multiply_adds / self.multiply_adds_per_s, num_bytes / self.bytes_per_s)


def device_name(device: torch.device) -> str:
    """Name a device so that figures of another one are told apart."""
    if device.type == "cuda":
        return str(torch.cuda.get_device_name(device))
    return f"{_cpu()}, {torch.get_num_threads()} threads"


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.machine())


def measure_roofline(device: torch.device, precision: str) -> Roofline:
    """Multiply and copy for about a second."""
    dtype = PRECISIONS[precision]
    sides = (*PRODUCT_SIDES, BIG_SIDE) if device.type == "cuda" else PRODUCT_SIDES
    rates = []
    for side in sides:
        first, second = (torch.rand(side, side, device=device).to(dtype) for _ in range(2))
        rates.append(side**3 / fastest_s(lambda a=first, b=second: a @ b, device))  # type: ignore[misc]
    rates.append(_convolution_rate(device, dtype))
    source = torch.zeros(COPIED_BYTES // 4, device=device)
    target = torch.empty_like(source)
    copied = fastest_s(lambda: target.copy_(source), device)
    return Roofline(device_name(device), precision, max(rates), 2 * COPIED_BYTES / copied)


def _convolution_rate(device: torch.device, dtype: torch.dtype) -> float:
    # Libraries have kernels of their own for it, on some processors faster than their products of matrices.
    num, channels, side = (32 if device.type == "cuda" else 2), 128, 56
    layer = torch.nn.Conv2d(channels, channels, 3, padding=1, bias=False).to(device, dtype)
    x_NCHW = torch.rand(num, channels, side, side, device=device).to(dtype)
    with torch.inference_mode():
        return num * 9 * channels**2 * side**2 / fastest_s(lambda: layer(x_NCHW), device)


def fastest_s(work: Callable[[], object], device: torch.device, runs: int = 5) -> float:
    """Time some work; gives the shortest of several runs, in seconds."""
    return min(timed_s(work, device, runs))


def median_s(work: Callable[[], object], device: torch.device, runs: int) -> float:
    """Time some work; gives the median of several runs, in seconds."""
    return statistics.median(timed_s(work, device, runs))


def timed_s(work: Callable[[], object], device: torch.device, runs: int) -> list[float]:
    """Time some work several times, after one run that is not counted."""
    work()
    times = []
    for _ in range(runs):
        synchronise(device)
        start = time.perf_counter()
        work()
        synchronise(device)
        times.append(time.perf_counter() - start)
    return times


def synchronise(device: torch.device) -> None:
    """Wait until the device has done all that was asked."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
