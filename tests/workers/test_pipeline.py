"""One micro-batch launched behind another, on a stand-in for a device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from tests.helpers.fake_cuda import FakeCuda
from visionpipe.schemas.jobs import Lane
from workers import pipeline
from workers import runtime as runtime_module
from workers.cuda_copies import Copies
from workers.hosted import HostedModel
from workers.pipeline import Pipeline

CPU = SimpleNamespace(device=SimpleNamespace(torch_device=torch.device("cpu")))


class Doubling:
    """Gives each image twice its number; some images cannot be launched, others not be answered."""

    hosted, is_long = CPU, False

    def __init__(
        self, copies: Copies, log: list[Any], *, fails: Sequence[int] = (), breaks: Sequence[int] = ()
    ) -> None:
        self.copies, self.log, self.fails, self.breaks = copies, log, fails, breaks
        self.room = 100

    def forward(self, batch: Sequence[Any]) -> Any:
        numbers = [work.number for work in batch]
        self.log.append(("launch", *numbers))
        if len(numbers) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory")
        if set(numbers) & set(self.fails):
            raise ValueError("cannot be launched")
        return self.copies.fetch(2.0 * torch.tensor(numbers))

    def results(self, outputs: Any, batch: Sequence[Any]) -> list[Any]:
        if {work.number for work in batch} & set(self.breaks):
            raise ValueError("cannot be answered")
        return [KeyError(value) for value in outputs.tolist()]


class Rig:
    """A pipeline, its device, and what came out of it."""

    def __init__(self, *, on_cpu: bool = False, **faults: Any) -> None:
        self.cuda = FakeCuda()
        self.log = self.cuda.log
        self.runtime: Any = Doubling(Copies(None if on_cpu else self.cuda), self.log, **faults)
        self.answers: dict[int, Any] = {}
        self.shrunk: list[tuple[str, int]] = []
        self.pipeline = Pipeline(self._finished, lambda *what: self.shrunk.append(what))

    def _finished(self, batch: list[Any], answers: list[Any]) -> None:
        self.log.append(("finished", *(work.number for work in batch)))
        told = [answer.args[0] if isinstance(answer, KeyError) else type(answer).__name__ for answer in answers]
        self.answers.update(zip((work.number for work in batch), told, strict=True))

    def run(self, *numbers: int) -> None:
        told = {"ready_at": 0.0, "num_pixels": 1, "request": SimpleNamespace(task="doubling")}
        works = [SimpleNamespace(number=number, times_ms={}, **told) for number in numbers]
        self.pipeline.run(self.runtime, works)  # type: ignore[arg-type]

    def order(self) -> Iterator[Any]:
        return (entry for entry in self.log if entry == "wait" or entry[0] in ("launch", "finished"))


def test_the_next_batch_is_launched_before_the_last_one_is_waited_for() -> None:
    rig = Rig()
    rig.run(1, 2)
    assert rig.pipeline.is_pending
    assert rig.answers == {}
    rig.run(3)
    rig.pipeline.finish()
    assert list(rig.order()) == [
        ("launch", 1, 2), ("launch", 3), "wait", ("finished", 1, 2), "wait", ("finished", 3),
    ]  # fmt: skip
    assert rig.answers == {1: 2.0, 2: 4.0, 3: 6.0}
    assert not rig.pipeline.is_pending


def test_on_a_cpu_each_batch_is_finished_before_the_next_begins() -> None:
    rig = Rig(on_cpu=True)
    rig.run(1)
    assert not rig.pipeline.is_pending
    rig.run(2)
    assert list(rig.order()) == [("launch", 1), ("finished", 1), ("launch", 2), ("finished", 2)]


def test_slow_batches_are_waited_for_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "QUICK_S", -1.0)
    rig = Rig()
    rig.run(1)
    assert rig.answers == {1: 2.0}


@pytest.mark.parametrize("fault", ["fails", "breaks"])
def test_a_guilty_image_spoils_neither_its_batch_nor_the_one_before(fault: str) -> None:
    rig = Rig(**{fault: [3]})
    rig.run(1)
    rig.run(2, 3, 4)
    rig.pipeline.finish()
    assert rig.answers == {1: 2.0, 2: 4.0, 3: "ValueError", 4: 8.0}
    assert rig.shrunk == []


def test_want_of_memory_halves_the_batch_and_is_told_after_the_one_before_is_safe() -> None:
    rig = Rig()
    rig.run(1)
    rig.runtime.room = 2
    rig.run(2, 3, 4, 5)
    assert ("finished", 1) in rig.log
    rig.pipeline.finish()
    assert rig.answers == {number: 2.0 * number for number in range(1, 6)}
    assert rig.shrunk == [("doubling", 4)]


def test_a_broken_device_ends_the_thread() -> None:
    rig = Rig()

    def broken(batch: Any) -> Any:
        raise torch.AcceleratorError("CUDA error: device-side assert triggered")

    rig.runtime.forward = broken
    with pytest.raises(torch.AcceleratorError):
        rig.run(1)


def test_time_is_counted_once_though_batches_overlap(monkeypatch: pytest.MonkeyPatch) -> None:
    times: list[float] = []

    def tick() -> float:
        times.append(float(len(times)))
        return times[-1]

    for module in (pipeline, runtime_module):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=tick))
    monkeypatch.setattr(pipeline, "QUICK_S", 1e9)
    rig = Rig()
    for number in range(5):
        rig.run(number)
    rig.pipeline.finish()
    assert rig.pipeline.busy_s == times[-1] - times[0]


def test_batches_of_long_tasks_are_launched_alone_so_that_their_time_is_theirs() -> None:
    rig = Rig()
    rig.run(1)
    rig.runtime.is_long = True
    rig.run(2)
    rig.pipeline.finish()
    assert [entry for entry in rig.order() if entry != "wait"] == [
        ("launch", 1), ("finished", 1), ("launch", 2), ("finished", 2),
    ]  # fmt: skip


def test_whole_jobs_get_their_own_answers_through_batches_in_flight(
    rig: Any, hosted: HostedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    levels = [[level, 255 - level, level // 2] for level in range(0, 250, 25)]
    expected = [rig.answers(rig.submit(some)) for some in levels]
    assert "internal_error" in expected[0]
    assert len({tuple(some) for some in expected}) > 1
    cuda = FakeCuda()
    monkeypatch.setattr(hosted, "copies", Copies(cuda))
    jobs = [rig.submit(some, lane=lane) for some in levels for lane in (Lane.BULK, Lane.INTERACTIVE)]
    assert [rig.answers(job) for job in jobs] == [some for some in expected for _ in range(2)]
    kinds = [entry if isinstance(entry, str) else entry[0] for entry in cuda.log]
    assert kinds.count("fetch") == kinds.count("wait") > 0
    # Levels travel as the bytes they are; a batch with a picture of 255 in it fails once it is there, and is halved.
    sent = [entry for entry in cuda.log if entry[0] == "send" and entry[2] == torch.uint8]
    assert len(sent) > kinds.count("fetch")
