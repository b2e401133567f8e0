"""A worker's way from a reference to the encoded image."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from visionpipe.errors import ImageChangedError, ImageExpiredError, ImageNotFoundError, ImageTooLargeError
from visionpipe.media import Folders, MediaRoots
from visionpipe.schemas.images import BlobImage, ImageRef, InlineImage, MediaImage
from visionpipe.settings import Settings
from visionpipe.store import Store

if TYPE_CHECKING:
    from visionpipe.urls import UrlFetcher


class Fetcher:
    """Reads what any ``ImageRef`` names; safe in threads.

    Args:
        store: Where blobs and uploads lie.
        settings: For the limits and the rules about URLs.
        media_roots: The folders mounted here; none of the settings' own are added.
    """

    def __init__(self, store: Store, settings: Settings, media_roots: Mapping[str, Path]) -> None:
        self._store = store
        self._settings = settings
        self._media = MediaRoots(media_roots)
        self._urls: UrlFetcher | None = None

    def fetch(self, ref: ImageRef, folders: Folders | None = None, stored: bytes | None = None) -> bytes:
        """Read the encoded image.

        Args:
            ref: Where it lies.
            folders: Those of media roots that are open already.
            stored: What lies in the store, where that is known already.

        Raises:
            ImageError: One of its kinds says why it cannot be had.
            QueueUnavailableError: Redis or the store holds the pixels and cannot be used.
            TooManyFilesError: This process has no descriptor left.
        """
        match ref:
            case InlineImage():
                return ref.data
            case BlobImage():
                return self._stored(ref, stored)
            case MediaImage():
                return self._media.read(ref, max_bytes=self._settings.max_image_bytes, folders=folders)
            case _:
                return self._url_fetcher().fetch(ref.url)

    def _stored(self, ref: BlobImage, data: bytes | None) -> bytes:
        limit = self._settings.max_image_bytes
        if ref.size_bytes > limit:
            raise ImageTooLargeError(f"image has {ref.size_bytes} bytes; the limit is {limit}", limit=limit)
        try:
            data = self._store.get(ref.key) if data is None else data
        except ValueError as error:
            raise ImageNotFoundError(str(error)) from error
        if data is None:
            raise ImageExpiredError(f"the pixels of {ref.key} are no longer in the store; submit the image again")
        if len(data) != ref.size_bytes or ref.sha256 not in (None, hashlib.sha256(data).hexdigest()):
            raise ImageChangedError(f"{ref.key} holds other bytes than were submitted ({ref.size_bytes} expected)")
        return data

    def _url_fetcher(self) -> UrlFetcher:
        # httpx costs a tenth of a second to import, and most workers never see a URL.
        from visionpipe.urls import UrlFetcher

        if self._urls is None:
            self._urls = UrlFetcher(
                max_bytes=self._settings.max_image_bytes,
                timeout_s=self._settings.url_timeout_s,
                allow_private=self._settings.url_allow_private,
            )
        return self._urls
