"""``visionpipe up``: Redis, if none is configured, and the workers of this node, until Ctrl-C."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.live import Live
from rich.table import Table
from rich.text import Text

from visionpipe.errors import InvalidRequestError
from visionpipe.settings import load_settings
from visionpipe.stack import make_log_folder, redis_of
from visionpipe.supervisor import Slot, Supervisor, WorkerSpec

_REFRESH_S = 0.25


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(up)


def up(
    models: Annotated[list[str], typer.Argument(help="Models to serve, as NAME or NAME@DIGEST.")],
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    precision: Annotated[str, typer.Option(help="auto, fp32, bf16 or fp16.")] = "auto",
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest micro-batch.")] = None,
    workers_per_model: Annotated[
        int | None,
        typer.Option(min=1, help="Workers for each model; by default one, and more while Python is the limit."),
    ] = None,
    redis_url: Annotated[str | None, typer.Option(help="Redis to use instead of the embedded one.")] = None,
    media_root: Annotated[list[str] | None, typer.Option(help="NAME=PATH that clients mount too.")] = None,
) -> None:
    """Start Redis (unless one is configured) and workers; restart what dies; drain at Ctrl-C or SIGTERM."""
    roots = dict(_media_root(text) for text in media_root or [])
    settings = load_settings(redis_url=redis_url)
    settings = settings.model_copy(update={"media_roots": {**settings.media_roots, **roots}})
    specs = [
        WorkerSpec(model, device=device, precision=precision, max_batch=max_batch)
        for model in models
        for _ in range(workers_per_model or 1)
    ]
    console = Console(stderr=True)
    live = console.is_terminal
    signals = _Signals()
    with redis_of(settings) as url:
        console.print(f"Redis: {url}" if settings.redis_url is None else "Redis: as configured", highlight=False)
        log_folder = make_log_folder(settings) if live else None
        supervisor = Supervisor(
            url,
            specs,
            settings,
            log_folder=log_folder,
            grows=workers_per_model is None,
            on_event=_printer(console),
        )
        supervisor.start()
        try:
            _stay(supervisor, console if live else None, signals)
        finally:
            _drain(supervisor, console, signals)


class _Signals:
    """Counts SIGINT and SIGTERM: the first asks for a drain, the second for an end at once."""

    def __init__(self) -> None:
        self.count = 0
        for signum in (signal.SIGINT, signal.SIGTERM):
            signal.signal(signum, self._note)

    def _note(self, signum: int, frame: object) -> None:
        self.count += 1


def _stay(supervisor: Supervisor, console: Console | None, signals: _Signals) -> None:
    if console is None:
        while signals.count == 0 and supervisor.alive:
            time.sleep(_REFRESH_S)
        return
    with Live(_table(supervisor.slots), console=console, refresh_per_second=4) as view:
        while signals.count == 0 and supervisor.alive:
            time.sleep(_REFRESH_S)
            view.update(_table(supervisor.slots))


def _drain(supervisor: Supervisor, console: Console, signals: _Signals) -> None:
    console.print("Draining; once more to end at once")
    supervisor.ask_to_stop()
    while supervisor.alive:
        if signals.count > 1:
            supervisor.ask_to_stop(drain=False)
        time.sleep(_REFRESH_S)
    console.print("All workers have ended")


def _printer(console: Console) -> Callable[[str], None]:
    def tell(event: str) -> None:
        console.print(f"{time.strftime('%H:%M:%S')} {event}", highlight=False, markup=False, soft_wrap=True)

    return tell


def _table(slots: list[Slot]) -> Table:
    table = Table(box=None, pad_edge=False)
    for column in ("model", "worker", "state", "for", "restarts"):
        table.add_column(column)
    colours = {"ready": "green", "starting": "yellow", "waiting": "red", "retiring": "dim", "stopped": "dim"}
    for slot in slots:
        age = f"{time.monotonic() - slot.ready_at:.0f} s" if slot.state == "ready" else ""
        worker = slot.process.worker_id if slot.process else "-"
        # No markup: what happens meanwhile is printed without, and the table with it.
        state = Text(slot.state, style=colours[slot.state])
        table.add_row(slot.spec.model, worker, state, age, str(slot.restarts))
    return table


def _media_root(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and Path(path).expanduser().is_dir()):
        raise InvalidRequestError(f"Expected --media-root NAME=PATH with an existing folder, got {text!r}.")
    return name, Path(path).expanduser().resolve()
