"""What a machine has left for this process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from visionpipe import cgroups, machine
from visionpipe.machine import Machine, free_memory_bytes, usable_cores

MIB = 2**20
TREES = {
    "version 2": {
        "ours": "0::/batch/job",
        "memory": ("", "memory.max", "memory.current", "inactive_file"),
        "cores": ("", "cpu.max", "{0} 100000"),
        "used": ("", "cpu.stat", "usage_usec", 1e6),
    },
    "version 1": {
        "ours": "9:name=systemd:/\n4:memory:/batch/job\n2:cpu,cpuacct:/batch/job\n0::/",
        "memory": ("memory", "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
        "cores": ("cpu", "cpu.cfs_quota_us", "{0}"),
        "used": ("cpuacct", "cpuacct.usage", "", 1e9),
    },
}


class Groups:
    """A tree of control groups in which this process is in /batch/job."""

    def __init__(self, root: Path, version: str) -> None:
        self._root = root
        self.tree = TREES[version]
        (root / "ours").write_text(self.tree["ours"])

    def write(self, controller: str, group: str, name: str, text: str) -> None:
        folder = self._root / controller / group
        folder.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)

    def memory(self, group: str, limit: str, used: int, cached: int = 0) -> None:
        controller, *names, kind = self.tree["memory"]
        self.write(controller, group, names[0], f"{limit}\n")
        self.write(controller, group, names[1], f"{used}\n")
        self.write(controller, group, "memory.stat", f"anon 5\n{kind} {cached}\n")

    def cores(self, group: str, quota_us: str) -> None:
        controller, name, text = self.tree["cores"]
        self.write(controller, group, name, text.format(quota_us) + "\n")
        self.write(controller, group, "cpu.cfs_period_us", "100000\n")

    def used(self, group: str, seconds: float) -> None:
        controller, name, word, unit = self.tree["used"]
        self.write(controller, group, name, f"{word} {round(seconds * unit)}\n".lstrip())


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The system's files, of which there are none yet."""
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_CORES", tmp_path / "stat")
    monkeypatch.setattr(cgroups, "_ROOT", tmp_path)
    monkeypatch.setattr(cgroups, "_OURS", tmp_path / "ours")
    return tmp_path


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    return now


@pytest.fixture(params=list(TREES))
def groups(request: pytest.FixtureRequest, files: Path) -> Groups:
    return Groups(files, request.param)


def write_free(files: Path, kib: int = 4096) -> None:
    (files / "meminfo").write_text(f"MemTotal:       8192 kB\nMemFree:  12 kB\nMemAvailable:    {kib} kB\n")


def test_without_limits_all_free_memory_is_ours(files: Path):
    write_free(files)
    assert free_memory_bytes() == 4 * MIB


def test_a_limit_that_is_none_is_none(files: Path, groups: Groups):
    write_free(files)
    groups.memory("batch/job", "max" if groups.tree is TREES["version 2"] else str(2**63 - 4096), 1)
    assert free_memory_bytes() == 4 * MIB


@pytest.mark.parametrize("tightest", ["batch/job", "batch", ""])
def test_free_memory_is_what_the_tightest_group_around_us_has_left(tightest: str, files: Path, groups: Groups):
    write_free(files)
    for group in ("batch/job", "batch", "", "other"):
        groups.memory(group, str(7 * MIB), 0)
    groups.memory("other", "0", 0)
    groups.memory(tightest, str(3 * MIB), 2 * MIB, cached=7)
    assert free_memory_bytes() == MIB + 7


def test_a_group_that_is_named_as_outside_the_container_is_the_root_in_it(files: Path, groups: Groups):
    write_free(files)
    groups.memory("", str(3 * MIB), 2 * MIB)
    assert free_memory_bytes() == MIB


def test_nobody_knows_the_free_memory_of_another_system():
    assert free_memory_bytes() is None


def test_usable_cores_are_those_of_the_tightest_quota(groups: Groups, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(8)))
    assert usable_cores() == 8
    groups.cores("batch/job", "max" if groups.tree is TREES["version 2"] else "-1")
    assert usable_cores() == 8
    groups.cores("batch", "150000")
    assert usable_cores() == 1.5


def idle_of(files: Path, clock: list[float], looked: Machine) -> Callable[[float, float], float | None]:
    ticks = os.sysconf("SC_CLK_TCK")

    def idle_cores(at: float, idle_s: float) -> float | None:
        clock[0] = 100.0 + at
        # user nice system idle iowait irq ...; the third core is not ours, and always idle.
        cores = [f"cpu{core} 9 9 9 {round(idle_s / 2 * ticks) - 7} 7 9 9 0 0 0" for core in range(2)]
        other = f"cpu2 9 9 9 {round(at * ticks)} 7 9 9 0 0 0"
        (files / "stat").write_text("\n".join(["cpu  1 2 3 4 5 6 7 0 0 0", *cores, other, "intr 1 2", ""]))
        return looked.look().idle_cores

    return idle_cores


def test_idle_cores_are_ours_of_the_last_while(files: Path, clock: list[float], monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("os.sched_getaffinity", lambda _: {0, 1})
    idle_cores = idle_of(files, clock, Machine(8))
    assert idle_cores(0, 1000) is None
    # Both cores are idle for a minute, and then one of them.
    assert [idle_cores(at, 1000 + 2 * at) for at in range(1, 61)] == pytest.approx([2.0] * 60)
    later = [idle_cores(60 + at, 1120 + at) for at in range(1, 11)]
    assert later[3] == pytest.approx(1.5)
    assert later[7:] == pytest.approx([1.0] * 3)


def test_no_more_cores_are_idle_for_us_than_a_quota_around_us_leaves(files: Path, clock: list[float], groups: Groups):
    idle_cores = idle_of(files, clock, Machine(8))
    groups.cores("batch/job", "200000")
    groups.cores("batch", "400000")
    found = []
    for second in range(3):
        groups.used("batch/job", 1.0 * second)
        groups.used("batch", 3.75 * second)
        found.append(idle_cores(second, 2 * second))
    assert found == [None, pytest.approx(0.25), pytest.approx(0.25)]


def test_nobody_knows_the_idle_cores_of_another_system():
    looked = Machine(8)
    assert (looked.look().idle_cores, looked.look().idle_cores) == (None, None)
