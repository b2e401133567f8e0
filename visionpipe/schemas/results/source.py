"""Where a result's large outputs come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visionpipe.errors import ArtifactNotFetchedError
from visionpipe.schemas.images import ArtifactRef

Fetch = Callable[[ArtifactRef], bytes]
"""Fetches what an artifact reference names, such as ``Client.artifact``."""


class ArtifactSource:
    """Fetches the artifacts of one result when they are first needed, and keeps their bytes.

    It is no part of the result's value: equal to any other and to none at all, and left behind by pickle.

    Args:
        fetch: Fetches one; ``None`` where only what was kept by hand can be had.
    """

    __slots__ = ("_fetch", "_kept")

    def __init__(self, fetch: Fetch | None) -> None:
        self._fetch = fetch
        self._kept: dict[str, bytes] = {}

    def __eq__(self, other: object) -> bool:
        return other is None or isinstance(other, ArtifactSource)

    __hash__ = None  # type: ignore[assignment]

    def __deepcopy__(self, memo: dict[int, Any]) -> ArtifactSource:
        return self

    def __reduce__(self) -> tuple[Callable[[], None], tuple[()]]:
        return _nothing, ()

    def get(self, ref: ArtifactRef) -> bytes:
        """Give the bytes of an artifact.

        Raises:
            ArtifactNotFetchedError: It was not kept, and there is no way to fetch it.
            ArtifactExpiredError: It has outlived its time in the store.
        """
        if ref.key not in self._kept:
            if self._fetch is None:
                raise not_fetched(ref, "")
            self._kept[ref.key] = self._fetch(ref)
        return self._kept[ref.key]

    def keep(self, ref: ArtifactRef, data: bytes) -> None:
        """Take the bytes of an artifact that was fetched elsewhere."""
        self._kept[ref.key] = data


def not_fetched(ref: ArtifactRef, what: str) -> ArtifactNotFetchedError:
    """Say how a result gets hold of its artifacts."""
    return ArtifactNotFetchedError(
        f"Expected {what or 'the artifact'} to be at hand, but {ref.key} was not fetched. With an AsyncClient call "
        "`await client.load(result)` first; a result read from JSON or made by hand takes "
        "`result.bind(client.artifact)`.",
        key=ref.key,
    )


def _nothing() -> None:
    """Stand for a source that was left behind."""
