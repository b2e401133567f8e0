"""The demo's front page: one contact sheet of all tasks, and the way to each run's own page."""

from __future__ import annotations

import html
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from PIL.Image import Image

PER_TASK = 2
"""Pictures of each task on the contact sheet."""
SHEET = "tasks.jpg"
"""Name of the contact sheet."""


class Shown(NamedTuple):
    """One task's run, as the page shows it."""

    title: str
    task: str
    model: str
    verdict: str
    pictures: Path
    """The folder of input pictures."""
    out: Path
    """The run's output folder."""
    styles: Sequence[Path] = ()


def write_page(out: Path, runs: Sequence[Shown]) -> None:
    """Write ``index.html`` and the contact sheet."""
    contact_sheet(runs).save(out / SHEET, quality=88)
    rows = "\n".join(_row(run, out) for run in runs)
    (out / "index.html").write_text(_PAGE.format(sheet=SHEET, rows=rows), encoding="utf-8")


def contact_sheet(runs: Sequence[Shown], *, cell_px: int = 224) -> Image:
    """Set every task's inputs beside its results, one task a row."""
    from visionpipe.drawing import sheet

    headings = ["input", "result"] * PER_TASK
    return sheet([list(_cells(run)) for run in runs], cell_px=cell_px, headings=headings)


def _cells(run: Shown) -> Iterable[tuple[Image | None, str]]:
    from PIL import Image as Pictures

    lines = (run.out / "results.jsonl").read_text(encoding="utf-8").splitlines()
    done = [row for row in map(json.loads, lines) if row["overlay"]]
    # Spread over the run, since neighbours tend to be alike.
    for row in done[:: max(1, len(done) // PER_TASK)][:PER_TASK]:
        with Pictures.open(run.pictures / row["path"]) as picture:
            yield picture.convert("RGB"), Path(row["path"]).stem
        with Pictures.open(run.out / row["overlay"]) as picture:
            yield picture.convert("RGB"), f"{run.task}: {run.model}"


def _row(run: Shown, out: Path) -> str:
    link = html.escape((run.out / "index.html").relative_to(out).as_posix())
    cells = (run.task, run.model, run.verdict)
    told = "".join(f"<td>{html.escape(cell)}</td>" for cell in cells)
    return f'<tr><td><a href="{link}">{html.escape(run.title)}</a></td>{told}</tr>'


_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>VisionPipe: every task</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 72rem; padding: 0 1rem; }}
table {{ border-collapse: collapse; margin: 1rem 0 2rem; }}
td, th {{ padding: .35rem 1.2rem .35rem 0; text-align: left; border-bottom: 1px solid #8884; vertical-align: top; }}
img {{ max-width: 100%; border: 1px solid #8884; border-radius: 6px; }}
</style></head><body>
<h1>Every task, through its worker</h1>
<table><thead><tr><th>pictures</th><th>task</th><th>model</th><th>compared with the truth</th></tr></thead>
<tbody>
{rows}
</tbody></table>
<img src="{sheet}" alt="Inputs beside results, one task a row">
</body></html>
"""
