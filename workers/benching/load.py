"""Load through the real client: a closed loop with so many requests under way, or an open one at a rate."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import TYPE_CHECKING

from visionpipe.errors import VisionPipeError
from visionpipe.schemas.jobs import Lane
from visionpipe.schemas.requests import Options
from workers.benching.points import Point, Sample, closed_point, open_point

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

MIN_DONE = 12
"""Answers that a closed loop waits for beyond its time, where they are slow ..."""
PATIENCE = 4
"""... for at most so many times that time."""
CANCEL_S = 5.0

Ask = Callable[[int, float, float], Awaitable[Sample]]
"""Asks once: the request's number, when it was meant to be sent, and when the point began, by ``time.perf_counter``."""


class Asker:
    """Asks one thing of one image at a time.

    Args:
        client: A connected client.
        task: What to ask.
        model: Of which model.
        options: The task's options.
        images: Encoded pictures, taken in turns; none for a request without pictures.
        timeout_s: How long a request may take.
    """

    def __init__(
        self, client: AsyncClient, task: str, model: str, options: Options, images: Sequence[bytes], timeout_s: float
    ) -> None:
        self._client = client
        self._task = task
        self._model = model
        self._options = options
        self._images = images
        self._timeout_s = timeout_s

    async def __call__(self, number: int, meant_s: float, began_s: float) -> Sample:
        """Submit one request and wait for its answer."""
        images = [self._images[number % len(self._images)]] if self._images else []
        code, timings = None, {}
        job = None
        try:
            job = await self._client.submit(
                self._task, images, model=self._model, options=self._options, lane=Lane.INTERACTIVE
            )
            envelope = await job.wait(self._timeout_s)
            item = envelope.items[0] if envelope.items else None
            error = envelope.error or (item.error if item is not None else None)
            code = error.code if error is not None else None
            if item is not None and item.timings is not None:
                timings = item.timings.model_dump()
        except VisionPipeError as error:
            code = error.code
        except asyncio.CancelledError:
            if job is not None:
                with contextlib.suppress(VisionPipeError, TimeoutError):
                    async with asyncio.timeout(CANCEL_S):
                        await job.cancel()
            raise
        now = time.perf_counter()
        return Sample((now - meant_s) * 1000, now - began_s, code, timings)


async def closed_loop(ask: Ask, *, in_flight: int, seconds: float) -> Point:
    """Keep so many requests under way for some time; each is sent when another one is answered."""
    began = time.perf_counter()
    until, at_most = began + seconds, began + PATIENCE * seconds
    samples: list[Sample] = []
    numbers = itertools.count()
    stopped: list[float] = []

    async def go_on() -> None:
        while (now := time.perf_counter()) < until or (len(samples) < MIN_DONE and now < at_most):
            samples.append(await ask(next(numbers), now, began))
        stopped.append(time.perf_counter() - began)

    waiting = [asyncio.create_task(go_on()) for _ in range(in_flight)]
    late = await _finish(waiting, at_most - time.perf_counter())
    # From the moment at which the first of them stopped there were fewer under way.
    window_s = max(seconds, min(stopped, default=time.perf_counter() - began))
    now = time.perf_counter() - began
    samples += [Sample(now * 1000, now, unfinished=True) for _ in range(late)]
    return closed_point(samples, in_flight=in_flight, window_s=window_s)


async def open_loop(ask: Ask, *, per_s: float, seconds: float, seed: int = 0) -> Point:
    """Send requests at random moments (a Poisson process) at a rate, whatever becomes of those before.

    A request's time counts from the moment it was meant to be sent: a service that falls behind cannot slow down what
    would have come meanwhile, nor this process hide it by sending late.
    """
    draw, moments, at = random.Random(seed), list[float](), 0.0
    while (at := at + draw.expovariate(per_s)) < seconds:
        moments.append(at)
    began = time.perf_counter()
    samples: list[Sample] = []

    async def one(number: int, meant: float) -> None:
        samples.append(await ask(number, meant, began))

    tasks: list[asyncio.Task[None]] = []
    for number, moment in enumerate(moments):
        await asyncio.sleep(max(0.0, began + moment - time.perf_counter()))
        tasks.append(asyncio.create_task(one(number, began + moment)))
    await _finish(tasks, began + 2 * seconds - time.perf_counter())
    now = time.perf_counter() - began
    samples += [
        Sample((now - moment) * 1000, now, unfinished=True)
        for task, moment in zip(tasks, moments, strict=True)
        if task.cancelled()
    ]
    return open_point(samples, offered_per_s=per_s, window_s=seconds)


async def _finish(tasks: Sequence[asyncio.Task[None]], timeout_s: float) -> int:
    """Wait for requests, cancel those that take too long, and say how many those were; raises what one raised."""
    if tasks:
        await asyncio.wait(tasks, timeout=max(0.0, timeout_s))
    late = [task for task in tasks if not task.done()]
    for task in late:
        task.cancel()
    for outcome in await asyncio.gather(*tasks, return_exceptions=True):
        if isinstance(outcome, BaseException) and not isinstance(outcome, asyncio.CancelledError):
            raise outcome
    return len(late)
