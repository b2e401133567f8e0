"""A worker is killed in mid-run: the run goes on, and every input has exactly one outcome."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from PIL import Image

from tests.acceptance.slow_model import write_slow_model
from tests.faults import table
from visionpipe.aclient import AsyncClient
from visionpipe.child import WorkerProcess, WorkerSpec
from visionpipe.runs import run_folder
from visionpipe.runs.progress import RunProgress
from visionpipe.settings import Settings
from visionpipe.supervisor import Supervisor

NUM_IMAGES = 200
SECONDS_PER_IMAGE = 0.05
MOST_HELD = 60
"""Images that a worker of this speed may hold when it dies: two seconds of work, and the chunk that overshot."""


class Watch:
    """Notes how many inputs the run has settled, and lets a test wait for more."""

    def __init__(self) -> None:
        self.settled = 0

    def __call__(self, progress: RunProgress) -> None:
        self.settled = progress.counts.done + progress.counts.failed

    async def reaches(self, settled: int, timeout_s: float = 60) -> None:
        until = time.monotonic() + timeout_s
        while self.settled < settled:
            assert time.monotonic() < until, f"stuck at {self.settled} of {settled}"
            await asyncio.sleep(0.02)


@pytest.fixture
def service(tmp_path: Path, redis_url: str) -> Settings:
    """Settings as shipped, over a folder of plain pictures, each of its own grey."""
    write_slow_model(tmp_path / "models", tmp_path / "forward.log", seconds=SECONDS_PER_IMAGE)
    (tmp_path / "images").mkdir()
    for grey in range(1, NUM_IMAGES + 1):
        Image.new("L", (8, 8), grey).save(tmp_path / "images" / f"{grey:03d}.png")
    return Settings(redis_url=redis_url, data_dir=tmp_path / "data", models=tmp_path / "models")


async def run_and_kill(service: Settings, tmp_path: Path, die: Callable[[], None], title: str) -> tuple[float, float]:
    """Run the folder, kill a worker after 20 inputs, check every account.

    Returns:
        Seconds from the death until the next input was settled, and until the last.
    """
    watch = Watch()
    async with AsyncClient(service.redis_url, settings=service) as client:
        folder, out = tmp_path / "images", tmp_path / "out"
        run: Awaitable[object] = asyncio.create_task(
            run_folder(
                client, folder, out, task="classification", model="slow", settings=service, on_progress=watch, chunk=10
            )
        )
        await watch.reaches(20)
        die()
        died_at = time.monotonic()
        # What the dead worker had committed may still be on its way to the run.
        await asyncio.sleep(0.5)
        await watch.reaches(watch.settled + 1, timeout_s=90)
        next_s = time.monotonic() - died_at
        await watch.reaches(NUM_IMAGES, timeout_s=90)
        last_s = time.monotonic() - died_at
        await asyncio.wait_for(run, 60)
        account = (await client.accounts())["slow"]
    assert (account.submitted, account.done, account.open) == (NUM_IMAGES, NUM_IMAGES, 0), account
    check_results(out / "results.jsonl")
    over = check_forward_passes(tmp_path / "forward.log")
    row = table.Row(title, NUM_IMAGES // 10, NUM_IMAGES, NUM_IMAGES, 0, 0, 0, 0, 0, over, 2, next_s)
    table.add(row)
    return next_s, last_s


def check_results(path: Path) -> None:
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [row["path"] for row in rows] == [f"{grey:03d}.png" for grey in range(1, NUM_IMAGES + 1)]
    assert {row["state"] for row in rows} == {"done"}
    for row in rows:
        expected = "bright" if int(row["path"][:3]) > 127 else "dark"
        assert row["result"]["classes"][0]["label"] == expected, row


def check_forward_passes(log: Path) -> int:
    passes = Counter(int(line.split()[1]) for line in log.read_text().splitlines())
    assert set(passes) == set(range(1, NUM_IMAGES + 1))
    assert max(passes.values()) <= 2, "one death allows one more pass"
    over = sum(count - 1 for count in passes.values())
    assert over <= MOST_HELD
    return over


async def test_a_supervised_worker_killed_in_mid_run_is_replaced_long_before_its_lease_ends(
    service: Settings, tmp_path: Path
) -> None:
    # No lease ends here: what the dead worker held goes on because its supervisor saw it die, or not at all.
    service = service.model_copy(update={"lease_s": 600})
    assert service.redis_url is not None
    with Supervisor(service.redis_url, [WorkerSpec("slow")], service, log_folder=tmp_path / "logs") as supervisor:
        await asyncio.to_thread(supervisor.wait_ready, 60)
        process = supervisor.slots[0].process
        assert process is not None
        next_s, last_s = await run_and_kill(
            service, tmp_path, lambda: os.kill(process.pid, signal.SIGKILL), "folder run, supervised worker killed"
        )
    print(
        f"\nkilled under a supervisor: work went on after {next_s:.1f} s, the last input was done after {last_s:.1f} s"
    )


@contextmanager
def bare_worker(service: Settings, log: Path) -> Iterator[WorkerProcess]:
    """A worker that nobody restarts."""
    process = WorkerProcess(WorkerSpec("slow"), service, log)
    try:
        yield process
    finally:
        process.kill()
        until = time.monotonic() + 20
        while not process.reap():
            assert time.monotonic() < until
            time.sleep(0.05)


async def serving(service: Settings, num_workers: int) -> None:
    async with AsyncClient(service.redis_url, settings=service) as client:
        until = time.monotonic() + 60
        while len(await client.workers()) < num_workers:
            assert time.monotonic() < until, "the workers did not start"
            await asyncio.sleep(0.1)


@pytest.mark.slow
async def test_a_second_worker_takes_over_from_a_killed_one_within_45_seconds(
    service: Settings, tmp_path: Path
) -> None:
    (tmp_path / "logs").mkdir()
    with bare_worker(service, tmp_path / "logs" / "1") as first, bare_worker(service, tmp_path / "logs" / "2"):
        await serving(service, 2)
        _, last_s = await run_and_kill(
            service, tmp_path, lambda: os.kill(first.pid, signal.SIGKILL), "folder run, 1 of 2 workers killed"
        )
    print(f"\nkilled without a supervisor: the second worker had done everything after {last_s:.1f} s")
    # 45 s is what is promised; on a machine that is busy with other things all takes longer.
    assert last_s <= 90
