"""Devices, precision and memory: everything that depends on the hardware under a worker."""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable
from dataclasses import dataclass

import torch

from visionpipe.errors import SettingsError

logger = logging.getLogger("visionpipe.device")

_NO_MEMORY = ("can't allocate memory", "not enough memory", "ALLOC_FAILED", "out of memory")
PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(frozen=True)
class Device:
    """Where a worker computes, and in which arithmetic its answers are made."""

    torch_device: torch.device
    precision: str

    @property
    def dtype(self) -> torch.dtype:
        """The dtype of weights and inputs."""
        return PRECISIONS[self.precision]


def native_precisions(device: torch.device) -> list[str]:
    """The reduced precisions that the hardware computes in natively, best first."""
    if device.type == "cuda":
        capability = torch.cuda.get_device_capability(device)
        if capability >= (8, 0):
            return ["bf16", "fp16"]
        # Before Volta half precision is no faster, and on consumer cards far slower.
        return ["fp16"] if capability >= (7, 0) else []
    flags = cpu_flags()
    return ["bf16"] if {"amx_bf16", "avx512_bf16"} & flags else []


def cpu_flags() -> set[str]:
    """The processor's feature flags; empty where the system does not tell."""
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as lines:  # noqa: PTH123
            for line in lines:
                if line.startswith("flags"):
                    return set(line.partition(":")[2].split())
    except OSError:
        pass
    return set()


def pick_precision(wanted: str, device: torch.device, is_faithful: Callable[[str], bool]) -> str:
    """Choose a precision.

    ``auto`` takes bf16, or on a GPU fp16, where the hardware has it and the answers stay those of fp32.

    Args:
        wanted: ``auto``, ``fp32``, ``bf16`` or ``fp16``.
        device: Where the worker computes.
        is_faithful: Whether the model's answers in a precision agree with fp32 within the stated tolerance.

    Raises:
        SettingsError: The precision is unknown, or this device cannot compute in it.
    """
    if wanted == "auto":
        return next((name for name in native_precisions(device) if is_faithful(name)), "fp32")
    if wanted not in PRECISIONS:
        raise SettingsError(f"Expected a precision of auto, {', '.join(PRECISIONS)}, got {wanted!r}.")
    if wanted == "fp16" and device.type == "cpu":
        raise SettingsError("Expected bf16 or fp32 on a CPU, got 'fp16'. Use --precision auto.")
    if not (wanted == "fp32" or is_faithful(wanted)):
        logger.warning(
            "answers in %s differ from fp32 by more than the tolerance; kept because it was asked for", wanted
        )
    return wanted


def keep_freed_memory() -> None:
    """Tell glibc to keep freed memory for the next batch instead of returning it to the system after each one.

    Its default trimming costs about 40 % of throughput at batch 32. Does nothing on other C libraries.
    """
    try:
        libc = ctypes.CDLL("libc.so.6")
    except OSError:
        return
    # M_TRIM_THRESHOLD, M_TOP_PAD, M_MMAP_THRESHOLD, M_ARENA_MAX. Every thread but the first would get an arena of
    # its own, in which blocks of more than 32 MiB are mapped and unmapped each time whatever the thresholds say.
    for parameter, value in ((-1, 1 << 30), (-2, 64 << 20), (-3, 1 << 30), (-8, 1)):
        libc.mallopt(parameter, value)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the host had no memory left."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    text = str(error)
    return isinstance(error, RuntimeError) and any(sign in text for sign in _NO_MEMORY)


def is_fatal(error: BaseException) -> bool:
    """Whether the device is of no more use to this process: after such an error every image would seem guilty."""
    return not is_out_of_memory(error) and isinstance(error, torch.AcceleratorError)


def free_memory(device: torch.device) -> None:
    """Give cached device memory back."""
    if device.type == "cuda":
        torch.cuda.empty_cache()


def device_memory(device: torch.device) -> int:
    """The most memory that this process has reserved on a GPU, in bytes; 0 on a CPU."""
    return int(torch.cuda.max_memory_reserved(device)) if device.type == "cuda" else 0


def finish_threads() -> int:
    """How many threads of each lane encode and keep what the device has left to them."""
    return max(1, min(4, os.cpu_count() or 1))


def default_decode_threads(configured: int) -> int:
    """How many decode threads a worker runs."""
    return configured or min(16, os.cpu_count() or 1)
