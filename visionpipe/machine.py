"""What this process may use of the machine, and what of it is left: memory and cores."""

from __future__ import annotations

import os
import time
from collections import defaultdict, deque
from dataclasses import dataclass
from pathlib import Path

from visionpipe import cgroups

_MEMORY = Path("/proc/meminfo")
_CORES = Path("/proc/stat")


@dataclass(frozen=True)
class Room:
    """What is left; ``None`` where the system does not tell."""

    free_bytes: int | None = None
    """Memory."""
    idle_cores: float | None = None
    """Cores we may use that were idle lately, on average; no more than what the quotas of our groups leave."""


class Machine:
    """Tells what is left, after having looked a while.

    Args:
        window_s: For how long idle cores are averaged.
    """

    def __init__(self, window_s: float) -> None:
        self._window_s = window_s
        self._idle: deque[tuple[float, float]] = deque()
        self._used: dict[Path, deque[tuple[float, float]]] = defaultdict(deque)

    def look(self) -> Room:
        """Look, as is to be done every second or so, and tell."""
        left = [self._rate(self._idle, _idle_s())]
        for quota in cgroups.quotas():
            used = self._rate(self._used[quota.group], quota.used_s)
            left.append(None if used is None else quota.cores - used)
        return Room(free_memory_bytes(), min((cores for cores in left if cores is not None), default=None))

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
    """How many cores this process may use: those it is bound to, or less where its groups have quotas."""
    return min([float(len(_bound()) or os.cpu_count() or 1), *(quota.cores for quota in cgroups.quotas())])


def free_memory_bytes() -> int | None:
    """Memory that this machine has left for us, or less where our groups have limits; ``None`` if nobody knows."""
    try:
        fields = dict(line.split(":") for line in _MEMORY.read_text().splitlines())
        free = 1024 * int(fields["MemAvailable"].split()[0])
    except (OSError, ValueError, KeyError):
        return None
    bound = cgroups.free_bytes()
    return free if bound is None else min(free, bound)


def _bound() -> set[int]:
    """The cores this process is bound to; none where the system does not tell."""
    return os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _idle_s() -> float | None:
    """Seconds for which our cores were idle, or waited for a disk, since the machine started."""
    ours = {f"cpu{core}" for core in _bound()}
    try:
        cores = [line.split() for line in _CORES.read_text().splitlines()]
        # user, nice, system, idle, iowait, ...
        ticks = [int(core[4]) + int(core[5]) for core in cores if core[0] in ours]
        return sum(ticks) / os.sysconf("SC_CLK_TCK") if ticks else None
    except (OSError, ValueError, IndexError):
        return None
