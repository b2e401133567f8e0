"""One method per task: submit one image, wait, give the typed result."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from typing import TypeVar, cast

from visionpipe.schemas.images import ImageRef
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
from visionpipe.sources import ImageSource, is_single

ResultT = TypeVar("ResultT", bound=Result)

TIMEOUT_S = 60.0
"""Patience for quick tasks."""
LONG_TIMEOUT_S = 600.0
"""Patience for tasks of many steps."""


class Shortcuts(ABC):
    """The methods named after tasks.

    Each takes any field of the task's options as a keyword, submits one image on the interactive lane, waits for at
    most ``timeout`` seconds, and gives the result or raises why there is none.
    """

    @abstractmethod
    async def _ask(
        self,
        result: type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        model: str,
        timeout: float | None,
        options: Mapping[str, object],
    ) -> ResultT: ...

    @abstractmethod
    async def _refer(self, image: ImageSource, model: str) -> ImageRef: ...

    async def classify(
        self,
        image: ImageSource,
        *,
        model: str = "lenet-digits",
        top_k: int = 5,
        timeout: float | None = TIMEOUT_S,
        **options: object,
    ) -> ClassificationResult:
        """Name the most probable classes of an image; keywords are the fields of ``ClassificationOptions``."""
        return await self._ask(ClassificationResult, image, model, timeout, {"top_k": top_k, **options})

    async def segment(
        self, image: ImageSource, *, model: str = "unet-cells", timeout: float | None = TIMEOUT_S, **options: object
    ) -> SegmentationResult:
        """Find the class of every pixel; keywords are the fields of ``SegmentationOptions``."""
        return await self._ask(SegmentationResult, image, model, timeout, options)

    async def detect(
        self,
        image: ImageSource,
        *,
        model: str = "fasterrcnn-digits",
        timeout: float | None = TIMEOUT_S,
        **options: object,
    ) -> DetectionResult:
        """Find things and where they are; keywords are the fields of ``DetectionOptions``."""
        return await self._ask(DetectionResult, image, model, timeout, options)

    async def stylize(
        self,
        image: ImageSource,
        styles: ImageSource | Iterable[ImageSource],
        *,
        model: str = "style-textures",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> StyleTransferResult:
        """Paint an image in the style of others, in equal shares; keywords: ``StyleTransferOptions``."""
        sources = [styles] if is_single(styles) else list(cast("Iterable[ImageSource]", styles))
        refs = [{"image": await self._refer(cast("ImageSource", style), model)} for style in sources]
        return await self._ask(StyleTransferResult, image, model, timeout, {**options, "styles": refs})

    async def rectify(
        self, image: ImageSource, *, model: str = "stn-digits", timeout: float | None = TIMEOUT_S, **options: object
    ) -> SpatialTransformerResult:
        """Find the region that matters, straighten it and classify it; keywords: ``SpatialTransformerOptions``."""
        return await self._ask(SpatialTransformerResult, image, model, timeout, options)

    async def embed(
        self, image: ImageSource, *, model: str = "lenet-digits", timeout: float | None = TIMEOUT_S, **options: object
    ) -> EmbeddingResult:
        """Turn an image into a feature vector; keywords are the fields of ``EmbeddingOptions``."""
        return await self._ask(EmbeddingResult, image, model, timeout, options)

    async def explain(
        self,
        image: ImageSource,
        *,
        model: str = "vgg-digits",
        baseline_image: ImageSource | None = None,
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> ExplanationResult:
        """Find which pixels speak for a class; keywords are the fields of ``ExplanationOptions``."""
        if baseline_image is not None:
            ref = await self._refer(baseline_image, model)
            options = {"baseline": "image", **options, "baseline_image": ref}
        return await self._ask(ExplanationResult, image, model, timeout, options)

    async def attack(
        self,
        image: ImageSource,
        *,
        model: str = "vgg-digits",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> AdversarialResult:
        """Find how little it takes to fool the model; keywords are the fields of ``AdversarialOptions``."""
        return await self._ask(AdversarialResult, image, model, timeout, options)

    async def visualize_features(
        self,
        image: ImageSource | None = None,
        *,
        model: str = "vgg-digits",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> FeatureVisualizationResult:
        """Show what units inside the model respond to; keywords are the fields of ``FeatureVisualizationOptions``."""
        images: list[ImageSource] = [] if image is None else [image]
        return await self._ask(FeatureVisualizationResult, images, model, timeout, options)
