"""The ``visionpipe models`` commands: what there is to host, what it costs, fetching weights, retraining."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from models import weights
from models.accounting.command import profile_model
from models.auditing.command import audit_model
from models.cards import Card, Task
from models.catalog import Catalog, Entry, Source
from models.choosing.command import choose_model
from models.retrain.command import retrain_model
from models.terminal import console_err, console_out, told

app = typer.Typer(
    name="models", help="List, show, fetch, retrain, profile and choose the models of a worker.", no_args_is_help=True
)
app.command("retrain")(retrain_model)
app.command("audit")(audit_model)
app.command("profile")(profile_model)
app.command("choose")(choose_model)

FolderOption = Annotated[
    Path | None,
    typer.Option("--models-folder", envvar="VISIONPIPE_MODELS", help="Folder with one sub-folder per own model."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]


@app.command("list")
def list_models(
    text: Annotated[str | None, typer.Argument(help="Only names that contain this.")] = None,
    task: Annotated[Task | None, typer.Option(help="Only models that can do this task.")] = None,
    source: Annotated[Source | None, typer.Option(help="Only models from this place.")] = None,
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """List the models, where they come from, what they cost and how good they are."""
    catalog = Catalog(folder)
    entries = [
        entry
        for entry in catalog.entries(source)
        if (text is None or text.lower() in entry.name) and (task is None or task in entry.card.served_tasks)
    ]
    if as_json:
        typer.echo(json.dumps([_facts(entry) for entry in entries], indent=2))
    else:
        console_out().print(_table(entries))
    if folder is not None and not folder.expanduser().is_dir():
        left_out = f"[yellow]Left out:[/] {escape(str(folder))} is no folder"
        console_err().print(left_out, highlight=False, soft_wrap=True)
    for fault in catalog.broken():
        console_err().print(f"[yellow]Left out:[/] {fault.message}", markup=True, highlight=False)


@app.command("show")
def show_model(
    model: Annotated[str, typer.Argument(help="name or name@digest")],
    folder: FolderOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show one model's card, its digest and where its weights lie."""
    with told():
        entry = Catalog(folder).find(model)
    if as_json:
        typer.echo(json.dumps(_facts(entry) | {"card": entry.card.model_dump(mode="json")}, indent=2))
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(no_wrap=True)
    # The path of the weights is there to be copied.
    table.add_column(overflow="fold")
    for field, value in _lines(entry):
        table.add_row(f"[bold]{field}", value)
    console_out().print(table)


@app.command("pull")
def pull_models(
    names: Annotated[list[str], typer.Argument(metavar="MODEL...", help="name or name@digest")],
    folder: FolderOption = None,
) -> None:
    """Fetch the weights of models ahead of time, and check them."""
    catalog = Catalog(folder)
    console = console_err()
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with told(), Progress(*columns, console=console, transient=True) as progress:
        for name in names:
            entry = catalog.find(name)
            bar = progress.add_task(entry.name, total=None)

            def report(done: int, total: int | None, bar: Any = bar) -> None:
                progress.update(bar, completed=done, total=total)

            path = weights.pull(entry, report)
            progress.remove_task(bar)
            console.print(f"{entry.target}: {path or 'brings its own weights'}", soft_wrap=True, highlight=False)


def _facts(entry: Entry) -> dict[str, Any]:
    card = entry.card
    return {
        "name": entry.name,
        "digest": entry.digest,
        "source": entry.source,
        "tasks": card.served_tasks,
        "description": card.description,
        "input_size_hw": card.preprocess.input_size_hw,
        "num_params": card.cost.num_params,
        "gflops": card.cost.gflops,
        "quality": [quality.model_dump(mode="json") for quality in card.quality],
        "weights_file": str(weights.weights_path(entry)) if card.weights is not None else None,
        "weights_present": weights.present(entry),
        "max_batch": card.serving.max_batch,
        "licence": card.licence,
    }


def _table(entries: list[Entry]) -> Table:
    title = f"{len(entries)} {'model' if len(entries) == 1 else 'models'}"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    # Only names may be folded: a figure cut short says nothing.
    table.add_column("name", overflow="fold")
    table.add_column("source", no_wrap=True)
    table.add_column("task", no_wrap=True)
    for heading in ("input", "Mparams", "GFLOPs", "quality"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("weights", no_wrap=True)
    for entry in entries:
        cost = entry.card.cost
        table.add_row(
            entry.name,
            entry.source,
            entry.card.tasks[0],
            _size(entry.card),
            "" if cost.num_params is None else f"{cost.num_params / 1e6:.2f}",
            "" if cost.gflops is None else f"{cost.gflops:.3g}",
            _headline(entry.card),
            "here" if weights.present(entry) else "to fetch",
        )
    return table


def _size(card: Card) -> str:
    size_hw = card.preprocess.input_size_hw
    return "any" if size_hw is None else f"{size_hw[1]}x{size_hw[0]}"


def _headline(card: Card) -> str:
    return f"{card.quality[0].metric} {card.quality[0].value:.2%}" if card.quality else ""


def _lines(entry: Entry) -> Iterator[tuple[str, str]]:
    card = entry.card
    path = weights.weights_path(entry)
    yield "model", entry.target
    yield "description", card.description
    yield "tasks", ", ".join(card.served_tasks)
    yield "source", f"{entry.source}{'' if entry.folder is None else f', {entry.folder}'}"
    yield "network", f"{card.network} {card.arguments or ''}".strip()
    if path is None:
        yield "weights", "brought by the network's own code"
    else:
        yield "weights", f"{path} ({'here' if weights.present(entry) else f'run: visionpipe models pull {entry.name}'})"
    yield "input", f"{_size(card)}, {card.preprocess.mode}, {card.preprocess.interpolation}"
    yield "labels", f"{len(card.labels)}: {', '.join(card.labels[:5])}{', ...' if len(card.labels) > 5 else ''}"
    for quality in card.quality:
        yield quality.metric, f"{quality.value:.4f} on {quality.split}"
    yield "max batch", str(card.serving.max_batch)
    yield "licence", card.licence
    yield "origin", card.provenance.origin
    for field, text in (("data", card.provenance.data), ("command", card.provenance.command)):
        if text:
            yield field, text
    if card.provenance.notes:
        yield "notes", card.provenance.notes
