"""The control groups that bound this process on Linux: limits of a container, a systemd unit or a batch job."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_OURS = Path("/proc/self/cgroup")
_ROOT = Path("/sys/fs/cgroup")


@dataclass(frozen=True)
class Quota:
    """Cores that a group may use."""

    group: Path
    cores: float
    used_s: float | None
    """Seconds of a core that it has used; ``None`` where nobody knows."""


def quotas() -> list[Quota]:
    """Give the quota of each group that has one: ours, and those around it."""
    found: list[Quota] = []
    for group in _groups(""):
        found += _quota(group, group / "cpu.max", used=group / "cpu.stat")
    for group in _groups("cpu"):
        account = _ROOT / "cpuacct" / group.relative_to(_ROOT / "cpu") / "cpuacct.usage"
        found += _quota(group, group / "cpu.cfs_quota_us", group / "cpu.cfs_period_us", used=account)
    return found


def free_bytes() -> int | None:
    """Memory that the tightest of the groups has left; ``None`` without any limit."""
    left = [
        *(_left(group, "memory.max", "memory.current", "inactive_file") for group in _groups("")),
        *(
            _left(group, "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
            for group in _groups("memory")
        ),
    ]
    return min((number for number in left if number is not None), default=None)


def _groups(controller: str) -> Iterator[Path]:
    """Give the folders of our group and of those around it, as far as they can be seen from in here.

    Args:
        controller: Of version 1, each with a tree of its own; ``""`` for version 2, which has one.
    """
    root = _ROOT / controller
    try:
        lines = [line.split(":", 2) for line in _OURS.read_text().splitlines()]
    except OSError:
        return
    for _, controllers, path in lines:
        if controller in controllers.split(","):
            # In a container the path may be the one outside of it, of which only the root is here.
            own = root / path.lstrip("/")
            yield from (group for group in (own, *own.parents) if group.is_relative_to(root))


def _quota(group: Path, *limit: Path, used: Path) -> Iterator[Quota]:
    try:
        quota, period = " ".join(file.read_text() for file in limit).split()
        cores = int(quota) / int(period)
    except (OSError, ValueError):
        return
    if cores > 0:
        yield Quota(group, cores, _used_s(used))


def _used_s(account: Path) -> float | None:
    try:
        words = account.read_text().split()
        return int(words[words.index("usage_usec") + 1]) / 1e6 if len(words) > 1 else int(words[0]) / 1e9
    except (OSError, ValueError, IndexError):
        return None


def _left(group: Path, limit: str, used: str, cached: str) -> int | None:
    try:
        # What is cached of files goes as soon as somebody needs the room.
        stat = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        return int((group / limit).read_text()) - int((group / used).read_text()) + int(stat[cached])
    except (OSError, ValueError, KeyError):
        return None
