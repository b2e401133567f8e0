"""Calls to the queue that outlast a short absence of Redis. Every call made here may safely be made twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any, TypeVar

from redis import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import NoScriptError, OutOfMemoryError, ReadOnlyError, RedisError
from redis.exceptions import TimeoutError as SilentError

from visionpipe.errors import ServiceError
from visionpipe.queue import Call
from visionpipe.queue.call import again, refusal
from visionpipe.queue.scripts import Script

T = TypeVar("T")
logger = logging.getLogger("visionpipe.persist")

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0

_UNFIT = (NoScriptError, LostError, ReadOnlyError, OutOfMemoryError)
_UNFIT_WORDS = ("MISCONF", "BUSY", "MASTERDOWN", "CLUSTERDOWN", "NOREPLICAS")
"""What the server answers while it can do nothing for anybody, whatever was asked."""


def persist(attempt: Callable[[], T], *, give_up_s: float, stop: Callable[[], bool] = lambda: False) -> T:
    """Try until Redis answers.

    Args:
        attempt: What to try.
        give_up_s: For how long.
        stop: Whether it is no longer worth it.

    Raises:
        ServiceError: The last refusal: Redis is away, or has no memory left.
    """
    give_up, pause = time.monotonic() + give_up_s, FIRST_PAUSE_S
    while True:
        try:
            return attempt()
        except ServiceError as error:
            if stop() or time.monotonic() + pause > give_up:
                raise
            logger.warning("trying again in %.1f s: %s", pause, error)
            time.sleep(pause)
            pause = min(pause * 2, MAX_PAUSE_S)


def run_all(redis: Redis, calls: Sequence[Call[T]], *, patient: bool = True) -> list[T | None]:
    """Perform calls in one round trip; ``None`` for each that Redis refused for what it is.

    Args:
        redis: A blocking client.
        calls: What to perform.
        patient: Whether to try again where Redis was silent, which takes ``SILENT_S`` each time.

    Raises:
        ServiceError: Redis cannot be reached, takes no writes, or has no memory left.
    """
    spent: set[str] = set()
    while True:
        try:
            answers = _answers(redis, calls)
            break
        except RedisError as error:
            if isinstance(error, SilentError) and not patient:
                raise refusal(error) from error
            if again(error, spent):
                _load(redis, {call.script for call in calls})
    return [_read(call, answer) for call, answer in zip(calls, answers, strict=True)]


def _answers(redis: Redis, calls: Sequence[Call[T]]) -> list[Any]:
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        pipeline.evalsha(call.script.sha, 0, *call.args)
    answers: list[Any] = pipeline.execute(raise_on_error=False)
    for answer in answers:
        if isinstance(answer, _UNFIT) or (isinstance(answer, RedisError) and str(answer).startswith(_UNFIT_WORDS)):
            raise answer
    return answers


def _load(redis: Redis, scripts: Iterable[Script]) -> None:
    try:
        for script in scripts:
            redis.script_load(script.text)
    except RedisError as error:
        raise refusal(error) from error


def _read(call: Call[T], answer: Any) -> T | None:
    if isinstance(answer, Exception):
        logger.warning("Redis refused a call: %s", answer)
        return None
    try:
        return call.parse(answer)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        # One damaged job must not cost the others of its round trip.
        logger.warning("an answer of Redis cannot be read: %.200r", error)
        return None
