"""A queue without workers: the tests themselves play client, worker and supervisor against a real Redis."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from typing import Any, TypeVar

import pytest
import redis as redis_py

from visionpipe.queue import Call, Claim, calls, connect, keys, run
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobRecord, JobState, Lane, ModelInfo, WorkerRecord
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.settings import Settings

T = TypeVar("T")
DIGEST = "0123456789ab"
INFO = ModelInfo(name="net", digest=DIGEST, precision="fp32", device="cpu")
LASTING = {"vp:accounts", "vp:models", "vp:lanes", "vp:workers", "vp:beats", "vp:beaten", "vp:serving"}
"""Keys that stay while models are served; the first two are the books."""


def request(job: str, n: int = 2, *, model: str = "net", deadline_s: float | None = None) -> ClassificationRequest:
    images = [BlobImage(key=f"blob:{job}:{i}", size_bytes=3, name=f"{i}.png") for i in range(n)]
    return ClassificationRequest(model=model, images=images, deadline_s=deadline_s)


def ok(index: int, text: bytes = b"{}") -> tuple[int, bool, bytes]:
    """An item with a result, for ``commit``."""
    return index, True, text


def bad(index: int) -> tuple[int, bool, bytes]:
    """An item with an error, for ``commit``."""
    return index, False, b"{}"


class Queue:
    """The queue's calls in the words of the tests."""

    def __init__(self, redis: redis_py.Redis, settings: Settings) -> None:
        self.redis, self.settings = redis, settings
        self._jobs, self._tokens = itertools.count(), itertools.count()

    def do(self, call: Call[T]) -> T:
        return run(self.redis, call)

    def submit(self, n: int = 2, *, job: str | None = None, lane: Lane = Lane.BULK, **how: Any) -> str:
        job = job or f"job-{next(self._jobs)}"
        self.do(self.submission(n, job=job, lane=lane, **how))
        return job

    def submission(self, n: int = 2, *, job: str, lane: Lane = Lane.BULK, model: str = "net", **how: Any) -> Call[Any]:
        return calls.submit(
            request(job, n, model=model, deadline_s=how.pop("deadline_s", None)),
            job=job,
            lane=lane,
            client=how.pop("client", "c1"),
            settings=how.pop("settings", self.settings),
            payloads=how.pop("payloads", {f"blob:{job}:{i}": b"png" for i in range(n)}),
            wait_for_worker=how.pop("wait_for_worker", True),
            **how,
        )

    def claim(self, job: str, worker: str = "w1", token: str | None = None, **how: Any) -> Claim | None:
        token = token or f"token-{next(self._tokens)}"
        return self.do(calls.claim(job, worker, token, INFO, how.pop("settings", self.settings)))

    def held(self, n: int = 2, *, worker: str = "w1", **how: Any) -> Claim:
        claim_settings = how.pop("lease", self.settings)
        claim = self.claim(self.submit(n, **how), worker, settings=claim_settings)
        assert claim is not None
        return claim

    def commit(self, claim: Claim, *outcomes: tuple[int, bool, bytes], final: JobState | None = None) -> bool:
        return self.do(calls.commit(claim.job, claim.token, outcomes, final=final))

    def announce(self, worker: str = "w1", *, digest: str = DIGEST, rate: float | None = None) -> WorkerRecord:
        record = WorkerRecord(
            worker=worker,
            model="net",
            digest=digest,
            tasks=["classification"],
            device="cpu",
            precision="fp32",
            lanes=list(Lane),
            max_batch=4,
            rate=rate,
            version="0",
            started_at=0.0,
        )
        self.do(calls.announce(record, self.settings))
        return record

    def record(self, job: str) -> JobRecord:
        record = self.do(calls.read(job))
        assert record is not None
        return record

    def items(self, job: str) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.do(calls.read_items(job))]

    def tickets(self, target: str = "net", lane: Lane = Lane.BULK) -> list[str]:
        """Jobs named by the tickets, the next to be popped first."""
        raw: Any = self.redis.lrange(keys.lane_list(target, lane), 0, -1)
        return [json.loads(json.loads(text)["body"])[0][0] for text in reversed(raw)]

    def blobs(self, job: str) -> int:
        return sum(1 for _ in self.redis.scan_iter(f"vp:blob:{job}:*", count=1000))

    def replies(self, client: str = "c1") -> list[tuple[str, str]]:
        entries: Any = self.redis.xrange(keys.reply(client))
        return [(fields[b"job"].decode(), fields[b"state"].decode()) for _, fields in entries]

    def check_books(self) -> None:
        """Recompute every counter and set from the records, and compare."""
        depth: Counter[str] = Counter()
        running: Counter[str] = Counter()
        open_items: Counter[str] = Counter()
        leases, queued, holds = set(), set(), set()
        for key in self.redis.scan_iter("vp:job:*", count=1000):
            job = key.decode().removeprefix("vp:job:")
            record = self.record(job)
            left, lane = record.total - record.finished, f"{record.model}:{record.lane}"
            assert len(self.items(job)) == record.finished
            if record.state is JobState.QUEUED:
                depth[lane] += left
                queued.add((lane, job))
            elif record.state is JobState.RUNNING:
                running[lane] += left
                leases.add(job)
                holds.add((record.worker, job))
            else:
                assert self.blobs(job) == 0
                assert self.redis.pttl(key) > 0
            if not record.state.ended:
                open_items[record.model.partition("@")[0]] += left
                assert self.redis.pttl(key) == -1
        assert self._hash("vp:depth") == +depth
        assert self._hash("vp:running") == +running
        assert {member.decode() for member in self.redis.zrange("vp:leases", 0, -1)} == leases
        assert self._members("vp:queued:", "zset") == queued
        assert self._members("vp:holds:", "set") == holds
        for model, account in self.do(calls.accounts()).items():
            assert account.open == open_items[model]

    def check_no_leaks(self) -> None:
        """Nothing but the books and the announcements may be without a time to live."""
        lasting = [key.decode() for key in self.redis.scan_iter(count=1000) if self.redis.pttl(key) == -1]
        assert {":".join(key.split(":")[:2]) for key in lasting} <= LASTING, lasting

    def _hash(self, key: str) -> Counter[str]:
        raw: Any = self.redis.hgetall(key)
        return +Counter({name.decode(): int(value) for name, value in raw.items()})

    def _members(self, prefix: str, kind: str) -> set[tuple[str, str]]:
        found = set()
        for key in self.redis.scan_iter(prefix + "*", count=1000):
            members: Any = self.redis.zrange(key, 0, -1) if kind == "zset" else self.redis.smembers(key)
            found |= {(key.decode().removeprefix(prefix), member.decode()) for member in members}
        return found


@pytest.fixture
def queue(settings: Settings) -> Iterator[Queue]:
    assert settings.redis_url is not None
    with connect(settings.redis_url) as redis:
        yield Queue(redis, settings)


@pytest.fixture
def brief(settings: Settings) -> Settings:
    """Settings whose leases run out at once."""
    return settings.model_copy(update={"lease_s": 0.001})
