"""Pictures that a run's options name."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from PIL import Image

from visionpipe.aclient import AsyncClient
from visionpipe.errors import ImageNotFoundError
from visionpipe.runs.pictures import Pictures
from visionpipe.runs.spec import RunSpec
from visionpipe.settings import Settings
from visionpipe.tasks import build_options


@pytest.fixture
def style(tmp_path: Path) -> Path:
    Image.linear_gradient("L").save(tmp_path / "style.png")
    return tmp_path / "style.png"


def options_of(pictures: Pictures, style: Path) -> dict[str, object]:
    made = build_options("style_transfer", {"styles": [{"image": pictures.refer(str(style))}]})
    return made.model_dump(mode="json")


def test_the_same_picture_makes_the_same_run_and_another_picture_another(style: Path, tmp_path: Path) -> None:
    def identity() -> dict[str, str]:
        return RunSpec(tmp_path, "style_transfer", "m", options_of(Pictures(2**20), style)).identity()

    before = identity()
    assert identity() == before
    Image.radial_gradient("L").save(style)
    assert identity() != before


def test_a_picture_that_is_not_there_is_told_before_anything_runs() -> None:
    with pytest.raises(ImageNotFoundError):
        Pictures(2**20).refer("nowhere.png")


def test_a_url_is_left_to_the_workers() -> None:
    assert Pictures(2**20).refer("https://example.org/a.png")["kind"] == "url"


async def test_pictures_outlive_their_time_in_the_store_while_the_run_lasts(settings: Settings, style: Path) -> None:
    short = settings.model_copy(update={"upload_ttl_s": 0.4})
    pictures = Pictures(2**20)
    ref = pictures.refer(str(style))
    async with AsyncClient(short.redis_url, settings=short) as client:
        expected = await asyncio.to_thread(style.read_bytes)
        async with pictures.kept(client):
            await asyncio.sleep(1.2)
            assert await client._transport.get(ref["key"]) == expected
        await asyncio.sleep(0.6)
        assert await client._transport.get(ref["key"]) is None
