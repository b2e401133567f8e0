"""Where an image lies, and where a large output was put."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from visionpipe.schemas.base import Schema

MAX_INLINE_BYTES = 8_000
"""Larger images never ride inside a request."""


class _Image(Schema):
    """What every reference carries."""

    name: str | None = Field(default=None, max_length=1024)
    """The caller's own word for this image, repeated in its item; never opened."""


class BlobImage(_Image):
    """Pixels that the client put into the store."""

    kind: Literal["blob"] = "blob"
    """Selects this kind of reference."""
    key: str = Field(pattern=r"^(blob|upload):[A-Za-z0-9_.:-]{1,200}$")
    """``blob:<job>:<i>`` lives as long as its job; ``upload:<sha256>`` until its own time is up."""
    size_bytes: int = Field(ge=0)
    """Length of the encoded image, in bytes."""
    sha256: str | None = Field(default=None, pattern=r"^[0-9a-f]{64}$")
    """Checked by the worker when given."""


class MediaImage(_Image):
    """A file below a media root that client and worker both mount."""

    kind: Literal["media"] = "media"
    """Selects this kind of reference."""
    root: str = Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")
    """Name of the media root."""
    path: str = Field(min_length=1, max_length=4096)
    """Path relative to the root, with forward slashes; never leaves the root."""
    size_bytes: int = Field(ge=0)
    """Size when submitted; the worker refuses another."""
    mtime_ns: int
    """Modification time when submitted, in nanoseconds; the worker refuses another."""


class UrlImage(_Image):
    """An http(s) URL that the worker fetches."""

    kind: Literal["url"] = "url"
    """Selects this kind of reference."""
    url: str = Field(pattern=r"^https?://", max_length=4096)
    """Must resolve to public addresses, unless the workers allow private ones."""


class InlineImage(_Image):
    """A tiny image inside the request itself."""

    kind: Literal["inline"] = "inline"
    """Selects this kind of reference."""
    data: bytes = Field(min_length=1, max_length=MAX_INLINE_BYTES)
    """The encoded image; base64 in JSON."""


ImageRef = Annotated[BlobImage | MediaImage | UrlImage | InlineImage, Field(discriminator="kind")]
"""Names one image, wherever it lies."""


class ArtifactRef(Schema):
    """A large output (mask, picture, heat map), stored by its content beside the result."""

    key: str = Field(pattern=r"^artifact:[0-9a-f]{64}$")
    """``artifact:<sha256 of the bytes>``."""
    media_type: str
    """For example ``image/png`` or ``application/x-npy``."""
    size_bytes: int = Field(ge=0)
    """Length in bytes."""
