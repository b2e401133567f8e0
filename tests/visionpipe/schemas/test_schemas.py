"""What holds for every schema, and what single ones refuse."""

from __future__ import annotations

import importlib
import json
import pkgutil

import pytest
from pydantic import BaseModel, ValidationError

import visionpipe.schemas
from visionpipe.schemas.base import Schema, field_docs
from visionpipe.schemas.images import InlineImage, UrlImage
from visionpipe.schemas.jobs import Envelope, Item, JobRecord, JobState, Lane
from visionpipe.schemas.requests import (
    AdversarialOptions,
    DetectionOptions,
    DetectionRequest,
    ExplanationOptions,
    FeatureVisualizationOptions,
    FeatureVisualizationRequest,
    Slicing,
    Style,
    StyleTransferOptions,
)
from visionpipe.schemas.results import ClassificationResult, ClassScore, Curve, EmbeddingResult

IMAGE = UrlImage(url="https://example.org/a.png")


def all_schemas() -> list[type[BaseModel]]:
    for module in pkgutil.walk_packages(visionpipe.schemas.__path__, "visionpipe.schemas."):
        importlib.import_module(module.name)
    found, waiting = [], [Schema]
    while waiting:
        cls = waiting.pop()
        waiting += cls.__subclasses__()
        if cls.__module__.startswith("visionpipe.schemas") and "[" not in cls.__name__:
            found.append(cls)
    return sorted(set(found), key=lambda cls: cls.__name__)


@pytest.mark.parametrize("cls", all_schemas(), ids=lambda cls: cls.__name__)
def test_every_schema_and_every_field_is_documented(cls):
    assert cls.__doc__
    undocumented = set(cls.model_fields) - set(field_docs(cls))
    assert not undocumented


@pytest.mark.parametrize("cls", all_schemas(), ids=lambda cls: cls.__name__)
def test_every_schema_is_strict_frozen_and_refuses_unknown_fields(cls):
    assert cls.model_config["strict"]
    assert cls.model_config["frozen"]
    with pytest.raises(ValidationError) as caught:
        cls.model_validate({"no_such_field": 1})
    assert ("extra_forbidden", ("no_such_field",)) in [(f["type"], f["loc"]) for f in caught.value.errors()]


@pytest.mark.parametrize("cls", all_schemas(), ids=lambda cls: cls.__name__)
def test_every_json_schema_is_closed_described_and_refers_only_to_what_it_holds(cls):
    document = cls.model_json_schema()
    text = json.dumps(document)
    assert document["additionalProperties"] is False
    for part in [document, *document.get("$defs", {}).values()]:
        for name, field in part.get("properties", {}).items():
            assert field.get("description"), f"{part['title']}.{name}"
    references = {piece.split('"')[0] for piece in text.split('"#/$defs/')[1:]}
    assert references <= set(document.get("$defs", {}))
    assert document == cls.model_json_schema()


def test_numbers_are_not_read_from_text_and_nan_is_refused():
    for document in ('{"class_id": "3", "label": "a", "score": 0.5}', '{"class_id": 3, "label": "a", "score": NaN}'):
        with pytest.raises(ValidationError):
            ClassScore.model_validate_json(document)


def test_values_cannot_be_changed():
    with pytest.raises(ValidationError, match="frozen"):
        ClassScore(class_id=1, label="a", score=1.0).score = 0.0


def test_inline_bytes_travel_as_base64_and_stay_small():
    assert json.loads(InlineImage(data=b"\xff\x00").model_dump_json())["data"] == "_wA="
    with pytest.raises(ValidationError, match="8000"):
        InlineImage(data=bytes(8001))


def test_an_item_has_either_a_result_or_an_error():
    with pytest.raises(ValidationError, match="either a result or an error"):
        Item[ClassificationResult](index=0)


def test_a_state_knows_whether_it_is_final():
    assert [state.value for state in JobState if not state.ended] == ["queued", "running"]


def test_records_are_read_from_json_with_their_enums():
    document = (
        '{"job":"j","task":"classification","model":"m@0123456789ab","lane":"bulk","state":"done",'
        '"total":1,"finished":1,"attempts":0,"submitted_at":1}'
    )
    record = JobRecord.model_validate_json(document)
    assert (record.lane, record.state, record.submitted_at) == (Lane.BULK, JobState.DONE, 1.0)


@pytest.mark.parametrize("model", ["", "A", "a b", "a@123", "a/b", "a@0123456789AB", "x" * 65])
def test_a_model_target_is_a_plain_name_with_at_most_a_digest(model):
    with pytest.raises(ValidationError, match="model"):
        DetectionRequest(model=model, images=[IMAGE])


def test_an_envelope_of_one_task_refuses_the_results_of_another():
    document = {
        "job": "j",
        "state": "done",
        "total": 1,
        "items": [{"index": 0, "result": {"task": "detection", "detections": []}}],
    }
    with pytest.raises(ValidationError):
        Envelope[ClassificationResult].model_validate_json(json.dumps(document))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: ExplanationOptions(baseline="image"), "give both or neither"),
        (lambda: ExplanationOptions(baseline_image=IMAGE), "give both or neither"),
        (lambda: ExplanationOptions(window_px=4, stride_px=5), "would leave pixels unexamined"),
        (lambda: AdversarialOptions(method="fgsm", steps=3), 'belong to method "pgd"'),
        (lambda: AdversarialOptions(epsilons=[8.0]), "write 8/255 rather than 8"),
        (lambda: AdversarialOptions(epsilons=[]), "at least 1 item"),
        (lambda: AdversarialOptions(target=3, true_class=3), "must be another class"),
        (lambda: StyleTransferOptions(styles=[]), "at least 1 item"),
        (
            lambda: StyleTransferOptions(styles=[Style(image=IMAGE)], content_weight=0, style_weight=0),
            "nothing to paint",
        ),
        (lambda: DetectionOptions(proposals=[], slicing=Slicing()), "either slicing or proposals"),
        (lambda: DetectionOptions(proposals=[[(5.0, 0.0, 1.0, 2.0)]]), "x1 <= x2"),
        (
            lambda: DetectionRequest(model="m", images=[IMAGE, IMAGE], options=DetectionOptions(proposals=[[]])),
            "2 expected, 1 given",
        ),
        (
            lambda: FeatureVisualizationRequest(model="m", options=FeatureVisualizationOptions(method="deconvnet")),
            "give at least one image",
        ),
        (lambda: FeatureVisualizationRequest(model="m", images=[IMAGE]), "looks at the network alone"),
        (lambda: EmbeddingResult(dimensions=2, layer="fc", normalized=False, norm=1.0), "a vector or an artifact"),
        (
            lambda: EmbeddingResult(dimensions=2, layer="fc", normalized=False, norm=1.0, vector=[1.0]),
            "dimensions says 2, the vector has 1",
        ),
        (lambda: Curve(fractions=[0.0, 1.0], scores=[1.0], auc=0.5), "2 fractions, but 1 scores"),
        (lambda: ClassificationResult(classes=[]), "at least 1 item"),
    ],
)
def test_what_does_not_fit_together_is_refused_with_the_reason(build, message):
    with pytest.raises(ValidationError, match=message):
        build()


def test_radii_default_to_what_is_usual_for_the_norm():
    assert AdversarialOptions().radii == (8 / 255,)
    assert AdversarialOptions(norm="l2").radii == (1.0,)
    assert AdversarialOptions(norm="l2", epsilons=[3.0]).radii == (3.0,)


def test_options_name_the_images_they_hold():
    other = UrlImage(url="https://example.org/b.png")
    assert StyleTransferOptions(styles=[Style(image=IMAGE), Style(image=other)]).image_refs() == [IMAGE, other]
    assert ExplanationOptions(baseline="image", baseline_image=other).image_refs() == [other]
    assert ExplanationOptions().image_refs() == DetectionOptions().image_refs() == []


def test_a_request_without_images_has_one_item():
    assert FeatureVisualizationRequest(model="m").num_items == 1
    assert DetectionRequest(model="m", images=[IMAGE] * 3).num_items == 3
