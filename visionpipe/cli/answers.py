"""Answers of a few images: as tables for people, and as data for programs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from rich.markup import escape
from rich.table import Table

from visionpipe.cli.output import out, table, table_of
from visionpipe.schemas.jobs import Envelope, Item, ItemTimings
from visionpipe.schemas.results import Result
from visionpipe.schemas.results.ranking import Ranking

BAR_WIDTH = 24
MOST_ROWS = 40
"""Rows of one result that are printed."""


class Answer(NamedTuple):
    """What became of one image."""

    item: Item[Result]
    """Result or error."""
    envelope: Envelope[Result] | None = None
    """Of its job; none when it could not be submitted."""


class Saved(NamedTuple):
    """One artifact that was written to a file."""

    image: int
    """Index of the image it belongs to."""
    field: str
    """Which field of the result names it."""
    path: Path
    """Where it is now."""


def to_data(task: str, answers: list[Answer], saved: list[Saved]) -> dict[str, Any]:
    """Everything as JSON data."""
    model = next((answer.envelope.model for answer in answers if answer.envelope and answer.envelope.model), None)
    items = []
    for item, envelope in answers:
        data = item.model_dump(mode="json")
        data["job"] = envelope.job if envelope else None
        data["saved"] = {entry.field: str(entry.path) for entry in saved if entry.image == item.index}
        items.append(data)
    return {"task": task, "model": model.model_dump(mode="json") if model else None, "items": items}


def show(answers: list[Answer], saved: list[Saved]) -> None:
    """Print one image in full, or several as a line each."""
    console = out()
    model = next((answer.envelope.model for answer in answers if answer.envelope and answer.envelope.model), None)
    if model:
        console.print(f"[bold]{model.name}[/][dim]@{model.digest}  {model.precision} on {model.device}[/]\n")
    if len(answers) == 1:
        _show_one(answers[0].item)
    else:
        _show_many([answer.item for answer in answers])
    for entry in saved:
        console.print(f"[dim]{entry.field}[/]  {escape(str(entry.path))}", soft_wrap=True)
    named = sum(len(item.result.artifacts()) for item, _ in answers if item.result)
    if named and not saved:
        console.print(f"\n[dim]{named} pictures or arrays came with this; --save FOLDER keeps them.[/]")


def _show_one(item: Item[Result]) -> None:
    console = out()
    size = "x".join(map(str, item.result.image_size_wh)) if item.result and item.result.image_size_wh else ""
    if item.name:
        console.print(f"{escape(item.name)}  [dim]{size}[/]", soft_wrap=True)
    if item.error:
        console.print(f"[red]{item.error.code}[/]  {escape(item.error.message)}", soft_wrap=True)
    if item.result:
        rows = item.result.rows()
        # A ranking's summary is its first rows.
        if not rows or not isinstance(item.result, Ranking):
            console.print(f"[bold]{escape(item.result.summary())}[/]", soft_wrap=True)
        if rows:
            console.print(_with_bars(rows[:MOST_ROWS]))
        if len(rows) > MOST_ROWS:
            console.print(f"[dim]... and {len(rows) - MOST_ROWS} more; --json has them all[/]")
        if item.result.partial:
            console.print("[yellow]Time ran out: this is the best so far.[/]")
    if item.timings:
        console.print(f"\n[dim]{_timings(item.timings)}[/]")


def _show_many(items: list[Item[Result]]) -> None:
    made = table("image", "answer", "ms", right=["ms"])
    for item in items:
        said = escape(item.result.summary()) if item.result else ""
        if item.error:
            said = f"[red]{item.error.code}[/] {escape(item.error.message)}"
        made.add_row(escape(item.name or str(item.index)), said, _ms(item.timings))
    out().print(made)


def _with_bars(rows: list[dict[str, str]]) -> Table:
    made = table_of(rows)
    if all(row.get("score") for row in rows):
        made.add_column("")
        made.columns[-1]._cells.extend(f"[cyan]{'━' * round(float(row['score']) * BAR_WIDTH)}[/]" for row in rows)
    return made


def _timings(timings: ItemTimings) -> str:
    parts = [f"{name.replace('_', ' ')} {spent:.1f}" for name, spent in _spent(timings).items() if spent >= 0.05]
    shared = f"; in a batch of {timings.batch}" if timings.batch > 1 else ""
    return f"{_ms(timings)} ms: {', '.join(parts)}{shared}"


def _ms(timings: ItemTimings | None) -> str:
    return f"{sum(_spent(timings).values()):.1f}" if timings else ""


def _spent(timings: ItemTimings) -> dict[str, float]:
    return {name.removesuffix("_ms"): spent for name, spent in timings if name.endswith("_ms")}
