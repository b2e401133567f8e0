"""Writes what a run found, from its ledger: once at the end, again on every resume, whole or not at all."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

from pydantic_core import from_json, to_json

from visionpipe.runs.beside import NOTHING, Beside, Finder
from visionpipe.runs.ceiling import Ceiling
from visionpipe.runs.columns import Columns, columns, named_scores
from visionpipe.runs.gallery import Gallery
from visionpipe.runs.labels import Comparison, Labels
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.lock import writable
from visionpipe.runs.names import as_base64, as_text, real_path
from visionpipe.runs.progress import OnProgress, RunProgress, Stage
from visionpipe.runs.report import Drawn, Failure, RunReport, Tally
from visionpipe.runs.rows import InputState, Row
from visionpipe.runs.spec import RunSpec
from visionpipe.runs.summaries import summarizer
from visionpipe.schemas.jobs import ModelInfo

FIXED = ["path", "path_base64", "state", "code", "message", "image_width", "image_height"]
"""The columns of every CSV file, before those of the task."""


def write_outputs(
    ledger: Ledger,
    spec: RunSpec,
    out: Path,
    on_progress: OnProgress,
    labels: Labels | None = None,
    *,
    not_drawn: Sequence[Failure] = (),
) -> RunReport:
    """Write ``results.jsonl``, ``results.csv``, ``index.html``, ``report.json`` and the task's own; give the report."""
    counts = ledger.counts()
    on_progress(RunProgress(Stage.WRITE, counts))
    layout = columns(spec.task, ledger.widest("$.result.classes"))
    target = ledger.facts().get("pinned", spec.model)
    tally, comparison = Tally(), Comparison(labels)
    summary = summarizer(spec.task)
    gallery, finder, drawn = Gallery(spec.folder_bytes, real_path(out)), Finder(out, spec.task), 0
    more = ["overlay"] if finder.drawn else []
    # One pass over the ledger feeds everything, so memory stays flat however many inputs there are.
    with ExitStack() as files:
        lines = files.enter_context(replacing(out / "results.jsonl"))
        table = csv.writer(files.enter_context(replacing(out / "results.csv")), lineterminator="\r\n")
        table.writerow([*FIXED, *layout.names, *more, "model"])
        for row in ledger.rows():
            answer = from_json(row.answer) if row.answer else {}
            result = answer.get("result")
            beside = finder.find(row.path, result) if result else NOTHING
            drawn += beside.overlay is not None
            lines.write(_line(row, answer, beside, target) + "\n")
            cells = _cells(row, result, layout, beside)
            overlay = [None if beside.overlay is None else as_text(beside.overlay)] if finder.drawn else []
            table.writerow([*cells, *overlay, None if row.state is InputState.SKIPPED else target])
            scores = named_scores(result) if result else []
            truth = comparison.add(as_text(row.path), scores[0][0] if scores else None)
            if summary is not None and result:
                summary.add(result, truth)
            tally.add(row, answer.get("timings"))
            gallery.add(row, scores, truth, beside)
    on_progress(RunProgress(Stage.REPORT, counts))
    report = _report(ledger, spec, target, tally, comparison)
    if finder.drawn:
        report = report.model_copy(update={"overlays": Drawn(drawn=drawn, failures=list(not_drawn))})
    if summary is not None:
        report = report.model_copy(update={"summary": summary.write(out)})
    with replacing(out / "index.html") as page:
        gallery.write(page, report)
    with replacing(out / "report.json") as file:
        file.write(report.model_dump_json(indent=2) + "\n")
    return report


@contextmanager
def replacing(path: Path) -> Iterator[IO[str]]:
    """Open a file for writing that takes the place of ``path`` only once it is whole and on disk."""
    draft = path.with_name(f".{path.name}.part")
    with writable(path.parent):
        try:
            with draft.open("w", encoding="utf-8", newline="") as file:
                yield file
                # Without fsync a power cut could leave the new name with the content still missing.
                file.flush()
                os.fsync(file.fileno())
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)


def _line(row: Row, answer: dict[str, Any], beside: Beside, target: str) -> str:
    skipped = row.state is InputState.SKIPPED
    error = None if skipped or row.code is None else answer.get("error") or {"code": row.code, "message": row.message}
    head = {
        "path": as_text(row.path),
        "path_base64": as_base64(row.path),
        "state": row.state,
        "reason": row.code if skipped else None,
        "artifacts": beside.artifacts,
        "overlay": None if beside.overlay is None else as_text(beside.overlay),
        "error": error,
        "model": None if skipped else target,
    }
    if row.answer and error is None:
        # As the worker wrote it: composing the text anew would take longer than all else that is done for a row.
        return f"{_dumps(head)[:-1]},{row.answer[1:]}"
    return _dumps({**head, "result": answer.get("result"), "timings": answer.get("timings")})


def _dumps(value: object) -> str:
    return to_json(value).decode()


def _cells(row: Row, result: dict[str, Any] | None, layout: Columns, beside: Beside) -> list[Any]:
    width, height = (result or {}).get("image_size_wh") or (None, None)
    values = layout.values(result, beside) if result else [None] * len(layout.names)
    return [as_text(row.path), as_base64(row.path), row.state, row.code, row.message, width, height, *values]


def _report(ledger: Ledger, spec: RunSpec, target: str, tally: Tally, comparison: Comparison) -> RunReport:
    worked_s, settled = ledger.work()
    images_per_s = round(settled / worked_s, 2) if worked_s > 0 else 0.0
    states = tally.states
    ceiling = ledger.facts().get("ceiling")
    return RunReport(
        run=ledger.facts()["run"],
        folder=as_text(spec.folder_bytes),
        task=spec.task,
        model=target,
        options=spec.options,
        found=states.total(),
        done=states[InputState.DONE],
        failed=states[InputState.FAILED],
        skipped=states[InputState.SKIPPED],
        open=states[InputState.PENDING] + states[InputState.SUBMITTED],
        failures=tally.most_frequent_failures(),
        skips=dict(sorted(tally.skips.items())),
        worked_s=round(worked_s, 3),
        images_per_s=images_per_s,
        ceiling=Ceiling.model_validate_json(ceiling) if ceiling else None,
        stage_ms=tally.stage_ms(),
        slowest=tally.slowest(),
        models=[ModelInfo.model_validate_json(model) for model in ledger.models()],
        accuracy=comparison.accuracy(),
    )
