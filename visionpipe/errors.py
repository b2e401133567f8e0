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
│   ├── ArtifactNotFetchedError   artifact_not_fetched
│   └── ImageError                about one image
│       ├── InvalidImageError         invalid_image
│       │   ├── UnsupportedImageError     unsupported_image
│       │   └── ImageTooLargeError        image_too_large
│       ├── ImageNotFoundError        image_not_found
│       ├── ImageChangedError         image_changed
│       ├── ImageMismatchError        image_mismatch
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
    ├── TooManyFilesError         too_many_files
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

    def __init_subclass__(
        cls, *, code: str, http_status: int | None = None, retryable: bool | None = None, **rest: Any
    ) -> None:
        super().__init_subclass__(**rest)
        cls.code = code
        if http_status is not None:
            cls.http_status = http_status
        if retryable is not None:
            cls.retryable = retryable

    def __init__(self, message: str, **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.message!r})"


class RequestError(VisionPipeError, code="request_error", http_status=400):
    """The request is at fault; mend it and send it again."""


class InvalidRequestError(RequestError, code="invalid_request", http_status=422):
    """The request does not fit its schema."""


class UnknownTaskError(RequestError, code="unknown_task", http_status=404):
    """No task has that name."""


class UnsupportedTaskError(RequestError, code="unsupported_task"):
    """The task exists, but the model asked for cannot do it."""


class UnknownModelError(RequestError, code="unknown_model", http_status=404):
    """No card has that name, or the pinned digest is not the one hosted."""


class UnknownJobError(RequestError, code="unknown_job", http_status=404):
    """No job has that id: it never existed, or its record has expired."""


class JobConflictError(RequestError, code="job_conflict", http_status=409):
    """The job id is taken by a different request."""


class RunConflictError(RequestError, code="run_conflict", http_status=409):
    """The output folder holds a run of another folder, task, model or options."""


class RunLockedError(RequestError, code="run_locked", http_status=409):
    """Another process is writing to the output folder."""


class ArtifactNotFetchedError(RequestError, code="artifact_not_fetched", http_status=409):
    """A result names a large output that was not fetched, and does not know where to fetch it."""


class ImageError(RequestError, code="image_error", http_status=422):
    """One image is at fault; its neighbours in the job are not."""


class InvalidImageError(ImageError, code="invalid_image"):
    """The bytes are not a whole, readable image."""


class UnsupportedImageError(InvalidImageError, code="unsupported_image", http_status=415):
    """The bytes are of a format that is not decoded here."""


class ImageTooLargeError(InvalidImageError, code="image_too_large", http_status=413):
    """The image has more bytes or pixels than the limit."""


class ImageNotFoundError(ImageError, code="image_not_found", http_status=404):
    """The file, or the stored upload, is not there or cannot be opened."""


class ImageChangedError(ImageError, code="image_changed", http_status=409):
    """The file is no longer the one that was submitted (size or mtime differ)."""


class ImageMismatchError(ImageError, code="image_mismatch"):
    """The image is not of the size that the result was made from."""


class ImageExpiredError(ImageError, code="image_expired", http_status=410, retryable=True):
    """The stored pixels outlived their time before a worker came for them."""


class UnknownMediaRootError(ImageError, code="unknown_media_root"):
    """The reference names a media root that the worker does not mount, or leaves it."""


class UrlRefusedError(ImageError, code="url_refused", http_status=403):
    """The URL points somewhere a worker must not go."""


class UrlFetchError(ImageError, code="url_fetch_failed", http_status=502, retryable=True):
    """The URL could not be fetched."""


class JobError(VisionPipeError, code="job_error"):
    """How a job, or one item of it, ended."""


class DeadlineExceededError(JobError, code="deadline_exceeded", http_status=504):
    """The job's deadline passed before this item had an outcome."""


class CancelledError(JobError, code="cancelled", http_status=409):
    """The job was cancelled before this item had an outcome."""


class PoisonError(JobError, code="poison", http_status=422):
    """The image was being worked on each time its worker died."""


class WorkerLostError(JobError, code="worker_lost", http_status=503, retryable=True):
    """The worker died and the job could not be given to another."""


class OutOfMemoryError(JobError, code="out_of_memory", http_status=507):
    """The device ran out of memory on this image alone."""


class InternalError(JobError, code="internal_error"):
    """A fault of ours; the traceback is in the worker's log under ``reference``."""


class ArtifactExpiredError(JobError, code="artifact_expired", http_status=410):
    """The result or artifact outlived its time in the store."""


class ResultTimeoutError(JobError, code="result_timeout", http_status=504, retryable=True):
    """The job had not ended when the caller's patience did; it goes on."""


class ServiceError(VisionPipeError, code="service_error", http_status=503):
    """The service, not the request, is at fault."""


class NoWorkerError(ServiceError, code="no_worker", retryable=True):
    """No live worker serves the model."""


class QueueFullError(ServiceError, code="queue_full", http_status=429, retryable=True):
    """The queue is at its bound; ``details['retry_after_s']`` says when to try again."""


class QueueUnavailableError(ServiceError, code="queue_unavailable", retryable=True):
    """Redis, or the store, cannot be used now."""


class TooManyFilesError(ServiceError, code="too_many_files", retryable=True):
    """A process, or its machine, has as many files open as it may."""


class EmbeddedRedisError(ServiceError, code="embedded_redis"):
    """The embedded Redis could not be found or started."""


class SettingsError(ServiceError, code="invalid_settings"):
    """A setting has a value it must not have."""


class ModelLoadError(ServiceError, code="model_load_failed"):
    """A model's card, code or weights cannot be loaded."""


class LedgerError(ServiceError, code="ledger_failed"):
    """The ledger of a folder run, or what is written beside it, cannot be read or written."""


class WorkerStartError(ServiceError, code="worker_start_failed"):
    """A worker process ended, or took too long, before it was ready; the message has its last words."""


class NameClashError(ServiceError, code="name_clash"):
    """``workers`` or ``models`` resolves to somebody else's package."""


class MissingExtraError(ServiceError, code="missing_extra"):
    """An optional package is needed here and not installed; the message names the extra that brings it."""


def _tree(root: type[VisionPipeError]) -> Iterator[type[VisionPipeError]]:
    yield root
    for child in root.__subclasses__():
        yield from _tree(child)


def error_class(code: str) -> type[VisionPipeError]:
    """Find the class of a wire code; an unknown code gives the root class."""
    return next((cls for cls in _tree(VisionPipeError) if cls.code == code), VisionPipeError)
