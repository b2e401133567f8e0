"""The blocking face of ``AsyncClient``: the same methods, run in an event loop of the client's own."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Self, TypeVar, Unpack, cast, overload

from visionpipe.aclient import AsyncClient
from visionpipe.jobs import Job
from visionpipe.portal import Portal
from visionpipe.queue import Accounts, QueueStatus
from visionpipe.schemas.images import ArtifactRef, BlobImage
from visionpipe.schemas.jobs import Item, WorkerRecord
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
from visionpipe.settings import Settings
from visionpipe.shortcuts import LONG_TIMEOUT_S, TIMEOUT_S
from visionpipe.sources import ImageSource
from visionpipe.submission import MapKeywords, SubmitKeywords
from visionpipe.transport import Transport

ResultT = TypeVar("ResultT", bound=Result)


class Client:
    """Submits images to a queue and reads what becomes of them; safe in threads, works in Jupyter.

    Every method does as ``AsyncClient``'s of the same name.

    Args:
        redis_url: The queue's Redis; unset takes the settings' ``redis_url``.
        settings: Unset reads the environment.
        transport: Replaces Redis altogether, as ``visionpipe.testing`` does.

    Raises:
        SettingsError: No Redis is named, or the store cannot be opened.
        QueueUnavailableError: The URL cannot be used.

    Example:
        >>> with Client("redis://gpu-box") as client:  # doctest: +SKIP
        ...     print(client.classify("cat.jpg", model="resnet50").top.label)
    """

    def __init__(
        self, redis_url: str | None = None, *, settings: Settings | None = None, transport: Transport | None = None
    ) -> None:
        self._async = AsyncClient(redis_url, settings=settings, transport=transport)
        self._portal = Portal()
        # Results fetch their artifacts when these are first needed, which blocking code can do at any time.
        self._async._fetch = self.artifact

    def __repr__(self) -> str:
        return repr(self._async).replace("<AsyncClient", f"<{type(self).__name__}")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    @property
    def settings(self) -> Settings:
        """The settings in force."""
        return self._async.settings

    def close(self) -> None:
        """Let go of connections and the thread; submitted jobs go on."""
        if not self._portal.closed:
            self._portal.run(self._async.aclose())
            self._portal.close()

    @overload
    def submit(
        self,
        task: type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        *,
        model: str,
        **how: Unpack[SubmitKeywords],
    ) -> Job[ResultT]: ...
    @overload
    def submit(
        self, task: str, images: ImageSource | Iterable[ImageSource], *, model: str, **how: Unpack[SubmitKeywords]
    ) -> Job[Result]: ...
    def submit(
        self,
        task: str | type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        *,
        model: str,
        **how: Unpack[SubmitKeywords],
    ) -> Job[ResultT] | Job[Result]:
        """See ``AsyncClient.submit``."""
        job = self._portal.run(self._async.submit(cast("type[ResultT]", task), images, model=model, **how))
        return Job(self._portal, job)

    @overload
    def map(
        self, task: type[ResultT], images: Iterable[ImageSource], *, model: str, **how: Unpack[MapKeywords]
    ) -> Iterator[Item[ResultT]]: ...
    @overload
    def map(
        self, task: str, images: Iterable[ImageSource], *, model: str, **how: Unpack[MapKeywords]
    ) -> Iterator[Item[Result]]: ...
    def map(
        self, task: str | type[ResultT], images: Iterable[ImageSource], *, model: str, **how: Unpack[MapKeywords]
    ) -> Iterator[Item[ResultT]] | Iterator[Item[Result]]:
        """See ``AsyncClient.map``."""

        def start() -> AsyncGenerator[list[Item[ResultT]], None]:
            return self._async._map_lists(cast("type[ResultT]", task), images, model=model, **how)

        return self._portal.iterate(start)

    def upload(self, image: ImageSource) -> BlobImage:
        """See ``AsyncClient.upload``."""
        return self._portal.run(self._async.upload(image))

    def artifact(self, ref: ArtifactRef) -> bytes:
        """See ``AsyncClient.artifact``."""
        return self._portal.run(self._async.artifact(ref))

    def load(self, result: ResultT) -> ResultT:
        """See ``AsyncClient.load``; results of this client fetch what they need by themselves, while it is open."""
        return self._portal.run(self._async.load(result))

    def job(self, job: str) -> Job[Result]:
        """See ``AsyncClient.job``."""
        return Job(self._portal, self._async.job(job))

    def workers(self) -> list[WorkerRecord]:
        """See ``AsyncClient.workers``."""
        return self._portal.run(self._async.workers())

    def queues(self) -> list[QueueStatus]:
        """See ``AsyncClient.queues``."""
        return self._portal.run(self._async.queues())

    def accounts(self) -> dict[str, Accounts]:
        """See ``AsyncClient.accounts``."""
        return self._portal.run(self._async.accounts())

    def classify(
        self,
        image: ImageSource,
        *,
        model: str = "lenet-digits",
        top_k: int = 5,
        timeout: float | None = TIMEOUT_S,
        **options: object,
    ) -> ClassificationResult:
        """See ``AsyncClient.classify``."""
        return self._portal.run(self._async.classify(image, model=model, top_k=top_k, timeout=timeout, **options))

    def segment(
        self, image: ImageSource, *, model: str = "unet-cells", timeout: float | None = TIMEOUT_S, **options: object
    ) -> SegmentationResult:
        """See ``AsyncClient.segment``."""
        return self._portal.run(self._async.segment(image, model=model, timeout=timeout, **options))

    def detect(
        self,
        image: ImageSource,
        *,
        model: str = "fasterrcnn-digits",
        timeout: float | None = TIMEOUT_S,
        **options: object,
    ) -> DetectionResult:
        """See ``AsyncClient.detect``."""
        return self._portal.run(self._async.detect(image, model=model, timeout=timeout, **options))

    def stylize(
        self,
        image: ImageSource,
        styles: ImageSource | Iterable[ImageSource],
        *,
        model: str = "style-textures",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> StyleTransferResult:
        """See ``AsyncClient.stylize``."""
        return self._portal.run(self._async.stylize(image, styles, model=model, timeout=timeout, **options))

    def rectify(
        self, image: ImageSource, *, model: str = "stn-digits", timeout: float | None = TIMEOUT_S, **options: object
    ) -> SpatialTransformerResult:
        """See ``AsyncClient.rectify``."""
        return self._portal.run(self._async.rectify(image, model=model, timeout=timeout, **options))

    def embed(
        self, image: ImageSource, *, model: str = "lenet-digits", timeout: float | None = TIMEOUT_S, **options: object
    ) -> EmbeddingResult:
        """See ``AsyncClient.embed``."""
        return self._portal.run(self._async.embed(image, model=model, timeout=timeout, **options))

    def explain(
        self,
        image: ImageSource,
        *,
        model: str = "vgg-digits",
        baseline_image: ImageSource | None = None,
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> ExplanationResult:
        """See ``AsyncClient.explain``."""
        return self._portal.run(
            self._async.explain(image, model=model, baseline_image=baseline_image, timeout=timeout, **options)
        )

    def attack(
        self,
        image: ImageSource,
        *,
        model: str = "vgg-digits",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> AdversarialResult:
        """See ``AsyncClient.attack``."""
        return self._portal.run(self._async.attack(image, model=model, timeout=timeout, **options))

    def visualize_features(
        self,
        image: ImageSource | None = None,
        *,
        model: str = "vgg-digits",
        timeout: float | None = LONG_TIMEOUT_S,
        **options: object,
    ) -> FeatureVisualizationResult:
        """See ``AsyncClient.visualize_features``."""
        return self._portal.run(self._async.visualize_features(image, model=model, timeout=timeout, **options))
