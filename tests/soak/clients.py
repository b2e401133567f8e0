"""Random clients: single images and many, impatient, cancelling, forgetful, streaming, and folders."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import json
import random
import shutil
import threading
import time
import uuid
from pathlib import Path

from tests.faults.probe_model import picture
from tests.soak.book import GUILTY, STUCK, Book, Entry
from tests.soak.service import MODELS, Service
from visionpipe.aclient import AsyncClient
from visionpipe.client import Client
from visionpipe.errors import (
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    ResultTimeoutError,
    ServiceError,
)
from visionpipe.runs import run_folder
from visionpipe.schemas.jobs import JobState

DONE = {JobState.DONE}
_numbers = itertools.count(1)
_lock = threading.Lock()


def innocent(count: int) -> list[int]:
    """Numbers of pictures that harm nobody, never given twice."""
    with _lock:
        harmless = (number for number in _numbers if number % 1000 not in (GUILTY, STUCK))
        return list(itertools.islice(harmless, count))


def guilty(ending: int) -> int:
    """The number of a picture that does harm, never given twice."""
    with _lock:
        return next(number for number in _numbers if number % 1000 == ending)


class Crowd:
    """Threads that act at random until they are told to stop.

    Args:
        service: Where to.
        book: Where every job is noted.
        seed: Each thread's randomness follows from it.
    """

    def __init__(self, service: Service, book: Book, seed: int, threads: int = 3) -> None:
        self._service, self._book = service, book
        self._over = threading.Event()
        self.streams = self.runs = 0
        self._threads = [
            threading.Thread(
                target=self._act, args=(random.Random(f"{seed}-{index}"),), name=f"crowd-{index}", daemon=True
            )
            for index in range(threads)
        ]

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._over.set()

    @property
    def gone(self) -> bool:
        """Whether all have left."""
        return not any(thread.is_alive() for thread in self._threads)

    def _act(self, chance: random.Random) -> None:
        acts = [self._one, self._one, self._many, self._many, self._brief, self._cancel, self._twice, self._forget]
        acts += [self._stream, self._folder, self._harm]
        while not self._over.is_set():
            # Each client lives for a while, so that closing is part of it.
            with Client(self._service.server.url, settings=self._service.settings) as client:
                for _ in range(chance.randint(1, 12)):
                    try:
                        chance.choice(acts)(client, chance)
                    except Exception as error:  # noqa: BLE001 - whatever it is, the soak tells it
                        self._book.wrong.append(f"a client was told {type(error).__name__}: {error}")
                        break
                    if self._over.is_set():
                        break

    def _submit(self, client: Client, chance: random.Random, numbers: list[int], *, ends: set[JobState], **how: object):
        """Submit and note; nothing when the service would not have it."""
        model, job = chance.choice(MODELS), f"soak-{uuid.uuid4().hex}"
        self._book.enter(Entry(job, model, numbers, DONE | ends))
        lane = chance.choice(("interactive", "bulk"))
        try:
            return client.submit(
                "classification", [picture(number) for number in numbers], model=model, job=job, lane=lane, **how
            )
        except (NoWorkerError, QueueFullError):
            self._book.strike_out(job)
        except QueueUnavailableError:
            # Nobody knows whether it was accepted.
            self._book.doubt(job)
        time.sleep(0.1)
        return None

    def _wait(self, job, timeout: float) -> None:
        with contextlib.suppress(ResultTimeoutError, QueueUnavailableError):
            job.wait(timeout=timeout)

    def _one(self, client: Client, chance: random.Random) -> None:
        if (job := self._submit(client, chance, innocent(1), ends=set())) is not None:
            self._wait(job, chance.choice((0.01, 5)))

    def _many(self, client: Client, chance: random.Random) -> None:
        if (job := self._submit(client, chance, innocent(chance.randint(2, 40)), ends=set())) is not None:
            self._wait(job, chance.choice((0.01, 5, 20)))

    def _brief(self, client: Client, chance: random.Random) -> None:
        numbers, deadline_s = innocent(chance.randint(1, 30)), chance.uniform(0.02, 1)
        job = self._submit(client, chance, numbers, ends={JobState.EXPIRED}, deadline_s=deadline_s)
        if job is not None:
            self._wait(job, 5)

    def _cancel(self, client: Client, chance: random.Random) -> None:
        job = self._submit(client, chance, innocent(chance.randint(1, 30)), ends={JobState.CANCELLED})
        if job is not None:
            time.sleep(chance.uniform(0, 0.3))
            with contextlib.suppress(QueueUnavailableError):
                job.cancel()

    def _twice(self, client: Client, chance: random.Random) -> None:
        numbers = innocent(chance.randint(1, 5))
        job = self._submit(client, chance, numbers, ends=set())
        if job is not None:
            with contextlib.suppress(ServiceError):
                record = job.record()
                again = client.submit(
                    "classification", list(map(picture, numbers)), model=record.model, job=job.id, lane=record.lane
                )
                self._wait(again, 5)

    def _forget(self, client: Client, chance: random.Random) -> None:
        self._submit(client, chance, innocent(chance.randint(1, 10)), ends=set())

    def _harm(self, client: Client, chance: random.Random) -> None:
        ending, what = chance.choice(((GUILTY, "kill"), (STUCK, "stall")))
        bad = guilty(ending)
        for probe in self._service.models.values():
            probe.switch(what, "forward", bad)
        numbers = innocent(chance.randint(0, 6))
        numbers.insert(chance.randint(0, len(numbers)), bad)
        job = self._submit(client, chance, numbers, ends=set(), wait_for_worker=True)
        if job is not None:
            self._wait(job, 30)

    def _stream(self, client: Client, chance: random.Random) -> None:
        numbers, model = innocent(chance.randint(5, 80)), chance.choice(MODELS)
        since = len(self._book.faults)
        try:
            items = list(
                client.map("classification", map(picture, numbers), model=model, chunk=7, wait_for_worker=True)
            )
        except QueueUnavailableError:
            return
        assert [item.index for item in items] == list(range(len(numbers)))
        self.streams += 1
        self._settle(model, numbers, [item.result.top.label if item.result else item.error for item in items], since)

    def _folder(self, client: Client, chance: random.Random) -> None:
        numbers, model = innocent(chance.randint(5, 60)), chance.choice(MODELS)
        home = self._service.folder / f"run-{uuid.uuid4().hex}"
        (home / "in").mkdir(parents=True)
        for number in numbers:
            (home / "in" / f"{number:08}.png").write_bytes(picture(number))
        since, rows = len(self._book.faults), None
        while rows is None:
            with contextlib.suppress(QueueUnavailableError, NoWorkerError):
                rows = asyncio.run(self._sit(home, model, chance))
            if self._over.is_set() and rows is None:
                time.sleep(0.5)
        assert [int(row["path"][:-4]) for row in rows] == numbers
        self.runs += 1
        said = [row["result"]["classes"][0]["label"] if row.get("result") else row.get("error") for row in rows]
        self._settle(model, numbers, said, since)
        shutil.rmtree(home)

    async def _sit(self, home: Path, model: str, chance: random.Random) -> list[dict] | None:
        """Sit over a run once; now and then leave before it is over."""
        async with AsyncClient(self._service.server.url, settings=self._service.settings) as client:
            going = asyncio.create_task(
                run_folder(
                    client,
                    home / "in",
                    home / "out",
                    task="classification",
                    model=model,
                    settings=self._service.settings,
                    chunk=chance.randint(1, 20),
                )
            )
            patience_s = chance.choice((0.2, 1.0, None))
            await asyncio.wait({going}, timeout=patience_s)
            if not going.done():
                going.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await going
                return None
            report = going.result()
        assert report.found == report.done + report.failed, report
        return [json.loads(line) for line in (home / "out" / "results.jsonl").read_text().splitlines()]

    def _settle(self, model: str, numbers: list[int], said: list[object], since: int) -> None:
        """Note a stream's or a run's images: each fault in its time may have struck the holder of one."""
        faults = len(self._book.faults) - since
        for number, label in zip(numbers, said, strict=True):
            self._book.allowed[model, number] = 1 + max(1, 2 * faults)
            if label != str(number % 10) and "poison" not in str(label):
                self._book.wrong.append(f"{number} of a stream or run was answered with {label}")
