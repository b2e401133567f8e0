"""The same promises for every task: mixed jobs, bad images, cancel, deadline, a killed worker, a resumed folder."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.tasks import CASES, MODELS, Case, with_styles, write_pictures
from tests.conftest import start_redis
from visionpipe.aclient import AsyncClient
from visionpipe.child import WorkerSpec
from visionpipe.client import Client
from visionpipe.runs import run_folder
from visionpipe.runs.progress import RunProgress
from visionpipe.schemas.jobs import Envelope, JobState
from visionpipe.schemas.requests.base import MAX_IMAGES
from visionpipe.schemas.results import Result
from visionpipe.settings import Settings
from visionpipe.supervisor import Supervisor
from visionpipe.tasks import TASKS, result_class

pytestmark = pytest.mark.timeout(300)

WORK_S = 6.0
"""How long the jobs that are cancelled or expire would take, by a measure that is no more than a guess."""
DEADLINE_S = 0.5
"""When they expire, long work later: it has something to hand over only after its first step."""
TIMES = (1, 3, 9)
"""A job that was done before it could be stopped is submitted again, larger and with less time."""

by_case = pytest.mark.parametrize("case", CASES, ids=str)


@dataclass(frozen=True)
class Service:
    """Workers of all our models, and a client."""

    client: Client
    settings: Settings
    supervisor: Supervisor
    pictures: list[Path]
    rates: dict[str, float]

    def options(self, case: Case, *, endless: bool = False) -> dict[str, Any]:
        """The options of a case, complete."""
        chosen = case.endless if endless and case.endless is not None else case.options
        # A picture in its own style would be finished before it is begun.
        return with_styles(case, chosen, self.client, self.pictures[-1])

    def number(self, case: Case) -> int:
        """How many images keep this machine busy for ``WORK_S``."""
        if case.endless:
            return int(case.endless_has_image)
        return int(max(8, self.rates[str(case)] * WORK_S))

    def submit(self, case: Case, *, times: int = 1, **how: Any) -> Any:
        """Submit work that lasts, ``times`` as much of it where the measured rate was that of a cold worker."""
        pictures = self.repeated(min(MAX_IMAGES, times * self.number(case)))
        options = self.options(case, endless=True)
        return self.client.submit(case.task, pictures, model=case.model, options=options, **how)

    def repeated(self, number: int) -> list[Path]:
        """So many pictures, the few that there are in turn."""
        return [self.pictures[index % len(self.pictures)] for index in range(number)]


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    folder, images = Path(tempfile.mkdtemp(prefix="vpe")), tmp_path_factory.mktemp("images")
    redis = start_redis(folder)
    settings = Settings(
        redis_url=redis.url, data_dir=folder / "data", media_roots={"images": images}, lease_s=6, renew_s=1, sweep_s=1
    )
    specs = [WorkerSpec(model) for model in MODELS]
    try:
        with (
            Supervisor(redis.url, specs, settings, log_folder=folder) as supervisor,
            Client(redis.url, settings=settings) as client,
        ):
            supervisor.wait_ready(240)
            made = Service(client, settings, supervisor, write_pictures(images / "good", 8), {})
            for case in CASES:
                pictures = made.pictures if case.endless else made.pictures * 8
                begun = time.monotonic()
                client.submit(case.task, pictures, model=case.model, options=made.options(case)).results(120)
                made.rates[str(case)] = len(pictures) / (time.monotonic() - begun)
            yield made
    finally:
        redis.stop()
        shutil.rmtree(folder, ignore_errors=True)


def test_every_task_that_is_served_stands_in_this_contract(service: Service) -> None:
    assert {case.task for case in CASES} == set(TASKS)
    served = {task for worker in service.client.workers() for task in worker.tasks}
    assert served == {case.task for case in CASES}


@by_case
def test_a_mixed_job_gives_each_good_image_its_result_and_each_bad_one_its_error(
    service: Service, case: Case, tmp_path: Path
) -> None:
    (tmp_path / "text.png").write_text("no picture at all")
    (tmp_path / "cut.png").write_bytes(service.pictures[1].read_bytes()[:200])
    good = service.pictures
    images = [good[0], tmp_path / "text.png", good[1], tmp_path / "cut.png", good[2]]
    job = service.client.submit(case.task, images, model=case.model, options=service.options(case))
    envelope = job.wait(120)
    assert envelope.state is JobState.DONE
    told = [item.error.code if item.error else item.result.task for item in envelope.items if item.error or item.result]
    assert told == [case.task, "unsupported_image", case.task, "invalid_image", case.task]
    for item in envelope.items:
        if item.result is not None:
            assert type(item.result) is result_class(case.task)
            assert item.result.image_size_wh == (96, 64)
            for _, ref in item.result.artifacts():
                assert len(service.client.artifact(ref)) == ref.size_bytes
    assert envelope.model is not None
    assert envelope.model.name == case.model


@by_case
def test_the_same_image_alone_and_in_company_gets_the_same_answer(service: Service, case: Case) -> None:
    options = service.options(case)
    ask = lambda images: service.client.submit(case.task, images, model=case.model, options=options).results(120)  # noqa: E731
    alone, together = ask(service.pictures[:1])[0], ask(service.pictures)[0]
    assert alone.rows() == together.rows()
    assert alone.summary().split(" in ")[0] == together.summary().split(" in ")[0]


@by_case
def test_a_cancelled_job_keeps_what_was_finished(service: Service, case: Case) -> None:
    for times in TIMES:
        job = service.submit(case, times=times)
        wait_until_running(job)
        if case.endless:
            wait_for_a_step(job)
        job.cancel()
        envelope = job.wait(60)
        if case.endless or envelope.state is not JobState.DONE:
            break
    # A job whose every item has an outcome is done, also where that is the best of a painting that was stopped.
    assert envelope.state is (JobState.DONE if case.endless else JobState.CANCELLED)
    check_stopped(case, envelope, "cancelled")


@by_case
def test_a_deadline_ends_a_job_with_what_was_finished(service: Service, case: Case) -> None:
    deadline_s = 10 * DEADLINE_S if case.endless else DEADLINE_S
    for times in TIMES:
        envelope = service.submit(case, times=times, deadline_s=deadline_s / times).wait(60)
        if case.endless or envelope.state is not JobState.DONE:
            break
    assert envelope.state is (JobState.DONE if case.endless else JobState.EXPIRED)
    check_stopped(case, envelope, "deadline")


@by_case
def test_an_interrupted_folder_is_resumed_and_accounts_for_every_file(
    service: Service, case: Case, tmp_path: Path
) -> None:
    number = 40 if not case.endless else 12
    folder = service.pictures[0].parents[1] / f"folder-{case}"
    write_pictures(folder, number)
    (folder / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n, and then nothing")
    (folder / "notes.txt").write_text("not an image")
    options = service.options(case)
    report = asyncio.run(interrupt_and_resume(service, case, folder, tmp_path / "out", options))
    assert (report.found, report.done, report.failed, report.skipped, report.open) == (number + 2, number, 1, 1, 0)
    rows = [json.loads(line) for line in (tmp_path / "out" / "results.jsonl").read_text().splitlines()]
    assert Counter(row["state"] for row in rows) == {"done": number, "failed": 1, "skipped": 1}
    assert {row["result"]["task"] for row in rows if row["result"]} == {case.task}


async def interrupt_and_resume(service: Service, case: Case, folder: Path, out: Path, options: dict[str, Any]) -> Any:
    settled = asyncio.Event()

    def watch(progress: RunProgress) -> None:
        if progress.counts.done:
            settled.set()

    async with AsyncClient(service.settings.redis_url, settings=service.settings) as client:

        def start(on_progress: Any) -> Any:
            return run_folder(
                client, folder, out, task=case.task, model=case.model, options=options, settings=service.settings,
                on_progress=on_progress, chunk=4,
            )  # fmt: skip

        first = asyncio.create_task(start(watch))
        await asyncio.wait_for(settled.wait(), 90)
        first.cancel()
        # A quick machine may have ended the run by then.
        await asyncio.gather(first, return_exceptions=True)
        return await asyncio.wait_for(start(lambda _: None), 120)


@pytest.fixture(scope="module")
def after_death(service: Service) -> dict[str, Envelope[Result]]:
    """One job of every case, all workers killed in the middle of it, and what each job ended with."""
    jobs = {}
    for case in CASES:
        options = service.options(case) | ({"steps": 60} if case.endless else {})
        pictures = service.repeated(min(MAX_IMAGES, max(8, service.number(case) // 2)))
        jobs[str(case)] = service.client.submit(
            case.task, pictures, model=case.model, options=options, lane="bulk", wait_for_worker=True
        )
    wait_until_running(*jobs.values())
    pids = [slot.process.pid for slot in service.supervisor.slots if slot.process is not None]
    assert len(pids) == len(MODELS)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    return {name: job.wait(240) for name, job in jobs.items()}


@by_case
def test_a_killed_worker_loses_no_image(after_death: dict[str, Envelope[Result]], case: Case) -> None:
    envelope = after_death[str(case)]
    assert envelope.state is JobState.DONE, envelope.error
    assert [item.index for item in envelope.items] == list(range(envelope.total))
    assert all(item.ok for item in envelope.items), [item.error for item in envelope.items if item.error]


def test_the_books_balance_in_the_end(service: Service, after_death: dict[str, Envelope[Result]]) -> None:
    assert after_death
    for model, account in service.client.accounts().items():
        ended = account.done + account.failed + account.cancelled + account.expired
        assert account.submitted == ended, (model, account)


def wait_until_running(*jobs: Any) -> None:
    until = time.monotonic() + 60
    for job in jobs:
        while (record := job.record()).state is JobState.QUEUED:
            assert not record.state.ended, record
            assert time.monotonic() < until, record
            time.sleep(0.02)


def wait_for_a_step(job: Any) -> None:
    until = time.monotonic() + 60
    while job.progress().done == 0:
        assert time.monotonic() < until, job.record()
        time.sleep(0.05)


def check_stopped(case: Case, envelope: Envelope[Result], reason: str) -> None:
    """What finished is whole; long work hands over the best it has and says why it stopped."""
    assert all(item.ok for item in envelope.items)
    if case.endless is None:
        assert len(envelope.items) < envelope.total
        assert not any(item.result.partial for item in envelope.items if item.result)
    else:
        (item,) = envelope.items
        assert item.result is not None
        assert item.result.partial
        assert getattr(item.result, "stopped") == reason  # noqa: B009 - not every result has it
