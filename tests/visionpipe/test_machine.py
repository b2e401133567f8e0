"""What a machine has left."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from visionpipe import machine
from visionpipe.machine import Machine, free_memory_bytes


@pytest.mark.parametrize(
    ("group", "expected"),
    [
        ({}, 4 * 2**20),
        ({"memory.max": "max", "memory.current": "1", "memory.stat": "inactive_file 0"}, 4 * 2**20),
        (
            {"memory.max": f"{3 * 2**20}", "memory.current": f"{2 * 2**20}", "memory.stat": "anon 5\ninactive_file 7"},
            2**20 + 7,
        ),
    ],
    ids=["no container", "no limit", "limit"],
)
def test_free_memory_is_that_of_the_container(group, expected, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "meminfo").write_text("MemTotal:       8192 kB\nMemFree:  12 kB\nMemAvailable:    4096 kB\n")
    for name, text in group.items():
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "meminfo")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    assert free_memory_bytes() == expected


def test_nobody_knows_the_free_memory_of_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_MEMORY", tmp_path / "missing")
    assert free_memory_bytes() is None


def test_idle_cores_are_those_of_the_last_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now, stat = [100.0], tmp_path / "stat"
    monkeypatch.setattr(machine, "_CORES", stat)
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    ticks, looked = os.sysconf("SC_CLK_TCK"), Machine(8)

    def idle_cores(at: float, idle_s: float) -> float | None:
        now[0] = 100.0 + at
        # user nice system idle iowait irq ...
        stat.write_text(f"cpu  9 9 9 {round(idle_s * ticks) - 7} 7 9 9 0 0 0\ncpu0 1 1 1 1 1 1 1 0 0 0\n")
        return looked.look().idle_cores

    assert idle_cores(0, 1000) is None
    # Both cores are idle for a minute, and then one of them.
    assert [idle_cores(at, 1000 + 2 * at) for at in range(1, 61)] == pytest.approx([2.0] * 60)
    later = [idle_cores(60 + at, 1120 + at) for at in range(1, 11)]
    assert later[3] == pytest.approx(1.5)
    assert later[7:] == pytest.approx([1.0] * 3)


def test_a_container_has_no_more_idle_cores_than_its_quota_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    now = [100.0]
    monkeypatch.setattr(machine, "_CORES", tmp_path / "stat")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    ticks, looked = os.sysconf("SC_CLK_TCK"), Machine(8)
    (tmp_path / "cpu.max").write_text("200000 100000\n")
    found = []
    for second in range(3):
        now[0] = 100.0 + second
        (tmp_path / "stat").write_text(f"cpu 0 0 0 {60 * ticks * second} 0 0\n")
        (tmp_path / "cpu.stat").write_text(f"usage_usec {1_750_000 * second}\nuser_usec 0\n")
        found.append(looked.look().idle_cores)
    assert found == [None, pytest.approx(0.25), pytest.approx(0.25)]


def test_nobody_knows_the_idle_cores_of_another_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(machine, "_CORES", tmp_path / "missing")
    monkeypatch.setattr(machine, "_GROUP", tmp_path)
    looked = Machine(8)
    assert (looked.look().idle_cores, looked.look().idle_cores) == (None, None)
