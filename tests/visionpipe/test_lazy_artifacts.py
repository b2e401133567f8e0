"""Results that a client gave fetch their artifacts when these are needed."""

from __future__ import annotations

import asyncio
from functools import partial

import numpy as np
import pytest
from PIL import Image

from tests.helpers.results import SAMPLES, png
from visionpipe.aclient import AsyncClient
from visionpipe.client import Client
from visionpipe.errors import ArtifactExpiredError, ArtifactNotFetchedError, InvalidRequestError
from visionpipe.queue import connect
from visionpipe.schemas.results import SegmentationResult
from visionpipe.store import open_store, put_artifact
from visionpipe.testing import AsyncMemoryClient, MemoryClient

SIZE = (40, 24)
PICTURE = png(np.full((24, 40, 3), 80, np.uint8))
MODEL = "lenet-digits"


@pytest.fixture
def segmenting(fake_worker, settings):
    """A worker whose results name artifacts in the store."""

    def answer(data, request):
        with connect(str(settings.redis_url)) as redis:
            return SAMPLES["segmentation"](SIZE, partial(put_artifact, open_store(settings, redis), settings=settings))

    fake_worker.answer = answer
    return fake_worker


def ways(client: Client) -> list[SegmentationResult]:
    """A result by each way that a client gives one."""
    job = client.submit(SegmentationResult, PICTURE, model=MODEL)
    return [
        client.segment(PICTURE, model=MODEL),
        job.result(30),
        job.results(30)[0],
        job.wait(30).items[0].result,
        job.envelope().items[0].result,
        client.job(job.id).result(30),
        next(iter(client.map(SegmentationResult, [PICTURE], model=MODEL))).result,
    ]


def test_every_result_of_a_client_draws_without_more_ado(segmenting, settings):
    with Client(settings=settings) as client:
        for result in ways(client):
            assert result.label_array().shape == (24, 40)
            assert result.draw(PICTURE).mode == "RGB"


def test_what_was_fetched_is_kept_when_client_and_artifact_are_gone(segmenting, settings):
    with Client(settings=settings) as client:
        loaded = client.load(client.segment(PICTURE, model=MODEL))
        late = client.segment(PICTURE, model=MODEL)
    assert loaded.instance_array().max() == 2
    with pytest.raises(InvalidRequestError, match="closed"):
        late.label_array()
    with Client(settings=settings) as another:
        assert late.bind(another.artifact).label_array().max() == 2
        with connect(str(settings.redis_url)) as redis:
            redis.delete(f"vp:{late.instance_map.key}")
        with pytest.raises(ArtifactExpiredError):
            late.instance_array()


async def test_an_async_client_loads_them_beforehand(segmenting, settings):
    async with AsyncClient(settings=settings) as client:
        result = await client.segment(PICTURE, model=MODEL)
        with pytest.raises(ArtifactNotFetchedError, match=r"await client\.load"):
            result.label_array()
        assert await client.load(result) is result
    assert await asyncio.to_thread(result.draw, Image.new("RGB", SIZE))
    assert result.label_array().max() == 2


def test_the_in_memory_client_keeps_what_handlers_store():
    with MemoryClient({"segmentation": lambda data, options: SAMPLES["segmentation"](SIZE, client.keep)}) as client:
        for result in ways(client):
            assert result.instance_array().max() == 2
        with pytest.raises(ArtifactExpiredError):
            client.artifact(result.label_map.model_copy(update={"key": "artifact:" + "0" * 64}))


async def test_the_in_memory_async_client_loads_them_too():
    async with AsyncMemoryClient(
        {"segmentation": lambda data, options: SAMPLES["segmentation"](SIZE, client.keep)}
    ) as client:
        result = await client.load(await client.segment(PICTURE, model=MODEL))
        assert result.label_array().shape == (24, 40)
