"""``visionpipe batch``: one question to every image of a folder."""

from __future__ import annotations

import asyncio
import hashlib
import os
import platform
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from visionpipe.aclient import AsyncClient
from visionpipe.cli.batch_view import print_report, progress_view
from visionpipe.cli.values import task_options
from visionpipe.runs import Labels, RunReport, rewrite_outputs, run_folder
from visionpipe.runs.lock import output_lock
from visionpipe.runs.names import real_path
from visionpipe.runs.pictures import Pictures
from visionpipe.runs.progress import OnProgress
from visionpipe.settings import load_settings
from visionpipe.stack import Stack, ensure_stack

EXIT_SOME_FAILED = 3
"""Every input has an outcome, and some of the outcomes are errors."""
EXIT_INTERRUPTED = 130


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(batch)


def batch(
    task: Annotated[str, typer.Argument(help="What to ask, such as classification.")],
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of images, scanned recursively.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where results go; resumes what it finds there.")],
    model: Annotated[str, typer.Option("--model", "-m", help="NAME or NAME@DIGEST.")],
    option: Annotated[
        list[str] | None, typer.Option("-O", help="KEY=VALUE, an option of the task; @FILE is an image.")
    ] = None,
    style: Annotated[list[str] | None, typer.Option(help="Picture whose style is wanted; repeat for several.")] = None,
    pattern: Annotated[list[str] | None, typer.Option(help="Names to take, such as '*.png'.")] = None,
    every_file: Annotated[bool, typer.Option("--all", help="Take every file, whatever its name.")] = False,
    labels: Annotated[Path | None, typer.Option(help="CSV of path, label[, split] to compare with.")] = None,
    overlays: Annotated[
        bool, typer.Option("--overlays", help="Draw every result over its image, into OUTPUT/overlays.")
    ] = False,
    chunk: Annotated[int | None, typer.Option(min=1, max=4096, help="Images per job; adapts by default.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what OUTPUT holds of an earlier run.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Try failed inputs again.")] = False,
    report_only: Annotated[bool, typer.Option("--report-only", help="Only write the results again.")] = False,
    redis_url: Annotated[str | None, typer.Option(help="Redis to use instead of the embedded one.")] = None,
    device: Annotated[str, typer.Option(help="Device of workers started for this run.")] = "auto",
    precision: Annotated[str, typer.Option(help="Precision of the same.")] = "auto",
    workers: Annotated[
        int | None,
        typer.Option(min=1, help="Workers to start if none serves the model; by default one, and more if that helps."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Run a folder through the queue; stopped at any point, the same command resumes it.

    Exit code: 0 all done, 3 some inputs failed, 1 an error, 130 interrupted.
    """
    console = Console(stderr=True)
    truths = Labels.read(labels) if labels else None
    if report_only:
        report = rewrite_outputs(output, labels=truths)
    else:
        more = {
            "patterns": tuple(pattern or ()),
            "every_file": every_file,
            "chunk": chunk,
            "fresh": fresh,
            "retry_failed": retry_failed,
            "labels": truths,
            "overlays": overlays,
        }
        job = _checked_job(folder, output, task, model, option or [], style or [], more)
        report = _carry_out(console, job, redis_url, device=device, precision=precision, workers=workers)
    if truths is not None and not report.accuracy:
        told = f"No path in {labels} is that of a file found; write them relative to the folder, as in results.csv."
        console.print(told, style="yellow", highlight=False, markup=False, soft_wrap=True)
    _finish(console, report, output, as_json=as_json)


def _checked_job(
    folder: Path, output: Path, task: str, model: str, option: list[str], style: list[str], more: Mapping[str, Any]
) -> FolderJob:
    # Before Redis and a worker are started, which neither a slip of the pen nor a full disk should cost.
    pictures = Pictures(load_settings().max_image_bytes)
    # Only what was said: an earlier sitting, or the drawing, may have a say in the rest.
    options = task_options(task, option, style, pictures.refer).model_dump(mode="json", exclude_unset=True)
    with output_lock(output):
        pass
    return FolderJob(folder, output, task, model, options=options, pictures=pictures, more=more)


def _carry_out(console: Console, job: FolderJob, redis_url: str | None, **how: Any) -> RunReport:
    with folder_stack(console, job.folder, job.output, job.model, redis_url, **how) as ready:
        return asyncio.run(job.run(*ready))


@contextmanager
def folder_stack(
    console: Console, folder: Path, output: Path, model: str, redis_url: str | None, **how: Any
) -> Iterator[tuple[Stack, OnProgress]]:
    """Have what a command over a folder needs, a stack and a view of its progress; an interruption ends the command.

    Args:
        console: Is told what is started.
        folder: The folder, mounted by a worker that is started.
        output: Where a later command resumes.
        model: Of the worker that is started, unless a Redis is named.
        redis_url: The Redis to use.
        how: Further arguments of ``ensure_stack``.
    """
    settings = load_settings(redis_url=redis_url)
    if settings.redis_url is not None and (how.get("workers") or 1) > 1:
        console.print("A Redis is named: the workers behind it are used, and none is started.", style="yellow")
    try:
        with (
            ensure_stack(
                # Whoever names a Redis means the workers behind it.
                [model] if settings.redis_url is None else [],
                settings=settings,
                media_roots={root_name(folder): folder},
                on_progress=lambda line: console.print(line, style="dim", highlight=False, markup=False),
                **how,
            ) as stack,
            progress_view(console) as on_progress,
        ):
            yield stack, on_progress
    except (KeyboardInterrupt, asyncio.CancelledError):
        console.print(f"Interrupted. The same command resumes it; {output} remembers what is done.", markup=False)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@dataclass(frozen=True)
class FolderJob:
    """What to run over a folder, once there is a stack."""

    folder: Path
    output: Path
    task: str
    model: str
    options: Mapping[str, Any]
    more: Mapping[str, Any]
    """Further arguments of ``run_folder``."""
    pictures: Pictures | None = None
    """Those that the options name."""

    async def run(self, stack: Stack, on_progress: OnProgress) -> RunReport:
        """Run it; SIGTERM interrupts as Ctrl-C does."""
        # Schedulers of clusters say SIGTERM where a person presses Ctrl-C, and the ledger deserves the same care.
        ours = asyncio.current_task()
        assert ours is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ours.cancel)
        pictures = self.pictures or Pictures(stack.settings.max_image_bytes)
        async with AsyncClient(stack.redis_url, settings=stack.settings) as client, pictures.kept(client):
            return await run_folder(
                client,
                self.folder,
                self.output,
                task=self.task,
                model=self.model,
                options=self.options,
                settings=stack.settings,
                on_progress=on_progress,
                **self.more,
            )


def root_name(folder: Path) -> str:
    """A media root's name for a folder of this machine, the same wherever on it is asked for."""
    # Other machines on the same Redis may have other pictures at the same path.
    place = os.fsencode(platform.node()) + b":" + real_path(folder)
    return f"run-{hashlib.sha256(place).hexdigest()[:12]}"


def _finish(console: Console, report: RunReport, output: Path, *, as_json: bool) -> None:
    if as_json:
        typer.echo(report.model_dump_json())
    else:
        print_report(console, report)
        more = [file.name for file in report.summary.files] if report.summary is not None else []
        for name in ("results.jsonl", "results.csv", "report.json", "index.html", *more):
            console.print(f"  {output / name}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if report.failed:
        raise typer.Exit(EXIT_SOME_FAILED)
