"""When whoever keeps the queue sweeps it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from visionpipe.queue import calls
from visionpipe.queue.call import run
from visionpipe.queue.records import Swept
from visionpipe.settings import Settings

if TYPE_CHECKING:
    from redis import Redis


class Sweeper:
    """Sweeps the queue every ``sweep_s``; for one thread.

    Args:
        redis: The queue.
        settings: How long leases are, and how often to sweep.
    """

    def __init__(self, redis: Redis, settings: Settings) -> None:
        self._redis = redis
        self._settings = settings
        self._last = time.monotonic()
        self._was_silent = False
        self.due_at = self._last
        """Monotonic time of the next sweep."""

    def note_silence(self) -> None:
        """Note that Redis did not answer, whatever was asked: leases could not be renewed meanwhile."""
        self._was_silent = True

    def sweep(self, now: float) -> Swept | None:
        """Sweep if it is time to; gives what was done, if anything was looked at.

        Raises:
            ServiceError: Redis does not answer.
        """
        if now < self.due_at:
            return None
        settings = self._settings
        # Without a word of silence this process was stopped itself, or sweeps seldom.
        usual_s = 0.0 if self._was_silent else 2 * max(settings.sweep_s, settings.renew_s)
        if now - self._last > max(settings.lease_s / 2, usual_s):
            # So long an outage may have outlasted the leases of workers that live: first they renew them.
            run(self._redis, calls.workers())
            swept, wait_s = None, settings.renew_s
        else:
            swept, wait_s = run(self._redis, calls.sweep(settings)), settings.sweep_s
        self._last, self.due_at, self._was_silent = now, now + wait_s, False
        return swept
