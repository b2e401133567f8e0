"""Which files workers can read by themselves, so that a reference is enough to send."""

from __future__ import annotations

import time
from functools import partial

from visionpipe.mapping import Read
from visionpipe.media import MediaRoots
from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.settings import Settings
from visionpipe.sources import Reference, prepare
from visionpipe.transport import Transport

WORKERS_FRESH_S = 5.0
"""For how long the workers' announcements are believed without asking again."""


class References:
    """Makes images ready to travel: by reference where every worker of a model mounts the folder they lie in.

    Args:
        transport: Where workers are announced.
        settings: Media roots and limits.
    """

    def __init__(self, transport: Transport, settings: Settings) -> None:
        self._transport = transport
        self._max_bytes = settings.max_image_bytes
        self._media = MediaRoots(settings.media_roots)
        self._workers: tuple[float, list[WorkerRecord]] = (float("-inf"), [])

    async def reader(self, model: str) -> Read:
        """Give what makes an image ready to travel to a model, ``name`` or ``name@digest``."""
        reference = await self._reference(model) if self._media.names else None
        return partial(prepare, max_bytes=self._max_bytes, reference=reference)

    async def _reference(self, model: str) -> Reference | None:
        read_at, workers = self._workers
        if time.monotonic() - read_at > WORKERS_FRESH_S:
            workers = await self._transport.workers()
            self._workers = (time.monotonic(), workers)
        name, _, digest = model.partition("@")
        serving = [set(w.media_roots) for w in workers if w.model == name and digest in ("", w.digest)]
        # Any of them may get the job, so a root that one of them lacks is of no use.
        shared = set.intersection(*serving) if serving else set()
        return partial(self._media.reference, among=shared) if shared else None
