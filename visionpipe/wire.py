"""Errors as data and back: what crosses the wire is never a Python exception."""

from __future__ import annotations

import logging
import uuid

from pydantic_core import to_jsonable_python

from visionpipe.errors import InternalError, VisionPipeError, error_class
from visionpipe.schemas.jobs import ErrorInfo

logger = logging.getLogger("visionpipe")


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
        details=to_jsonable_python(error.details, fallback=str),
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


def _internal(error: BaseException) -> InternalError:
    reference = uuid.uuid4().hex[:12]
    logger.error("internal error %s", reference, exc_info=error)
    return InternalError(
        f"Something broke inside VisionPipe ({type(error).__name__}). "
        f"The traceback is in the log of the process that did the work, under {reference}.",
        reference=reference,
    )
