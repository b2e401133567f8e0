"""Large outputs: finished off the device thread, kept in the store, named by the result."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from visionpipe.errors import QueueUnavailableError
from visionpipe.schemas.jobs import JobState
from visionpipe.schemas.results import EmbeddingResult
from visionpipe.store import FsspecStore, open_store
from visionpipe.tasks import parse_item
from workers.artifacts import Artifacts
from workers.runtime import Answer

from .conftest import Rig, StepsRuntime, WatchedRuntime, wait_for


class Deferring(WatchedRuntime):
    """Answers with artifacts; notes in which thread each was finished."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.threads: list[str] = []
        self.broken: Callable[[], None] = lambda: None

    def results(self, outputs: Any, batch: Sequence[Any]) -> list[Answer]:
        return [lambda work=work: self._finished(work) for work in batch]

    def _finished(self, work: Any) -> EmbeddingResult:
        self.threads.append(threading.current_thread().name)
        self.broken()
        ref = work.keep(work.name.encode(), "text/plain")
        return EmbeddingResult(
            image_size_wh=work.size_wh, dimensions=1, layer="x", normalized=False, norm=1.0, artifact=ref
        )


@pytest.fixture
def deferring(rig: Rig) -> Deferring:
    runtime = Deferring(rig.hosted)
    rig.engine.batcher.runtimes["classification"] = runtime
    return runtime


def test_what_is_deferred_runs_off_the_device_thread_and_its_artifacts_can_be_read(
    rig: Rig, deferring: Deferring
) -> None:
    job = rig.submit([1, 2, 3])
    items = [parse_item("embedding", text) for text in rig.ended(job).items]
    store = open_store(rig.settings, rig.redis)
    kept = [store.get(item.result.artifacts()[0][1].key) for item in items if item.result]
    assert kept == [b"n0", b"n1", b"n2"]
    assert {name.rpartition("-")[0] for name in deferring.threads} == {"finish-interactive"}
    assert all(item.timings and item.timings.postprocess_ms > 0 for item in items)


def test_an_image_whose_finish_fails_gets_an_error_and_its_neighbours_their_results(
    rig: Rig, deferring: Deferring
) -> None:
    calls_left = iter([None, ValueError("odd"), None])

    def break_one() -> None:
        if error := next(calls_left):
            raise error

    deferring.broken = break_one
    job = rig.submit([1, 2, 3])
    items = [parse_item("embedding", text) for text in rig.ended(job).items]
    # Several threads decode, so any of the three may be the second to be finished.
    codes = sorted(item.error.code if item.error else "" for item in items)
    assert codes == ["", "", "internal_error"]


def test_a_job_whose_artifacts_find_no_store_is_handed_back_and_nobody_is_blamed(
    rig: Rig, deferring: Deferring
) -> None:
    def no_store() -> None:
        raise QueueUnavailableError("the store is away")

    whole, deferring.broken = deferring.broken, no_store
    job = rig.submit([1])
    wait_for(lambda: not rig.engine.held())
    record = rig.envelope(job).record
    assert (record.state, record.attempts, record.finished) == (JobState.QUEUED, 0, 0)
    deferring.broken = whole
    rig.engine.accept(job)
    assert [parse_item("embedding", text).ok for text in rig.ended(job).items] == [True]


def test_long_work_may_defer_its_result_too(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = StepsRuntime.answer
    names: list[str] = []

    def answer(self: StepsRuntime, work: Any, step: int, *, partial: bool) -> Answer:
        def rest() -> Any:
            names.append(threading.current_thread().name)
            return whole(self, work, step, partial=partial)

        return rest

    monkeypatch.setattr(StepsRuntime, "answer", answer)
    assert rig.answers(rig.submit([3], task="explanation")) == [3]
    assert names[0].startswith("finish-")


def test_one_image_may_turn_out_to_be_long_work(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    prepare = rig.watched.prepare

    def prepare_some_as_long(work: Any) -> None:
        if work.image.image.getpixel((0, 0)) == 5:
            work.is_long, work.prepared, work.num_pixels = True, 5, 10
        else:
            prepare(work)

    monkeypatch.setattr(rig.watched, "prepare", prepare_some_as_long)
    monkeypatch.setattr(type(rig.watched), "steps", lambda _, work: rig.long.steps(work), raising=False)
    assert rig.answers(rig.submit([4, 5, 6])) == [4, 5, 6]
    assert rig.long.trace
    assert rig.engine._way._under_way == 0
    assert set(rig.engine.batcher._coming.values()) == {0}
    assert rig.engine.batcher._long.values == 0


def test_what_long_work_will_cost_is_told_before_its_first_step(rig: Rig, monkeypatch: pytest.MonkeyPatch) -> None:
    from visionpipe.schemas.jobs import Progress

    monkeypatch.setattr(StepsRuntime, "estimate", lambda *_: Progress(total=7, eta_s=3.5))
    rig.watched.gate.clear()
    holding = rig.submit([1])
    wait_for(lambda: rig.watched.batches)
    job = rig.submit([2], task="explanation")
    told = wait_for(lambda: rig.envelope(job).record.progress)
    assert (told.total, told.eta_s) == (7, 3.5)
    assert rig.long.trace == []
    rig.watched.gate.set()
    assert rig.ended(holding).record.state is rig.ended(job).record.state is JobState.DONE


def test_a_preview_is_tried_once_while_the_store_is_away(rig: Rig) -> None:
    class Away:
        attempts = 0

        def put(self, *_: Any) -> None:
            self.attempts += 1
            raise QueueUnavailableError("away")

    away = Away()
    assert Artifacts(away, rig.settings).try_put(b"x", "image/png") is None  # type: ignore[arg-type]
    assert away.attempts == 1


def test_a_store_that_refuses_is_told_as_unavailable(rig: Rig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError("disk full")

    store = FsspecStore(f"file://{tmp_path}")
    monkeypatch.setattr(store._fs, "pipe_file", full)
    settings = rig.settings.model_copy(update={"lease_s": 0.05})
    with pytest.raises(QueueUnavailableError, match="disk full"):
        Artifacts(store, settings).put(b"x", "image/png")


def test_an_artifact_of_equal_bytes_is_stored_once(rig: Rig) -> None:
    artifacts = Artifacts(open_store(rig.settings, rig.redis), rig.settings)
    assert artifacts.put(b"same", "image/png") == artifacts.put(b"same", "image/png")
