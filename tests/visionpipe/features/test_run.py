"""Both passes through a real worker, stopped in between and taken up again; and what is refused at once."""

from __future__ import annotations

import csv
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from models.recipes.stn_canvases import examples
from visionpipe.aclient import AsyncClient
from visionpipe.errors import InvalidRequestError, RunConflictError
from visionpipe.features import FeaturesReport, run_features
from visionpipe.features.patterns import JOURNAL
from visionpipe.settings import Settings
from visionpipe.stack import Stack, ensure_stack

MODEL = "vgg-digits"
LAYERS, CHANNELS = ["features.relu2_2", "features.relu3_2"], [0, 5, 7]
NUM_IMAGES = 14


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Canvases with digits, one file that is no image, and one whose name wants care."""
    place = tmp_path_factory.mktemp("canvases")
    for index, levels in enumerate(examples(NUM_IMAGES).levels()):
        Image.fromarray(levels).save(place / (f"{index:02}.png" if index else "0 <&'#?.png"))
    (place / "broken.png").write_bytes(b"no image")
    return place


@pytest.fixture(scope="module")
def stack(folder: Path) -> Iterator[Stack]:
    with tempfile.TemporaryDirectory(prefix="vpf") as data:
        settings = Settings(redis_url=None, data_dir=Path(data))
        with ensure_stack([MODEL], settings=settings, media_roots={"canvases": folder}, device="cpu") as made:
            yield made


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


async def features(stack: Stack, folder: Path, out: Path, **changed: object) -> FeaturesReport:
    wanted = {"layers": LAYERS, "channels": CHANNELS, "top": 4, **changed}
    told: list[tuple[int, int]] = []
    async with AsyncClient(stack.redis_url, settings=stack.settings) as client:
        made = await run_features(
            client, folder, out, model=MODEL, settings=stack.settings,
            on_ranking=lambda _: None, on_patterns=lambda *done: told.append(done), **wanted,
        )  # fmt: skip
    assert told[-1][0] == told[-1][1]
    return made


async def test_sheets_tables_and_page_tell_the_same(stack: Stack, folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    report = await features(stack, folder, out)
    assert (report.ranking.found, report.ranking.done, report.ranking.failed) == (NUM_IMAGES + 1, NUM_IMAGES, 1)
    assert not report.failures
    assert list(report.units) == [(layer, channel) for layer in LAYERS for channel in CHANNELS]
    data = json.loads((out / "units.json").read_text())
    rows = list(csv.DictReader((out / "units.csv").read_text().splitlines()))
    flat = [(unit, image) for unit in data["units"] for image in unit["images"]]
    assert [row["path"] for row in rows] == [image["path"] for _, image in flat]
    for unit in data["units"]:
        activations = [image["activation"] for image in unit["images"]]
        assert activations == sorted(activations, reverse=True)
        assert len({image["path"] for image in unit["images"]}) == len(activations)
    for _, image in flat:
        left, top, right, bottom = image["box_xyxy"]
        patch = pixels(out / image["patch"])
        assert patch.shape[0] * (right - left) == patch.shape[1] * (bottom - top)
        levels = pixels(folder / image["path"])[int(top) : int(bottom), int(left) : int(right)]
        factor = patch.shape[0] // len(levels)
        assert np.array_equal(patch[::factor, ::factor, 0], levels)
        assert pixels(out / image["pattern"]).std() > 1
    assert {len(sheets) for sheets in report.sheets.values()} == {1}
    assert pixels(out / report.sheets[LAYERS[0]][0]).shape[1] > 500
    page = (out / "index.html").read_text()
    assert page.count("<img") == 2 * len(flat)
    assert "0 <&" not in page

    # Taken up again, nothing is asked for twice, and what was lost is made again.
    journal, before = (out / JOURNAL).read_text(), (out / "units.json").read_bytes()
    (out / flat[0][1]["pattern"]).unlink()
    again = await features(stack, folder, out)
    assert (out / "units.json").read_bytes() == before
    assert len((out / JOURNAL).read_text().splitlines()) == len(journal.splitlines()) + 1
    assert again.ranking.run == report.ranking.run
    with pytest.raises(RunConflictError):
        await features(stack, folder, out, channels=[1])
    fresh = await features(stack, folder, out, channels=[1], layers=None, fresh=True)
    assert list(fresh.units) == [("features.conv4_2", 1)]
    assert len(list((out / "sheets").glob("*.png"))) == 1


async def test_what_the_network_cannot_do_is_told_before_the_folder_is_gone_through(
    stack: Stack, folder: Path, tmp_path: Path
) -> None:
    with pytest.raises(InvalidRequestError, match="from 0 to 31, got 99"):
        await features(stack, folder, tmp_path / "out", channels=[99])
    assert not (tmp_path / "out" / "ranking").exists()


async def test_an_output_folder_among_the_images_is_refused(stack: Stack, folder: Path) -> None:
    with pytest.raises(InvalidRequestError, match="outside of"):
        await features(stack, folder, folder / "out")


async def test_a_client_asks_for_pictures_of_units_with_and_without_an_image(stack: Stack, folder: Path) -> None:
    async with AsyncClient(stack.redis_url, settings=stack.settings) as client:
        climbed = await client.visualize_features(model=MODEL, steps=3, max_channels=2)
        shown = await client.visualize_features(folder / "01.png", model=MODEL, method="deconvnet", max_channels=2)
        assert (climbed.image_size_wh, shown.image_size_wh) == (None, (64, 64))
        for result in (climbed, shown):
            await client.load(result)
            assert result.draw().width > 200
            assert all(unit.pattern is not None for unit in result.units)
