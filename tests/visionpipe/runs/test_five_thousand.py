"""A folder of 5,000 digits: every one done, in order, rightly labelled, while the worker's memory stays flat."""

from __future__ import annotations

import asyncio
import csv
import json

from tests.visionpipe.runs.conftest import write_digits
from visionpipe.runs import run_folder

COUNT = 5000


async def classify(client, folder, out, **more):
    how = {"task": "classification", "model": "lenet-digits", "settings": client.settings}
    return await run_folder(client, folder, out, **how, **more)


async def memory(client) -> int:
    """Resident memory that the worker announces, in bytes, once it has announced it anew."""
    await asyncio.sleep(3 * client.settings.renew_s)
    return (await client.workers())[0].rss_bytes


async def test_five_thousand_digits_are_done_in_order_with_flat_memory(client, service, digit_files, tmp_path):
    folder = write_digits(service.media_roots["pictures"] / "many", digit_files, COUNT)
    warm = write_digits(tmp_path / "warm", digit_files, COUNT // 10)
    await classify(client, warm, tmp_path / "warm-out")
    tenth = await memory(client)
    settled: list[int] = []
    report = await classify(
        client, folder, tmp_path / "out", on_progress=lambda progress: settled.append(progress.counts.done)
    )
    whole = await memory(client)
    assert (report.found, report.done, report.failed) == (COUNT, COUNT, 0)
    lines = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == sorted(path.name for path in folder.iterdir())
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        right = sum(row["label_1"] == row["path"][-5] for row in csv.DictReader(file))
    print(f"{right} of {COUNT} right, {report.images_per_s:.0f} images/s, RSS {tenth >> 20} → {whole >> 20} MiB")
    assert right >= 0.99 * COUNT
    assert settled == sorted(settled)
    assert whole - tenth < 64 * 2**20
