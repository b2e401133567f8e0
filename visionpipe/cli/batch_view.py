"""What a folder run looks like on a terminal: its progress, and its report."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from visionpipe.cli.output import rate, share_of_ceiling
from visionpipe.runs import RunProgress, RunReport, Stage
from visionpipe.runs.progress import OnProgress
from visionpipe.runs.report import Failure, Summary

PLAIN_EVERY_S = 5.0
"""How often a line is printed where there is no terminal."""
REFRESH_HZ = 8

_WORDS = {
    Stage.SCAN: "Scanning",
    Stage.WAIT: "Waiting",
    Stage.SUBMIT: "Running",
    Stage.WORK: "Running",
    Stage.DRAW: "Drawing",
    Stage.WRITE: "Writing",
    Stage.REPORT: "Writing",
}


@contextmanager
def progress_view(console: Console) -> Iterator[OnProgress]:
    """Show a run while it goes on: a bar on a terminal, a line now and then elsewhere."""
    if console.is_terminal:
        with Live(Text(""), console=console, refresh_per_second=REFRESH_HZ, transient=True) as live:
            yield _BarView(live)
    else:
        yield _PlainView(console)


class _BarView:
    def __init__(self, live: Live) -> None:
        self._live = live
        self._drawn_s = 0.0

    def __call__(self, progress: RunProgress) -> None:
        now_s = time.monotonic()
        # A run may report thousands of times a second; drawing each would cost more than the run.
        if now_s - self._drawn_s > 1 / REFRESH_HZ or progress.stage in (Stage.WRITE, Stage.REPORT):
            self._drawn_s = now_s
            self._live.update(_bar(progress))


class _PlainView:
    def __init__(self, console: Console) -> None:
        self._console = console
        self._printed: tuple[str, float] = ("", 0.0)

    def __call__(self, progress: RunProgress) -> None:
        word, printed_s = self._printed
        now_s = time.monotonic()
        if _WORDS[progress.stage] != word or now_s - printed_s > PLAIN_EVERY_S:
            self._printed = (_WORDS[progress.stage], now_s)
            self._console.print(_line(progress), highlight=False, markup=False, soft_wrap=True)


def _line(progress: RunProgress) -> str:
    if progress.stage is Stage.SCAN:
        return f"Scanning: {progress.counts.found:,} found"
    counts = progress.counts
    ended = counts.done + counts.failed
    parts = [f"{_WORDS[progress.stage]}: {ended:,}/{ended + counts.open:,}"]
    # A run that only writes has no rate, which is not a rate of nothing.
    if progress.stage not in (Stage.DRAW, Stage.WRITE, Stage.REPORT):
        parts.append(f"{progress.rate:,.0f} images/s")
    if progress.eta_s is not None and counts.open:
        parts.append(f"{_duration(progress.eta_s)} to go")
    parts.append(f"{counts.failed:,} failed")
    return ", ".join([*parts, *([progress.note] if progress.note else [])])


def _bar(progress: RunProgress) -> RenderableType:
    if progress.stage is Stage.SCAN:
        return Text(_line(progress))
    counts = progress.counts
    ended, row = counts.done + counts.failed, Table.grid(padding=(0, 2))
    eta = _duration(progress.eta_s) if progress.eta_s is not None else "--:--"
    failed = Text(f"{counts.failed:,} failed", style="red" if counts.failed else "dim")
    row.add_row(
        Text(_WORDS[progress.stage], style="bold"),
        ProgressBar(total=max(1, ended + counts.open), completed=ended, width=36),
        f"{ended:,}/{ended + counts.open:,}",
        Text(f"{progress.rate:,.0f} images/s", style="cyan"),
        Text(eta, style="dim"),
        failed,
    )
    return Group(row, Text(progress.note, style="yellow")) if progress.note else row


def _duration(seconds: float) -> str:
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes:02}:{rest:02}"


def print_report(console: Console, report: RunReport) -> None:
    """Print what a run amounts to."""
    console.print(Panel(_numbers(report), title=f"{report.task} · {report.model}", title_align="left", expand=False))
    if report.failures:
        console.print(_failures(report.failures, "Failed"))
    if report.overlays is not None and report.overlays.failures:
        console.print(_failures(report.overlays.failures, "Not drawn"))
    if report.summary is not None:
        # A table's own title would be broken to the table's width.
        console.print(report.summary.title, style="bold", highlight=False, markup=False)
        console.print(_summary(report.summary))
        for note in report.summary.notes:
            console.print(note, style="yellow", highlight=False, markup=False)
    if report.skips:
        skips = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in report.skips.items())
        console.print(f"Skipped: {skips}", highlight=False, markup=False)
    slow = ", ".join(f"{slow.path} ({slow.work_ms:,.0f} ms)" for slow in report.slowest[:3] if slow.work_ms >= 100)
    if slow:
        console.print(f"Slowest: {slow}", highlight=False, markup=False)


def _numbers(report: RunReport) -> Table:
    table = Table.grid(padding=(0, 2))
    adds = f"{report.done:,} done + {report.failed:,} failed + {report.skipped:,} skipped"
    table.add_row("found", f"[bold]{report.found:,}[/] = {adds}" + (f" + {report.open:,} open" if report.open else ""))
    table.add_row("speed", f"[bold]{rate(report.images_per_s)}[/] images/s, {report.worked_s:,.1f} s of work")
    if report.ceiling is not None:
        whole = report.images_per_s / report.ceiling.images_per_s
        is_whole = abs(whole - report.ceiling.share) < 0.01
        table.add_row("" if is_whole else "last sitting", share_of_ceiling(report.ceiling))
    if report.stage_ms:
        work = ("fetch", "decode", "preprocess", "forward", "postprocess")
        stages = " · ".join(f"{name} {report.stage_ms.get(name, 0):.2f}" for name in work)
        table.add_row("ms per image", stages)
    if report.overlays is not None:
        table.add_row("drawn", f"{report.overlays.drawn:,} overlays")
    for info in report.models:
        table.add_row("answered by", f"{info.name}@{info.digest}, {info.precision} on {info.device}")
    for split in report.accuracy:
        what = "accuracy" if split.split == "all" else f"accuracy, {split.split}"
        answered = split.right + split.wrong
        missing = f", {split.unanswered:,} unanswered" if split.unanswered else ""
        table.add_row(what, f"[bold]{100 * split.share:.2f} %[/] ({split.right:,} of {answered:,}{missing})")
    return table


def _summary(summary: Summary) -> Table:
    table = Table(box=None, pad_edge=False)
    for name in summary.rows[0] if summary.rows else ():
        table.add_column(name, justify="right")
    for row in summary.rows:
        table.add_row(*row.values())
    return table


def _failures(failures: list[Failure], title: str) -> Table:
    table = Table(box=None, pad_edge=False, title=title, title_justify="left", title_style="bold red")
    for name in ("code", "count", "for example"):
        table.add_column(name, justify="right" if name == "count" else "left", overflow="fold")
    for failure in failures:
        example = Text(failure.example_path) + Text(f"\n{failure.example_message}", style="dim")
        table.add_row(Text(failure.code, style="red"), f"{failure.count:,}", example)
    return table
