"""Errors as data and back, and validation faults in words: no Python exception crosses the wire."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterable, Sequence

from pydantic import ValidationError
from pydantic_core import ErrorDetails, to_jsonable_python

from visionpipe.errors import InternalError, InvalidRequestError, VisionPipeError, error_class
from visionpipe.schemas.jobs import ErrorInfo

logger = logging.getLogger("visionpipe")

MAX_FAULTS = 8
"""Faults of one document that are told; the rest are counted."""

_BRANCHES = frozenset({"blob", "media", "url", "inline", "int", "str", "constrained-int", "constrained-str"})
"""What pydantic puts among the fields of a path to say which branch of a union it tried."""

_WORDS = {
    "missing": "is required",
    "extra_forbidden": "is not a field here",
    "union_tag_invalid": "is of an unknown kind",
    "union_tag_not_found": "lacks its kind",
}


def error_info(error: BaseException) -> ErrorInfo:
    """Turn any exception into data.

    One of ours keeps its code, message and details. Any other becomes ``internal_error`` with a reference id; its
    traceback goes to the log under that id and nowhere else.
    """
    if not isinstance(error, VisionPipeError):
        error = _internal(error)
    return ErrorInfo(
        code=error.code,
        message=error.message,
        retryable=error.retryable,
        details=to_jsonable_python(error.details, fallback=str, inf_nan_mode="null"),
    )


def error_from(info: ErrorInfo) -> VisionPipeError:
    """Turn data back into the exception it came from.

    A code that this version does not know gives a plain ``VisionPipeError`` with the code in its details.
    """
    error = error_class(info.code)(info.message)
    error.details = dict(info.details)
    if error.code != info.code:
        error.details.setdefault("code", info.code)
    return error


def invalid_request(error: Exception, what: str, *, known: Iterable[str] = ()) -> InvalidRequestError:
    """Say in words, one line per field, why a document does not fit its schema.

    Args:
        error: What validation raised.
        what: The document's name in the message.
        known: The fields there are, told when one was given that is not among them.
    """
    if not isinstance(error, ValidationError):
        return InvalidRequestError(f"Invalid {what}: {error}")
    faults: dict[str, list[str]] = {}
    details = error.errors(include_url=False)
    for fault in details:
        faults.setdefault(_path(fault["loc"]), []).append(_in_words(fault))
    lines = [f"{path}: {', or '.join(messages)}".removeprefix(": ") for path, messages in faults.items()]
    if known and any(fault["type"] == "extra_forbidden" and len(fault["loc"]) == 1 for fault in details):
        lines.append(f"known fields: {', '.join(known)}")
    if len(lines) > MAX_FAULTS:
        lines[MAX_FAULTS:] = [f"and {len(lines) - MAX_FAULTS} more"]
    return InvalidRequestError(f"Invalid {what}:\n  " + "\n  ".join(lines), fields=[path for path in faults if path])


def _in_words(fault: ErrorDetails) -> str:
    if fault["type"] in _WORDS:
        return _WORDS[fault["type"]]
    message = fault["msg"].removeprefix("Value error, ").replace("Input should", "should")
    return message if fault["type"] in ("value_error", "json_invalid") else f"{message} (got {_short(fault['input'])})"


def _path(parts: Sequence[int | str]) -> str:
    """Write ``images[0].key``."""
    path, after_branch = "", False
    for part in parts:
        # "url" is both a branch and a field, and the field comes right after its branch.
        after_branch = part in _BRANCHES and not after_branch
        if not after_branch:
            path += f"[{part}]" if isinstance(part, int) else f".{part}"
    return path.removeprefix(".")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _internal(error: BaseException) -> InternalError:
    reference = uuid.uuid4().hex[:12]
    logger.error("internal error %s", reference, exc_info=error)
    return InternalError(
        f"Something broke inside VisionPipe ({type(error).__name__}). "
        f"The traceback is in the log of the process that did the work, under {reference}.",
        reference=reference,
    )
