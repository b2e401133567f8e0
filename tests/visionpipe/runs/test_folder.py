"""Folder runs against a real Redis and a real worker."""

from __future__ import annotations

import asyncio
import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis

from visionpipe.aclient import AsyncClient
from visionpipe.errors import NoWorkerError, RunConflictError, RunLockedError, UnsupportedTaskError
from visionpipe.runs import Labels, RunReport, Stage, rewrite_outputs, run_folder
from visionpipe.runs.labels import Truth
from visionpipe.runs.ledger import Ledger
from visionpipe.runs.lock import output_lock
from visionpipe.runs.scan import Scanner
from visionpipe.runs.spec import RunSpec, full_options

MODEL = "lenet-digits"


async def classify(client, folder, out, **more) -> RunReport:
    return await run_folder(client, folder, out, task="classification", model=MODEL, settings=client.settings, **more)


def lines(out: Path) -> list[dict]:
    return [json.loads(line) for line in (out / "results.jsonl").read_text().splitlines()]


def labelled(folder: Path) -> Labels:
    return Labels({path.name: Truth(path.stem[-1]) for path in folder.iterdir()})


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def submitted(client) -> int:
    return sum(account.submitted for account in (await client.accounts()).values())


async def test_every_file_has_one_line_in_order_and_the_right_label(client, digit_folder, tmp_path):
    (digit_folder / "00050-x.png").write_bytes(b"")
    (digit_folder / "00060-x.jpg").write_text("no image")
    (digit_folder / "readme.txt").write_text("no image either")
    report = await classify(client, digit_folder, tmp_path / "out", labels=labelled(digit_folder))
    assert (report.found, report.done, report.failed, report.skipped, report.open) == (203, 200, 2, 1, 0)
    assert report.accuracy[0].right >= 198
    assert [line["path"] for line in lines(tmp_path / "out")] == names_in(digit_folder)
    by_state = {line["path"]: line for line in lines(tmp_path / "out")}
    assert by_state["00050-x.png"]["error"]["code"] == "invalid_image"
    assert by_state["00060-x.jpg"]["error"]["code"] == "unsupported_image"
    assert by_state["readme.txt"]["reason"] == "other_type"
    with (tmp_path / "out" / "results.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["path"] for row in rows] == names_in(digit_folder)
    assert sum(row["label_1"] == Path(row["path"]).stem[-1] for row in rows) == report.accuracy[0].right
    assert json.loads((tmp_path / "out" / "report.json").read_text())["found"] == 203


async def test_files_below_a_shared_root_travel_by_reference(client, service, digit_files, tmp_path):
    folder = service.media_roots["pictures"] / "by reference"
    folder.mkdir()
    for index in range(40):
        (folder / f"{index}.png").write_bytes(digit_files[index][0])
    (folder / "empty.png").write_bytes(b"")
    with redis.Redis.from_url(service.redis_url) as connection:
        before = connection.info("stats")["total_net_input_bytes"]
        report = await classify(client, folder, tmp_path / "out", chunk=8)
        assert connection.info("stats")["total_net_input_bytes"] > before
    assert (report.done, report.failed) == (40, 1)
    assert report.failures[0].code == "invalid_image"


async def test_links_out_of_a_shared_root_are_sent_in_chunks_of_bounded_bytes(
    client, service, digit_folder, tmp_path, monkeypatch
):
    folder = service.media_roots["pictures"] / "links"
    folder.mkdir()
    for path in list(digit_folder.iterdir())[:40]:
        (folder / path.name).symlink_to(path)
    (folder / "00000-broken.png").write_bytes(b"")
    monkeypatch.setattr("visionpipe.runs.loop.UPLOAD_BYTES", 1000)
    report = await classify(client, folder, tmp_path / "out", chunk=40)
    assert (report.found, report.done, report.failed, report.open) == (41, 40, 1, 0)
    with Ledger(tmp_path / "out", None) as ledger:
        sizes = [size for (size,) in ledger._read("SELECT COUNT(*) FROM inputs WHERE state = 'done' GROUP BY chunk")]
    assert len(sizes) > 4
    assert max(sizes) < 15


async def test_running_again_asks_nothing_again_and_writes_the_same(client, digit_folder, tmp_path):
    first = await classify(client, digit_folder, tmp_path / "out")
    before = lines(tmp_path / "out")
    second = await classify(client, digit_folder, tmp_path / "out")
    assert await submitted(client) == 200
    assert second.run == first.run
    assert lines(tmp_path / "out") == before


async def test_a_changed_file_and_a_new_one_are_asked_about_on_resume_and_no_other(client, digit_folder, tmp_path):
    await classify(client, digit_folder, tmp_path / "out")
    names = names_in(digit_folder)
    (digit_folder / names[3]).write_bytes((digit_folder / names[4]).read_bytes())
    (digit_folder / "new.png").write_bytes((digit_folder / names[0]).read_bytes())
    report = await classify(client, digit_folder, tmp_path / "out")
    assert (report.done, await submitted(client)) == (201, 202)
    answers = {line["path"]: line["result"]["classes"][0]["label"] for line in lines(tmp_path / "out")}
    assert answers[names[3]] == answers[names[4]]


async def test_a_file_that_vanishes_after_the_scan_fails_alone(client, digit_folder, tmp_path):
    victim = sorted(digit_folder.iterdir())[7]

    def remove(progress):
        if progress.stage is Stage.SCAN:
            victim.unlink(missing_ok=True)

    report = await classify(client, digit_folder, tmp_path / "out", on_progress=remove)
    assert (report.done, report.failed) == (199, 1)
    assert report.failures[0].code == "image_not_found"
    assert report.failures[0].example_path == victim.name


async def test_jobs_lost_with_an_emptied_redis_are_submitted_again(client, service, digit_folder, tmp_path):
    emptied = []

    def empty(progress):
        if progress.stage is Stage.WORK and not emptied and progress.counts.submitted:
            with redis.Redis.from_url(service.redis_url) as connection:
                connection.flushall()
            emptied.append(progress.counts.done)

    report = await classify(client, digit_folder, tmp_path / "out", on_progress=empty, chunk=5)
    assert emptied
    assert (report.done, report.failed) == (200, 0)


async def test_a_full_queue_makes_the_run_wait_and_not_fail(service, digit_folder, tmp_path):
    notes = set()
    narrow = service.model_copy(update={"max_queued_items": 10})
    async with AsyncClient(settings=narrow) as client:
        report = await classify(
            client, digit_folder, tmp_path / "out", chunk=10, on_progress=lambda progress: notes.add(progress.note)
        )
    assert "The queue is full." in notes
    assert (report.done, report.failed) == (200, 0)


async def test_only_one_run_at_a_time_writes_to_a_folder(client, digit_folder, tmp_path):
    with output_lock(tmp_path / "out"), pytest.raises(RunLockedError, match=str(os.getpid())):
        await classify(client, digit_folder, tmp_path / "out")
    assert (await classify(client, digit_folder, tmp_path / "out")).done == 200


async def test_another_question_needs_fresh(client, digit_folder, tmp_path):
    await classify(client, digit_folder, tmp_path / "out")
    with pytest.raises(RunConflictError, match="--fresh"):
        await classify(client, digit_folder, tmp_path / "out", options={"top_k": 2})
    report = await classify(client, digit_folder, tmp_path / "out", options={"top_k": 2}, fresh=True)
    assert report.done == 200
    assert all(len(line["result"]["classes"]) == 2 for line in lines(tmp_path / "out"))


async def test_a_run_of_another_version_of_the_model_is_not_mixed_with_this_one(client, digit_folder, tmp_path):
    spec = RunSpec(digit_folder, "classification", MODEL, full_options("classification", {}))
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out", spec) as ledger:
        ledger.note("pinned", f"{MODEL}@000000000000")
    with pytest.raises(RunConflictError, match="000000000000"):
        await classify(client, digit_folder, tmp_path / "out")


async def test_without_a_worker_the_error_says_how_to_start_one(client, digit_folder, tmp_path):
    with pytest.raises(NoWorkerError, match="visionpipe worker resnet18"):
        await run_folder(
            client, digit_folder, tmp_path / "out", task="classification", model="resnet18", worker_timeout_s=0.3
        )


async def test_a_task_that_the_model_cannot_do_is_refused_before_any_image_is_sent(client, digit_folder, tmp_path):
    with pytest.raises(UnsupportedTaskError, match=r"can do \(classification.*\), got 'detection'"):
        await run_folder(client, digit_folder, tmp_path / "out", task="detection", model=MODEL)
    assert not (tmp_path / "out" / "results.jsonl").exists()


async def test_the_outputs_can_be_written_again_without_any_service(client, digit_folder, tmp_path):
    report = await classify(client, digit_folder, tmp_path / "out")
    before = lines(tmp_path / "out")
    for name in ("results.jsonl", "results.csv", "report.json", "index.html"):
        (tmp_path / "out" / name).unlink()
    assert rewrite_outputs(tmp_path / "out") == report
    assert lines(tmp_path / "out") == before
    with pytest.raises(RunConflictError, match="there is none"):
        rewrite_outputs(tmp_path / "elsewhere")


async def test_an_interrupted_run_cancels_what_is_in_flight_and_resumes(client, digit_folder, tmp_path):
    ours = asyncio.current_task()

    def interrupt(progress):
        if progress.stage is Stage.WORK and progress.counts.done >= 20 and not ours.cancelling():
            ours.cancel()

    with pytest.raises(asyncio.CancelledError):
        await classify(client, digit_folder, tmp_path / "out", on_progress=interrupt, chunk=10)
    ours.uncancel()
    with Ledger(tmp_path / "out", None) as ledger:
        assert ledger.open_chunks() == []
        assert 0 < ledger.counts().done < 200
    report = await classify(client, digit_folder, tmp_path / "out")
    assert (report.done, report.failed) == (200, 0)
    assert sum(account.done for account in (await client.accounts()).values()) == 200


async def test_what_an_interrupted_sitting_cancelled_is_asked_again_by_the_next(client, digit_folder, tmp_path):
    spec = RunSpec(digit_folder, "classification", MODEL, full_options("classification", {}))
    (tmp_path / "out").mkdir()
    with Ledger(tmp_path / "out", spec) as ledger:
        ledger.add(Scanner(spec.folder_bytes))
        chunk = ledger.cut(50, 2**20)
    images = [digit_folder / os.fsdecode(image.path) for image in chunk.inputs]
    # The worker confirms a cancellation only after seconds, when the interrupted process may be gone.
    job = await client.submit(
        "classification", images, model=f"{MODEL}@000000000000", job=chunk.job, wait_for_worker=True
    )
    assert await job.cancel() == "cancelled"
    report = await classify(client, digit_folder, tmp_path / "out")
    assert (report.done, report.failed, report.failures) == (200, 0, [])


KILLED = """
import asyncio, os, signal, sys
from visionpipe.aclient import AsyncClient
from visionpipe.runs import run_folder

async def main(folder, out, stage, nth):
    seen = 0
    def die(progress):
        nonlocal seen
        seen += progress.stage == stage
        if seen == int(nth):
            os.kill(os.getpid(), signal.SIGKILL)
    async with AsyncClient() as client:
        await run_folder(client, folder, out, task="classification", model="lenet-digits", on_progress=die, chunk=10)

asyncio.run(main(*sys.argv[1:]))
"""


@pytest.mark.parametrize(
    ("stage", "nth"), [("scan", 1), ("submit", 1), ("submit", 4), ("work", 1), ("work", 5), ("write", 1), ("report", 1)]
)
async def test_a_run_killed_at_any_stage_resumes_without_redoing_or_losing_anything(
    client, service, digit_folder, tmp_path, stage, nth
):
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        KILLED,
        *(digit_folder, tmp_path / "out", stage, str(nth)),
        env={**os.environ, "VISIONPIPE_REDIS_URL": service.redis_url},
    )
    assert await asyncio.wait_for(process.wait(), 60) == -9
    report = await classify(client, digit_folder, tmp_path / "out")
    assert (report.found, report.done, report.failed, report.open) == (200, 200, 0, 0)
    assert await submitted(client) == 200
    assert sum(account.done for account in (await client.accounts()).values()) == 200
    assert [line["path"] for line in lines(tmp_path / "out")] == names_in(digit_folder)


def test_the_command_interrupted_exits_with_130_and_then_finishes(service, digit_folder, tmp_path):
    command = [sys.executable, "-m", "visionpipe", "batch", "classification", str(digit_folder)]
    command += ["-o", str(tmp_path / "out"), "-m", MODEL, "--chunk", "1", "--json"]
    environment = {**os.environ, "VISIONPIPE_REDIS_URL": service.redis_url or ""}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    ledger = tmp_path / "out" / "ledger.sqlite3"
    while not (ledger.exists() and started(ledger)):
        assert process.poll() is None, process.communicate()
        time.sleep(0.002)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130, said
    assert "resumes" in said
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=100, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["done"] == 200


def started(ledger: Path) -> bool:
    import sqlite3

    rows = sqlite3.connect(ledger)
    try:
        return rows.execute("SELECT COUNT(*) FROM inputs WHERE state = 'done'").fetchone()[0] > 0
    except sqlite3.OperationalError:
        return False
    finally:
        rows.close()
