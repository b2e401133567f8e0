"""``visionpipe status``: workers, queues and accounts."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer
from rich.console import Group
from rich.live import Live
from rich.markup import escape
from rich.text import Text

from visionpipe.cli.output import count, duration, out, size, table, write_json
from visionpipe.cli.redis_at import RedisAt, connected, find_redis
from visionpipe.errors import NoWorkerError
from visionpipe.schemas.jobs import Lane
from visionpipe.settings import load_settings

if TYPE_CHECKING:
    from redis import Redis

    from visionpipe.queue import Accounts, QueueStatus
    from visionpipe.schemas.jobs import WorkerRecord


SILENT_S = 10.0
"""A worker that was not heard of for so long is shown as silent."""
RIGHT = ("images/s", "held", "done", "memory", "up")


class Snapshot(NamedTuple):
    """Everything there is to see, at one moment."""

    redis: RedisAt
    workers: list[WorkerRecord]
    queues: list[QueueStatus]
    accounts: dict[str, Accounts]
    now: float
    """Unix seconds of the Redis clock."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(status)


def status(
    redis_url: Annotated[str | None, typer.Option(help="Instead of VISIONPIPE_REDIS_URL.")] = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Look again every second until Ctrl-C.")] = False,
    ready: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Only say by the exit status whether a worker serves MODEL.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Show workers, queues and what became of all images.

    The exit status is 0 when the queue can be reached and, with --ready, a worker is ready for the model.
    """
    settings = load_settings(redis_url=redis_url)
    place = find_redis(settings)
    with connected(place.url) as redis:
        if ready is not None:
            _check_ready(look(place, redis), ready, as_json)
        elif watch:
            _watch(place, redis)
        elif as_json:
            write_json(_as_data(look(place, redis)))
        else:
            out().print(_view(look(place, redis)))


def look(place: RedisAt, redis: Redis) -> Snapshot:
    """Read the state of the queue."""
    from visionpipe.queue import calls, run

    found = run(redis, calls.workers())
    workers = sorted(found, key=lambda record: (record.model, record.worker))
    # A beat is stamped by the Redis clock, which may differ from ours.
    now = max([time.time(), *(record.beat_at for record in workers)])
    return Snapshot(place, workers, run(redis, calls.queues()), run(redis, calls.accounts()), now)


def _check_ready(seen: Snapshot, model: str, as_json: bool) -> None:
    serving = [
        record
        for record in seen.workers
        if record.state == "ready" and model in (record.model, f"{record.model}@{record.digest}")
    ]
    if not serving:
        others = ", ".join(sorted({record.model for record in seen.workers})) or "none"
        raise NoWorkerError(
            f"No worker is ready for {model!r}; models with workers: {others}. "
            f"Start one with: visionpipe worker {model.partition('@')[0]}",
            model=model,
        )
    if as_json:
        write_json({"ready": True, "workers": [record.worker for record in serving]})
    else:
        out().print(f"[green]ready[/]  {count(len(serving), 'worker')} for {escape(model)}")


def _watch(place: RedisAt, redis: Redis) -> None:
    with Live(_view(look(place, redis)), console=out(), auto_refresh=False, screen=out().is_terminal) as view:
        while True:
            time.sleep(1)
            view.update(_view(look(place, redis)), refresh=True)


def _as_data(seen: Snapshot) -> dict[str, Any]:
    return {
        "redis": {"at": seen.redis.label, "embedded": seen.redis.embedded},
        "workers": [record.model_dump(mode="json") for record in seen.workers],
        "queues": [queue.model_dump(mode="json") for queue in seen.queues],
        "accounts": {
            model: {**accounts.model_dump(mode="json"), "open": accounts.open}
            for model, accounts in seen.accounts.items()
        },
    }


def _view(seen: Snapshot) -> Group:
    waiting = [queue.oldest_wait_s for queue in seen.queues if queue.oldest_wait_s is not None]
    oldest = f", the oldest job for {duration(max(waiting))}" if waiting else ""
    queued = sum(queue.queued_items for queue in seen.queues)
    head = f"{seen.redis.label}: {count(len(seen.workers), 'worker')}, {count(queued, 'image')} waiting{oldest}"
    parts = [Text(head, style="bold"), Text(), _workers(seen)]
    busy = [queue for queue in seen.queues if queue.queued_jobs or queue.running_items]
    if busy:
        parts += [Text(), _queues(busy)]
    if seen.accounts:
        parts += [Text(), _accounts(seen.accounts)]
    return Group(*parts)


def _workers(seen: Snapshot) -> Any:
    if not seen.workers:
        return Text("No workers. Start one with: visionpipe worker MODEL", style="yellow")
    # Twelve digits for each model would not fit a terminal of 100 columns, and rarely tell anything.
    digests = Counter(model for model, _ in {(record.model, record.digest) for record in seen.workers})
    some_lanes = any(len(record.lanes) < len(Lane) for record in seen.workers)
    rows = []
    for record in seen.workers:
        late = seen.now - record.beat_at > SILENT_S
        colour = "red" if late else "green" if record.state == "ready" else "yellow"
        rows.append(
            {
                "model": f"{record.model}@{record.digest}" if digests[record.model] > 1 else record.model,
                "worker": record.worker,
                "state": f"[{colour}]{'silent' if late else record.state}[/]",
                "on": " ".join((record.device, record.precision, *_faster(record.code))),
                "lanes": " ".join(record.lanes) if some_lanes else "",
                "images/s": "" if record.rate is None else f"{record.rate:.1f}",
                "held": str(record.held_items),
                "done": str(record.done_items),
                "memory": size(record.rss_bytes),
                "up": duration(seen.now - record.started_at),
            }
        )
    made = table(*(name for name in rows[0] if name != "lanes" or some_lanes), right=RIGHT)
    for row in rows:
        made.add_row(*(row[str(column.header)] for column in made.columns))
    return made


def _faster(code: str) -> list[str]:
    """The word for what answers in place of the eager network, if anything does."""
    return [word for word in ("compiled", "graphs") if code.startswith(word)]


def _queues(queues: list[QueueStatus]) -> Any:
    made = table(
        "queue", "lane", "jobs waiting", "images waiting", "images running", "oldest",
        right=("jobs waiting", "images waiting", "images running", "oldest"),
    )  # fmt: skip
    for queue in queues:
        counts = (queue.queued_jobs, queue.queued_items, queue.running_items)
        made.add_row(queue.target, queue.lane, *map(str, counts), duration(queue.oldest_wait_s))
    return made


def _accounts(accounts: dict[str, Accounts]) -> Any:
    columns = ("submitted", "done", "failed", "cancelled", "expired", "open")
    made = table("images of", *columns, right=columns)
    for model, account in accounts.items():
        failed = f"[red]{account.failed}[/]" if account.failed else "0"
        numbers = (account.submitted, account.done, failed, account.cancelled, account.expired, account.open)
        made.add_row(model, *map(str, numbers))
    return made
