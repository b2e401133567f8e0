"""The client: one implementation, for asyncio. ``visionpipe.client`` is its blocking face."""

from __future__ import annotations

import asyncio
import os
import time
import uuid
from collections.abc import AsyncGenerator, Iterable, Mapping, Sequence
from functools import partial
from typing import Self, TypeVar, Unpack, cast, overload

from visionpipe.errors import ArtifactExpiredError, InvalidRequestError, SettingsError
from visionpipe.jobs import AsyncJob
from visionpipe.mapping import Flow, items, lists
from visionpipe.queue import Accounts, QueueStatus
from visionpipe.references import References
from visionpipe.schemas.images import ArtifactRef, BlobImage, ImageRef
from visionpipe.schemas.jobs import Item, Lane, WorkerRecord
from visionpipe.schemas.results import Result
from visionpipe.schemas.results.source import Fetch
from visionpipe.settings import Settings, load_settings
from visionpipe.shortcuts import Shortcuts
from visionpipe.sources import ImageSource, ImageStream, Prepared, is_single, place, prepare, unhurried, upload_ref
from visionpipe.submission import MapKeywords, OptionsLike, SubmitKeywords, checked_id, task_name
from visionpipe.tasks import build_options, build_request
from visionpipe.transport import Transport
from visionpipe.windows import Window

ResultT = TypeVar("ResultT", bound=Result)


class AsyncClient(Shortcuts):
    """Submits images to a queue and reads what becomes of them; belongs to one event loop.

    Args:
        redis_url: The queue's Redis; unset takes the settings' ``redis_url``.
        settings: Unset reads the environment.
        transport: Replaces Redis altogether, as ``visionpipe.testing`` does.

    Raises:
        SettingsError: No Redis is named, or the store cannot be opened.
        QueueUnavailableError: The URL cannot be used.

    Example:
        >>> async with AsyncClient("redis://gpu-box") as client:  # doctest: +SKIP
        ...     print((await client.classify("cat.jpg", model="resnet50")).top.label)
    """

    def __init__(
        self, redis_url: str | None = None, *, settings: Settings | None = None, transport: Transport | None = None
    ) -> None:
        self.settings = settings or load_settings()
        """The settings in force."""
        self._transport = transport or _redis_transport(redis_url or self.settings.redis_url, self.settings)
        self._references = References(self._transport, self.settings)
        self._home: tuple[int, asyncio.AbstractEventLoop] | None = None
        self._closed = False
        self._fetch: Fetch | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {type(self._transport).__name__}{', closed' if self._closed else ''}>"

    async def __aenter__(self) -> Self:
        self._at_home()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of connections and tasks; submitted jobs go on."""
        if not self._closed:
            self._closed = True
            await self._transport.aclose()

    @overload
    async def submit(
        self,
        task: type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        *,
        model: str,
        **how: Unpack[SubmitKeywords],
    ) -> AsyncJob[ResultT]: ...
    @overload
    async def submit(
        self, task: str, images: ImageSource | Iterable[ImageSource], *, model: str, **how: Unpack[SubmitKeywords]
    ) -> AsyncJob[Result]: ...
    async def submit(
        self,
        task: str | type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        *,
        model: str,
        **how: Unpack[SubmitKeywords],
    ) -> AsyncJob[ResultT] | AsyncJob[Result]:
        """Put a job into the queue and come back at once.

        Args:
            task: The task's name, or its result class, which also types the job.
            images: One image or several; each gets its own item.
            model: ``name`` or ``name@digest``.
            how: See ``SubmitKeywords``.

        Raises:
            ImageError: An image cannot be read here or is too large.
            InvalidRequestError: Something does not fit the task's schema.
            NoWorkerError: No live worker serves the model.
            QueueFullError: The lane is at its bound.
            JobConflictError: The id is taken by another request.
            QueueUnavailableError: Redis cannot be reached.
        """
        self._at_home()
        sources = [images] if is_single(images) else list(cast("Iterable[ImageSource]", images))
        read = await self._references.reader(model)
        prepared = await unhurried(lambda: [read(cast("ImageSource", source)) for source in sources], sources)
        job = await self._send(task_name(task), prepared, model=model, **how)
        return cast("AsyncJob[ResultT]", job)

    @overload
    def map(
        self, task: type[ResultT], images: ImageStream, *, model: str, **how: Unpack[MapKeywords]
    ) -> AsyncGenerator[Item[ResultT], None]: ...
    @overload
    def map(
        self, task: str, images: ImageStream, *, model: str, **how: Unpack[MapKeywords]
    ) -> AsyncGenerator[Item[Result], None]: ...
    def map(
        self, task: str | type[ResultT], images: ImageStream, *, model: str, **how: Unpack[MapKeywords]
    ) -> AsyncGenerator[Item[ResultT], None] | AsyncGenerator[Item[Result], None]:
        """Stream one item per image, with bounded memory however many there are.

        An image that cannot be read gives an item with the error and does not stop the stream; a full queue slows it.
        ``index`` is the image's position in the stream. Leaving the loop early cancels what is under way.

        Args:
            task: The task's name, or its result class, which also types the items.
            images: Any iterable, advanced in a thread so that it may block, or an async one.
            model: ``name`` or ``name@digest``.
            how: See ``MapKeywords``.

        Raises:
            VisionPipeError: Why no more jobs can be submitted; never what concerns one image only.
        """
        return items(self._flow(cast("type[ResultT]", task), images, model, **how))

    def _map_lists(
        self, task: type[ResultT], images: ImageStream, *, model: str, **how: Unpack[MapKeywords]
    ) -> AsyncGenerator[list[Item[ResultT]], None]:
        # The lists that jobs end with; the blocking client takes them whole to its own thread.
        return lists(self._flow(task, images, model, **how))

    def _flow(self, task: type[ResultT], images: ImageStream, model: str, **how: Unpack[MapKeywords]) -> Flow[ResultT]:
        self._at_home()
        name = task_name(task)
        # Wrong options would otherwise show up only when the first chunk is sent.
        options = build_options(name, how.get("options"))
        lane, patient = how.get("lane", Lane.BULK), how.get("wait_for_worker", False)
        sizes = {"jobs": how.get("window"), "chunk": how.get("chunk")}
        window = Window(**{key: size for key, size in sizes.items() if size is not None})

        async def send(images: Sequence[Prepared]) -> AsyncJob[ResultT]:
            job = await self._send(name, images, model=model, options=options, lane=lane, wait_for_worker=patient)
            return cast("AsyncJob[ResultT]", job)

        reader = partial(self._references.reader, model)
        return Flow(images, reader, send, ordered=how.get("ordered", True), window=window)

    async def upload(self, image: ImageSource) -> BlobImage:
        """Store an image for use in many jobs; it lives for ``upload_ttl_s`` from the last upload.

        Raises:
            ImageError: It cannot be read here or is too large.
            InvalidRequestError: It is a reference or URL already.
        """
        self._at_home()
        prepared = await unhurried(partial(prepare, image, max_bytes=self.settings.max_image_bytes), [image])
        if prepared.ref is not None:
            raise InvalidRequestError("only pixels can be uploaded; a reference or URL goes into requests as it is")
        ref = upload_ref(prepared)
        await self._transport.put(ref.key, prepared.data, self.settings.upload_ttl_s)
        return ref

    async def artifact(self, ref: ArtifactRef) -> bytes:
        """Fetch a large output that a result names.

        Raises:
            ArtifactExpiredError: It has outlived its time in the store.
        """
        self._at_home()
        data = await self._transport.get(ref.key)
        if data is None:
            raise ArtifactExpiredError(f"{ref.key} is no longer in the store; run the job again", key=ref.key)
        return data

    async def load(self, result: ResultT) -> ResultT:
        """Fetch all large outputs that a result names, and give it back: drawing and arrays then need no client.

        Raises:
            ArtifactExpiredError: One of them has outlived its time in the store.
        """
        for _, ref in result.artifacts():
            result.keep(ref, await self.artifact(ref))
        return result

    def job(self, job: str) -> AsyncJob[Result]:
        """Take up a job by its id, whoever submitted it; nothing is read yet."""
        return AsyncJob(self._transport, checked_id(job), fetch=self._fetch)

    async def workers(self) -> list[WorkerRecord]:
        """Read the announcements of all live workers."""
        self._at_home()
        return await self._transport.workers()

    async def queues(self) -> list[QueueStatus]:
        """Read the depth of every lane."""
        self._at_home()
        return await self._transport.queues()

    async def accounts(self) -> dict[str, Accounts]:
        """Read how many items were ever submitted to each model, and how they ended."""
        self._at_home()
        return await self._transport.accounts()

    async def _ask(
        self,
        result: type[ResultT],
        images: ImageSource | Iterable[ImageSource],
        model: str,
        timeout: float | None,
        options: Mapping[str, object],
    ) -> ResultT:
        begun = time.monotonic()
        job = await self.submit(result, images, model=model, options=options)
        return await job.result(None if timeout is None else max(0.001, timeout - (time.monotonic() - begun)))

    async def _send(
        self,
        task: str,
        images: Sequence[Prepared],
        *,
        model: str,
        options: OptionsLike = None,
        lane: Lane = Lane.INTERACTIVE,
        job: str | None = None,
        deadline_s: float | None = None,
        wait_for_worker: bool = False,
    ) -> AsyncJob[Result]:
        job_id = uuid.uuid4().hex if job is None else checked_id(job)
        # Only a caller's own id can meet an earlier job; only then must equal requests mean equal pixels.
        refs, payloads = place(images, job=job_id, hashed=job is not None)
        request = build_request(task, options=options, model=model, images=refs, deadline_s=deadline_s)
        submitted = await self._transport.submit(
            request, job=job_id, lane=lane, payloads=payloads, wait_for_worker=wait_for_worker
        )
        return AsyncJob(self._transport, job_id, heard=submitted.created, blobs=len(payloads), fetch=self._fetch)

    async def _refer(self, image: ImageSource, model: str) -> ImageRef:
        """Give a reference that request options can hold, uploading the image where none will do."""
        read = await self._references.reader(model)
        prepared = await unhurried(lambda: read(image), [image])
        # Uploads are kept by content: a style that is used a thousand times lies in the store once.
        refs, payloads = place([prepared], job="none", hashed=False)
        return await self.upload(prepared.data) if payloads else refs[0]

    def _at_home(self) -> None:
        # Connections belong to the loop that opened them, and must never be shared by two processes.
        here = (os.getpid(), asyncio.get_running_loop())
        if self._closed:
            raise InvalidRequestError("This client is closed; make a new one.")
        if self._home is None:
            self._home = here
        elif self._home != here:
            raise InvalidRequestError(
                "This client was first used in another process or event loop; make one client for each of them."
            )


def _redis_transport(url: str | None, settings: Settings) -> Transport:
    if url is None:
        raise SettingsError(
            "No Redis is named: give redis_url, set VISIONPIPE_REDIS_URL, or use visionpipe.local_stack(), "
            "which starts what it needs."
        )
    from visionpipe.redis_transport import RedisTransport

    return RedisTransport(url, settings)
