"""All settings, read in one place: argument, then ``VISIONPIPE_`` environment variable, then default."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

from visionpipe.errors import SettingsError
from visionpipe.redis_url import check_redis_url


class Settings(BaseModel):
    """One deployment's settings; every process of it must agree on the queue's.

    Made directly it is plain values and defaults; ``load_settings`` reads the environment too.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, defer_build=True, hide_input_in_errors=True)

    redis_url: Annotated[str, AfterValidator(check_redis_url)] | None = Field(default=None, repr=False)
    """``redis://``, ``rediss://`` or ``unix://`` URL; unset means the embedded one; workers and clients need it."""
    data_dir: Path = Path("~/.local/share/visionpipe")
    """Where the embedded Redis, compiled networks, logs and measured latencies are kept."""
    models: Path | None = None
    """Folder with one sub-folder per user model (``card.toml`` and weights)."""
    media_roots: dict[str, Path] = {}
    """Named folders that client and workers both mount: ``{"scans": "/mnt/scans"}``."""

    store_url: str | None = Field(default=None, repr=False)
    """fsspec URL for pixels and artifacts; unset means Redis."""
    blob_ttl_s: float = Field(default=3600, gt=0)
    """Life of a job's pixels without a client or lease that refreshes them."""
    upload_ttl_s: float = Field(default=86400, gt=0)
    """Life of an explicit upload."""
    result_ttl_s: float = Field(default=86400, gt=0)
    """Life of a finished job's record and results."""
    artifact_ttl_s: float = Field(default=86400, gt=0)
    """Life of an artifact."""

    max_queued_items: int = Field(default=100_000, gt=0)
    """Bound on the images waiting in one lane of one model."""
    lease_s: float = Field(default=30, gt=0)
    """A worker silent for so long has lost its jobs."""
    renew_s: float = Field(default=5, gt=0)
    """How often a worker renews leases and announces itself."""
    sweep_s: float = Field(default=5, gt=0)
    """How often expired leases, deadlines and lost tickets are looked for."""
    max_marks: int = Field(default=2, gt=0)
    """An image that was marked when its worker died, so many times, is poison."""
    max_attempts: int = Field(default=10, gt=0)
    """A job whose workers died so many times while none of its images was marked fails as poison."""

    max_image_bytes: int = Field(default=256 * 2**20, gt=0)
    """Largest encoded image, in bytes."""
    max_image_pixels: int = Field(default=178_956_970, gt=0)
    """Largest decoded image, in pixels, read from the header before decoding."""
    url_timeout_s: float = Field(default=20, gt=0)
    """Time for one whole URL fetch."""
    url_allow_private: bool = False
    """Whether a URL may point to a private or loopback address."""

    decode_threads: int = Field(default=0, ge=0)
    """Decode threads of a worker; 0 means the number of cores, at most 16."""
    full_decode: bool = False
    """Whether workers decode every JPEG in full, also where the network wants far fewer pixels."""
    compile: Literal["auto", "now", "off"] = "auto"
    """Whether a worker on a CPU compiles its network beside serving: once that pays, at once, or never."""
    cuda_memory: float | None = Field(default=None, gt=0)
    """Memory a worker may take on a CUDA device: up to 1 a share of it, above that GiB; unset means an equal part."""
    cuda_workers: int = Field(default=1, gt=0)
    """How many workers share one CUDA device; commands that start several count them."""
    cuda_decode: Literal["auto", "off"] = "auto"
    """Whether workers decode JPEGs on a CUDA device where that is quicker than their cores, or never."""
    drain_s: float = Field(default=60, gt=0)
    """How long a worker finishes what it holds after SIGTERM, before handing it back."""
    hang_s: float = Field(default=600, gt=0)
    """A single device step longer than this ends the worker process."""
    http_port: int | None = Field(default=None, ge=0, le=65535)
    """Port for /healthz, /readyz and /metrics of a worker; 0 takes a free one, unset serves none."""
    http_host: str = "127.0.0.1"
    """Address for the same."""


def load_settings(**overrides: Any) -> Settings:
    """Read the settings; arguments that are ``None`` do not override.

    Raises:
        SettingsError: A value is not allowed; the message names the variable.
    """
    try:
        found = _environment()(**{name: value for name, value in overrides.items() if value is not None})
        return Settings(**found.model_dump(exclude_unset=True))
    except ValidationError as error:
        lines = [f"VISIONPIPE_{'_'.join(map(str, fault['loc'])).upper()}: {_told(fault)}" for fault in error.errors()]
        raise SettingsError("These settings cannot be used:\n  " + "\n  ".join(lines)) from None


def _told(fault: ErrorDetails) -> str:
    said = fault["msg"].removeprefix("Value error, ")
    # These two hold passwords.
    return said if fault["loc"][:1] in (("redis_url",), ("store_url",)) else f"{said} (got {fault['input']!r})"


@cache
def _environment() -> type[Settings]:
    # Importing pydantic-settings takes a third of the time that `import visionpipe` may take.
    from pydantic_settings import BaseSettings, SettingsConfigDict

    class Environment(Settings, BaseSettings):
        model_config = SettingsConfigDict(env_prefix="VISIONPIPE_", env_ignore_empty=True, extra="forbid")

    return Environment
