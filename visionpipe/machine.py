"""What this machine or container has, and what of it is left: memory and cores."""

from __future__ import annotations

import os
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path

_MEMORY = Path("/proc/meminfo")
_CORES = Path("/proc/stat")
_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Room:
    """What is left; ``None`` where the system does not tell."""

    free_bytes: int | None = None
    """Memory."""
    idle_cores: float | None = None
    """Cores that were idle lately, on average; in a container no more than what its quota leaves."""


class Machine:
    """Tells what is left, after having looked a while.

    Args:
        window_s: For how long idle cores are averaged.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._idle: deque[tuple[float, float]] = deque()
        self._used: deque[tuple[float, float]] = deque()

    def look(self) -> Room:
        """Look, as is to be done every second or so, and tell."""
        idle = self._rate(self._idle, _idle_s())
        if (quota := _quota_cores()) is not None and (used := self._rate(self._used, _used_s())) is not None:
            idle = quota - used if idle is None else min(idle, quota - used)
        return Room(free_memory_bytes(), idle)

    def _rate(self, seen: deque[tuple[float, float]], seconds: float | None) -> float | None:
        """How many of such seconds go by in one, lately."""
        if seconds is None:
            return None
        now = time.monotonic()
        seen.append((now, seconds))
        while len(seen) > 2 and seen[1][0] <= now - self._window_s:
            seen.popleft()
        begun, before = seen[0]
        return (seconds - before) / (now - begun) if now > begun else None


def usable_cores() -> float:
    """How many cores this process may use: those it is bound to, or less in a container with a quota."""
    bound = float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    quota = _quota_cores()
    return bound if quota is None else min(bound, quota)


def free_memory_bytes() -> int | None:
    """Memory that this machine, or a container with control groups v2, has left; ``None`` where nobody knows."""
    try:
        fields = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None
    try:
        limit, used = (int((_GROUP / name).read_text()) for name in ("memory.max", "memory.current"))
        # What is cached of files goes as soon as somebody needs the room.
        stat = dict(line.split() for line in (_GROUP / "memory.stat").read_text().splitlines())
        return min(free, limit - used + int(stat["inactive_file"]))
    except (OSError, ValueError, KeyError):
        # No container, or one without a limit.
        return free


def _idle_s() -> float | None:
    """Seconds for which cores of the machine were idle, or waited for a disk, since it started."""
    try:
        ticks = _CORES.read_text().split("\n", 1)[0].split()
        return (int(ticks[4]) + int(ticks[5])) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _quota_cores() -> float | None:
    """How many cores a container may use; ``None`` without a limit."""
    try:
        quota, period = (_GROUP / "cpu.max").read_text().split()
        return int(quota) / int(period)
    except (OSError, ValueError):
        return None


def _used_s() -> float | None:
    """Seconds of a core that a container has used."""
    try:
        stat = dict(line.split() for line in (_GROUP / "cpu.stat").read_text().splitlines())
        return int(stat["usage_usec"]) / 1e6
    except (OSError, ValueError, KeyError):
        return None
