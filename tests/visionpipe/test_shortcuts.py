"""Every task has a method that sends the right request and gives the right type."""

from __future__ import annotations

import inspect

import pytest

from visionpipe.errors import InvalidRequestError
from visionpipe.schemas.images import ArtifactRef, BlobImage, InlineImage
from visionpipe.schemas.requests import StyleTransferOptions
from visionpipe.schemas.results import (
    AdversarialResult,
    ClassificationResult,
    ClassScore,
    DetectionResult,
    EmbeddingResult,
    ExplanationResult,
    FeatureVisualizationResult,
    SegmentationResult,
    SpatialTransformerResult,
    StyleTransferResult,
)
from visionpipe.schemas.results.adversarial import Attack, ChangeNorms
from visionpipe.schemas.results.explanation import Attribution
from visionpipe.schemas.results.segmentation import SegmentedClass
from visionpipe.schemas.results.style_transfer import StyleLoss
from visionpipe.shortcuts import Shortcuts
from visionpipe.tasks import TASKS
from visionpipe.testing import MemoryClient

SCORE = ClassScore(class_id=1, label="one", score=0.5)
PICTURE = ArtifactRef(key=f"artifact:{'a' * 64}", media_type="image/png", size_bytes=1)
CORNERS = ((0.0, 0.0), (1.0, 0.0), (1.0, 1.0), (0.0, 1.0))
ATTACK = Attack(
    epsilon=0.1,
    success=False,
    after=SCORE,
    true_score=0.5,
    picture=PICTURE,
    difference=PICTURE,
    norms=ChangeNorms(linf=0.1, l2=0.1, changed=1),
    steps=1,
)
LOSS = StyleLoss(step=1, total=1, content=1, style=0)
RESULTS = [
    ClassificationResult(classes=[SCORE]),
    SegmentationResult(label_map=PICTURE, classes=[SegmentedClass(class_id=1, label="one", area_px=1, fraction=1)]),
    DetectionResult(detections=[]),
    StyleTransferResult(picture=PICTURE, size_wh=(1, 1), losses=[LOSS], steps=1, step_ms=1.0, stopped="finished"),
    SpatialTransformerResult(classes=[SCORE], theta=((1.0, 0.0, 0.0), (0.0, 1.0, 0.0)), quad_xy=CORNERS),
    EmbeddingResult(dimensions=2, vector=[0.0, 1.0], layer="fc", normalized=True, norm=1.0),
    ExplanationResult(
        method="lime", attributions=[Attribution(target=SCORE, attribution=PICTURE)], evaluations=1, stopped="finished"
    ),
    AdversarialResult(
        method="fgsm",
        norm="linf",
        before=SCORE,
        true_class=SCORE,
        attacks=[ATTACK],
        picture_size_wh=(1, 1),
        stopped="finished",
    ),
    FeatureVisualizationResult(method="filters", units=[], stopped="finished"),
]
CALLS = {
    "classify": ("classification", {"top_k": 2}),
    "segment": ("segmentation", {"min_area_px": 5}),
    "detect": ("detection", {"score_threshold": 0.5}),
    "stylize": ("style_transfer", {"styles": [b"style"], "steps": 3}),
    "rectify": ("spatial_transformer", {"rectified": False}),
    "embed": ("embedding", {"normalize": True}),
    "explain": ("explanation", {"method": "lime", "samples": 10}),
    "attack": ("adversarial", {"method": "fgsm"}),
    "visualize_features": ("feature_visualization", {"method": "deconvnet", "layers": ["conv1"]}),
}


@pytest.fixture
def client():
    with MemoryClient({result.task: lambda _, __, result=result: result for result in RESULTS}) as client:
        yield client


def test_every_task_has_a_method():
    methods = {name for name, _ in inspect.getmembers(Shortcuts, inspect.isfunction) if not name.startswith("_")}
    assert methods == set(CALLS)
    assert {task for task, _ in CALLS.values()} == set(TASKS) == {result.task for result in RESULTS}


@pytest.mark.parametrize("method", CALLS)
def test_a_method_sends_its_request_with_the_options_given(client, method):
    task, options = CALLS[method]
    result = getattr(client, method)(b"image", model="m", **options)
    assert type(result) is TASKS[task].result
    request = client.submissions[0].request
    assert type(request) is TASKS[task].request
    assert client.submissions[0].images == [b"image"]
    sent = request.options.model_dump()
    assert {name: value for name, value in options.items() if name != "styles"}.items() <= sent.items()


@pytest.mark.parametrize("method", CALLS)
def test_an_option_the_task_does_not_have_is_refused(client, method):
    extra = {"styles": [b"style"]} if method == "stylize" else {}
    with pytest.raises(InvalidRequestError, match="telepathic"):
        getattr(client, method)(b"image", model="m", telepathic=True, **extra)
    assert client.submissions == []


def test_styles_and_baselines_may_be_any_image(client, tmp_path):
    (tmp_path / "style.jpg").write_bytes(b"x" * 9000)
    client.stylize(b"image", [tmp_path / "style.jpg", b"tiny"], model="m")
    options = client.submissions[0].request.options
    assert isinstance(options, StyleTransferOptions)
    large, tiny = [style.image for style in options.styles]
    assert isinstance(large, BlobImage)
    assert large.key.startswith("upload:")
    assert isinstance(tiny, InlineImage)
    client.stylize(b"image", tmp_path / "style.jpg", model="m")
    client.explain(b"image", model="m", baseline_image=b"nothing")
    explained = client.submissions[2].request.options.model_dump()
    assert (explained["baseline"], explained["baseline_image"]["data"]) == ("image", b"nothing")


def test_features_can_be_visualized_without_an_image(client):
    client.visualize_features(model="m", method="filters")
    assert client.submissions[0].request.images == []
