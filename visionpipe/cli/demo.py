"""``visionpipe demo``: the whole of it on this machine, with real pictures and true answers."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from visionpipe.cli.batch import EXIT_INTERRUPTED, FolderJob, root_name
from visionpipe.cli.batch_view import print_report, progress_view
from visionpipe.cli.demo_tasks import run_tasks, task_table
from visionpipe.demo import DemoFolder, write_demo_folder
from visionpipe.demo.page import SHEET, write_page
from visionpipe.demo.tasks import write_task_pictures
from visionpipe.errors import InternalError
from visionpipe.runs import Labels, RunReport
from visionpipe.settings import Settings, load_settings
from visionpipe.stack import ensure_stack

MODEL = "lenet-digits"
BARE_ROUNDS = 3
"""The plain loop gets the best of so many passes; the run through the queue has one."""
BARE_TIMEOUT_S = 300


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(demo)


def demo(
    out: Annotated[Path, typer.Option(help="Folder to write to.")] = Path("demo-out"),
    precision: Annotated[str, typer.Option(help="Precision of the worker; the plain loop is fp32.")] = "fp32",
    tasks: Annotated[bool, typer.Option(help="Also show every other task.")] = True,
) -> None:
    """Run real pictures through an embedded Redis, workers and networks; compare with the truth and a plain loop."""
    console = Console()
    begun_s = time.monotonic()
    console.rule("[bold]VisionPipe[/] · a folder of real pictures, end to end", align="left")
    with _step(console, "Writing pictures"):
        folder = write_demo_folder(out)
    console.print(
        f"  {folder.num_digits:,} handwritten digits with their true labels, {folder.num_photos} photographs of other "
        f"things, {folder.num_broken} broken or foreign files",
        highlight=False,
    )
    with _interruptible(console):
        report = _run(console, folder, out, precision)
    with _step(console, "Asking the bare model, in a plain loop without any queue"):
        bare = _bare(folder.images)
    print_report(console, report)
    console.print(_comparison(report, bare, out))
    console.print(
        f"\nThe photographs show nothing that {MODEL} knows: it calls each of them some digit. "
        "Only the digits count for accuracy; the card's score is that of the held-out ones.",
        style="dim",
        highlight=False,
    )
    if tasks:
        _show_tasks(console, out)
    _print_end(console, out, time.monotonic() - begun_s, tasks=tasks)


def _show_tasks(console: Console, out: Path) -> None:
    console.rule("[bold]Every other task[/] · pictures with known answers, a worker for each model", align="left")
    with _step(console, "Drawing pages, canvases and cells"):
        examples = write_task_pictures(out / "pictures")
    with _interruptible(console):
        runs = run_tasks(console, examples, out / "tasks", settings=_settings(out), precision="auto")
    console.print(task_table(runs))
    with _step(console, "Setting the contact sheet"):
        write_page(out, [run.shown() for run in runs])


def _settings(out: Path) -> Settings:
    # A Redis of the demo's own: whatever else runs on this machine is neither used nor disturbed.
    return load_settings().model_copy(update={"redis_url": None, "data_dir": (out / ".stack").resolve()})


@contextmanager
def _interruptible(console: Console) -> Iterator[None]:
    try:
        yield
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print("Interrupted.")
        raise typer.Exit(EXIT_INTERRUPTED) from None


def _run(console: Console, folder: DemoFolder, out: Path, precision: str) -> RunReport:
    job = FolderJob(
        folder.images,
        out / "run",
        "classification",
        MODEL,
        options={},
        more={"labels": Labels.read(folder.labels), "fresh": True},
    )
    with (
        ensure_stack(
            [MODEL],
            settings=_settings(out),
            media_roots={root_name(folder.images): folder.images.resolve()},
            precision=precision,
            on_progress=lambda line: console.print(f"  {line}", style="dim", highlight=False, markup=False),
        ) as stack,
        progress_view(console) as on_progress,
    ):
        return asyncio.run(job.run(stack, on_progress))


def _bare(images: Path) -> dict[str, Any]:
    # A process of its own: no memory, threads or warm caches shared with what it is compared to.
    command = ["bare", os.fspath(images), "--model", MODEL, "--rounds", str(BARE_ROUNDS)]
    done = subprocess.run(
        [sys.executable, "-m", "visionpipe", *command],
        capture_output=True,
        text=True,
        timeout=BARE_TIMEOUT_S,
        check=False,
    )
    if done.returncode != 0:
        raise InternalError(f"The plain loop failed: {done.stderr.strip()[-2000:]}")
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def _comparison(report: RunReport, bare: dict[str, Any], out: Path) -> Table:
    ours = dict(_answers(out / "run" / "results.csv"))
    same = sum(ours.get(path) == label for path, label in bare["answers"].items())
    rate, ratio = bare["images_per_s"], report.images_per_s / max(1e-9, bare["images_per_s"])
    table = Table.grid(padding=(0, 2))
    table.add_row("through the queue", f"[bold]{report.images_per_s:,.0f}[/] images/s", "every image accounted for")
    table.add_row("plain loop, fp32", f"[bold]{rate:,.0f}[/] images/s", f"best of {BARE_ROUNDS} passes, one process")
    table.add_row("ratio", f"[bold]{ratio:.2f}[/]", f"same answer for {same:,} of {bare['images']:,} images")
    if ratio < 1:
        queue_ms, loop_ms = 1000 / max(1e-9, report.images_per_s), 1000 / max(1e-9, rate)
        table.add_row(
            "held back by",
            f"[bold]{queue_ms - loop_ms:.2f}[/] ms an image",
            f"of our own, beside the loop's {loop_ms:.2f}",
        )
    return table


def _answers(path: Path) -> Iterator[tuple[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["state"] == "done":
                yield row["path"], row["label_1"]


def _print_end(console: Console, out: Path, taken_s: float, *, tasks: bool) -> None:
    console.print(f"\n[bold]Open[/] ({taken_s:.0f} s in all)")
    for name, what in (
        *(
            (("index.html", "every task, with links to all answers"), (SHEET, "the same in one picture"))
            if tasks
            else ()
        ),
        ("run/index.html", "every digit's answer under its picture"),
        ("run/results.csv", "one row per file"),
        ("run/results.jsonl", "the same with all scores and timings"),
        ("run/report.json", "the numbers above"),
    ):
        console.print(f"  {out / name}  [dim]{what}[/]", highlight=False, soft_wrap=True)


@contextmanager
def _step(console: Console, what: str) -> Iterator[None]:
    if console.is_terminal:
        with console.status(f"{what} …"):
            yield
    else:
        console.print(what, highlight=False)
        yield
