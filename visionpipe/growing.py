"""When a node shall have one more worker of a model: where the interpreter of those there are is the limit.

A worker is one process, and so one Python interpreter. Where a network computes an image sooner than that interpreter
reads it, claims its job and commits its outcome, the device and the other cores wait, and one more worker uses them.
"""

from __future__ import annotations

import math
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from visionpipe.child import WorkerSpec
from visionpipe.machine import Room
from visionpipe.schemas.jobs import Usage, WorkerRecord

WINDOW_S = 8.0
"""For how long workers must have been at it: starting one more takes a core for seconds, and shall be worth it."""
SILENT_S = 2 * WINDOW_S
"""A worker that says nothing for longer, and for longer than three of its beats, is watched anew."""
DEVICE_WAITS = 0.8
"""A device that is busy for less of the time waits for what comes before it. That time is by the clock, and runs on
while its thread waits for the interpreter: for a tiny network it is 40 to 65 %, for one that is the limit 98 %."""
INTERPRETER_BUSY = 0.6
"""From this share of a core on, spent on anything but the network, an interpreter counts as busy."""
CORES_USED_UP = 0.75
"""From this share on, used by workers, there are no cores left for one more."""
CORES_IDLE = 0.05
"""So much of the cores, at least, nobody must have used, whoever else is on the machine."""
GAIN = 1.1
"""A model whose last worker brought less than this gets no further one for a while."""
WHILE_S = 600.0
"""How long that is; by then there may be other work. Where its last worker died, twice as long each time."""
COMPARABLE_S = 60.0
"""So soon, at most, what one more worker brought is seen: later there may be other work, too."""
MEMORY_FACTOR = 2
"""So many times what the largest worker has must be free for one more."""


@dataclass
class _Watched:
    """What a worker said lately."""

    said: deque[WorkerRecord] = field(default_factory=deque)
    """Since ``WINDOW_S`` ago, or a little longer."""
    busy_since: float = math.inf
    """Since when, by the clock of Redis, it was never seen without work; infinite while it has none."""
    silent_s: float = SILENT_S

    @property
    def last(self) -> WorkerRecord:
        return self.said[-1]

    @property
    def seconds(self) -> float:
        return self.last.beat_at - self.said[0].beat_at

    @property
    def spent(self) -> Usage | None:
        """What it used meanwhile; ``None`` where its system does not tell."""
        first, last = self.said[0].usage, self.last.usage
        return last.since(first) if first is not None and last is not None else None

    @property
    def cores(self) -> float:
        """How many cores it kept busy."""
        spent = self.spent
        if spent is None or self.seconds <= 0:
            return 0.0
        return (spent.decode_s + spent.forward_s + spent.postprocess_s + spent.other_s) / self.seconds

    @property
    def rate(self) -> float:
        """Images a second."""
        spent = self.spent
        return spent.images / self.seconds if spent is not None and self.seconds > 0 else 0.0

    @property
    def is_held_back_by_python(self) -> bool:
        """Whether its interpreter was busy while its device waited."""
        spent = self.spent
        if spent is None:
            return False
        own_s = spent.decode_s + spent.postprocess_s + spent.other_s
        return spent.device_s < DEVICE_WAITS * self.seconds and own_s > INTERPRETER_BUSY * self.seconds

    def begin_anew(self) -> None:
        """Forget all but the last that it said."""
        self.said = deque([self.last])

    def note(self, record: WorkerRecord) -> None:
        # A clock that was set, or a worker that was silent for long, says nothing about what lies between.
        if self.said and not 0 <= record.beat_at - self.last.beat_at <= self.silent_s:
            self.said.clear()
        if not _is_at_work(record):
            self.busy_since = math.inf
        elif not self.said or not _is_at_work(self.last):
            self.busy_since = record.beat_at
        self.said.append(record)
        while len(self.said) > 1 and self.said[1].beat_at <= record.beat_at - WINDOW_S:
            self.said.popleft()


@dataclass
class _Crew:
    """The workers of one version of a model on this node; times are those of ``time.monotonic``."""

    workers: frozenset[str] = frozenset()
    changed_at: float = 0.0
    number_before: int = 0
    """How many there were when one more was wanted; 0 once others came or went."""
    rate_before: float = 0.0
    """Images a second, then."""
    full_until: float = -math.inf
    """Until when no further one is tried."""
    deaths: int = 0
    """How often one that was started for speed died."""

    def change(self, workers: frozenset[str], now: float) -> None:
        """Take note of who they are now."""
        is_the_wanted = self.workers < workers and len(workers) == self.number_before + 1
        if not is_the_wanted:
            self.number_before = 0
        self.workers, self.changed_at = workers, now


class Growth:
    """Watches the workers behind a Redis, and says which model of one node shall have one more there.

    Args:
        gpu_workers: How many share one GPU at most; they were told so when they reserved their part of its memory.
        renew_s: How often workers say something that have nothing to do.
    """

    def __init__(self, *, gpu_workers: int = 1, renew_s: float = 0.0) -> None:
        self._gpu_workers = gpu_workers
        self._silent_s = max(SILENT_S, 3 * renew_s)
        self._watched: dict[str, _Watched] = {}
        self._crews: dict[str, _Crew] = defaultdict(_Crew)

    def observe(self, records: Sequence[WorkerRecord]) -> None:
        """Take note of the live workers; to be called every second or so."""
        before = self._watched
        self._watched = {one.worker: before.get(one.worker) or _Watched(silent_s=self._silent_s) for one in records}
        for record in records:
            self._watched[record.worker].note(record)

    def one_more(self, node: Mapping[str, WorkerSpec], room: Room, now: float) -> WorkerSpec | None:
        """Give what one more worker shall host, if there shall be one; who asks starts it.

        Args:
            node: The node's workers by their ids, all of which are ready.
            room: What the node has left.
            now: By ``time.monotonic``.
        """
        crews = self._crews_of(node, now)
        # What one that has just started takes of the machine is not known yet, whichever its model is.
        if not all(worker in self._watched and self._watched[worker].seconds >= WINDOW_S for worker in node):
            return None
        for target, members in crews.items():
            last = members[0].last
            # Two cannot listen on one port.
            if not node[last.worker].http_port and self._is_short(self._crews[target], members, room, now):
                # The version that is served, though there may be a later one by now; and so that it answers the same.
                return replace(node[last.worker], model=target, precision=last.precision)
        return None

    def _crews_of(self, node: Iterable[str], now: float) -> dict[str, list[_Watched]]:
        """Group those of the node's workers that were heard of by what they host, and note who is new."""
        crews: dict[str, list[_Watched]] = defaultdict(list)
        for worker in node:
            if (watched := self._watched.get(worker)) is not None:
                crews[_target(watched.last)].append(watched)
        for target, members in crews.items():
            workers = frozenset(one.last.worker for one in members)
            if workers != self._crews[target].workers:
                self._crews[target].change(workers, now)
                # What they did before says nothing about them together.
                for one in members:
                    one.begin_anew()
        return crews

    def give_up(self, target: str, now: float) -> None:
        """Try no further worker for a while: the last did not live."""
        crew = self._crews[target]
        crew.full_until = now + WHILE_S * 2**crew.deaths
        crew.deaths += 1

    def outdated(self, needed: Iterable[str], extra: Iterable[str]) -> list[str]:
        """Give those of a node's further workers that host what none of the needed ones of their model hosts now."""
        served: dict[str, set[str]] = defaultdict(set)
        for worker in needed:
            if (one := self._watched.get(worker)) is not None:
                served[one.last.model].add(one.last.digest)
        told = [one.last for one in map(self._watched.get, extra) if one is not None]
        return [last.worker for last in told if served[last.model] and last.digest not in served[last.model]]

    def _is_short(self, crew: _Crew, members: Sequence[_Watched], room: Room, now: float) -> bool:
        if (
            any(one.said[0].beat_at < one.busy_since for one in members)
            or now < crew.full_until
            or not all(one.is_held_back_by_python for one in members)
        ):
            return False
        rate = sum(one.rate for one in members)
        if crew.number_before and now <= crew.changed_at + COMPARABLE_S and rate < GAIN * crew.rate_before:
            crew.full_until = now + WHILE_S
            return False
        # Asked last: what the one before brought is seen in time, also where there is no room for another one now.
        if not self._fits(members, room):
            return False
        crew.number_before, crew.rate_before = len(members), rate
        return True

    def _fits(self, members: Sequence[_Watched], room: Room) -> bool:
        usage = members[0].last.usage
        if usage is None:
            return False
        node = [one for one in self._watched.values() if one.last.usage and one.last.usage.host == usage.host]
        if usage.device != "cpu":
            sharing = [one for one in node if one.last.usage and one.last.usage.device == usage.device]
            if len(sharing) >= self._gpu_workers:
                return False
        needed_bytes = MEMORY_FACTOR * max(one.last.rss_bytes for one in members)
        return (
            len(members) + 1 <= usage.cores
            and sum(one.cores for one in node) < CORES_USED_UP * usage.cores
            and (room.idle_cores is None or room.idle_cores >= CORES_IDLE * usage.cores)
            and (room.free_bytes is None or room.free_bytes >= needed_bytes)
            # A compiler, which is a process of its own, has the cores that one more worker would need.
            and not any(one.last.code == "compiling" for one in node)
        )


def _target(record: WorkerRecord) -> str:
    return f"{record.model}@{record.digest}"


def _is_at_work(record: WorkerRecord) -> bool:
    return record.held_items > 0 and record.state == "ready"
