"""The table of faults: one row for each, printed at the end of the tests and written as JSON where asked for."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, fields
from pathlib import Path

JSON_VARIABLE = "FAULTS_JSON"
"""Names the file that the rows are written to."""
PROPERTY = "fault"
"""Under this name a test's report carries its rows."""


@dataclass(frozen=True)
class Row:
    """What one fault left behind."""

    fault: str
    jobs: int
    items: int
    done: int
    failed: int
    cancelled: int
    expired: int
    lost: int
    """Items without an outcome whose job does not say why."""
    doubled: int
    """Items with more than one outcome, or executed more often than the faults that struck their holder allow."""
    over: int
    """Executions beyond one for each image that the network saw."""
    bound: int
    """Executions of one image that are allowed."""
    recovery_s: float | None = None
    """From the fault until everything that it struck was done."""


rows: list[Row] = []

_HEADS = {"fault": "fault", "recovery_s": "recovery s"}


def add(row: Row) -> None:
    """Note a row; nothing may be lost or doubled."""
    rows.append(row)
    assert (row.lost, row.doubled) == (0, 0), row
    assert row.items == row.done + row.failed + row.cancelled + row.expired, row


def _cell(value: object) -> str:
    return "" if value is None else f"{value:.1f}" if isinstance(value, float) else str(value)


def lines(some: list[Row]) -> list[str]:
    """Lay the rows out."""
    heads = [_HEADS.get(field.name, field.name) for field in fields(Row)]
    cells = [[_cell(value) for value in asdict(row).values()] for row in some]
    widths = [max(map(len, column)) for column in zip(heads, *cells, strict=True)]

    def line(texts: list[str]) -> str:
        first, *rest = texts
        return "  ".join(
            [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(rest, widths[1:], strict=True))]
        )

    total = f"{len(some)} faults, {sum(row.items for row in some)} items"
    ends = f"lost {sum(row.lost for row in some)}, doubled {sum(row.doubled for row in some)}"
    return [line(heads), *map(line, cells), f"{total}: {ends}"]


def write_json(some: list[Row]) -> None:
    """Write the rows to the file that ``FAULTS_JSON`` names, if it names one."""
    if path := os.environ.get(JSON_VARIABLE):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        Path(path).write_text(json.dumps([asdict(row) for row in some], indent=1) + "\n", encoding="utf-8")
