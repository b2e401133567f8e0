"""``visionpipe schema``: the JSON Schema of everything that crosses the wire."""

from __future__ import annotations

import difflib
import json
import sys
from collections.abc import Callable, Iterator
from functools import partial
from importlib.metadata import EntryPoint, entry_points
from typing import Annotated, Any

import typer
from pydantic import BaseModel, TypeAdapter
from rich.markup import escape

from visionpipe.cli.commands import missing_extra
from visionpipe.cli.output import err, out, write_json
from visionpipe.errors import InvalidRequestError, MissingExtraError
from visionpipe.schemas.base import field_docs
from visionpipe.schemas.images import ArtifactRef, ImageRef
from visionpipe.schemas.jobs import Envelope, ErrorInfo, Item, JobRecord, WorkerRecord
from visionpipe.tasks import TASKS, AnyRequest, AnyResult

EXTRA_SCHEMAS = "visionpipe.schemas"
"""Entry points of this group are pydantic models whose schemas are printed too."""

Document = dict[str, Any]


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(schema)


def schema(
    name: Annotated[
        str | None, typer.Argument(help="A task, or one of the other names; everything when left out.")
    ] = None,
    names: Annotated[bool, typer.Option("--names", help="List the names there are.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Write one line without colours.")] = False,
) -> None:
    """Print JSON Schema: of a task's request and result, or of a record.

    The whole of it has the requests and results of all tasks as unions told apart by "task".
    """
    makers = _makers()
    if names:
        _write(list(makers), as_json)
    elif name is None:
        _write(dict(_all(makers)), as_json)
    elif name in makers:
        _write(makers[name](), as_json)
    else:
        close = difflib.get_close_matches(name, makers)
        hint = f" Did you mean {close[0]!r}?" if close else ""
        raise InvalidRequestError(f"There is no schema {name!r}.{hint} Known: {', '.join(makers)}.")


def _makers() -> dict[str, Callable[[], Document]]:
    unions = {"request": AnyRequest, "result": AnyResult, "image": ImageRef}
    models: dict[str, type[BaseModel]] = {
        "item": Item,
        "envelope": Envelope,
        "job": JobRecord,
        "worker": WorkerRecord,
        "artifact": ArtifactRef,
        "error": ErrorInfo,
    }
    makers: dict[str, Callable[[], Document]] = {task: partial(_of_task, task) for task in TASKS}
    makers |= {name: TypeAdapter(union).json_schema for name, union in unions.items()}
    makers |= {name: model.model_json_schema for name, model in models.items()}
    makers["settings"] = _of_settings
    makers |= {extra.name: partial(_of_extra, extra) for extra in entry_points(group=EXTRA_SCHEMAS)}
    return makers


def _all(makers: dict[str, Callable[[], Document]]) -> Iterator[tuple[str, Document]]:
    for name, make in makers.items():
        # The unions hold every task's schemas already.
        if name not in TASKS:
            try:
                yield name, make()
            except MissingExtraError as error:
                err().print(f"[yellow]{name} is left out:[/] {escape(error.message)}")


def _of_task(task: str) -> Document:
    spec = TASKS[task]
    return {"request": spec.request.model_json_schema(), "result": spec.result.model_json_schema()}


def _of_settings() -> Document:
    from visionpipe.settings import Settings

    document = Settings.model_json_schema()
    for field, text in field_docs(Settings).items():
        if field in document["properties"]:
            document["properties"][field]["description"] = f"{text} Environment: VISIONPIPE_{field.upper()}."
    return document


def _of_extra(extra: EntryPoint) -> Document:
    try:
        model: type[BaseModel] = extra.load()
    except ModuleNotFoundError as error:
        raise missing_extra(error, f"schema {extra.name}") from error
    return model.model_json_schema()


def _write(document: Any, as_json: bool) -> None:
    if sys.stdout.isatty() and not as_json:
        out().print_json(json.dumps(document))
    else:
        write_json(document)
