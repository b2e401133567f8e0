"""Ten times more work than the worker can do: it is refused with a hint, memory stays bounded, and all ends well."""

import itertools
import threading
import time

import pytest

from tests.faults.forge import CALM, wait_for
from tests.faults.probe_model import picture
from visionpipe.client import Client
from visionpipe.errors import QueueFullError
from visionpipe.queue import calls, run
from visionpipe.schemas.jobs import Lane

PER_S = 100
"""Images that the worker can do in a second."""
CHUNK = 10
BOUND = 300
"""Images that may wait."""


class Crowd:
    """Threads that submit ten times what can be done, and note what they were told."""

    def __init__(self, stage, seconds, threads=2) -> None:
        self._stage = stage
        self._until = time.monotonic() + seconds
        self._numbers = itertools.count(1)
        self._lock = threading.Lock()
        self.accepted: dict[str, list[int]] = {}
        self.offered = 0
        self.hints: list[float] = []
        self._pause_s = threads * CHUNK / (10 * PER_S)
        self._threads = [threading.Thread(target=self._push) for _ in range(threads)]

    def __enter__(self):
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_):
        for thread in self._threads:
            thread.join()

    def _push(self) -> None:
        settings = self._stage.settings.model_copy(update={"max_queued_items": BOUND})
        with Client(self._stage.redis_url, settings=settings) as client:
            due = time.monotonic()
            while due < self._until:
                with self._lock:
                    numbers = list(itertools.islice(self._numbers, CHUNK))
                    self.offered += CHUNK
                try:
                    job = client.submit("classification", list(map(picture, numbers)), model="probe", lane=Lane.BULK)
                except QueueFullError as error:
                    self.hints.append(error.details["retry_after_s"])
                else:
                    self.accepted[job.id] = numbers
                due = max(due + self._pause_s, time.monotonic() - CHUNK * self._pause_s)
                time.sleep(max(0, due - time.monotonic()))


@pytest.mark.timeout(400)
@pytest.mark.parametrize("seconds", [4, pytest.param(120, marks=pytest.mark.slow)])
def test_ten_times_too_much_work_is_refused_with_a_hint_and_harms_nobody(stage, seconds):
    worker = stage.worker(**CALM)
    stage.probe.each("seconds", 1 / PER_S)
    first = stage.submit(10_000_000)
    stage.ended(first)
    used_mb, rss_mb, waits_s = [], [], []
    urgent = {}

    def note() -> None:
        used_mb.append(stage.redis.info("memory")["used_memory"] / 2**20)
        rss_mb.append(worker.rss_mb())

    note()
    with Crowd(stage, seconds) as crowd, Client(stage.redis_url, settings=stage.settings) as client:
        ended = time.monotonic() + seconds
        for number in itertools.count(11_000_000):
            if time.monotonic() > ended:
                break
            asked = time.monotonic()
            job = client.submit("classification", picture(number), model="probe")
            assert job.result(timeout=60).top.label == str(number % 10)
            waits_s.append(time.monotonic() - asked)
            urgent[job.id] = [number]
            note()
            time.sleep(0.2)
    over = time.monotonic()
    wait_for("the queue to empty", lambda: run(stage.redis, calls.accounts())["probe"].open == 0)
    recovered_s = time.monotonic() - over
    accepted = sum(map(len, crowd.accepted.values()))
    print(
        f"\noffered {crowd.offered} images in {seconds} s, accepted {accepted}, refused {len(crowd.hints)} jobs until "
        f"{min(crowd.hints):.1f} to {max(crowd.hints):.1f} s later; interactive answers within {max(waits_s):.2f} s; "
        f"Redis used {max(used_mb) - used_mb[0]:.1f} MiB more, the worker {max(rss_mb) - rss_mb[0]:.1f} MiB"
    )
    assert crowd.hints
    assert min(crowd.hints) > 0
    assert crowd.offered > 2 * accepted
    assert len(waits_s) >= 3
    assert max(used_mb) - used_mb[0] < 16
    assert max(rss_mb) - rss_mb[1] < 64
    assert recovered_s < 60
    jobs = {first: [10_000_000], **crowd.accepted, **urgent}
    stage.account(f"overload, 10 times for {seconds} s", jobs, faults=0, recovered_s=recovered_s)
