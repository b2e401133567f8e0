"""A worker without models, for tests of the client: it claims and commits through the real queue."""

from __future__ import annotations

import json
import threading
import uuid
from collections.abc import Callable, Iterator

import pytest

from visionpipe.fetch import Fetcher
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.jobs import Item, JobState, Lane, ModelInfo, WorkerRecord
from visionpipe.schemas.requests import Request
from visionpipe.schemas.results import ClassificationResult, ClassScore, Result
from visionpipe.settings import Settings
from visionpipe.store import open_store
from visionpipe.tasks import parse_request
from visionpipe.wire import error_info

MODEL = ModelInfo(name="lenet-digits", digest="0" * 12, precision="fp32", device="cpu")


def length_as_class(data: bytes, request: Request) -> Result:
    """Answer with the image's length as its class, so that tests can tell whose answer it is."""
    return ClassificationResult(classes=[ClassScore(class_id=len(data), label=data[:20].decode("latin-1"), score=1)])


class FakeWorker:
    """One thread that takes tickets off the lists of one model."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.answer: Callable[[bytes, Request], Result] = length_as_class
        self.media_roots: dict[str, object] = {}
        self.tasks = ["classification"]
        self._open = threading.Event()
        self._open.set()
        self._held = threading.Event()
        self.requests: list[Request] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._loop, daemon=True)

    def start(self) -> None:
        self.announce()
        self._thread.start()

    def announce(self) -> None:
        record = WorkerRecord(
            worker="fake-1",
            model=MODEL.name,
            digest=MODEL.digest,
            tasks=self.tasks,
            device="cpu",
            precision="fp32",
            lanes=list(Lane),
            media_roots=sorted(self.media_roots),
            max_batch=8,
            version="0",
            started_at=0,
        )
        with connect(str(self.settings.redis_url)) as redis:
            run(redis, calls.announce(record, self.settings.model_copy(update={"renew_s": 100})))

    def hold(self) -> None:
        """Take no ticket from now on."""
        self._held.clear()
        self._open.clear()
        assert self._held.wait(10)

    def release(self) -> None:
        """Take tickets again."""
        self._open.set()

    def stop(self) -> None:
        self._open.set()
        self._stop.set()
        self._thread.join(10)

    def _loop(self) -> None:
        with connect(str(self.settings.redis_url)) as redis:
            while not self._stop.is_set():
                if not self._open.is_set():
                    self._held.set()
                    self._open.wait(0.05)
                    continue
                targets = [f"{MODEL.name}{pin}:{lane}" for lane in Lane for pin in ("", f"@{MODEL.digest}")]
                took = redis.brpop([f"vp:{target}" for target in targets], timeout=0.05)
                if took:
                    self._work(redis, json.loads(took[1])["headers"]["id"])

    def _work(self, redis: object, job: str) -> None:
        token = uuid.uuid4().hex
        claimed = run(redis, calls.claim(job, "fake-1", token, MODEL, self.settings))
        if claimed is None:
            return
        fetcher = Fetcher(open_store(self.settings, redis), self.settings, self.media_roots)
        request = parse_request(claimed.request)
        self.requests.append(request)
        items = []
        for index, ref in enumerate(request.images):
            try:
                item = Item(index=index, name=ref.name, result=self.answer(fetcher.fetch(ref), request))
            except Exception as error:  # noqa: BLE001
                item = Item(index=index, name=ref.name, error=error_info(error))
            items.append((index, item.ok, item.model_dump_json().encode()))
        final = None if items else JobState.FAILED
        run(redis, calls.commit(job, token, items, final=final))


@pytest.fixture
def fake_worker(settings: Settings) -> Iterator[FakeWorker]:
    """A fake worker of ``lenet-digits`` that is running."""
    worker = FakeWorker(settings)
    worker.start()
    yield worker
    worker.stop()
