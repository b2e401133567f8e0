"""The one place where an image's outcome, result or exception, becomes an item of the envelope."""

from __future__ import annotations

import json
from functools import cache

from pydantic_core import PydanticSerializationError

from models.errors import ModelError
from visionpipe.errors import OutOfMemoryError, VisionPipeError, error_class
from visionpipe.schemas.jobs import ErrorInfo, Item
from visionpipe.schemas.results import Result
from visionpipe.wire import error_info
from workers.device import is_out_of_memory
from workers.runtime import Outcome, Written
from workers.work import Work

# Built here, since the first job would wait half a second for it.
_AnyItem = Item[Result]


def describe(error: BaseException) -> ErrorInfo:
    """Turn any exception into data; one of ``models`` becomes ours of the same code."""
    return error_info(ours(error))


def ours(error: BaseException) -> BaseException:
    """Make our error of one that ``models`` raised, or that says memory ran out; anything else stays what it is."""
    if isinstance(error, ModelError):
        kind: type[VisionPipeError] = error_class(error.code)
        return kind(error.message, **error.details)
    if is_out_of_memory(error):
        return OutOfMemoryError(
            f"Expected memory for the work on this image, but the system refused it ({type(error).__name__}). "
            "Use a smaller image, or a worker with more memory."
        )
    return error


def item_json(work: Work, outcome: Outcome) -> tuple[int, bool, bytes]:
    """Write one item: its index, whether it has a result, and its JSON without what is unset."""
    if isinstance(outcome, Written):
        name = "" if work.name is None else f'"name":{json.dumps(work.name)},'
        text = f'{{"index":{work.index},{name}"result":{outcome.text},"timings":{_timings_json(work)}}}'
        return work.index, True, text.encode()
    try:
        return work.index, isinstance(outcome, Result), _dump(work, outcome)
    except (PydanticSerializationError, ValueError) as error:
        return work.index, False, _dump(work, error)


def _timings_json(work: Work) -> str:
    values = [value if value > 0 else 0.0 for value in work.times_ms.values()]
    times = _times_json(tuple(work.times_ms)) % tuple(values)
    return f'{{{times}"queue_ms":{work.job.claim.waited_ms},"batch":{work.batch}}}'


@cache
def _times_json(names: tuple[str, ...]) -> str:
    """Give how the times of these stages are written: there are few ways through a worker."""
    return "".join(f'"{name}":%.3f,' for name in names)


def _dump(work: Work, outcome: Result | BaseException) -> bytes:
    item = _AnyItem.model_construct(
        index=work.index,
        name=work.name,
        result=outcome if isinstance(outcome, Result) else None,
        error=None if isinstance(outcome, Result) else describe(outcome),
        timings=work.timings(),
    )
    return item.model_dump_json(serialize_as_any=True, exclude_none=True).encode()
