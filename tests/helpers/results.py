"""A result of every task, made for an image of any size, with real pictures as artifacts."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import numpy as np
from PIL import Image
from pycocotools import mask

from visionpipe.schemas.geometry import Rle
from visionpipe.schemas.images import ArtifactRef
from visionpipe.schemas.results import (
    AdversarialResult,
    Attack,
    Attribution,
    ChangeNorms,
    ClassificationResult,
    ClassScore,
    Detection,
    DetectionResult,
    EmbeddingResult,
    ExplanationResult,
    FeatureVisualizationResult,
    Result,
    SegmentationResult,
    SegmentedClass,
    SegmentedInstance,
    SpatialTransformerResult,
    StyleLoss,
    StyleTransferResult,
    UnitView,
)

Put = Callable[[bytes, str], ArtifactRef]
Size = tuple[int, int]

LABELS = ["background", "cell", "débris"]


def png(pixels: Any) -> bytes:
    """Encode an array."""
    buffer = io.BytesIO()
    Image.fromarray(np.asarray(pixels)).save(buffer, "PNG")
    return buffer.getvalue()


def npy(array: Any) -> bytes:
    """Encode an array as ``.npy``."""
    buffer = io.BytesIO()
    np.save(buffer, np.asarray(array))
    return buffer.getvalue()


def rle(pixels_HW: Any) -> Rle:
    """Encode a mask."""
    encoded = mask.encode(np.asfortranarray(pixels_HW.astype(np.uint8)))
    return Rle(size_hw=pixels_HW.shape, counts=encoded["counts"].decode())


def scores(*values: float) -> list[ClassScore]:
    """A ranking of classes 1, 2, ..."""
    return [ClassScore(class_id=index, label=f"class {index}", score=score) for index, score in enumerate(values, 1)]


def halves(size_wh: Size) -> np.ndarray:
    """A map with object 1 in the left half but for its rim, 2 in the right half."""
    width, height = size_wh
    numbers_HW = np.zeros((height, width), np.uint16)
    numbers_HW[height // 8 : height - height // 8, width // 8 : width // 2] = 1
    numbers_HW[height // 8 : height - height // 8, width // 2 : width - width // 8] = 2
    return numbers_HW


def classification(size_wh: Size, put: Put) -> ClassificationResult:
    return ClassificationResult(image_size_wh=size_wh, classes=scores(0.7, 0.2, 0.1))


def detection(size_wh: Size, put: Put) -> DetectionResult:
    width, height = size_wh
    numbers_HW = halves(size_wh)
    boxes = [(0.0, 0.0, width / 2, float(height)), (width / 2, height / 4, float(width), float(height))]
    return DetectionResult(
        image_size_wh=size_wh,
        detections=[
            Detection(
                box_xyxy=box, class_id=index, label=LABELS[index], score=1 - index / 4, mask=rle(numbers_HW == index)
            )
            for index, box in enumerate(boxes, start=1)
        ],
    )


def segmentation(size_wh: Size, put: Put) -> SegmentationResult:
    numbers_HW = halves(size_wh)
    areas = [int((numbers_HW == number).sum()) for number in range(3)]
    rows, columns = numbers_HW.nonzero()
    box = (float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1))
    return SegmentationResult(
        image_size_wh=size_wh,
        label_map=put(png(numbers_HW.astype(np.uint8)), "image/png"),
        classes=[
            SegmentedClass(class_id=number, label=LABELS[number], area_px=area, fraction=area / numbers_HW.size)
            for number, area in enumerate(areas)
        ],
        instances=[
            SegmentedInstance(
                instance_id=number,
                class_id=number,
                label=LABELS[number],
                score=1 - number / 4,
                area_px=areas[number],
                centroid_xy=(1.0, 1.0),
                box_xyxy=box,
            )
            for number in (1, 2)
        ],
        instance_map=put(png(numbers_HW), "image/png"),
    )


def spatial_transformer(size_wh: Size, put: Put) -> SpatialTransformerResult:
    width, height = (float(side) for side in size_wh)
    return SpatialTransformerResult(
        image_size_wh=size_wh,
        classes=scores(0.9, 0.1),
        theta=((0.5, 0.1, 0.0), (-0.1, 0.5, 0.0)),
        quad_xy=((width / 4, -2.0), (width * 0.8, height / 5), (width * 0.7, height * 0.9), (width / 8, height * 0.7)),
        rectified=put(png(np.arange(256, dtype=np.uint8).reshape(16, 16)), "image/png"),
    )


def style_transfer(size_wh: Size, put: Put) -> StyleTransferResult:
    width, height = size_wh
    pixels = np.full((height, width, 3), (200, 120, 40), np.uint8)
    losses = [StyleLoss(step=step, total=100 / (step + 1), content=1.0, style=2.0) for step in range(30)]
    return StyleTransferResult(
        image_size_wh=size_wh,
        picture=put(png(pixels), "image/png"),
        size_wh=size_wh,
        losses=losses,
        steps=29,
        step_ms=5.0,
        stopped="finished",
    )


def embedding(size_wh: Size, put: Put) -> EmbeddingResult:
    vector = np.sin(np.arange(84, dtype=np.float32))
    return EmbeddingResult(
        image_size_wh=size_wh,
        dimensions=84,
        layer="f6",
        normalized=False,
        norm=float(np.linalg.norm(vector)),
        artifact=put(npy(vector), "application/x-npy"),
    )


def explanation(size_wh: Size, put: Put) -> ExplanationResult:
    width, height = size_wh
    values_HW = np.linspace(-1, 1, width * height, dtype=np.float32).reshape(height, width)
    targets = scores(0.7, 0.2)
    return ExplanationResult(
        image_size_wh=size_wh,
        method="integrated_gradients",
        attributions=[
            Attribution(target=target, attribution=put(npy(values_HW), "application/x-npy")) for target in targets
        ],
        evaluations=3,
        stopped="finished",
    )


def adversarial(size_wh: Size, put: Put) -> AdversarialResult:
    picture = put(png(np.full((*size_wh[::-1], 3), 90, np.uint8)), "image/png")
    first, second = scores(0.9, 0.6)
    return AdversarialResult(
        image_size_wh=size_wh,
        method="fgsm",
        norm="linf",
        before=first,
        true_class=first,
        attacks=[
            Attack(
                epsilon=epsilon,
                success=epsilon > 0.01,
                after=second,
                true_score=0.1,
                picture=picture,
                difference=picture,
                norms=ChangeNorms(linf=epsilon, l2=1.0, changed=0.5),
                steps=1,
            )
            for epsilon in (0.01, 0.03)
        ],
        picture_size_wh=size_wh,
        stopped="finished",
    )


def feature_visualization(size_wh: Size, put: Put) -> FeatureVisualizationResult:
    pattern = put(png(np.full((5, 5, 3), 200, np.uint8)), "image/png")
    units = [UnitView(layer="c1", channel=channel, activation=1.0 * channel, pattern=pattern) for channel in range(8)]
    return FeatureVisualizationResult(method="filters", units=units, stopped="finished")


SAMPLES: dict[str, Callable[[Size, Put], Result]] = {
    make.__name__: make
    for make in (
        classification,
        segmentation,
        detection,
        style_transfer,
        spatial_transformer,
        embedding,
        explanation,
        adversarial,
        feature_visualization,
    )
}
"""Task → what makes a result of it."""
