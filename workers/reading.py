"""From a reference to decoded pixels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from models.images import Decoded, decode
from visionpipe.fetch import Fetcher
from visionpipe.media import Folders
from visionpipe.schemas.images import ImageRef
from visionpipe.settings import Settings
from workers.persist import persist

if TYPE_CHECKING:
    from torch import Tensor

    from workers.work import Work


Decoder = Callable[[bytes], "tuple[Tensor, tuple[int, int]] | None"]


class Reader:
    """Fetches and decodes images; safe in threads.

    Args:
        fetcher: Where encoded images come from.
        settings: Limits on them, and for how long an absent Redis is borne.
    """

    def __init__(self, fetcher: Fetcher, settings: Settings) -> None:
        self._fetcher = fetcher
        self._settings = settings

    def read(self, ref: ImageRef) -> Decoded:
        """Read an image that the options of a job name.

        Raises:
            ImageError: It cannot be had.
            ModelError: It cannot be decoded, or is too large.
        """
        data = persist(lambda: self._fetcher.fetch(ref), give_up_s=self._settings.lease_s)
        return self._decode(data)

    def fill(
        self,
        work: Work,
        ref: ImageRef,
        enough_px: int | None = None,
        folders: Folders | None = None,
        decoder: Decoder | None = None,
    ) -> None:
        """Set the pixels of one image's work, its size, and how long both steps took; raises as ``read`` does.

        Args:
            work: To fill; fetched before or not.
            ref: Where its image lies.
            enough_px: See ``models.images.decode``.
            folders: Open folders of media roots.
            decoder: Tried first; see ``Runtime.decoder``.
        """
        data = work.encoded if work.encoded is not None else self.fetch(work, ref, folders)
        work.encoded, fetched = None, time.monotonic()
        is_allowed = len(data) <= self._settings.max_image_bytes
        found = decoder(data) if decoder is not None and is_allowed else None
        if found is not None:
            work.prepared, work.size_wh = found
        else:
            work.image = self._decode(data, None if self._settings.full_decode else enough_px)
            work.size_wh = work.image.size_wh
        work.times_ms["decode_ms"] = (time.monotonic() - fetched) * 1000

    def fetch(self, work: Work, ref: ImageRef, folders: Folders | None = None) -> bytes:
        """Give the encoded bytes of one image's work, and note how long that took.

        Raises:
            ImageError: They cannot be had.
            QueueUnavailableError: Redis or the store stays away.
        """
        started = time.monotonic()
        stored = work.job.take_pixels(ref)
        data = persist(
            lambda: self._fetcher.fetch(ref, folders, stored),
            give_up_s=self._settings.lease_s,
            stop=lambda: work.job.dropped,
        )
        work.times_ms["fetch_ms"] = (time.monotonic() - started) * 1000
        return data

    def _decode(self, data: bytes, enough_px: int | None = None) -> Decoded:
        limits = self._settings
        return decode(data, max_bytes=limits.max_image_bytes, max_pixels=limits.max_image_pixels, enough_px=enough_px)
