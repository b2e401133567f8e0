"""Every error VisionPipe raises or puts in a result.

VisionPipeError
├── RequestError              the caller can mend it
│   ├── InvalidRequestError       invalid_request
│   ├── UnknownTaskError          unknown_task
│   ├── UnsupportedTaskError      unsupported_task
│   ├── UnknownModelError         unknown_model
│   ├── UnknownJobError           unknown_job
│   ├── JobConflictError          job_conflict
│   ├── RunConflictError          run_conflict
│   ├── RunLockedError            run_locked
│   └── ImageError                about one image
│       ├── InvalidImageError         invalid_image
│       │   ├── UnsupportedImageError     unsupported_image
│       │   └── ImageTooLargeError        image_too_large
│       ├── ImageNotFoundError        image_not_found
│       ├── ImageChangedError         image_changed
│       ├── ImageExpiredError         image_expired
│       ├── UnknownMediaRootError     unknown_media_root
│       ├── UrlRefusedError           url_refused
│       └── UrlFetchError             url_fetch_failed
├── JobError                  how a job ended
│   ├── DeadlineExceededError     deadline_exceeded
│   ├── CancelledError            cancelled
│   ├── PoisonError               poison
│   ├── WorkerLostError           worker_lost
│   ├── OutOfMemoryError          out_of_memory
│   ├── InternalError             internal_error
│   ├── ArtifactExpiredError      artifact_expired
│   └── ResultTimeoutError        result_timeout
└── ServiceError              the operator can mend it
    ├── NoWorkerError             no_worker
    ├── QueueFullError            queue_full
    ├── QueueUnavailableError     queue_unavailable
    ├── EmbeddedRedisError        embedded_redis
    ├── SettingsError             invalid_settings
    ├── ModelLoadError            model_load_failed
    ├── WorkerStartError          worker_start_failed
    ├── LedgerError               ledger_failed
    ├── NameClashError            name_clash
    └── MissingExtraError         missing_extra

A message says what was expected, what came, and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar


class VisionPipeError(Exception):
    """The root of all our errors.

    Args:
        message: What was expected, what came, what to do.
        details: Machine-readable facts that go with the error; JSON values only.
    """

    code: ClassVar[str] = "error"
    """Stable name of the error on the wire."""
    http_status: ClassVar[int] = 500
    """What an HTTP face answers with."""
    retryable: ClassVar[bool] = False
    """Whether the same request may succeed later, unchanged."""

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"


class RequestError(VisionPipeError):
    """The request is at fault; mend it and send it again."""

    code = "request_error"
    http_status = 400


class InvalidRequestError(RequestError):
    """The request does not fit its schema."""

    code = "invalid_request"
    http_status = 422


class UnknownTaskError(RequestError):
    """No task has that name."""

    code = "unknown_task"
    http_status = 404


class UnsupportedTaskError(RequestError):
    """The task exists, but the model asked for cannot do it."""

    code = "unsupported_task"


class UnknownModelError(RequestError):
    """No card has that name, or the pinned digest is not the one hosted."""

    code = "unknown_model"
    http_status = 404


class UnknownJobError(RequestError):
    """No job has that id: it never existed, or its record has expired."""

    code = "unknown_job"
    http_status = 404


class JobConflictError(RequestError):
    """The job id is taken by a different request."""

    code = "job_conflict"
    http_status = 409


class RunConflictError(RequestError):
    """The output folder holds a run of another folder, task, model or options."""

    code = "run_conflict"
    http_status = 409


class RunLockedError(RequestError):
    """Another process is writing to the output folder."""

    code = "run_locked"
    http_status = 409


class ImageError(RequestError):
    """One image is at fault; its neighbours in the job are not."""

    code = "image_error"
    http_status = 422


class InvalidImageError(ImageError):
    """The bytes are not a whole, readable image."""

    code = "invalid_image"


class UnsupportedImageError(InvalidImageError):
    """The bytes are of a format that is not decoded here."""

    code = "unsupported_image"
    http_status = 415


class ImageTooLargeError(InvalidImageError):
    """The image has more bytes or pixels than the limit."""

    code = "image_too_large"
    http_status = 413


class ImageNotFoundError(ImageError):
    """The file, or the stored upload, is not there or cannot be opened."""

    code = "image_not_found"
    http_status = 404


class ImageChangedError(ImageError):
    """The file is no longer the one that was submitted (size or mtime differ)."""

    code = "image_changed"
    http_status = 409


class ImageExpiredError(ImageError):
    """The stored pixels outlived their time before a worker came for them."""

    code = "image_expired"
    http_status = 410
    retryable = True


class UnknownMediaRootError(ImageError):
    """The reference names a media root that the worker does not mount, or leaves it."""

    code = "unknown_media_root"


class UrlRefusedError(ImageError):
    """The URL points somewhere a worker must not go."""

    code = "url_refused"
    http_status = 403


class UrlFetchError(ImageError):
    """The URL could not be fetched."""

    code = "url_fetch_failed"
    http_status = 502
    retryable = True


class JobError(VisionPipeError):
    """How a job, or one item of it, ended."""

    code = "job_error"


class DeadlineExceededError(JobError):
    """The job's deadline passed before this item had an outcome."""

    code = "deadline_exceeded"
    http_status = 504


class CancelledError(JobError):
    """The job was cancelled before this item had an outcome."""

    code = "cancelled"
    http_status = 409


class PoisonError(JobError):
    """The image was being worked on each time its worker died."""

    code = "poison"
    http_status = 422


class WorkerLostError(JobError):
    """The worker died and the job could not be given to another."""

    code = "worker_lost"
    http_status = 503
    retryable = True


class OutOfMemoryError(JobError):
    """The device ran out of memory on this image alone."""

    code = "out_of_memory"
    http_status = 507


class InternalError(JobError):
    """A fault of ours; the traceback is in the worker's log under ``reference``."""

    code = "internal_error"


class ArtifactExpiredError(JobError):
    """The result or artifact outlived its time in the store."""

    code = "artifact_expired"
    http_status = 410


class ResultTimeoutError(JobError):
    """The job had not ended when the caller's patience did; it goes on."""

    code = "result_timeout"
    http_status = 504
    retryable = True


class ServiceError(VisionPipeError):
    """The service, not the request, is at fault."""

    code = "service_error"
    http_status = 503


class NoWorkerError(ServiceError):
    """No live worker serves the model."""

    code = "no_worker"
    retryable = True


class QueueFullError(ServiceError):
    """The queue is at its bound; ``details['retry_after_s']`` says when to try again."""

    code = "queue_full"
    http_status = 429
    retryable = True


class QueueUnavailableError(ServiceError):
    """Redis cannot be reached."""

    code = "queue_unavailable"
    retryable = True


class EmbeddedRedisError(ServiceError):
    """The embedded Redis could not be found or started."""

    code = "embedded_redis"


class SettingsError(ServiceError):
    """A setting has a value it must not have."""

    code = "invalid_settings"


class ModelLoadError(ServiceError):
    """A model's card, code or weights cannot be loaded."""

    code = "model_load_failed"


class LedgerError(ServiceError):
    """The ledger of a folder run cannot be read or written."""

    code = "ledger_failed"


class WorkerStartError(ServiceError):
    """A worker process ended, or took too long, before it was ready; the message has its last words."""

    code = "worker_start_failed"


class NameClashError(ServiceError):
    """``workers`` or ``models`` resolves to somebody else's package."""

    code = "name_clash"


class MissingExtraError(ServiceError):
    """An optional package is needed here and not installed; the message names the extra that brings it."""

    code = "missing_extra"


def _tree(root: type[VisionPipeError]) -> Iterator[type[VisionPipeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_class(code: str) -> type[VisionPipeError]:
    """Find the class of a wire code; an unknown code gives the root class."""
    return next((cls for cls in _tree(VisionPipeError) if cls.code == code), VisionPipeError)
