"""Results as text for people."""

from __future__ import annotations

from collections.abc import Sequence


def as_text(headline: str, rows: Sequence[dict[str, str]], most: int = 20) -> str:
    """Write a result for people: its summary, and its rows in columns."""
    if not rows:
        return headline
    lines = [list(rows[0]), *(list(row.values()) for row in rows[:most])]
    used = [index for index in range(len(lines[0])) if any(line[index] for line in lines[1:])]
    widths = {index: max(len(line[index]) for line in lines) for index in used}
    table = ["  ".join(line[index].ljust(widths[index]) for index in used).rstrip() for line in lines]
    more = [f"... and {len(rows) - most} more"] if len(rows) > most else []
    return "\n".join([headline, *(f"  {line}" for line in [*table, *more])])
