"""A whole VisionPipe on this machine: Redis and workers, started where they are missing and stopped afterwards."""

from __future__ import annotations

import contextlib
import logging
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from visionpipe.embedded import embedded_redis
from visionpipe.errors import QueueUnavailableError, SettingsError
from visionpipe.queue import calls, connect, run
from visionpipe.redis_url import shown
from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.settings import Settings, load_settings
from visionpipe.supervisor import Supervisor, WorkerSpec

if TYPE_CHECKING:
    from visionpipe.client import Client

START_TIMEOUT_S = 300.0
"""How long a worker may take to load and warm up its model."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Stack:
    """A Redis with workers for the models that were asked for."""

    redis_url: str
    """Where clients connect."""
    settings: Settings
    """The settings, with that URL in them."""
    supervisor: Supervisor
    """Keeps the workers that this stack started."""

    @property
    def started(self) -> list[str]:
        """The models for which this stack started workers, one entry each; others were served already."""
        return [slot.spec.model for slot in self.supervisor.slots if not slot.is_extra]


@contextlib.contextmanager
def redis_of(settings: Settings) -> Iterator[str]:
    """The configured Redis, or else the embedded one while the context lasts.

    Raises:
        EmbeddedRedisError: None is configured and the embedded one cannot be used.
    """
    if settings.redis_url is not None:
        yield settings.redis_url
    else:
        with embedded_redis(settings) as url:
            yield url


@contextlib.contextmanager
def ensure_stack(
    models: Sequence[str],
    *,
    settings: Settings | None = None,
    media_roots: Mapping[str, Path] | None = None,
    device: str = "auto",
    precision: str = "auto",
    workers: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[Stack]:
    """Have Redis and workers for each model while the context lasts, and stop afterwards what was started here.

    Uses the configured Redis or else the embedded one, and workers that run already. Should those end in the
    meantime (another command's stack, for example), workers of our own take their place.

    Args:
        models: Names, or ``name@digest``.
        settings: Read from the environment if not given.
        media_roots: Named folders that workers started here may read, besides those of the settings.
        device: Device of workers started here.
        precision: Precision of the same.
        workers: How many to start for a model that nobody serves; unset: one, and more while Python is the limit.
        on_progress: Told in one line of each step, and from another thread of workers that die or come later.

    Raises:
        EmbeddedRedisError: The embedded Redis cannot be used.
        QueueUnavailableError: The configured Redis cannot be reached.
        WorkerStartError: A worker did not start; the message has its last words.
        SettingsError: Fewer than one worker is wanted.
    """
    if workers is not None and workers < 1:
        raise SettingsError(f"Expected at least one worker for each model, got {workers}.")
    settings = settings or load_settings()
    tell = on_progress or _log.info
    roots = {**settings.media_roots, **(media_roots or {})}
    with redis_of(settings) as url:
        settings = settings.model_copy(update={"redis_url": url, "media_roots": roots})
        tell(f"Redis: {shown(url)}" if url.startswith("unix:") else "Redis: as configured")
        specs = {model: WorkerSpec(model, device=device, precision=precision) for model in models}
        with contextlib.closing(connect(url)) as redis:
            missing = _unserved(list(specs), run(redis, calls.workers()))
        log_folder = make_log_folder(settings)
        started = threading.Event()

        def note(event: str) -> None:
            # While it starts, wait_ready says what is wrong; later on nobody else would.
            (tell if started.is_set() else _log.info)(event)

        number = workers or 1
        crew = [specs[model] for model in missing for _ in range(number)]
        with Supervisor(url, crew, settings, log_folder=log_folder, grows=workers is None, on_event=note) as supervisor:
            if number > 1 and len(missing) < len(specs):
                tell(f"Served already, so none is started: {', '.join(sorted(set(specs) - set(missing)))}")
            if missing:
                tell(f"Starting {_counted(number)} for {', '.join(missing)} (log in {log_folder})")
                supervisor.wait_ready(START_TIMEOUT_S)
                tell("Ready")
            started.set()
            with _kept_served(supervisor, specs, number):
                yield Stack(url, settings, supervisor)


@contextlib.contextmanager
def local_stack(
    models: Sequence[str] = ("lenet-digits",),
    *,
    media_roots: Mapping[str, Path] | None = None,
    settings: Settings | None = None,
    workers: int | None = None,
    on_progress: Callable[[str], None] | None = None,
) -> Iterator[Client]:
    """A connected client with Redis and workers behind it; needs nothing to be installed or running.

    Example:
        >>> with visionpipe.local_stack(["lenet-digits"]) as client:
        ...     print(client.classify("seven.png"))

    Args:
        models: Models to serve: names, or ``name@digest``.
        media_roots: Named folders whose files are passed by reference.
        settings: Read from the environment if not given.
        workers: How many to start for each model that nobody serves; unset: one, and more while Python is the limit
            and not the machine, as with tiny networks.
        on_progress: Told in one line of each step of the start.

    Raises:
        EmbeddedRedisError: The embedded Redis cannot be used.
        WorkerStartError: A worker did not start; the message has its last words.
        SettingsError: Fewer than one worker is wanted.
    """
    from visionpipe.client import Client

    with (
        ensure_stack(
            models, settings=settings, media_roots=media_roots, workers=workers, on_progress=on_progress
        ) as stack,
        Client(stack.redis_url, settings=stack.settings) as client,
    ):
        yield client


def make_log_folder(settings: Settings) -> Path:
    """Make the folder for workers' logs in the data directory, or in the temporary one if that cannot be written."""
    try:
        folder = settings.data_dir.expanduser() / "logs"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError):
        return Path(tempfile.mkdtemp(prefix="visionpipe-logs-"))
    return folder


def _counted(workers: int) -> str:
    return "a worker" if workers == 1 else f"{workers} workers"


def _unserved(models: Sequence[str], live: list[WorkerRecord]) -> list[str]:
    served = {name for record in live if record.state == "ready" for name in _targets(record)}
    return [model for model in models if model not in served]


def _targets(record: WorkerRecord) -> tuple[str, str]:
    return record.model, f"{record.model}@{record.digest}"


@contextlib.contextmanager
def _kept_served(supervisor: Supervisor, specs: Mapping[str, WorkerSpec], number: int) -> Iterator[None]:
    ended = threading.Event()
    thread = threading.Thread(target=_keep_served, args=(supervisor, specs, number, ended), name="stack", daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


def _keep_served(supervisor: Supervisor, specs: Mapping[str, WorkerSpec], number: int, ended: threading.Event) -> None:
    with contextlib.closing(connect(supervisor.redis_url)) as redis:
        while not ended.wait(supervisor.settings.renew_s):
            with contextlib.suppress(QueueUnavailableError):
                ours = {slot.spec.model for slot in supervisor.slots}
                left = _unserved([model for model in specs if model not in ours], run(redis, calls.workers()))
                if left:
                    _log.warning("Nobody serves %s any more; starting workers", ", ".join(left))
                    # All at once: they tell each other how many share a GPU.
                    supervisor.add(*(specs[model] for model in left for _ in range(number)))
