"""Calls to the queue that outlast a short absence of Redis. Every call made here may safely be made twice."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from redis import Redis
from redis.exceptions import ConnectionError as LostError
from redis.exceptions import NoScriptError, RedisError

from visionpipe.errors import ServiceError
from visionpipe.queue import Call, run
from visionpipe.queue.call import refusal

T = TypeVar("T")
logger = logging.getLogger("visionpipe.persist")

FIRST_PAUSE_S = 0.1
MAX_PAUSE_S = 2.0


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


def run_all(redis: Redis, calls: Sequence[Call[T]]) -> list[T | None]:
    """Perform calls in one round trip; ``None`` for each that Redis refused.

    Raises:
        ServiceError: Redis cannot be reached, or has no memory left.
    """
    if len(calls) == 1:
        return [run(redis, calls[0])]
    pipeline = redis.pipeline(transaction=False)
    for call in calls:
        pipeline.evalsha(call.script.sha, 0, *call.args)
    try:
        answers = pipeline.execute(raise_on_error=False)
        if any(isinstance(answer, NoScriptError) for answer in answers):
            for script in {call.script for call in calls}:
                redis.script_load(script.text)
            return [run(redis, call) for call in calls]
    except RedisError as error:
        raise refusal(error) from error
    for answer in answers:
        if isinstance(answer, LostError):
            # It is loading what it had before it was started again.
            raise refusal(answer) from answer
        if isinstance(answer, Exception):
            logger.warning("Redis refused a call: %s", answer)
    return [
        None if isinstance(answer, Exception) else call.parse(answer)
        for call, answer in zip(calls, answers, strict=True)
    ]
