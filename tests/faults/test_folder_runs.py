"""A folder run is killed at every stage, its disk fills, its folder changes: every file has one outcome in the end."""

import asyncio
import json
import os
import resource
import subprocess
import sys

import pytest

from tests.faults import table
from tests.faults.forge import CALM
from tests.faults.probe_model import picture
from visionpipe.aclient import AsyncClient
from visionpipe.queue import calls, run
from visionpipe.runs import run_folder

DOOMED = """
import asyncio, os, signal, sys
from visionpipe.aclient import AsyncClient
from visionpipe.runs import run_folder

async def main(url, folder, out, stage):
    def die(progress):
        if progress.stage == stage:
            os.kill(os.getpid(), signal.SIGKILL)
    async with AsyncClient(url) as client:
        await run_folder(client, folder, out, task="classification", model="probe", on_progress=die, chunk=10)

asyncio.run(main(*sys.argv[1:]))
"""
STAGES = ["scan", "submit", "work", "write", "report"]


def fill(folder, numbers):
    folder.mkdir(exist_ok=True)
    for number in numbers:
        (folder / f"{number:03}.png").write_bytes(picture(number))


async def go(stage, folder, out, chunk=10):
    async with AsyncClient(stage.redis_url, settings=stage.settings) as client:
        return await run_folder(
            client, folder, out, task="classification", model="probe", settings=stage.settings, chunk=chunk
        )


def account(stage, title, out, numbers, *, allowed=1, failed=()):
    """Compare the run's own lines, the queue's books and the model's log.

    Args:
        stage: Where it ran.
        title: What was done.
        out: The run's outputs.
        numbers: File name without suffix → the number that its picture is.
        allowed: Executions of one picture.
        failed: Names of those that could not be done.
    """
    rows = [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]
    assert [row["path"] for row in rows] == [f"{name}.png" for name in sorted(numbers)]
    executions = stage.probe.all_executions()
    for row in rows:
        name = row["path"][:-4]
        assert row["state"] == ("failed" if name in failed else "done"), row
        if row["state"] == "done":
            assert row["result"]["classes"][0]["label"] == str(numbers[name] % 10), row
    books = run(stage.redis, calls.accounts())["probe"]
    assert books.open == 0
    assert books.submitted == books.done + books.failed + books.cancelled + books.expired
    done = len(numbers) - len(failed)
    mine = {number: executions[number] for name, number in numbers.items() if name not in failed}
    table.add(
        table.Row(
            title,
            books.submitted // 10,
            len(numbers),
            done,
            len(failed),
            0,
            0,
            lost=sum(times == 0 for times in mine.values()),
            doubled=sum(times > allowed for times in mine.values()),
            over=sum(mine.values()) - done,
            bound=allowed,
        )
    )


def test_a_run_killed_at_every_stage_in_turn_is_resumed_each_time(stage, tmp_path):
    stage.worker(**CALM)
    stage.probe.each("seconds", 0.002)
    numbers = {f"{number:03}": number for number in range(1, 121)}
    fill(tmp_path / "in", numbers.values())
    for moment in STAGES:
        command = [sys.executable, "-c", DOOMED, stage.redis_url, tmp_path / "in", tmp_path / "out", moment]
        assert subprocess.run(command, check=False, timeout=120).returncode == -9, moment
    report = asyncio.run(go(stage, tmp_path / "in", tmp_path / "out"))
    assert (report.found, report.done, report.open) == (120, 120, 0)
    account(stage, "folder run killed at 5 stages", tmp_path / "out", numbers)


@pytest.mark.parametrize("kib", [40, 160])
def test_a_disk_that_fills_is_told_and_the_run_resumes_once_there_is_room(stage, tmp_path, kib):
    stage.worker(**CALM)
    numbers = {f"{number:03}": number for number in range(1, 201)}
    fill(tmp_path / "in", numbers.values())
    command = [sys.executable, "-m", "visionpipe", "batch", "classification", tmp_path / "in", "-o", tmp_path / "out"]
    full = subprocess.run(
        [*command, "-m", "probe", "--chunk", "10"],
        env={**os.environ, "VISIONPIPE_REDIS_URL": stage.redis_url},
        # A file that may grow no further fails as one on a full disk does.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (kib * 1024, kib * 1024)),
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    said = " ".join(full.stderr.split())
    assert full.returncode == 1, said
    assert "Traceback" not in said
    assert "run again" in said
    assert asyncio.run(go(stage, tmp_path / "in", tmp_path / "out")).done == 200
    # Answers that came while the ledger could not be written are collected again, not computed again.
    account(stage, f"disk full after {kib} KiB", tmp_path / "out", numbers)


async def test_a_folder_that_changes_during_the_run_has_one_outcome_for_each_file(stage, tmp_path):
    stage.worker(**CALM)
    folder, out = tmp_path / "in", tmp_path / "out"
    numbers = {f"{number:03}": number for number in range(1, 101)}
    fill(folder, numbers.values())
    stage.probe.switch("block", "forward", 5)
    going = asyncio.create_task(go(stage, folder, out, chunk=5))
    await asyncio.to_thread(stage.logged, "block forward 5")
    (folder / "099.png").unlink()
    (folder / "001.png").write_bytes(picture(501))
    (folder / "098.png").write_bytes(picture(598))
    (folder / "150.png").write_bytes(picture(150))
    stage.probe.switch("block", "forward", 5, on=False)
    report = await going
    assert (report.found, report.done, report.failed, report.open) == (100, 99, 1, 0)
    assert report.failures[0].code == "image_not_found"
    report = await go(stage, folder, out)
    assert (report.found, report.done, report.failed, report.open) == (101, 100, 1, 0)
    now = {**numbers, "001": 501, "098": 598, "150": 150}
    # What had changed before it was sent was read anew, and is asked once more since the scan had seen the old file.
    account(stage, "folder changed during the run", out, now, allowed=2, failed={"099"})
