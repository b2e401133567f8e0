"""The table of tasks: name → request class, result class.

A task's runtime is ``workers.<name>``; its name stands nowhere else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache, reduce
from operator import or_
from typing import Annotated, Any, NamedTuple, cast

from pydantic import Field, ValidationError
from pydantic_core import from_json

from visionpipe.errors import InvalidRequestError, UnknownTaskError
from visionpipe.schemas.jobs import Envelope, Item
from visionpipe.schemas.requests import (
    AdversarialRequest,
    ClassificationRequest,
    DetectionRequest,
    EmbeddingRequest,
    ExplanationRequest,
    FeatureVisualizationRequest,
    Options,
    Request,
    SegmentationRequest,
    SpatialTransformerRequest,
    StyleTransferRequest,
)
from visionpipe.schemas.results import (
    AdversarialResult,
    ClassificationResult,
    DetectionResult,
    EmbeddingResult,
    ExplanationResult,
    FeatureVisualizationResult,
    Result,
    SegmentationResult,
    SpatialTransformerResult,
    StyleTransferResult,
)
from visionpipe.wire import invalid_request


class TaskSpec(NamedTuple):
    """One task's classes."""

    request: type[Request]
    result: type[Result]

    @property
    def options(self) -> type[Options]:
        """The class of the request's options."""
        return cast(type[Options], self.request.model_fields["options"].annotation)


TASKS: dict[str, TaskSpec] = {
    "classification": TaskSpec(ClassificationRequest, ClassificationResult),
    "segmentation": TaskSpec(SegmentationRequest, SegmentationResult),
    "detection": TaskSpec(DetectionRequest, DetectionResult),
    "style_transfer": TaskSpec(StyleTransferRequest, StyleTransferResult),
    "spatial_transformer": TaskSpec(SpatialTransformerRequest, SpatialTransformerResult),
    "embedding": TaskSpec(EmbeddingRequest, EmbeddingResult),
    "explanation": TaskSpec(ExplanationRequest, ExplanationResult),
    "adversarial": TaskSpec(AdversarialRequest, AdversarialResult),
    "feature_visualization": TaskSpec(FeatureVisualizationRequest, FeatureVisualizationResult),
}

AnyRequest: Any = Annotated[reduce(or_, (spec.request for spec in TASKS.values())), Field(discriminator="task")]
"""A request of any task, told apart by ``task``."""

AnyResult: Any = Annotated[reduce(or_, (spec.result for spec in TASKS.values())), Field(discriminator="task")]
"""A result of any task, told apart by ``task``."""


def task_spec(task: str) -> TaskSpec:
    """Look a task up.

    Raises:
        UnknownTaskError: No task has that name; the message lists those that exist.
    """
    try:
        return TASKS[task]
    except (KeyError, TypeError):
        raise UnknownTaskError(
            f"There is no task {task!r}. Known tasks: {', '.join(TASKS)}.", task=task, known=list(TASKS)
        ) from None


def result_class(task: str) -> type[Result]:
    """Give the class of a task's results, or raise ``UnknownTaskError``."""
    return task_spec(task).result


def parse_request(document: bytes | str) -> Request:
    """Read a request of any task from JSON.

    Raises:
        UnknownTaskError: Its ``task`` is not one of ours.
        InvalidRequestError: It is not JSON or does not fit the task's schema; the message names each field at fault.
    """
    try:
        task = from_json(document)["task"]
    except (ValueError, TypeError, LookupError) as error:
        raise InvalidRequestError('A request is a JSON object with a "task".', fields=["task"]) from error
    request = task_spec(task).request
    try:
        return request.model_validate_json(document)
    except ValidationError as error:
        raise invalid_request(error, "request", known=request.model_fields) from error


def build_options(task: str, options: Options | Mapping[str, Any] | None) -> Options:
    """Check a task's options, given as an object or as plain values that JSON can hold.

    Raises:
        UnknownTaskError: No task has that name.
        InvalidRequestError: They are another task's, or do not fit its schema.
    """
    wanted = task_spec(task).options
    if isinstance(options, wanted):
        return options
    if isinstance(options, Options):
        raise InvalidRequestError(f"{task} takes {wanted.__name__}, not {type(options).__name__}.")
    try:
        return wanted.model_validate_json(json.dumps(dict(options or {}), default=_plain))
    except (TypeError, ValidationError) as error:
        raise invalid_request(error, f"{task} options", known=wanted.model_fields) from error


def build_request(task: str, *, options: Options | Mapping[str, Any] | None = None, **fields: Any) -> Request:
    """Make a task's request from Python values.

    Args:
        task: Its name.
        options: The task's options, as an object or as plain values.
        fields: The request's other fields: model, images, deadline_s.

    Raises:
        UnknownTaskError: No task has that name.
        InvalidRequestError: Something does not fit the schema.
    """
    try:
        return task_spec(task).request(options=build_options(task, options), **fields)
    except ValidationError as error:
        raise invalid_request(error, "request", known=task_spec(task).request.model_fields) from error


def parse_item(task: str, document: bytes | str) -> Item[Result]:
    """Read one item of a job from JSON that a worker wrote."""
    return _item_class(task).model_validate_json(document)


def parse_envelope(task: str, document: bytes | str) -> Envelope[Result]:
    """Read a job's envelope from JSON."""
    return _envelope_class(task).model_validate_json(document)


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    raise TypeError(f"options hold plain values or our own types, not {type(value).__name__}: {value!r}")


@cache
def _item_class(task: str) -> type[Item[Result]]:
    return cast(type[Item[Result]], Item.__class_getitem__(result_class(task)))


@cache
def _envelope_class(task: str) -> type[Envelope[Result]]:
    return cast(type[Envelope[Result]], Envelope.__class_getitem__(result_class(task)))
