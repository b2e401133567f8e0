"""Keeping large outputs beside the results."""

from __future__ import annotations

import logging
from collections.abc import Callable

from visionpipe.errors import ServiceError
from visionpipe.schemas.images import ArtifactRef
from visionpipe.settings import Settings
from visionpipe.store import Store, put_artifact
from workers.persist import persist

logger = logging.getLogger("visionpipe.artifacts")


class Artifacts:
    """Writes artifacts into the store; safe in threads.

    Args:
        store: Where they go.
        settings: How long they live, and for how long an absent store is borne.
    """

    def __init__(self, store: Store, settings: Settings) -> None:
        self._store = store
        self._settings = settings

    def put(self, data: bytes, media_type: str, *, stop: Callable[[], bool] = lambda: False) -> ArtifactRef:
        """Store one, trying for as long as a lease lasts, or until that is no longer worth while.

        Raises:
            QueueUnavailableError: The store cannot be reached.
        """
        return persist(lambda: self._put(data, media_type), give_up_s=self._settings.lease_s, stop=stop)

    def try_put(self, data: bytes, media_type: str) -> ArtifactRef | None:
        """Store one at the first attempt, or give ``None``."""
        try:
            return self._put(data, media_type)
        except ServiceError as error:
            logger.warning("a preview was not kept: %s", error)
            return None

    def _put(self, data: bytes, media_type: str) -> ArtifactRef:
        return put_artifact(self._store, data, media_type, self._settings)
