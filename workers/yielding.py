"""Lets other work step aside, for moments, while quick interactive work is on its way through the worker."""

from __future__ import annotations

import threading
import time

from visionpipe.schemas.jobs import Lane

ASIDE_S = 0.03
"""How long one step of bulk work stands aside at most, so that steady interactive work slows it and never stops it."""
LIVELY_S = 2.0
"""For so long after a quick interactive image more of them are expected."""


class RightOfWay:
    """Counts interactive images between claim and commit; safe in threads.

    Python lets one thread run at a time: a bulk image decoded now delays an interactive one that is about to be read.
    """

    def __init__(self) -> None:
        self._under_way = 0
        self._entered = float("-inf")
        self._changed = threading.Condition()

    def enter(self, lane: Lane, num_items: int) -> None:
        """Count images that were claimed."""
        if lane is Lane.INTERACTIVE:
            with self._changed:
                self._under_way += num_items
                self._entered = time.monotonic()

    @property
    def is_lively(self) -> bool:
        """Whether quick interactive images are here or came lately, so that no step should be long."""
        return self._under_way > 0 or time.monotonic() - self._entered < LIVELY_S

    def leave(self, lane: Lane, num_items: int = 1) -> None:
        """Count images that have left the worker."""
        if lane is Lane.INTERACTIVE and num_items:
            with self._changed:
                self._under_way -= num_items
                if self._under_way == 0:
                    self._changed.notify_all()

    def step_aside(self, lane: Lane, *, quick: bool) -> None:
        """Wait, before a step of bulk or long work, until no quick interactive image is under way, but not for long."""
        if self._under_way and not (quick and lane is Lane.INTERACTIVE):
            with self._changed:
                self._changed.wait_for(lambda: self._under_way == 0, ASIDE_S)
