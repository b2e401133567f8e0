"""Pictures that the options of a run name, such as styles: kept in the store for as long as the run lasts."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from visionpipe.errors import QueueUnavailableError
from visionpipe.sources import Prepared, prepare, upload_ref

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

AGAIN = 4
"""They are stored anew so many times within their lifetime, since a run may last longer than that."""

_log = logging.getLogger(__name__)


class Pictures:
    """Makes references of pictures, by their content: the same picture gives the same options on every resume.

    Args:
        max_bytes: Largest encoded picture.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._pixels: dict[str, Prepared] = {}

    def refer(self, source: str) -> dict[str, Any]:
        """Give the reference of a path or URL, as JSON data.

        Raises:
            ImageError: It cannot be read here or is too large.
        """
        prepared = prepare(source, max_bytes=self._max_bytes)
        ref = prepared.ref
        if ref is None:
            # Without its name: the run is the same wherever the picture lies.
            ref = upload_ref(Prepared(None, prepared.data))
            self._pixels[ref.key] = prepared
        data: dict[str, Any] = ref.model_dump(mode="json")
        return data

    @asynccontextmanager
    async def kept(self, client: AsyncClient) -> AsyncIterator[None]:
        """Have the pictures in the store while the context lasts."""
        await self._store(client)
        keeping = asyncio.create_task(self._keep(client), name="vp-pictures")
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)

    async def _keep(self, client: AsyncClient) -> None:
        while self._pixels:
            await asyncio.sleep(client.settings.upload_ttl_s / AGAIN)
            try:
                await self._store(client)
            except QueueUnavailableError as error:
                _log.warning("pictures of the options were not kept alive, trying again later: %s", error)

    async def _store(self, client: AsyncClient) -> None:
        for prepared in self._pixels.values():
            await client.upload(prepared.data)
