"""Decodes damaged files in child processes, and finds those that crash, hang, grow or reach for something."""

from __future__ import annotations

import contextlib
import json
import mmap
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

CHUNK = 500
SLOW_S = 2.0
"""Seconds of processor time that one file may take."""
STUCK_S = 30.0
"""Seconds by the clock after which a child is ended; the machine may be busy with something else."""
PEAK_MIB = 64
"""What one file of at most ``MAX_PIXELS`` pixels may take for a moment: 16 such pictures in colour and alpha."""
GROWTH_MIB = 24
"""What a child may have grown by from its second chunk to its last."""

ROOT = Path(__file__).resolve().parents[2]


@dataclass
class Report:
    """What decoding so many files came to."""

    seed: int
    cases: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    crashes: list[tuple[int, str]] = field(default_factory=list)
    """Case and signal."""
    hangs: list[int] = field(default_factory=list)
    faults: list[tuple[int, str]] = field(default_factory=list)
    """Case and what was wrong: an untyped error, or a file, process, connection or module that it led to."""
    slowest_s: float = 0.0
    slowest: int = -1
    peak_mib: float = 0.0
    hungriest: int = -1
    growth_mib: float = 0.0

    @property
    def problems(self) -> list[str]:
        """Everything that must not be, in words."""
        found = [f"case {number} crashed its process: {how}" for number, how in self.crashes]
        found += [f"case {number} took more than {SLOW_S:g} s" for number in self.hangs]
        found += [f"case {number}: {what}" for number, what in self.faults]
        if self.peak_mib > PEAK_MIB:
            found.append(f"case {self.hungriest} took {self.peak_mib:.0f} MiB")
        if self.growth_mib > GROWTH_MIB:
            found.append(f"memory grew by {self.growth_mib:.0f} MiB")
        return found

    def add(self, told: dict[str, object]) -> None:
        """Add one chunk."""
        self.cases += int(told["cases"])  # type: ignore[call-overload]
        self.outcomes.update(told["outcomes"])  # type: ignore[call-overload]
        self.faults += [tuple(fault) for fault in told["faults"]]  # type: ignore[attr-defined, misc]
        spent_s, slowest = told["slowest"]  # type: ignore[misc]
        grown, hungriest = told["hungriest"]  # type: ignore[misc]
        if spent_s > self.slowest_s:
            self.slowest_s, self.slowest = spent_s, slowest
        if spent_s > SLOW_S:
            self.hangs.append(slowest)
        if grown / 1024 > self.peak_mib:
            self.peak_mib, self.hungriest = grown / 1024, hungriest


class Child:
    """One decoding process."""

    def __init__(self, seed: int) -> None:
        self._page = os.memfd_create("case")
        os.ftruncate(self._page, mmap.PAGESIZE)
        self._shared = mmap.mmap(self._page, mmap.PAGESIZE)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", "import sys, runpy; sys.path.append(sys.argv.pop(1)); "
             "runpy.run_module('tests.fuzz.decode_child', run_name='__main__')", str(ROOT), str(seed), str(self._page)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, pass_fds=[self._page],
        )  # fmt: skip
        self._resident: list[int] = []

    @property
    def working_on(self) -> int:
        """The case under way; -1 for none."""
        return int(struct.unpack("<q", self._shared[:8])[0])

    @property
    def growth_mib(self) -> float:
        """By how much its memory has grown, once libraries have taken what they keep."""
        return max(0.0, self._resident[-1] - self._resident[1]) / 1024 if len(self._resident) > 2 else 0.0

    def decode(self, first: int, last: int) -> dict[str, object] | None:
        """Have cases decoded; none when it died or hung over it."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(f"{first} {last}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return None
        seen, since = -2, time.monotonic()
        while not select.select([self._process.stdout], [], [], 0.5)[0]:
            if self.working_on != seen:
                seen, since = self.working_on, time.monotonic()
            elif seen >= 0 and time.monotonic() - since > STUCK_S:
                self._process.kill()
        line = self._process.stdout.readline()
        if not line:
            return None
        told: dict[str, object] = json.loads(line)
        self._resident.append(int(told["rss_kib"]))  # type: ignore[call-overload]
        return told

    def bury(self) -> int:
        """Close its input and wait for its end; gives the exit status."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        status = self._process.wait(60)
        self._process.stdout.close()
        self._shared.close()
        os.close(self._page)
        return status


def decode_damaged(cases: int, *, seed: int, first: int = 0, seconds: float | None = None) -> Report:
    """Decode damaged files, in a child that is replaced when it dies.

    Args:
        cases: How many; with ``seconds`` as many as fit.
        seed: Of all damage.
        first: Number of the first case.
        seconds: For how long.
    """
    report, child = Report(seed), Child(seed)
    until = None if seconds is None else time.monotonic() + seconds
    number, last = first, first + cases
    while (number < last) if until is None else (time.monotonic() < until):
        end = number + CHUNK if until is not None else min(number + CHUNK, last)
        told = child.decode(number, end)
        if told is not None:
            report.add(told)
            number = end
            continue
        guilty = child.working_on
        status = child.bury()
        if guilty < 0:
            raise RuntimeError(f"the decoding process ended with status {status} before it began")
        if status == -signal.SIGKILL:
            report.hangs.append(guilty)
        else:
            report.crashes.append((guilty, signal.Signals(-status).name if status < 0 else f"status {status}"))
        # Those of the chunk that came before are decoded once more, to be counted.
        child = Child(seed)
        if guilty > number and (again := child.decode(number, guilty)) is not None:
            report.add(again)
        report.cases += 1
        number = guilty + 1
    report.growth_mib = child.growth_mib
    child.bury()
    return report
