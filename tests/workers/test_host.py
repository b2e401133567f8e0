"""A worker as a process: flags, readiness, signals."""

from __future__ import annotations

import io
import json
import logging
import os
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from PIL import Image
from typer.testing import CliRunner

from visionpipe.queue import calls, connect, run
from visionpipe.schemas.images import BlobImage, MediaImage
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.settings import Settings
from visionpipe.tasks import build_request
from workers.cli import app, parse_lanes, parse_media_roots

SLOW = """
import time
import torch

class Slow(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("levels", torch.arange(256.0))

    def forward(self, x_NCHW):
        level_N1 = x_NCHW.float().mean(dim=(1, 2, 3))[:, None] * 255
        time.sleep(0.2 * float((level_N1 > 199.5).any()))
        return -((level_N1 - self.levels) ** 2)
"""
CARD = """
name = "{name}"
tasks = ["classification"]
network = "net:Slow"
licence = "CC0-1.0"
{weights}
[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]
[provenance]
origin = "made for a test"
"""
SLOW_LEVEL = 200


def png(level: int) -> bytes:
    stream = io.BytesIO()
    Image.new("L", (4, 4), level).save(stream, "PNG")
    return stream.getvalue()


def until(condition: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline = time.monotonic() + timeout_s
    while not (found := condition()):
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.02)
    return found


class Process:
    """One worker process."""

    def __init__(self, redis_url: str, models: Path, log: Path, *arguments: str) -> None:
        self.redis = connect(redis_url)
        self.log = log
        environment = {**os.environ, "VISIONPIPE_MODELS": str(models), "VISIONPIPE_REDIS_URL": redis_url}
        environment |= {"VISIONPIPE_RENEW_S": "1", "VISIONPIPE_SWEEP_S": "1", "VISIONPIPE_DRAIN_S": "20"}
        command = [sys.executable, "-P", "-m", "visionpipe", "worker", *arguments]
        with log.open("wb") as stream:
            self.popen = subprocess.Popen(command, env=environment, stderr=stream)

    def wait_ready(self) -> Any:
        def announced() -> Any:
            assert self.popen.poll() is None, self.log.read_text()
            return run(self.redis, calls.workers())

        return until(announced)[0]

    def submit(self, level: int, number: int = 1, *, lane: Lane = Lane.INTERACTIVE, target: str = "slow") -> str:
        job = uuid.uuid4().hex[:12]
        payloads = {f"blob:{job}:{i}": png(level) for i in range(number)}
        refs = [BlobImage(key=key, size_bytes=len(data)) for key, data in payloads.items()]
        request = build_request("classification", model=target, images=refs)
        wanted = calls.submit(
            request, job=job, lane=lane, client="c", settings=Settings(), payloads=payloads, wait_for_worker=True
        )
        run(self.redis, wanted)
        return job

    def ended(self, job: str) -> list[dict[str, Any]]:
        until(lambda: self.state(job).ended, 30)
        return [json.loads(text) for text in run(self.redis, calls.read_items(job))]

    def state(self, job: str) -> JobState:
        record = run(self.redis, calls.read(job))
        assert record is not None
        return record.state

    def stop(self, number: int = signal.SIGTERM) -> int:
        self.popen.send_signal(number)
        return self.popen.wait(40)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("hosted")
    for name, weights in (("slow", ""), ("gone", '[weights]\nfile = "weights.safetensors"')):
        (folder / name).mkdir()
        (folder / name / "card.toml").write_text(CARD.format(name=name, weights=weights))
        (folder / name / "net.py").write_text(SLOW)
    return folder


@pytest.fixture
def start(redis_url: str, folder: Path, tmp_path: Path) -> Iterator[Callable[..., Process]]:
    started: list[Process] = []

    def make(*arguments: str) -> Process:
        started.append(Process(redis_url, folder, tmp_path / f"log{len(started)}", *arguments))
        return started[-1]

    yield make
    for process in started:
        process.popen.kill()
        process.popen.wait()


def test_a_worker_serves_name_and_digest_from_blobs_and_media_roots_and_drains(
    start: Callable[..., Process], tmp_path: Path
) -> None:
    (tmp_path / "a.png").write_bytes(png(77))
    worker = start(
        "slow", "--device", "cpu", "--max-batch", "1", "--http-port", "0", "--media-root", f"pics={tmp_path}"
    )
    early = worker.submit(5)
    told = worker.wait_ready()
    assert (told.model, told.media_roots, told.precision) == ("slow", ["pics"], "fp32")
    # Its network has no layer whose units could be shown.
    assert told.tasks == ["classification", "explanation", "adversarial"]
    assert worker.ended(early)[0]["result"]["classes"][0]["class_id"] == 5

    pinned = worker.submit(6, target=f"slow@{told.digest}")
    assert worker.ended(pinned)[0]["result"]["classes"][0]["class_id"] == 6

    status = (tmp_path / "a.png").stat()
    ref = MediaImage(root="pics", path="a.png", size_bytes=status.st_size, mtime_ns=status.st_mtime_ns)
    request = build_request("classification", model="slow", images=[ref])
    run(worker.redis, calls.submit(request, job="media", lane=Lane.BULK, client="c", settings=Settings()))
    assert worker.ended("media")[0]["result"]["classes"][0]["class_id"] == 77

    address = worker.log.read_text().partition("http://")[2].split("/")[0]
    assert httpx.get(f"http://{address}/readyz", trust_env=False).status_code == 200
    assert "visionpipe_items_total" in httpx.get(f"http://{address}/metrics", trust_env=False).text

    jobs = [worker.submit(SLOW_LEVEL, 5, lane=Lane.BULK) for _ in range(4)]
    until(lambda: worker.state(jobs[0]) is JobState.RUNNING)
    assert worker.stop() == 0
    assert run(worker.redis, calls.workers()) == []
    assert {worker.state(job) for job in jobs} <= {JobState.DONE, JobState.QUEUED}
    books = run(worker.redis, calls.accounts())["slow"]
    waiting = sum(status.queued_items for status in run(worker.redis, calls.queues()))
    assert books.done + waiting == books.submitted
    assert sum(status.running_items for status in run(worker.redis, calls.queues())) == 0
    assert "Traceback" not in worker.log.read_text()


def test_a_bulk_worker_takes_bulk_alone_and_a_second_signal_hands_back_at_once(start: Callable[..., Process]) -> None:
    worker = start("slow", "--device", "cpu", "--max-batch", "1", "--lanes", "bulk")
    assert worker.wait_ready().lanes == [Lane.BULK]
    urgent, bulk = worker.submit(1), worker.submit(2, lane=Lane.BULK)
    assert len(worker.ended(bulk)) == 1
    assert worker.state(urgent) is JobState.QUEUED
    long = worker.submit(SLOW_LEVEL, 100, lane=Lane.BULK)
    until(lambda: worker.state(long) is JobState.RUNNING)
    started = time.monotonic()
    worker.popen.send_signal(signal.SIGINT)
    until(lambda: "draining" in worker.log.read_text())
    assert worker.stop(signal.SIGINT) == 0
    assert time.monotonic() - started < 10
    record = run(worker.redis, calls.read(long))
    assert record is not None
    assert (record.state, record.attempts) == (JobState.QUEUED, 0)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-model"], "unknown_model: No model is called 'no-such-model'"),
        (["gone"], "weights.safetensors"),
        (["slow@000000000000"], "not as slow@000000000000"),
        (
            ["slow", "--device", "cuda:77"],
            "invalid_settings: Expected a device of this machine (auto, cpu, cuda:N), got 'cuda:77'",
        ),
        (["slow", "--lanes", "fast"], "Expected lanes out of interactive, bulk"),
        (["slow", "--media-root", "x"], "NAME=FOLDER"),
    ],
    ids=["unknown", "no_weights", "other_digest", "no_device", "no_lane", "no_root"],
)
def test_a_worker_that_cannot_start_says_why_in_a_line(
    redis_url: str, folder: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], words: str
) -> None:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(logging, "basicConfig", lambda **_: None)
    environment = {"VISIONPIPE_MODELS": str(folder), "VISIONPIPE_REDIS_URL": redis_url}
    done = CliRunner().invoke(app, arguments, env=environment)
    assert done.exit_code == 1
    assert words in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_worker_told_to_stop_while_it_starts_stops(start: Callable[..., Process]) -> None:
    worker = start("slow", "--device", "cpu")
    time.sleep(3)
    assert worker.stop() == 0
    assert run(worker.redis, calls.workers()) == []


def test_lanes_are_read_in_order_and_once() -> None:
    assert parse_lanes("bulk, interactive,bulk") == [Lane.BULK, Lane.INTERACTIVE]


def test_media_roots_are_read(tmp_path: Path) -> None:
    assert parse_media_roots([f"a={tmp_path}"]) == {"a": tmp_path}


COMPILABLE = """
import torch

def Compilable():
    torch.manual_seed(0)
    layers = torch.nn.Conv2d(1, 8, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(), torch.nn.Linear(8, 3)
    return torch.nn.Sequential(*layers)
"""


def test_the_first_image_never_waits_for_the_compiler_and_a_drain_leaves_nothing_half_made(
    start: Callable[..., Process], folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "quick").mkdir()
    card = CARD.format(name="quick", weights="").replace("net:Slow", "net:Compilable")
    (folder / "quick" / "card.toml").write_text(card.replace("[preprocess]", "[preprocess]\nresize = [8, 8]"))
    (folder / "quick" / "net.py").write_text(COMPILABLE)
    compiler = tmp_path / "g++"
    compiler.write_text("#!/bin/sh\nsleep 60\n")
    compiler.chmod(0o755)
    for name, value in (("CXX", str(compiler)), ("VISIONPIPE_COMPILE", "now"), ("VISIONPIPE_DATA_DIR", str(tmp_path))):
        monkeypatch.setenv(name, value)
    worker = start("quick", "--device", "cpu", "--max-batch", "4")
    worker.wait_ready()
    began = time.monotonic()
    (item,) = worker.ended(worker.submit(5, target="quick"))
    assert time.monotonic() - began < 1
    assert item["result"]["task"] == "classification"
    until(lambda: run(worker.redis, calls.workers())[0].code == "compiling")
    assert worker.stop() == 0
    until(lambda: not list((tmp_path / "compiled").glob(".compiling-*")), 30)
