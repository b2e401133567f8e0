"""Everything that crosses the wire comes back from real JSON bytes as it was."""

from __future__ import annotations

import json
from collections.abc import Callable
from enum import Enum
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, TypeVar, Union, get_args, get_origin

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import AfterValidator, BaseModel, TypeAdapter

from visionpipe.schemas.geometry import BoxXyxy
from visionpipe.schemas.images import ArtifactRef, ImageRef
from visionpipe.schemas.jobs import Envelope, ErrorInfo, Item, JobRecord, Progress, WorkerRecord
from visionpipe.schemas.requests import (
    AdversarialOptions,
    DetectionOptions,
    DetectionRequest,
    ExplanationOptions,
    FeatureVisualizationRequest,
    StyleTransferOptions,
)
from visionpipe.schemas.results import ClassificationResult, Curve, EmbeddingResult
from visionpipe.tasks import TASKS, AnyRequest, AnyResult, parse_envelope, parse_item, parse_request

TEXT = st.characters(codec="utf-8")
QUICK = settings(
    max_examples=20, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)


def number(kind: type, limits: dict[str, float]) -> st.SearchStrategy[Any]:
    low, high = limits.get("ge", limits.get("gt")), limits.get("le", limits.get("lt"))
    if kind is float:
        edges = {"exclude_min": "gt" in limits, "exclude_max": "lt" in limits}
        return st.floats(low, high, allow_nan=False, allow_infinity=False, **edges)
    low = None if low is None else int(low) + ("gt" in limits)
    return st.integers(low, 2**70 if high is None else int(high) - ("lt" in limits))


def values(annotation: Any) -> st.SearchStrategy[Any]:
    """Strategy for anything our schemas' annotations say."""
    metadata: list[Any] = []
    while get_origin(annotation) is Annotated:
        annotation, *more = get_args(annotation)
        for entry in more:
            metadata += getattr(entry, "metadata", None) or [entry]
    limits: dict[str, Any] = {}
    for entry in metadata:
        for name in ("ge", "gt", "le", "lt", "min_length", "max_length", "pattern"):
            value = getattr(entry, name, None)
            if value is not None:
                limits[name] = value
    origin, arguments = get_origin(annotation), get_args(annotation)
    sizes = {"min_size": limits.get("min_length", 0), "max_size": min(limits.get("max_length", 3), 3)}
    if any(isinstance(entry, AfterValidator) for entry in metadata):
        return st.tuples(*[values(float)] * 4).map(
            lambda b: (min(b[0], b[2]), min(b[1], b[3]), max(b[0], b[2]), max(b[1], b[3]))
        )
    if origin in (Union, UnionType):
        return st.one_of([values(Annotated[argument, *metadata] if metadata else argument) for argument in arguments])
    if origin is Literal:
        return st.sampled_from(arguments)
    if origin is list:
        return st.lists(values(arguments[0]), **sizes)
    if origin is tuple:
        return st.tuples(*map(values, arguments))
    if origin is dict:
        return st.dictionaries(values(arguments[0]), values(arguments[1]), **sizes)
    if annotation is Any:
        return st.none() | st.booleans() | st.integers() | st.text(TEXT, max_size=5) | st.lists(st.integers())
    if annotation in (int, float):
        return number(annotation, limits)
    if annotation is str and "pattern" in limits:
        return st.from_regex(limits["pattern"].replace("$", r"\Z"))
    if annotation is str:
        return st.text(TEXT, **sizes)
    if annotation is bytes:
        return st.binary(**sizes)
    if annotation in (bool, NoneType):
        return st.booleans() if annotation is bool else st.none()
    if isinstance(annotation, TypeVar):
        return models(ClassificationResult)
    if issubclass(annotation, Enum):
        return st.sampled_from(annotation)
    return models(annotation)


def _matching_proposals(f: dict[str, Any]) -> None:
    if f["options"].proposals is not None:
        f["options"] = f["options"].model_copy(update={"proposals": [[(1.0, 2.0, 3.0, 4.0)]] * len(f["images"])})


def _valid_attack(f: dict[str, Any]) -> None:
    f["true_class"] = "the right one"
    if f["method"] == "fgsm":
        f.update(steps=None, step_size=None, restarts=1)
    if f["epsilons"]:
        f["epsilons"] = [min(epsilon, 1.0) for epsilon in f["epsilons"]]


FITTING: dict[type, Callable[[dict[str, Any]], Any]] = {
    AdversarialOptions: _valid_attack,
    DetectionOptions: lambda f: f["slicing"] and f.update(proposals=None),
    DetectionRequest: _matching_proposals,
    ExplanationOptions: lambda f: f.update(baseline="image" if f["baseline_image"] else "mean", stride_px=None),
    FeatureVisualizationRequest: lambda f: f.update(
        options=f["options"].model_copy(update={"method": "deconvnet" if f["images"] else "filters"})
    ),
    StyleTransferOptions: lambda f: f.update(style_weight=1.0),
    EmbeddingResult: lambda f: f.update(
        artifact=None if f["vector"] else ArtifactRef(key="artifact:" + "0" * 64, media_type="a/b", size_bytes=1),
        vector=f["vector"] or None,
        dimensions=len(f["vector"]) if f["vector"] else 7,
    ),
    Curve: lambda f: f.update(scores=f["fractions"]),
    Item: lambda f: f.update(error=None if f["result"] else f["error"] or ErrorInfo(code="a", message="b")),
}


@st.composite
def models(draw: st.DrawFn, cls: type[BaseModel]) -> BaseModel:
    fields = {
        name: draw(values(Annotated[field.annotation, *field.metadata] if field.metadata else field.annotation))
        for name, field in cls.model_fields.items()
    }
    for base in cls.__mro__:
        if base in FITTING:
            FITTING[base](fields)
    return cls(**fields)


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@QUICK
def test_every_request_survives_json(task, data):
    request = data.draw(models(TASKS[task].request))
    document = request.model_dump_json().encode()
    assert parse_request(document) == request
    assert parse_request(json.dumps(json.loads(document))) == request
    assert TypeAdapter(AnyRequest).validate_json(document) == request


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@QUICK
def test_every_result_survives_json_inside_its_item(task, data):
    result = data.draw(models(TASKS[task].result))
    assert TypeAdapter(AnyResult).validate_json(result.model_dump_json().encode()) == result
    item = Item(index=3, name="ä\U0001f600", result=result)
    back = parse_item(task, item.model_dump_json().encode())
    assert back.result == result
    assert back.name == item.name
    assert back.ok


@pytest.mark.parametrize("task", TASKS)
def test_an_item_typed_by_the_base_class_still_writes_every_field(task):
    @given(result=models(TASKS[task].result))
    @settings(QUICK, max_examples=3)
    def check(result):
        from visionpipe.schemas.results import Result

        item = Item[Result](index=0, result=result)
        assert set(json.loads(item.model_dump_json())["result"]) == set(type(result).model_fields)

    check()


@pytest.mark.parametrize("cls", [JobRecord, WorkerRecord, Progress, Envelope, Item], ids=lambda cls: cls.__name__)
@given(data=st.data())
@QUICK
def test_records_and_envelopes_survive_json(cls, data):
    record = data.draw(models(cls))
    reader = cls[ClassificationResult] if cls in (Envelope, Item) else cls
    back = reader.model_validate_json(record.model_dump_json().encode())
    assert back.model_dump() == record.model_dump()
    if cls is Envelope:
        assert parse_envelope("classification", record.model_dump_json()) == back


@given(image=values(ImageRef))
@QUICK
def test_every_image_reference_survives_json(image):
    adapter = TypeAdapter(ImageRef)
    assert adapter.validate_json(adapter.dump_json(image)) == image


@given(box=values(BoxXyxy))
@QUICK
def test_boxes_survive_json_to_the_last_bit(box):
    adapter = TypeAdapter(BoxXyxy)
    assert adapter.validate_json(adapter.dump_json(box)) == box


@pytest.mark.parametrize("task", TASKS)
@given(data=st.data())
@QUICK
def test_every_result_can_be_said_in_a_line_shown_as_rows_and_asked_for_its_artifacts(task, data):
    result = data.draw(models(TASKS[task].result))
    assert result.summary()
    columns = {tuple(row) for row in result.rows()}
    assert len(columns) <= 1
    assert len(result.artifacts()) == result.model_dump_json().count('"artifact:')
