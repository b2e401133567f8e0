"""The table of tasks and what is read with its help."""

from __future__ import annotations

import json

import pytest

from visionpipe.errors import InvalidRequestError, UnknownTaskError
from visionpipe.schemas.images import UrlImage
from visionpipe.schemas.requests import ClassificationOptions, DetectionOptions, StyleTransferOptions
from visionpipe.tasks import TASKS, build_options, build_request, parse_item, parse_request, result_class, task_spec

IMAGE = UrlImage(url="https://example.org/a.png")
NINE = [
    "classification",
    "segmentation",
    "detection",
    "style_transfer",
    "spatial_transformer",
    "embedding",
    "explanation",
    "adversarial",
    "feature_visualization",
]


def test_the_table_holds_the_nine_tasks_in_order():
    assert list(TASKS) == NINE


@pytest.mark.parametrize("task", NINE)
def test_a_tasks_classes_carry_its_name(task):
    spec = task_spec(task)
    for cls in spec:
        assert cls.model_fields["task"].default == task
    assert spec.options.__name__ == spec.request.__name__.replace("Request", "Options")
    assert result_class(task) is spec.result


@pytest.mark.parametrize(
    "read",
    [result_class, lambda task: parse_request(json.dumps({"task": task})), lambda task: build_options(task, None)],
    ids=["result_class", "parse_request", "build_options"],
)
@pytest.mark.parametrize("task", ["clasification", "", "no such"])
def test_an_unknown_task_is_answered_with_the_known_ones(read, task):
    with pytest.raises(UnknownTaskError, match="segmentation") as caught:
        read(task)
    assert caught.value.details["known"] == NINE


@pytest.mark.parametrize("document", ["", "{", "[]", "3", '{"model": "m"}', "\ud800".encode("utf-8", "surrogatepass")])
def test_what_is_no_request_at_all_is_refused(document):
    with pytest.raises(InvalidRequestError, match='JSON object with a "task"'):
        parse_request(document)


def test_faults_are_told_by_their_path_in_plain_words():
    document = {
        "task": "detection",
        "model": "m",
        "images": [{"kind": "url", "url": 3}, {"kind": "blob", "key": "blob:a:0"}, {"kind": "fax"}],
        "options": {"score_treshold": 1, "classes": [3.5]},
    }
    with pytest.raises(InvalidRequestError) as caught:
        parse_request(json.dumps(document))
    assert caught.value.details["fields"] == [
        "images[0].url",
        "images[1].size_bytes",
        "images[2]",
        "options.classes[0]",
        "options.score_treshold",
    ]
    for line in ("images[1].size_bytes: is required", "options.score_treshold: is not a field here", "(got 3.5)"):
        assert line in str(caught.value)
    assert "pydantic" not in str(caught.value)


def test_many_faults_are_counted_not_listed():
    images = [{"kind": "url"}] * 50
    with pytest.raises(InvalidRequestError, match="and 42 more") as caught:
        parse_request(json.dumps({"task": "embedding", "model": "m", "images": images}))
    assert len(str(caught.value).splitlines()) == 10


def test_options_may_be_plain_values_the_object_itself_or_nothing():
    assert build_options("classification", {"top_k": 3}) == ClassificationOptions(top_k=3)
    assert build_options("classification", ClassificationOptions(top_k=3)) == ClassificationOptions(top_k=3)
    assert build_options("classification", None) == ClassificationOptions()
    styled = build_options("style_transfer", {"styles": [{"image": IMAGE, "weight": 2}], "steps": 3})
    assert isinstance(styled, StyleTransferOptions)
    assert styled.image_refs() == [IMAGE]


@pytest.mark.parametrize(
    ("task", "options", "message"),
    [
        ("classification", {"topk": 3}, "topk: is not a field here\n  known fields: top_k, score_threshold"),
        ("classification", {"top_k": 0}, r"top_k: should be greater than or equal to 1 \(got 0\)"),
        ("classification", {"top_k": "3"}, r"top_k: should be a valid integer \(got '3'\)"),
        ("classification", {"top_k": object()}, "plain values or our own types"),
        ("classification", DetectionOptions(), "takes ClassificationOptions, not DetectionOptions"),
        ("style_transfer", None, "styles: is required"),
        ("explanation", {"baseline": "image"}, "Invalid explanation options:\n  baseline_image and"),
    ],
)
def test_options_that_do_not_fit_are_refused_with_the_reason(task, options, message):
    with pytest.raises(InvalidRequestError, match=message):
        build_options(task, options)


def test_a_request_is_built_from_python_values():
    request = build_request("detection", model="m", images=[IMAGE], options={"max_detections": 2})
    assert request.options == DetectionOptions(max_detections=2)
    assert parse_request(request.model_dump_json()) == request
    with pytest.raises(InvalidRequestError, match="images: List should have at least 1 item"):
        build_request("detection", model="m", images=[])


def test_an_item_is_read_with_its_tasks_result():
    document = b'{"index":0,"result":{"task":"detection","detections":[]}}'
    assert type(parse_item("detection", document).result) is TASKS["detection"].result
