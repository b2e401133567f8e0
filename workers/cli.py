"""``visionpipe worker``: host one model on one device."""

from __future__ import annotations

import logging
import os
import signal
import sys
from pathlib import Path
from typing import Annotated

import typer

from visionpipe.errors import SettingsError, VisionPipeError
from visionpipe.schemas.jobs import Lane
from visionpipe.settings import Settings, load_settings

app = typer.Typer(help="Host one model on one device and take jobs from its queue until told to stop.")


@app.command("worker")
def worker(
    model: Annotated[str, typer.Argument(help="Name of the model, or name@digest.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest micro-batch, in images.")] = None,
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    lanes: Annotated[str, typer.Option(help="Lanes to take from, by comma.")] = "interactive,bulk",
    worker_id: Annotated[str | None, typer.Option(help="Name of this worker; made up by default.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Instead of VISIONPIPE_REDIS_URL.")] = None,
    media_root: Annotated[list[str] | None, typer.Option(help="NAME=PATH of a folder mounted here; repeat.")] = None,
    http_port: Annotated[int | None, typer.Option(help="Port of /healthz, /readyz and /metrics; 0 takes any.")] = None,
    log_level: Annotated[str, typer.Option(help="Level of the log on stderr.")] = "INFO",
) -> None:
    """Host one model on one device and take jobs from its queue until told to stop.

    SIGTERM drains: what is held is finished or handed back, and the exit status is 0.
    """
    logging.basicConfig(
        level=log_level.upper(), stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s"
    )
    # Celery greets every start with several lines that say nothing about this worker.
    for noisy in ("celery", "kombu"):
        logging.getLogger(noisy).setLevel(max(logging.WARNING, logging.getLogger().level))
    # While torch is imported and the model loads nothing is held yet, so there is nothing to drain.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: sys.exit(0))
    try:
        settings = load_settings(redis_url=redis_url, http_port=http_port)
        roots = {**settings.media_roots, **parse_media_roots(media_root or [])}
        status = _host(model, device, max_batch, precision, parse_lanes(lanes), worker_id, roots, settings)
    except VisionPipeError as error:
        # One line that a supervisor can show; a traceback would say nothing more.
        typer.echo(f"error: {error.code}: {error.message}", err=True)
        raise typer.Exit(1) from error
    # Nothing is left to save, and taking torch apart in good order costs seconds of a restart.
    logging.shutdown()
    os._exit(status)


def _host(
    model: str,
    device: str,
    max_batch: int | None,
    precision: str,
    lanes: list[Lane],
    worker_id: str | None,
    media_roots: dict[str, Path],
    settings: Settings,
) -> int:
    if settings.redis_url is None:
        raise SettingsError(
            "Expected a Redis to take jobs from, got none. Set VISIONPIPE_REDIS_URL or --redis-url, "
            f"or let `visionpipe up {model}` start an embedded one."
        )
    from workers.host import Host, HostOptions

    options = HostOptions(
        model=model,
        redis_url=settings.redis_url,
        device=device,
        precision=precision,
        max_batch=max_batch,
        lanes=lanes,
        worker_id=worker_id,
        media_roots=media_roots,
    )
    return Host(options, settings).run()


def parse_lanes(text: str) -> list[Lane]:
    """Read ``interactive,bulk``.

    Raises:
        SettingsError: A word is no lane, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    unknown = [word for word in words if word not in list(Lane)]
    if unknown or not words:
        raise SettingsError(f"Expected lanes out of {', '.join(Lane)}, got {text!r}.")
    return [Lane(word) for word in dict.fromkeys(words)]


def parse_media_roots(pairs: list[str]) -> dict[str, Path]:
    """Read ``NAME=PATH`` pairs.

    Raises:
        SettingsError: A pair has no name or no path, or the path is no folder.
    """
    roots: dict[str, Path] = {}
    for pair in pairs:
        name, equals, path = pair.partition("=")
        if not (name and equals and Path(path).is_dir()):
            raise SettingsError(f"Expected --media-root NAME=FOLDER with a folder that exists, got {pair!r}.")
        roots[name] = Path(path)
    return roots
