"""A chunk of a stream is sent again where that helps, and not where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from visionpipe import patience
from visionpipe.errors import (
    NoWorkerError,
    QueueFullError,
    QueueUnavailableError,
    ResultTimeoutError,
    UnknownJobError,
)
from visionpipe.jobs import OUTAGE_S
from visionpipe.patience import AWAY_S, MAX_LOST, Patience


class Scripted:
    """Plays a submission and its job: each sending does what comes next in a script."""

    def __init__(self, *script: Exception | str) -> None:
        self._script = list(script)
        self.sent = 0

    async def send(self, _: Any) -> Any:
        self.sent += 1
        step = self._script.pop(0)
        if isinstance(step, Exception) and not isinstance(step, UnknownJobError):
            raise step
        return step


class Waits:
    """A job whose every wait does what comes next in a script."""

    def __init__(self, *script: Exception | str) -> None:
        self._script = list(script)
        self.timeouts: list[float | None] = []

    def wait(self, timeout: float | None) -> str:
        self.timeouts.append(timeout)
        step = self._script.pop(0)
        if isinstance(step, Exception):
            raise step
        return step


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def outcomes(job: Any, timeout: float | None) -> Any:
        if isinstance(job, Waits):
            return job.wait(timeout)
        if isinstance(job, Exception):
            raise job
        return job

    monkeypatch.setattr(patience, "_outcomes", outcomes)


def away() -> QueueUnavailableError:
    return QueueUnavailableError("away")


def full() -> QueueFullError:
    return QueueFullError("full", retry_after_s=0.0)


@pytest.mark.parametrize("error", [NoWorkerError("none"), QueueUnavailableError("away")], ids=["no worker", "no Redis"])
async def test_what_was_never_there_is_told_at_once(error: Exception) -> None:
    with pytest.raises(type(error)):
        await Patience().answers(Scripted(error).send, [])


@pytest.mark.parametrize("error", [NoWorkerError("none"), QueueUnavailableError("away")], ids=["no worker", "no Redis"])
async def test_what_was_there_before_is_waited_for_but_not_for_ever(
    error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(patience, "AGAIN_S", 0.01)
    bearing = Patience()
    assert await bearing.answers(Scripted("first").send, []) == "first"
    assert await bearing.answers(Scripted(error, error, "second").send, []) == "second"
    monkeypatch.setattr(patience, "AWAY_S", 0.05)
    with pytest.raises(type(error)):
        await bearing.answers(Scripted(*[error] * 50).send, [])


async def test_a_full_queue_is_waited_for() -> None:
    scripted = Scripted(full(), full(), "done")
    assert await Patience().answers(scripted.send, []) == "done"
    assert scripted.sent == 3


async def test_a_full_queue_shows_that_redis_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AWAY_S", 0.05)
    monkeypatch.setattr(patience, "AGAIN_S", 0.0)
    bearing = Patience()
    await bearing.answers(Scripted("first").send, [])
    later = QueueFullError("full", retry_after_s=0.1)
    assert await bearing.answers(Scripted(away(), later, away(), "second").send, []) == "second"


async def test_an_accepted_job_is_waited_for_again_when_redis_comes_back() -> None:
    slow = ResultTimeoutError("it goes on")
    job = Waits(away(), slow, away(), "done")
    scripted = Scripted(job)  # type: ignore[arg-type]
    assert await Patience().answers(scripted.send, []) == "done"
    assert scripted.sent == 1
    # The first of two outages ended with an answer in time, so the second has its whole time again.
    left_s = pytest.approx(AWAY_S - OUTAGE_S, abs=1)
    assert job.timeouts == [None, left_s, None, left_s]


async def test_an_accepted_job_is_not_waited_for_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "AWAY_S", OUTAGE_S)
    job = Waits(away(), "never")
    with pytest.raises(QueueUnavailableError):
        await Patience().answers(Scripted(job).send, [])  # type: ignore[arg-type]
    assert job.timeouts == [None]


async def test_a_job_that_vanished_is_sent_again_a_few_times() -> None:
    gone = UnknownJobError("gone")
    assert await Patience().answers(Scripted(gone, gone, "done").send, []) == "done"
    scripted = Scripted(*[gone] * 50)
    with pytest.raises(UnknownJobError):
        await Patience().answers(scripted.send, [])
    assert scripted.sent == MAX_LOST + 1
