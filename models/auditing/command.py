"""``visionpipe models audit``: what is typed, shown while it works, and said at the end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from models.errors import UnsupportedOption
from models.terminal import console_err, console_out, told

if TYPE_CHECKING:
    from models.auditing.audit import Audit, Skipped

SKIPPED_SHOWN = 10
"""How many files that were left out are named."""


def audit_model(
    model: Annotated[str, typer.Argument(help="A classification model: name or name@digest.")],
    images: Annotated[list[Path], typer.Argument(metavar="IMAGES...", help="Pictures, or folders of them.")],
    methods: Annotated[
        str | None, typer.Option(help="Separated by commas; saliency, integrated_gradients, grad_cam, guided_backprop.")
    ] = None,
    target: Annotated[str | None, typer.Option(help="Class, by label or number; each picture's top-1.")] = None,
    sanity: Annotated[bool, typer.Option(help="Randomize the network, layer by layer.")] = True,
    curves: Annotated[bool, typer.Option("--curves", help="Measure deletion and insertion curves.")] = False,
    max_depths: Annotated[int, typer.Option(min=1, max=200, help="At most so many depths of randomization.")] = 12,
    steps: Annotated[int | None, typer.Option(min=1, help="Points of integrated gradients.")] = None,
    samples: Annotated[int | None, typer.Option(min=1, help="Samples of the sampling methods.")] = None,
    layer: Annotated[str | None, typer.Option(help="Module that Grad-CAM reads.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the random weights and samples.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="Folder for the CSV files and the pictures.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--models-folder", envvar="VISIONPIPE_MODELS", help="Folder with one sub-folder per own model."),
    ] = None,
) -> None:
    """Test attribution methods on a model: do they show what it has learnt?

    Randomizes the network from the last layer to the first and compares the maps (Adebayo et al., 2018): a method
    whose maps stay alike fails. --curves also deletes and inserts pixels by their attribution (Petsiuk et al., 2018).
    """
    with told():
        if not sanity and not curves:
            raise UnsupportedOption("Expected something to audit: --no-sanity without --curves leaves nothing.")
        made = _run(
            (model, device, folder),
            images,
            output,
            methods=methods,
            target=target,
            checks={"sanity": sanity, "curves": curves, "max_depths": max_depths},
            numbers={"steps": steps, "samples": samples, "layer": layer, "seed": seed},
        )
    if as_json:
        typer.echo(json.dumps(made.to_json(), indent=2))
    else:
        show(made, console_out())
    _show_skipped(made.skipped, console_err())


def _run(
    model: tuple[str, str, Path | None],
    images: list[Path],
    output: Path | None,
    *,
    methods: str | None,
    target: str | None,
    checks: dict[str, Any],
    numbers: dict[str, Any],
) -> Audit:
    # Importing torch takes seconds; telling of a wrong option should not.
    from models.attribution import Settings
    from models.auditing.audit import audit
    from models.auditing.measuring import DEFAULT_METHODS, AuditOptions
    from models.auditing.subject import Subject
    from models.catalog import Catalog

    name, device, folder = model
    subject = Subject.open(Catalog(folder).find(name), device)
    named = DEFAULT_METHODS if methods is None else tuple(filter(None, map(str.strip, methods.split(","))))
    options = AuditOptions(
        methods=named,  # type: ignore[arg-type]
        target=None if target is None else subject.class_id(target),
        settings=Settings(**numbers, max_batch=subject.entry.card.serving.max_batch, step_s=0.5),
        **checks,
    )
    console = console_err()
    columns = (TextColumn("{task.description}"), BarColumn(12), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        bar = progress.add_task(subject.entry.name, total=None)

        def report(done: int, total: int) -> None:
            progress.update(bar, completed=done, total=total)

        return audit(subject, images, options, output=output, report=report)


def show(made: Audit, console: Console) -> None:
    """Print the table, the verdicts in sentences, and where the files are."""
    from models.auditing import tables

    console.print(f"[bold]{escape(made.title())}[/]", soft_wrap=True, highlight=False)
    console.print(tables.table(made.summaries), highlight=False)
    for note in tables.notes(made.summaries):
        console.print()
        console.print(escape(note), highlight=False)
    tables_written = [path.name for path in made.files if path.suffix == ".csv"]
    strips = len(made.files) - len(tables_written)
    if made.output is not None:
        more = f" and {strips} strip{'s' * (strips != 1)}" if strips else ""
        where = escape(str(made.output))
        console.print(f"\nIn {where}: {', '.join(tables_written)}{more}", soft_wrap=True, highlight=False)


def _show_skipped(skipped: list[Skipped], console: Console) -> None:
    if not skipped:
        return
    console.print(f"[yellow]Left out {len(skipped)} file{'s' * (len(skipped) > 1)}:[/]")
    for one in skipped[:SKIPPED_SHOWN]:
        console.print(f"  {escape(str(one.path))}: {escape(one.reason)}", soft_wrap=True, highlight=False)
    if len(skipped) > SKIPPED_SHOWN:
        console.print(f"  and {len(skipped) - SKIPPED_SHOWN} more")
