"""From Celery's loop to the threads that claim: tickets wait here, a few, and are claimed together.

Celery would make a request, a future and a trace of each, which costs more than the claim itself.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

from visionpipe.schemas.jobs import Lane
from workers.engine import Engine
from workers.lanes import slices
from workers.threads import use_cores, vital
from workers.tickets import Ticket
from workers.window import Window
from workers.work import Work

THREADS = 4
"""Each claims, and prepares pictures that came with their claims."""
PREPARING = 2
"""Most threads that prepare instead of claiming: the others must go on claiming, however large a picture is."""
TOGETHER = 8
"""Most jobs that are claimed in one round trip."""


class Acceptor:
    """Claims the jobs that tickets name; safe in threads.

    Args:
        engine: Claims, and does the work.
        window: Counts tickets between their list and their claim.
    """

    def __init__(self, engine: Engine, window: Window) -> None:
        self._engine = engine
        self._window = window
        self._waiting: queue.SimpleQueue[Ticket | None] = queue.SimpleQueue()
        self._turn = threading.Lock()
        self._preparing = threading.Semaphore(PREPARING)
        self._threads = [vital(f"claim-{number}", self._run) for number in range(THREADS)]

    def start(self) -> None:
        """Start the threads."""
        for thread in self._threads:
            thread.start()

    def put(self, ticket: Ticket) -> None:
        """Have the job that a ticket names claimed soon."""
        self._window.expect(ticket.lane)
        self._waiting.put(ticket)

    def close(self, timeout_s: float) -> None:
        """Let the threads end after what they were given, and wait for so long."""
        self._waiting.put(None)
        until = time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))

    def strategy(self, _task: Any, _app: Any, consumer: Any) -> Callable[..., None]:
        """Be a Celery task's ``Strategy``: give what its consumer calls with each message."""
        # Celery's loop sleeps while there is no room for more tickets; it must hear when there is again.
        self._window.on_open(partial(consumer.call_soon, _nothing))

        def take(message: Any, *_: Any) -> None:
            # At once: not Celery's count of messages, but the window bounds what waits here.
            message.ack()
            self.put(Ticket.of(message))

        return take

    def _run(self) -> None:
        use_cores(1)
        while self._accept():
            pass

    def _accept(self) -> bool:
        """Claim what waits, and set it on its way; false at the end."""
        # One at a time: what comes meanwhile is claimed together by the next.
        with self._turn:
            tickets = self._take()
            claims = self._engine.claim([ticket.job for ticket in tickets])
        with self._window.reserved(claims):
            # Interactive tickets need not wait for the request of a large job to be read.
            for ticket in tickets:
                self._window.arrived(ticket.lane)
            begun = [work for claim in claims if claim.lane is not Lane.BULK for work in self._engine.begin(claim)]
            if bulk := [claim for claim in claims if claim.lane is Lane.BULK]:
                # Nor do pictures; and no lease is renewed until its job has begun, so no picture is decoded before.
                for work in begun:
                    self._engine.read_soon([work])
                begun.clear()
                for claim in bulk:
                    self._engine.begin(claim)
        if begun:
            self._read(begun)
        return bool(tickets)

    def _read(self, begun: list[Work]) -> None:
        if not self._preparing.acquire(blocking=False):
            self._engine.read_soon(begun)
            return
        # Tiny ones are not worth another thread; larger ones should not wait for each other.
        here = next(slices(begun))
        for work in begun[len(here) :]:
            self._engine.read_soon([work])
        self._engine.read_here(here)
        self._preparing.release()

    def _take(self) -> list[Ticket]:
        """Wait for a ticket, and take those behind it; none at the end."""
        tickets: list[Ticket] = []
        ticket = self._waiting.get()
        with suppress(queue.Empty):
            while ticket is not None and len(tickets) < TOGETHER - 1:
                tickets.append(ticket)
                ticket = self._waiting.get_nowait()
            if ticket is None:
                # For the other threads too.
                self._waiting.put(None)
            else:
                tickets.append(ticket)
        return tickets


def _nothing() -> None:
    """Do nothing, in Celery's loop: it looks for room after whatever it was woken for."""
