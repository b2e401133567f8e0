"""What was measured, on a terminal of 100 columns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.console import Console
from rich.markup import escape
from rich.panel import Panel
from rich.table import Table

from visionpipe.cli.output import rate, share_of_ceiling, size
from workers.benching.points import STAGES, Point
from workers.benching.report import BenchReport, CompareReport, Ratio, Subject

SHORT = {"preprocess": "prep", "batch_wait": "wait", "postprocess": "post"}
BOUND_WORDS = {"forward": "the network", "decode": "decoding", "postprocess": "postprocessing"}


def show(console: Console, report: BenchReport) -> None:
    """Print one model's figures."""
    console.print(Panel(_facts(report), title=escape(_title(report.subject)), title_align="left", expand=False))
    for table in (_loads(report.points), _split(report.points)):
        console.print(table)
        console.print()
    if len(report.batches) > 1:
        console.print(_batches(report))
        console.print()
    if report.threads:
        told = " · ".join(f"{one.threads}: {rate(one.images_per_s)}" for one in report.threads)
        console.print(f"[bold]Decode threads alone[/], images/s   {told}\n")
    if len(report.crews) > 1:
        told = " · ".join(f"{one.workers}: {rate(one.images_per_s)}" for one in report.crews)
        console.print(f"[bold]Folder runs by number of workers[/], images/s   {told}\n")
    for note in report.notes:
        console.print(escape(note), style="yellow")


def show_comparison(console: Console, report: CompareReport) -> None:
    """Print two contenders' figures."""
    table = _table("", "first", "second", "second / first", "range", "")
    for one in report.ratios:
        cells = [_figure(statistics.median(values), one.unit) for values in (one.first, one.second)]
        spread = f"{one.low:.2f} to {one.high:.2f}"
        table.add_row(one.what, *cells, f"[bold]{one.median:.2f}[/]", spread, _verdict(one), style=None)
    for place, subject in (("first", report.first), ("second", report.second)):
        console.print(f"[bold]{place:6}[/] {escape(_title(subject))}, {_how(subject)}")
    console.print(f"Medians of {report.rounds} rounds in turns; ratios are those of the rounds.\n", style="dim")
    console.print(table)


def _title(subject: Subject) -> str:
    return f"{subject.label} · {subject.task}"


def _how(subject: Subject) -> str:
    words = [f"{subject.workers} workers"] if subject.workers > 1 else []
    words += [subject.precision, subject.code.partition(":")[0], f"micro-batches of up to {subject.max_batch}"]
    if subject.decode_threads is not None:
        words.append(f"{subject.decode_threads} decode threads")
    return ", ".join(words)


def _facts(report: BenchReport) -> Table:
    table, subject = Table.grid(padding=(0, 2)), report.subject
    for name, text in _lines(report, subject):
        table.add_row(name, text)
    return table


def _lines(report: BenchReport, subject: Subject) -> Iterator[tuple[str, str]]:
    yield "on", escape(f"{subject.device_name or subject.device}, {_how(subject)}")
    if report.pictures is not None:
        about = report.pictures
        yield "of", escape(f"{about.different} pictures of {size(about.mean_bytes)} ({about.source})")
    best = max(report.points, key=lambda point: point.images_per_s, default=None)
    if best is not None:
        yield "requests", f"[bold]{rate(best.images_per_s)}[/] images/s at best, {_load(best)}"
    if report.folder is not None:
        runs = report.folder.runs
        spread = f", median of {len(runs)} runs ({rate(min(runs))} to {rate(max(runs))})" if len(runs) > 1 else ""
        failed = f", [red]{report.folder.failed} failed[/]" if report.folder.failed else ""
        yield "folder", f"[bold]{rate(report.folder.images_per_s)}[/] images/s{spread}{failed}"
    if report.ceiling is not None:
        yield from _ceiling_lines(report)
    if report.folder is not None and report.folder.ceiling is not None:
        yield "in the run", share_of_ceiling(report.folder.ceiling)
    yield "memory", _memory(report)
    advice = report.advice
    told = [f"--max-batch {advice.max_batch}"] if advice.max_batch is not None else []
    if advice.decode_threads is not None:
        told.append(f"VISIONPIPE_DECODE_THREADS={advice.decode_threads}")
    if told:
        yield "recommended", "[bold]" + "  ".join(told) + "[/]"
    if advice.workers is not None:
        yield (
            "for folders",
            f"[bold]batch --workers {advice.workers}[/], [bold]up --workers-per-model {advice.workers}[/]",
        )


def _ceiling_lines(report: BenchReport) -> Iterator[tuple[str, str]]:
    ceiling = report.ceiling
    assert ceiling is not None
    parts = f"decode {rate(ceiling.decode_per_s)}, forward {rate(ceiling.forward_per_s)} alone"
    yield "ceiling", f"{rate(ceiling.images_per_s)} images/s, set by {BOUND_WORDS[ceiling.bound]} ({parts})"
    if ceiling.share is not None and ceiling.share_range is not None:
        low, high = ceiling.share_range
        spread = f" ({low:.0%} to {high:.0%})" if low < high else ""
        yield "", f"[bold]{ceiling.share:.0%}[/] of it reached by folder runs{spread}"


def _memory(report: BenchReport) -> str:
    memory = report.memory
    told = [f"worker {size(memory.rss_bytes)}"]
    if memory.peak_rss_bytes is not None:
        told.append(f"at most {size(memory.peak_rss_bytes)}")
    if memory.device_bytes:
        told.append(f"{size(memory.device_bytes)} of the GPU")
    return ", ".join(told)


def _loads(points: Sequence[Point]) -> Table:
    table = _table("load", "images/s", "p50 ms", "p95 ms", "p99 ms", "batch", "answered", "errors", "")
    for point in points:
        errors = ", ".join(f"{code} {count}" for code, count in point.errors.items()) or "0"
        late = f"{point.unfinished} unanswered" if point.unfinished else "queue grows" if point.saturated else ""
        table.add_row(
            _load(point), rate(point.images_per_s), *(_ms(ms) for ms in (point.p50_ms, point.p95_ms, point.p99_ms)),
            "" if point.mean_batch is None else f"{point.mean_batch:.3g}", f"{point.done:,}", escape(errors), late,
        )  # fmt: skip
    return table


def _split(points: Sequence[Point]) -> Table:
    names = [*STAGES, "other"]
    table = _table("mean ms in", *(SHORT.get(name, name) for name in names))
    for point in points:
        if point.stage_ms:
            table.add_row(_load(point), *(_ms(point.stage_ms[name]) for name in names))
    return table


def _batches(report: BenchReport) -> Table:
    table = _table("micro-batch", *(str(one.batch) for one in report.batches))
    table.add_row("forward ms", *(_ms(one.ms) for one in report.batches))
    table.add_row("images/s", *(rate(one.images_per_s) for one in report.batches))
    return table


def _load(point: Point) -> str:
    return f"{point.in_flight} in flight" if point.in_flight is not None else f"{point.offered_per_s:g}/s"


def _verdict(one: Ratio) -> str:
    if not one.shows_a_difference:
        return "[dim]no difference shown[/]"
    is_better = (one.median > 1) is one.more_is_better
    return "[green]second is better[/]" if is_better else "[red]second is worse[/]"


def _figure(value: float, unit: str) -> str:
    return f"{_ms(value)} ms" if unit == "ms" else f"{rate(value)} {unit}"


def _ms(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.1f}" if abs(value) >= 10 else f"{value:.2f}"


def _table(*headings: str) -> Table:
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for number, heading in enumerate(headings):
        made.add_column(heading, justify="right" if number else "left", no_wrap=True)
    return made
