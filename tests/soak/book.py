"""What the soak itself knows of every job, and how each is checked against the queue and the model's own log."""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from dataclasses import dataclass, field

from redis import Redis

from visionpipe.errors import ServiceError
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import JobState

GUILTY = 7
"""A picture whose number modulo a thousand is this kills its worker."""
STUCK = 13
"""One whose number modulo a thousand is this hangs."""


VANISHED_S = 30.0
"""A job that is not in Redis so long after it was noted is not on its way any more."""


@dataclass
class Entry:
    """One job of ours."""

    job: str
    model: str
    numbers: list[int]
    may_end: set[JobState]
    began: float = field(default_factory=time.monotonic)
    doubtful: bool = False
    """Whether nobody knows if it was accepted."""


@dataclass
class Book:
    """Every job that was submitted, until it has ended and was checked; safe in threads."""

    redis: Redis
    entries: dict[str, Entry] = field(default_factory=dict)
    ends: Counter[str] = field(default_factory=Counter)
    allowed: dict[tuple[str, int], int] = field(default_factory=dict)
    """(model, number) → executions that the faults which struck its holder allow."""
    drains: list[float] = field(default_factory=list)
    """When workers were asked to drain; each may cost what it hands back one more execution."""
    faults: list[str] = field(default_factory=list)
    jobs: int = 0
    wrong: list[str] = field(default_factory=list)
    longest_s: float = 0.0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def enter(self, entry: Entry) -> None:
        """Note a job before it is submitted."""
        with self.lock:
            self.entries[entry.job] = entry

    def strike_out(self, job: str) -> None:
        """Forget a job that was refused."""
        with self.lock:
            self.entries.pop(job, None)

    def doubt(self, job: str) -> None:
        """Note that nobody knows whether a job was accepted."""
        with self.lock:
            if job in self.entries:
                self.entries[job].doubtful = True

    def check_ended(self) -> int:
        """Check every job that has ended since; gives how many are still open."""
        with self.lock:
            entries = list(self.entries.values())
        for entry in entries:
            try:
                envelope = run(self.redis, calls.envelope(entry.job))
            except ServiceError:
                break
            if envelope is None:
                # A submission that is on its way, or that never came.
                if time.monotonic() - entry.began > VANISHED_S:
                    self.strike_out(entry.job) if entry.doubtful else self._note(entry, "vanished")
            elif envelope.record.state.ended:
                self._check(entry, envelope)
        return len(self.entries)

    def _note(self, entry: Entry, what: str) -> None:
        self.wrong.append(f"{entry.job} of {entry.model}, {len(entry.numbers)} images: {what}")
        self.strike_out(entry.job)

    def _check(self, entry: Entry, envelope: object) -> None:
        record, items = envelope.record, [json.loads(text) for text in envelope.items]  # type: ignore[attr-defined]
        indices = [item["index"] for item in items]
        if len(set(indices)) != len(indices) or not set(indices) <= set(range(len(entry.numbers))):
            self._note(entry, f"outcomes {indices}")
            return
        missing = len(entry.numbers) - len(items)
        if missing and record.state is JobState.DONE:
            self._note(entry, f"done, and {missing} images have no outcome")
            return
        if record.state not in entry.may_end:
            self._note(entry, f"ended {record.state} after {record.attempts} attempts: {record.error}")
            return
        now = time.monotonic()
        with self.lock:
            handed_back = sum(entry.began <= drained <= now for drained in self.drains)
            for item in items:
                self._count(entry, item, record.attempts)
            self.ends[str(record.state)] += missing
            for number in entry.numbers:
                self.allowed[entry.model, number] = 1 + record.attempts + handed_back
            self.jobs += 1
            self.longest_s = max(self.longest_s, now - entry.began)
            self.entries.pop(entry.job, None)

    def _count(self, entry: Entry, item: dict[str, object], attempts: int) -> None:
        number = entry.numbers[int(str(item["index"]))]
        if item.get("error") is None:
            self.ends["done"] += 1
            label = item["result"]["classes"][0]["label"]  # type: ignore[index]
            if label != str(number % 10):
                self.wrong.append(f"{entry.job}: {number} was answered with {label}")
            return
        self.ends["failed"] += 1
        code = item["error"]["code"]  # type: ignore[index]
        if number % 1000 in (GUILTY, STUCK) and code == "poison":
            return
        # An innocent image may be the one that was marked when its worker was killed, if that happened twice.
        if code == "poison" and attempts >= 3:
            self.ends["innocent"] += 1
            return
        self.wrong.append(f"{entry.job}: {number} failed after {attempts} attempts: {item['error']}")
