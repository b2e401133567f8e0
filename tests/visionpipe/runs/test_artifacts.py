"""Artifacts of a run become files before their inputs are done, come what may; drawings go beside them."""

from __future__ import annotations

import asyncio
import csv
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
from PIL import Image

from tests.helpers.results import SAMPLES, png
from visionpipe.aclient import AsyncClient
from visionpipe.errors import LedgerError, MissingExtraError
from visionpipe.queue import connect
from visionpipe.runs import run_folder
from visionpipe.runs.files import artifact_name, overlay_names
from visionpipe.runs.ledger import Ledger
from visionpipe.schemas.images import ArtifactRef
from visionpipe.store import open_store, put_artifact
from visionpipe.tasks import TASKS

MODEL = "lenet-digits"
NAMES = [b"one.png", b"sub/two.png", b"sub/three \xff'\"#?.png", b"long-" + b"x" * 246 + b".png", b"one.jpg"]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Images of different sizes, some with names that are no text or as long as names can be."""
    root = tmp_path / "in"
    for index, name in enumerate(NAMES):
        path = root / os.fsdecode(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(np.full((20 + index, 30, 3), 40 * index, np.uint8)))
    return root


@pytest.fixture
def worker(fake_worker, settings):
    """A worker that answers every task with a sample of the image's size, and stores its artifacts."""

    def answer(data, request):
        with Image.open(io.BytesIO(data)) as image, connect(str(settings.redis_url)) as redis:
            store = open_store(settings, redis)
            return SAMPLES[request.task](image.size, partial(put_artifact, store, settings=settings))

    fake_worker.answer = answer
    fake_worker.tasks = list(TASKS)
    fake_worker.announce()
    return fake_worker


@pytest.fixture
def go(settings, folder, tmp_path):
    """Run a task over the folder."""

    async def go(task: str, **how):
        if task == "style_transfer":
            how.setdefault("options", {"styles": [{"image": {"kind": "inline", "data": "AAAA"}}]})
        async with AsyncClient(settings=settings) as client:
            return await run_folder(client, folder, tmp_path / "out", task=task, model=MODEL, settings=settings, **how)

    return go


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text(encoding="utf-8").splitlines()]


def files(out: Path, kind: str) -> list[Path]:
    return sorted(path for path in (out / kind).rglob("*") if path.is_file() and path.name != ".visionpipe")


def forget_artifacts(settings) -> int:
    with connect(str(settings.redis_url)) as redis:
        names = list(redis.scan_iter("vp:artifact:*"))
        return redis.unlink(*names) if names else 0


@pytest.mark.parametrize("task", ["segmentation", "style_transfer", "spatial_transformer", "embedding"])
async def test_every_artifact_of_every_result_is_a_file_that_the_tables_name(worker, go, tmp_path, task):
    report = await go(task)
    assert (report.done, report.failed, report.open) == (len(NAMES), 0, 0)
    out = tmp_path / "out"
    named = set()
    for line in lines(out):
        assert line["artifacts"]
        for field, name in line["artifacts"].items():
            key = line["result"][field]["key"]
            assert f"artifact:{hashlib.sha256((out / name).read_bytes()).hexdigest()}" == key
            assert name.startswith("artifacts/")
            assert name.isascii()
            named.add(out / name)
    assert files(out, "artifacts") == sorted(named)
    assert len(named) == len(NAMES) * len(lines(out)[0]["artifacts"])
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    field = next(iter(lines(out)[0]["artifacts"]))
    assert {row[field] for row in rows} == {line["artifacts"][field] for line in lines(out)}
    assert all(row["summary"] for row in rows)


async def test_an_embedding_is_an_npy_file(worker, go, tmp_path):
    await go("embedding", options={"as_artifact": True})
    (name,) = lines(tmp_path / "out")[0]["artifacts"].values()
    assert name.endswith("-artifact.npy")
    assert np.load(tmp_path / "out" / name).shape == (84,)


async def test_artifacts_that_expired_before_they_were_saved_are_made_again(worker, go, tmp_path, monkeypatch):
    asked: dict[str, int] = {}
    fetch = AsyncClient.artifact

    async def forgetful(self, ref: ArtifactRef) -> bytes:
        asked[ref.key] = asked.get(ref.key, 0) + 1
        if asked[ref.key] == 1:
            # One that never was: the worker may be putting this one, which other images share, at this moment.
            ref = ref.model_copy(update={"key": f"artifact:{'0' * 64}"})
        return await fetch(self, ref)

    monkeypatch.setattr(AsyncClient, "artifact", forgetful)
    report = await go("spatial_transformer", chunk=2)
    assert (report.done, report.failed) == (len(NAMES), 0)
    assert len(files(tmp_path / "out", "artifacts")) == len(NAMES)
    assert len(worker.requests) > 3


async def test_artifacts_that_are_never_there_fail_their_inputs_and_are_not_lost_silently(
    worker, go, tmp_path, settings, folder
):
    made = worker.answer

    def stores_nothing(data, request):
        with Image.open(io.BytesIO(data)) as image:
            return SAMPLES[request.task](image.size, partial(put_artifact, Mock(), settings=settings))

    worker.answer = stores_nothing
    report = await go("spatial_transformer")
    assert (report.done, report.failed) == (0, len(NAMES))
    assert [failure.code for failure in report.failures] == ["artifact_expired"]
    worker.answer = made
    assert (await go("spatial_transformer", retry_failed=True)).done == len(NAMES)


async def test_a_resumed_run_fetches_missing_files_again_or_has_them_made_again(worker, go, tmp_path, settings):
    await go("segmentation")
    out = tmp_path / "out"
    whole = {path: path.read_bytes() for path in files(out, "artifacts")}
    first, second = sorted(whole)[:2]
    asked = len(worker.requests)
    first.unlink()
    second.write_bytes(whole[second][:10])
    await go("segmentation")
    assert {path: path.read_bytes() for path in files(out, "artifacts")} == whole
    assert len(worker.requests) == asked

    first.unlink()
    forget_artifacts(settings)
    report = await go("segmentation")
    assert (report.done, report.open) == (len(NAMES), 0)
    assert {path: path.read_bytes() for path in files(out, "artifacts")} == whole
    assert sum(len(request.images) for request in worker.requests[asked:]) == 1


async def die_before_settling(go, monkeypatch):
    def dies(*args, **kwargs):
        raise LedgerError("the process ends here")

    with monkeypatch.context() as patched:
        patched.setattr(Ledger, "settle", dies)
        with pytest.raises(LedgerError):
            await go("segmentation", chunk=8)


async def test_a_run_that_dies_between_saving_and_the_ledger_collects_the_job_again(worker, go, tmp_path, monkeypatch):
    await die_before_settling(go, monkeypatch)
    asked = len(worker.requests)
    assert files(tmp_path / "out", "artifacts")
    report = await go("segmentation", chunk=8)
    assert (report.done, report.failed) == (len(NAMES), 0)
    assert len(worker.requests) == asked
    assert len(files(tmp_path / "out", "artifacts")) == 2 * len(NAMES)


async def test_files_of_a_chunk_keep_their_inputs_when_one_changes_between_two_sittings(
    worker, go, tmp_path, folder, monkeypatch
):
    await die_before_settling(go, monkeypatch)
    # The second of the chunk's five.
    (folder / "one.jpg").write_bytes(png(np.full((50, 90, 3), 200, np.uint8)))
    report = await go("segmentation", chunk=8, overlays=True)
    assert (report.done, report.failed, report.overlays.drawn) == (len(NAMES), 0, len(NAMES))
    assert [len(request.images) for request in worker.requests] == [len(NAMES), 1]
    for line in lines(tmp_path / "out"):
        for field, name in line["artifacts"].items():
            digest = hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest()
            assert line["result"][field]["key"] == f"artifact:{digest}"


async def test_a_changed_input_loses_its_drawing_where_no_new_one_is_asked_for(worker, go, tmp_path, folder):
    await go("detection", overlays=True)
    (folder / "one.png").write_bytes(png(np.full((50, 90, 3), 200, np.uint8)))
    report = await go("detection")
    assert (report.done, report.overlays.drawn) == (len(NAMES), len(NAMES) - 1)
    assert {line["path"]: line["overlay"] for line in lines(tmp_path / "out")}["one.png"] is None


def kill_at(words: list, out: Path, enough: int) -> None:
    """Start a run and kill it once it has saved so many files."""
    process = subprocess.Popen(words)
    while process.poll() is None and len(list(out.rglob("artifacts/*/*.png"))) < enough:
        time.sleep(0.005)
    process.kill()
    process.wait(10)


RUN = """
import asyncio, sys
from visionpipe.aclient import AsyncClient
from visionpipe.runs import run_folder
from visionpipe.settings import Settings

async def main():
    settings = Settings.model_validate_json(sys.argv[1])
    async with AsyncClient(settings=settings) as client:
        how = {"task": "segmentation", "model": "lenet-digits", "options": {"instance_map": True}, "chunk": 3}
        await run_folder(client, sys.argv[2], sys.argv[3], settings=settings, **how)

asyncio.run(main())
"""


async def test_a_run_that_is_killed_at_any_moment_ends_with_every_file(worker, go, tmp_path, settings, folder):
    for index in range(40):
        (folder / f"more-{index}.png").write_bytes(png(np.full((20, 30), index, np.uint8)))
    total, out = len(NAMES) + 40, tmp_path / "out"
    words = [sys.executable, "-c", RUN, settings.model_dump_json(), folder, out]
    await asyncio.to_thread(kill_at, words, out, enough=25)
    report = await go("segmentation", chunk=3, overlays=True)
    assert (report.done, report.failed, report.open, report.overlays.drawn) == (total, 0, 0, total)
    assert len(files(out, "artifacts")) == 2 * total
    for line in lines(out):
        for field, name in line["artifacts"].items():
            digest = hashlib.sha256((out / name).read_bytes()).hexdigest()
            assert line["result"][field]["key"] == f"artifact:{digest}"


async def test_a_changed_input_replaces_its_files(worker, go, tmp_path, folder):
    await go("spatial_transformer", overlays=True)
    before = [path.name for path in files(tmp_path / "out", "artifacts")]
    drawn = (tmp_path / "out" / "overlays" / "one.png.jpg").read_bytes()
    (folder / "one.png").write_bytes(png(np.full((50, 90, 3), 200, np.uint8)))
    await go("spatial_transformer", overlays=True)
    assert [path.name for path in files(tmp_path / "out", "artifacts")] == before
    assert (tmp_path / "out" / "overlays" / "one.png.jpg").read_bytes() != drawn


@pytest.mark.parametrize("task", [task for task in SAMPLES if task != "feature_visualization"])
async def test_overlays_of_every_task_are_drawn_and_named(worker, go, tmp_path, task):
    report = await go(task, overlays=True)
    out = tmp_path / "out"
    assert report.overlays.drawn == len(NAMES), report.overlays
    assert report.overlays.failures == []
    for line in lines(out):
        with Image.open(out / line["overlay"]) as drawing:
            assert drawing.format == "JPEG"
    assert "overlays/one.png.jpg" in [line["overlay"] for line in lines(out)]
    assert len(files(out, "overlays")) == len(NAMES)
    with (out / "results.csv").open(newline="", encoding="utf-8") as file:
        assert all(row["overlay"].startswith("overlays/") for row in csv.DictReader(file))


async def test_overlays_can_be_asked_for_later_and_are_made_from_the_files_alone(worker, go, tmp_path, settings):
    assert (await go("segmentation", options={"instance_map": True})).overlays is None
    forget_artifacts(settings)
    asked = len(worker.requests)
    report = await go("segmentation", overlays=True)
    assert report.overlays.drawn == len(NAMES)
    assert len(worker.requests) == asked
    # And a later run without the option is the same run.
    assert (await go("segmentation")).overlays.drawn == len(NAMES)


async def test_what_serves_the_drawing_is_asked_for_unless_said_otherwise(worker, go):
    await go("segmentation", overlays=True)
    assert {request.options.instance_map for request in worker.requests} == {True}
    await go("segmentation", overlays=True, fresh=True, options={"instance_map": False})
    assert worker.requests[-1].options.instance_map is False


async def test_a_drawing_that_fails_is_told_and_harms_nothing(worker, go, tmp_path, folder):
    made = worker.answer

    def of_another_size(data, request):
        result = made(data, request)
        tall = data == (folder / "one.png").read_bytes()
        return result.model_copy(update={"image_size_wh": (7, 7)}) if tall else result

    worker.answer = of_another_size
    report = await go("detection", overlays=True)
    assert (report.done, report.failed) == (len(NAMES), 0)
    assert report.overlays.drawn == len(NAMES) - 1
    (failure,) = report.overlays.failures
    assert (failure.code, failure.count, failure.example_path) == ("image_mismatch", 1, "one.png")
    assert json.loads((tmp_path / "out" / "report.json").read_text())["overlays"]["failures"][0]["count"] == 1


async def test_more_results_than_the_backlog_holds_are_drawn_at_the_end(worker, go, tmp_path, monkeypatch):
    monkeypatch.setattr("visionpipe.runs.overlays.BACKLOG", 1)
    assert (await go("detection", overlays=True)).overlays.drawn == len(NAMES)


async def test_drawing_runs_beside_the_loop(worker, go, monkeypatch):
    from visionpipe.runs.overlays import Overlays

    threads = set()
    draw = Overlays._draw
    monkeypatch.setattr(
        Overlays, "_draw", lambda self, *args: threads.add(threading.current_thread()) or draw(self, *args)
    )
    await go("detection", overlays=True)
    assert threads
    assert threading.main_thread() not in threads


async def test_without_the_packages_that_draw_nothing_is_begun(worker, go, monkeypatch):
    monkeypatch.delitem(sys.modules, "visionpipe.drawing", raising=False)
    for module in [name for name in sys.modules if name.startswith("visionpipe.drawing.")]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'visionpipe\[images\]'"):
        await go("detection", overlays=True)
    assert worker.requests == []


async def test_the_gallery_shows_the_result_beside_its_input(worker, go, tmp_path):
    await go("segmentation")
    assert not _cards(tmp_path / "out")[0][8]
    await go("segmentation", overlays=True)
    for card in _cards(tmp_path / "out"):
        assert card[7].startswith("background ")
        assert card[8].startswith("overlays/")
    await go("style_transfer", fresh=True)
    assert all(card[8].startswith("artifacts/") for card in _cards(tmp_path / "out"))


def _cards(out: Path) -> list:
    page = (out / "index.html").read_text(encoding="utf-8")
    return json.loads(page.split('id="data">')[1].split("</script>")[0])["cards"]


async def test_fresh_throws_our_folders_away_and_no_others(worker, go, tmp_path):
    await go("segmentation", overlays=True)
    out = tmp_path / "out"
    await go("classification", fresh=True)
    assert not (out / "artifacts").exists()
    assert not (out / "overlays").exists()
    (out / "artifacts").mkdir()
    (out / "artifacts" / "mine.txt").touch()
    await go("classification", fresh=True)
    assert (out / "artifacts" / "mine.txt").exists()


def test_names_are_apart_for_paths_that_look_alike():
    paths = [b"a/b.png", b"a_b.png", b"a b.png", b"a/b.jpg", b"\xff.png", b"\xfe.png", b".png", "ä.png".encode()]
    names = {artifact_name(path, "label_map", "image/png") for path in paths}
    assert len(names) == len(paths)
    assert all(len(name.rpartition("/")[2]) < 120 for name in names)
    shards = {artifact_name(b"%d.png" % index, "x", "image/png").split("/")[1] for index in range(5000)}
    assert len(shards) == 256


async def test_a_drawing_whose_name_is_taken_by_a_folder_goes_elsewhere(worker, go, tmp_path, folder):
    (folder / "one.png.jpg").mkdir()
    (folder / "one.png.jpg" / "four.png").write_bytes((folder / "one.png").read_bytes())
    report = await go("detection", overlays=True)
    assert report.overlays.drawn == len(NAMES) + 1
    assert overlay_names(b"one.png")[0] == b"overlays/one.png.jpg"


async def test_cancelling_lets_go_of_the_threads(worker, go, tmp_path):
    worker.hold()
    task = asyncio.create_task(go("detection", overlays=True))
    await asyncio.sleep(0.5)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("vp-draw")]
