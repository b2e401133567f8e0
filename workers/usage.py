"""What a worker's threads have used of the machine's cores, as the system counts it anyway."""

from __future__ import annotations

import platform
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from visionpipe.machine import usable_cores
from visionpipe.schemas.jobs import Usage

TASKS = Path("/proc/self/task")
"""A folder for each thread of this process."""
NS = 1e9


class UsageMeter:
    """Adds up the time on a core of each kind of thread; safe in threads.

    Args:
        device: Of the worker.
        images: Tells how many images got an outcome.
        device_s: Tells for how long the device computed.
    """

    def __init__(self, device: str, *, images: Callable[[], int], device_s: Callable[[], float]) -> None:
        self._device = device
        self._images = images
        self._device_s = device_s
        self._cores = usable_cores()
        self._seen: dict[int, tuple[str, int]] = {}
        self._ended: Counter[str] = Counter()
        self._lock = threading.Lock()

    def read(self) -> Usage | None:
        """Give what was used since the process began; ``None`` where the system does not tell."""
        with self._lock:
            try:
                total = self._total()
            except (OSError, ValueError, IndexError):
                return None
        return Usage(
            host=platform.node(),
            device=self._device,
            cores=self._cores,
            images=self._images(),
            decode_s=total["decode"] / NS,
            forward_s=total["forward"] / NS,
            postprocess_s=total["postprocess"] / NS,
            other_s=total["other"] / NS,
            device_s=self._device_s(),
        )

    def _total(self) -> Counter[str]:
        now = _times_ns()
        kinds = {thread.native_id: kind_of(thread.name) for thread in threading.enumerate()}
        self._bury(now)
        # What Python has never known are torch's teams, which compute; what it knew may be ending at this moment.
        self._seen = {tid: (kinds.get(tid) or self._known(tid), spent) for tid, spent in now.items()}
        total = self._ended.copy()
        for kind, spent in self._seen.values():
            total[kind] += spent
        return total

    def _known(self, tid: int) -> str:
        return self._seen.get(tid, ("forward", 0))[0]

    def _bury(self, now: dict[int, int]) -> None:
        """Keep what threads used that have ended since; the system may have given their numbers to others."""
        for tid, (kind, spent) in list(self._seen.items()):
            if now.get(tid, -1) < spent:
                self._ended[kind] += spent
                del self._seen[tid]


def kind_of(name: str) -> str:
    """Say what a thread of a worker does, by its name."""
    for start, kind in (("decode", "decode"), ("device", "forward"), ("finish", "postprocess")):
        if name.startswith(start):
            return kind
    return "other"


def _times_ns() -> dict[int, int]:
    times = {}
    for folder in TASKS.iterdir():
        try:
            times[int(folder.name)] = int((folder / "schedstat").read_text().split()[0])
        except (FileNotFoundError, ProcessLookupError):
            if not folder.exists():
                continue  # It ended just now.
            raise
    return times
