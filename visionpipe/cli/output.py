"""What all commands print alike: errors, JSON, tables, durations."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from visionpipe.errors import VisionPipeError

if TYPE_CHECKING:
    from visionpipe.runs.ceiling import Bound, Ceiling

_BOUNDS: dict[Bound, str] = {
    "forward": "forward-bound",
    "decode": "decode-bound",
    "postprocess": "bound by postprocessing",
    "service": "held back by bookkeeping: claims, results, outcomes; more workers may help",
    "waiting": "held back by Python, or from outside; more workers may help",
}


def out() -> Console:
    """The console on stdout; wide when it is a file or a pipe, so that nothing is cut."""
    return _console(stderr=False)


def err() -> Console:
    """The console on stderr."""
    return _console(stderr=True)


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    return Console(stderr=stderr, highlight=False, width=None if stream.isatty() else 200)


def write_json(value: Any) -> None:
    """Write one JSON document; indented for people, on one line for programs."""
    indent = 2 if sys.stdout.isatty() else None
    typer.echo(json.dumps(value, indent=indent, ensure_ascii=False, allow_nan=False))


def write_error(error: VisionPipeError, *, as_json: bool) -> None:
    """Write one of our errors: a clear red message on stderr, or a JSON document on stdout."""
    if as_json:
        from visionpipe.wire import error_info

        write_json({"error": error_info(error).model_dump(mode="json")})
    else:
        err().print(f"[bold red]Error[/] [dim]{escape(error.code)}[/]  {escape(error.message)}", soft_wrap=True)


def table(*columns: str, right: Iterable[str] = ()) -> Table:
    """Start a plain table.

    Args:
        columns: The headings.
        right: Those of them whose values stand on the right.
    """
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def table_of(rows: Sequence[Mapping[str, str]]) -> Table:
    """Show rows that share their keys; numbers stand on the right, and columns without any value are left out."""
    columns = [name for name in rows[0] if any(row[name] for row in rows)]
    # A label such as "7" is a name.
    numeric = [name for name in columns if name != "class" and all(_is_number(row[name]) for row in rows if row[name])]
    made = table(*columns, right=numeric)
    for row in rows:
        made.add_row(*(escape(row[name]) for name in columns))
    return made


def duration(seconds: float | None) -> str:
    """Write a time span for people; nothing for an unknown one."""
    if seconds is None:
        return ""
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"


def rate(per_s: float) -> str:
    """Write images a second in three digits or more."""
    return f"{per_s:,.0f}" if per_s >= 100 else f"{per_s:.3g}"


def share_of_ceiling(ceiling: Ceiling) -> str:
    """Hold a rate against what the machines could do, in one line."""
    whose = "this machine's" if ceiling.machines == 1 else f"these {ceiling.machines} machines'"
    return f"{ceiling.share:.0%} of {whose} ceiling ({rate(ceiling.images_per_s)} images/s), {_BOUNDS[ceiling.bound]}"


def count(number: int, thing: str) -> str:
    """Write a number of things."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def size(num_bytes: float) -> str:
    """Write a number of bytes for people."""
    for unit in ("B", "kB", "MB", "GB"):
        if num_bytes < 1000:
            return f"{num_bytes:.0f} {unit}" if unit == "B" else f"{num_bytes:.1f} {unit}"
        num_bytes /= 1000
    return f"{num_bytes:.1f} TB"


def _is_number(text: str) -> bool:
    return text.rstrip("%").replace(".", "", 1).replace("-", "").replace("e", "").isdigit()
