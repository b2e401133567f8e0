"""``visionpipe models retrain``: what is typed, shown while it works, and said at the end."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn
from rich.table import Table

from models.errors import RetrainFailed
from models.retrain.options import Augmentation, Mode, Report, RetrainOptions
from models.terminal import console_err, console_out, told

if TYPE_CHECKING:
    from models.retrain.run import Retrained

SKIPPED_SHOWN = 10
"""How many files that were left out are named."""
CLASSES_SHOWN = 20
"""How many classes the table shows, the worst first."""

NEEDED = ("sklearn", "scipy", "matplotlib")
"""What the extra brings beyond a worker's needs."""
DEFAULTS = RetrainOptions()


def retrain_model(
    base: Annotated[str, typer.Option("--base", help="Model to start from: name or name@digest.")],
    images: Annotated[Path, typer.Option("--images", help="Folder with one sub-folder of pictures per class.")],
    name: Annotated[str, typer.Option("--name", help="What to call the new model.")],
    mode: Annotated[Mode, typer.Option(help="Train a new last layer, an SVM in its place, or all layers.")] = "head",
    test_images: Annotated[Path | None, typer.Option(help="Folder of the same form that is only measured on.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most; 200 for head, 30 for full.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Pictures in one step.")] = DEFAULTS.batch,
    learning_rate: Annotated[float | None, typer.Option(help="0.01 for head, 0.0001 for full.")] = None,
    weight_decay: Annotated[float, typer.Option(min=0, help="Of AdamW.")] = DEFAULTS.weight_decay,
    validation_fraction: Annotated[
        float, typer.Option(max=0.5, help="Part of each class that validates.")
    ] = DEFAULTS.validation_fraction,
    augmentation: Annotated[
        Augmentation, typer.Option(help="Vary training pictures: turns, shifts, light; flip mirrors them, too.")
    ] = DEFAULTS.augmentation,
    views: Annotated[int, typer.Option(min=1, help="Versions of each picture, for head and svm.")] = DEFAULTS.views,
    seed: Annotated[int, typer.Option(min=0, help="Same seed, same machine: same model.")] = DEFAULTS.seed,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = DEFAULTS.device,
    force: Annotated[bool, typer.Option("--force", help="Replace a model of that name.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--models-folder", envvar="VISIONPIPE_MODELS", help="Where the model's folder is written."),
    ] = None,
) -> None:
    """Make a classifier of your own from a model and a folder of pictures per class.

    Writes card and weights into your models folder; `visionpipe worker NAME` then serves it.
    """
    with told():
        options = RetrainOptions(
            mode=mode, epochs=epochs, batch=batch, learning_rate=learning_rate, weight_decay=weight_decay,
            validation_fraction=validation_fraction, augmentation=augmentation, views=views, seed=seed, device=device,
        )  # fmt: skip
        target = _models_folder(folder)
        with _bars(console_err()) as report:
            made = _retrain()(
                base, images, name, target, options=options, test_images=test_images, force=force, report=report
            )
    show(made, console_out(), target)


def _retrain() -> Callable[..., Retrained]:
    # Importing torch takes seconds; telling of a wrong option should not.
    try:
        from models.retrain.run import retrain
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] not in NEEDED:
            raise
        raise RetrainFailed(
            f"Retraining needs {error.name}, which is not installed here. Run: pip install 'visionpipe[retrain]'"
        ) from error
    return retrain


def _models_folder(folder: Path | None) -> Path:
    if folder is None:
        raise RetrainFailed(
            "Expected to be told where your models lie. Set VISIONPIPE_MODELS, which workers read too, or give "
            "--models-folder FOLDER; it is made if it is not there."
        )
    return folder.expanduser()


@contextmanager
def _bars(console: Console) -> Iterator[Report]:
    """Show a bar for each stage."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(12),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    bars: dict[str, TaskID] = {}
    with Progress(*columns, console=console) as progress:

        def report(stage: str, done: int, total: int, note: str) -> None:
            if stage not in bars or progress.tasks[bars[stage]].finished:
                bars[stage] = progress.add_task(stage, total=total, note="")
            progress.update(bars[stage], completed=done, total=total, note=note)

        yield report


def show(made: Retrained, console: Console, models_folder: Path) -> None:
    """Say what was made, how good it is, and how to use it."""
    best = made.measured[0]
    entry = made.entry
    console.print(f"[bold]{entry.target}[/] in {escape(str(entry.folder))}", soft_wrap=True, highlight=False)
    console.print(escape(made.notes), highlight=False)
    for one in made.measured:
        right = f"[bold]{one.accuracy:.1%}[/] of {one.num_images} {one.name} pictures right"
        console.print(right, highlight=False)
    console.print(_table(made), highlight=False)
    console.print(
        f"Confusion matrix ({best.name}): {escape(str(entry.folder))}/confusion.png", soft_wrap=True, highlight=False
    )
    _show_skipped(made, console)
    where = "" if os.environ.get("VISIONPIPE_MODELS") else f"VISIONPIPE_MODELS={models_folder} "
    console.print(f"Serve it: [bold]{escape(where)}visionpipe worker {entry.name}[/]", soft_wrap=True, highlight=False)


def _table(made: Retrained) -> Table:
    best, labels = made.measured[0], made.entry.card.labels
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("class", overflow="fold")
    for heading in ("pictures", f"{best.name} right"):
        table.add_column(heading, justify="right")
    table.add_column("taken for", overflow="fold")
    asked = best.confusion.sum(axis=1)
    shares = [best.confusion[row, row] / asked[row] if asked[row] else 1.0 for row in range(len(labels))]
    order = sorted(range(len(labels)), key=lambda row: (shares[row], row)) if len(labels) > CLASSES_SHOWN else None
    for row in (order or range(len(labels)))[:CLASSES_SHOWN]:
        wrong = [(int(count), labels[column]) for column, count in enumerate(best.confusion[row]) if column != row]
        others = ", ".join(f"{label} {count}" for count, label in sorted(wrong, reverse=True)[:4] if count)
        right = f"{best.confusion[row, row]} of {asked[row]}"
        table.add_row(escape(labels[row]), str(made.counts[labels[row]]), right, escape(others))
    if len(labels) > CLASSES_SHOWN:
        table.caption = f"the {CLASSES_SHOWN} worst of {len(labels)} classes"
    return table


def _show_skipped(made: Retrained, console: Console) -> None:
    if not made.skipped:
        return
    console.print(f"[yellow]Left out {len(made.skipped)} file{'s' * (len(made.skipped) > 1)}:[/]")
    for skipped in made.skipped[:SKIPPED_SHOWN]:
        path = os.fsencode(skipped.path).decode("utf-8", "replace")
        console.print(f"  {escape(path)}: {escape(skipped.reason)}", soft_wrap=True, highlight=False)
    if len(made.skipped) > SKIPPED_SHOWN:
        console.print(f"  and {len(made.skipped) - SKIPPED_SHOWN} more")
