"""Whose Redis and workers are measured."""

from __future__ import annotations

import time

from visionpipe.queue import calls, connect, run
from visionpipe.schemas.jobs import Lane, WorkerRecord
from workers.benching.contenders import parse_contender
from workers.benching.private import served


def record(worker: str, model: str, **more) -> WorkerRecord:
    return WorkerRecord(
        worker=worker, model=model, digest="0123456789ab", tasks=["classification"], device="cpu", precision="fp32",
        lanes=list(Lane), max_batch=8, version="0", started_at=time.time(), **more,
    )  # fmt: skip


def test_workers_that_serve_the_model_already_are_used_as_they_are(settings, tmp_path):
    with connect(settings.redis_url) as redis:
        for one in (
            record("w1", "m", rss_bytes=100),
            record("w2", "m", rss_bytes=300, device_memory_bytes=7),
            record("w3", "other"),
            record("w4", "m", state="draining"),
        ):
            run(redis, calls.announce(one, settings.model_copy(update={"renew_s": 100})))
    told: list[str] = []
    with served(parse_contender("m"), settings, tmp_path, told.append) as service:
        assert not service.own
        assert not service.waits_to_compile()
        assert {one.worker for one in service.records()} == {"w1", "w2"}
        memory = service.memory()
    assert (memory.rss_bytes, memory.peak_rss_bytes, memory.device_bytes) == (300, None, 7)
    assert len(told) == 1
