"""A chunk of a stream is sent again where that helps, and not where it does not."""

from __future__ import annotations

from typing import Any

import pytest

from visionpipe import patience
from visionpipe.errors import NoWorkerError, QueueFullError, QueueUnavailableError, UnknownJobError
from visionpipe.patience import MAX_LOST, Patience


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


@pytest.fixture(autouse=True)
def _answers(monkeypatch: pytest.MonkeyPatch) -> None:
    async def outcomes(job: Any) -> Any:
        if isinstance(job, Exception):
            raise job
        return job

    monkeypatch.setattr(patience, "_outcomes", outcomes)


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


async def test_a_job_that_vanished_is_sent_again_a_few_times() -> None:
    gone = UnknownJobError("gone")
    assert await Patience().answers(Scripted(gone, gone, "done").send, []) == "done"
    scripted = Scripted(*[gone] * 50)
    with pytest.raises(UnknownJobError):
        await Patience().answers(scripted.send, [])
    assert scripted.sent == MAX_LOST + 1
