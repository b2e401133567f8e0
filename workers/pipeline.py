"""Micro-batches one after another on the device, the next one launched before the results of the last are waited for.

Between two batches a GPU would otherwise idle while Python stacks the one and names the results of the other. On a CPU,
where launching is computing, each batch is finished before the next begins.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from workers.runtime import Answer, Begun, Runtime, begin_batch, finish_batch
from workers.work import Work

QUICK_S = 0.05
"""Batches that take longer are waited for one by one: launching costs them little, and interactive work would wait."""


class Pipeline:
    """At most one micro-batch on its way back and one launched behind it; used by the device thread alone.

    Args:
        finished: Told of the images of a batch and their answers.
        out_of_memory: Told the task and the size of a batch for which the memory did not suffice.

    Attributes:
        busy_s: How long the device has computed.
        last_s: The same for the batch that was finished last.
    """

    def __init__(
        self, finished: Callable[[list[Work], list[Answer]], None], out_of_memory: Callable[[str, int], None]
    ) -> None:
        self._finished = finished
        self._out_of_memory = out_of_memory
        self._pending: Begun | None = None
        self._ended = 0.0
        self.busy_s = self.last_s = 0.0

    @property
    def is_pending(self) -> bool:
        """Whether a batch waits to be finished."""
        return self._pending is not None

    def run(self, runtime: Runtime, batch: list[Work]) -> None:
        """Launch a batch and finish the one before it; also this one, unless the device still computes it."""
        if runtime.is_long:
            # Its batches are computed when they are launched: their time would be taken for that of the one before.
            self.finish()
        begun = begin_batch(runtime, batch)
        self.finish()
        self._pending = begun
        if not begun.is_pending or self.last_s > QUICK_S:
            self.finish()

    def finish(self) -> None:
        """Wait for the batch on its way, if there is one, and hand over its answers."""
        begun, self._pending = self._pending, None
        if begun is None:
            return
        answers = finish_batch(begun, partial(self._out_of_memory, begun.batch[0].request.task))
        now = time.monotonic()
        self.last_s = now - max(begun.started, self._ended)
        self.busy_s += self.last_s
        self._ended = now
        self._finished(list(begun.batch), answers)
