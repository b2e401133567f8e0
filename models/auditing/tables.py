"""An audit as a table for people, rows for spreadsheets, and JSON for programs."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from rich.table import Table

from models.auditing.measuring import Figures
from models.auditing.summary import Spread, Summary

_COLOURS = {"passes": "green", "fails": "red", "inconclusive": "yellow"}
_SPREADS = [field.name for field in fields(Summary) if field.type == "Spread | None"]


def table(summaries: Sequence[Summary]) -> Table:
    """Show the methods; columns that nobody asked for are left out."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    made.add_column("method", no_wrap=True)
    columns = [
        ("verdict", "sanity"),
        ("verdicts", "pictures\npass/?/fail"),
        ("correlation", "rank\ncorrelation"),
        ("correlation_abs", "of abs.\nvalues"),
    ]
    columns += [("ssim", "SSIM"), ("deletion_auc", "del.\nAUC"), ("insertion_auc", "ins.\nAUC")]
    columns += [("completeness_error", "compl.\nerror"), ("seconds", "s")]
    shown = [column for column in columns if any(_cell(summary, column[0]) for summary in summaries)]
    for name, heading in shown:
        made.add_column(heading, justify="left" if name == "verdict" else "right", no_wrap=True)
    for summary in summaries:
        made.add_row(summary.method, *(_cell(summary, name) for name, _ in shown))
    return made


def notes(summaries: Sequence[Summary]) -> list[str]:
    """Say the verdicts in sentences, and why methods were left out."""
    return [
        f"{summary.method}: {summary.fault or (summary.judgement.reason if summary.judgement else '')}"
        for summary in summaries
        if summary.fault or summary.judgement
    ]


def to_json(summary: Summary) -> dict[str, Any]:
    """Give a method's figures as JSON values."""
    made: dict[str, Any] = {
        "method": summary.method,
        "num_images": summary.num_images,
        "fault": summary.fault,
        "verdict": None if summary.judgement is None else summary.judgement.verdict,
        "reason": None if summary.judgement is None else summary.judgement.reason,
        "verdicts": dict(zip(("passes", "inconclusive", "fails"), summary.verdicts, strict=True)),
    }
    for name in _SPREADS:
        spread = getattr(summary, name)
        made[name] = None if spread is None else asdict(spread)
    return made


def write_methods(summaries: Sequence[Summary], path: Path) -> None:
    """Write one row per method: means and standard deviations over the pictures."""
    rows = []
    for summary in summaries:
        row = to_json(summary)
        for name in _SPREADS:
            spread = row.pop(name) or {"mean": "", "sd": ""}
            row |= {name: spread["mean"], f"{name}_sd": "" if spread["sd"] is None else spread["sd"]}
        row |= {f"num_{verdict}": number for verdict, number in row.pop("verdicts").items()}
        rows.append(row)
    _write(rows, path)


def write_images(figures: Sequence[Figures], path: Path) -> None:
    """Write one row per picture and method."""
    rows = []
    for one in figures:
        row = asdict(one)
        del row["reason"]
        last = row.pop("depths")[-1:]
        names = ("correlation", "correlation_abs", "ssim")
        row |= dict(zip(names, last[0][2:] if last else ("", "", ""), strict=True))
        rows.append(row)
    _write(rows, path)


def write_depths(figures: Sequence[Figures], path: Path) -> None:
    """Write one row per picture, method and depth of randomization."""
    names = ("layer", "num_random", "correlation", "correlation_abs", "ssim")
    rows = [
        {"image": one.image, "method": one.method, **dict(zip(names, depth, strict=True))}
        for one in figures
        for depth in one.depths
    ]
    _write(rows, path)


def _cell(summary: Summary, column: str) -> str:
    if column == "verdict":
        if summary.fault:
            return "[dim]left out[/]"
        if summary.judgement is None:
            return ""
        colour = _COLOURS[summary.judgement.verdict]
        return f"[{colour}]{summary.judgement.verdict}[/]"
    if column == "verdicts":
        return "/".join(map(str, summary.verdicts)) if summary.judgement is not None else ""
    spread: Spread | None = getattr(summary, column)
    if spread is None:
        return ""
    if column in ("correlation", "correlation_abs"):
        return str(spread)
    return {"completeness_error": f"{spread.mean:.2%}", "seconds": f"{spread.mean:.2g}"}.get(
        column, f"{spread.mean:.2f}"
    )


def _write(rows: list[dict[str, Any]], path: Path) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]) if rows else [])
        writer.writeheader()
        writer.writerows(rows)
