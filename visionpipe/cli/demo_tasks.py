"""The demo's second part: every other task on pictures with known answers, through a worker for each model."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from rich.box import SIMPLE_HEAD
from rich.console import Console, JustifyMethod
from rich.markup import escape
from rich.table import Table

from visionpipe.cli.batch import FolderJob, root_name
from visionpipe.cli.batch_view import progress_view
from visionpipe.cli.values import task_options
from visionpipe.demo.page import Shown
from visionpipe.demo.score import score
from visionpipe.demo.tasks import TaskExample
from visionpipe.runs import RunReport
from visionpipe.runs.pictures import Pictures
from visionpipe.settings import Settings
from visionpipe.stack import Stack, ensure_stack


@dataclass(frozen=True)
class TaskRun:
    """One task of the demo, done."""

    example: TaskExample
    """What was asked."""
    out: Path
    """Where its results lie."""
    report: RunReport
    """What they amount to."""
    verdict: str
    """How they compare with the truth."""

    def shown(self) -> Shown:
        """As the demo's page shows it."""
        example = self.example
        return Shown(example.title, example.task, example.model, self.verdict, example.folder, self.out, example.styles)


def run_tasks(
    console: Console, examples: Sequence[TaskExample], out: Path, *, settings: Settings, precision: str
) -> list[TaskRun]:
    """Run every example's folder through its model, with overlays."""
    models = list(dict.fromkeys(example.model for example in examples))
    roots = {root_name(example.folder): example.folder.resolve() for example in examples}
    with ensure_stack(
        models,
        settings=settings,
        media_roots=roots,
        precision=precision,
        on_progress=lambda line: console.print(f"  {line}", style="dim", highlight=False, markup=False),
    ) as stack:
        return [_run(console, example, out / example.folder.name, stack) for example in examples]


def _run(console: Console, example: TaskExample, out: Path, stack: Stack) -> TaskRun:
    pictures = Pictures(stack.settings.max_image_bytes)
    words = [f"{key}={_word(value)}" for key, value in example.options.items()]
    styles = [str(style) for style in example.styles]
    options = task_options(example.task, words, styles, pictures.refer).model_dump(mode="json", exclude_unset=True)
    more = {"fresh": True, "overlays": True}
    job = FolderJob(example.folder, out, example.task, example.model, options=options, more=more, pictures=pictures)
    console.print(f"  {example.title}", highlight=False)
    with progress_view(console) as on_progress:
        report = asyncio.run(job.run(stack, on_progress))
    return TaskRun(example, out, report, score(example.task, out, example.truth))


def _word(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def task_table(runs: Sequence[TaskRun]) -> Table:
    """Make the table of all tasks: who answered, how well, and at what cost."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("asked, and compared with the truth", overflow="fold")
    for heading, justify in (("model", "left"), ("pictures", "right"), ("ms each", "right")):
        table.add_column(heading, justify=cast(JustifyMethod, justify), no_wrap=True)
    for run in runs:
        report = run.report
        table.add_row(
            f"{escape(run.example.title)}\n[bold]{escape(run.verdict)}[/]",
            run.example.model,
            f"{report.done}/{report.found}",
            f"{1000 * report.worked_s / max(1, report.done):,.0f}",
        )
    return table
