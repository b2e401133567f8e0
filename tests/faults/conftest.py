"""Real worker processes to kill, a model that counts its own executions, and the accounts after each fault."""

from __future__ import annotations

import contextlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.faults.probe_model import ProbeModel
from visionpipe.queue import RawEnvelope, calls, connect, run
from visionpipe.schemas.images import BlobImage, ImageRef
from visionpipe.schemas.jobs import JobState, Lane
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.settings import Settings

QUICK = {"VISIONPIPE_LEASE_S": "1.5", "VISIONPIPE_RENEW_S": "0.3", "VISIONPIPE_SWEEP_S": "0.3"}


def wait_for(what: str, check: Callable[[], Any], timeout_s: float = 30) -> Any:
    until = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < until, f"waited {timeout_s:g} s in vain: {what}"
        time.sleep(0.01)
    return found


def picture(grey: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("L", (8, 8), grey).save(buffer, "PNG")
    return buffer.getvalue()


class Worker:
    """One worker process."""

    def __init__(self, worker: str, pid: int, log: Path) -> None:
        self.worker, self.pid, self._log = worker, pid, log

    @property
    def alive(self) -> bool:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, 0)
            return True
        return False

    def signal(self, signum: int) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """``kill -9``, also of a stopped process."""
        self.signal(signal.SIGKILL)
        wait_for("death of a worker", lambda: not self.alive)

    def log(self) -> str:
        return self._log.read_text()


class Forge:
    """The process whose forks are workers."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._numbers = itertools.count()
        self._process = subprocess.Popen(
            [sys.executable, "-P", str(Path(__file__).with_name("zygote.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.workers: list[Worker] = []
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def start(self, redis_url: str, models: Path, *, model: str = "probe", **env: str) -> Worker:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        name = f"worker-{next(self._numbers)}"
        log = self._folder / f"{name}.log"
        args = [model, "--worker-id", name, "--redis-url", redis_url, "--precision", "fp32", "--device", "cpu"]
        told = {"args": args, "env": {**QUICK, "VISIONPIPE_MODELS": str(models), **env}, "log": str(log)}
        self._process.stdin.write(json.dumps(told) + "\n")
        self._process.stdin.flush()
        worker = Worker(name, int(self._process.stdout.readline()), log)
        self.workers.append(worker)
        return worker

    def clear(self) -> None:
        for worker in self.workers:
            worker.kill()
        self.workers.clear()

    def close(self) -> None:
        self.clear()
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(10)
        assert self._process.stdout is not None
        self._process.stdout.close()


class Stage:
    """One queue, one probe model and the workers of one test."""

    def __init__(self, forge: Forge, redis_url: str, models: Path, probe: ProbeModel) -> None:
        self.redis_url, self.probe = redis_url, probe
        self.settings = Settings(redis_url=redis_url, lease_s=1.5, renew_s=0.3, sweep_s=0.3)
        self.redis = connect(redis_url)
        self._forge, self._models = forge, models
        self._jobs = itertools.count()

    def worker(self, *, redis_url: str | None = None, ready: bool = True, **env: str) -> Worker:
        worker = self._forge.start(redis_url or self.redis_url, self._models, **env)
        if ready:
            self.wait_ready(worker)
        return worker

    def wait_ready(self, worker: Worker) -> None:
        def announced() -> bool:
            assert worker.alive, worker.log()
            return worker.worker in [record.worker for record in run(self.redis, calls.workers())]

        wait_for("a ready worker", announced)

    def submit(
        self, *greys: int, refs: list[ImageRef] | None = None, lane: Lane = Lane.BULK, deadline_s: float | None = None
    ) -> str:
        job = f"job-{next(self._jobs)}"
        payloads = {} if refs else {f"blob:{job}:{i}": picture(grey) for i, grey in enumerate(greys)}
        images = refs or [
            BlobImage(key=key, size_bytes=len(data), name=str(grey))
            for (key, data), grey in zip(payloads.items(), greys, strict=True)
        ]
        request = ClassificationRequest(model="probe", images=images, deadline_s=deadline_s)
        call = calls.submit(
            request, job=job, lane=lane, client="t", settings=self.settings, payloads=payloads, wait_for_worker=True
        )
        run(self.redis, call)
        return job

    def state(self, job: str) -> JobState:
        record = run(self.redis, calls.read(job))
        assert record is not None
        return record.state

    def ended(self, job: str, timeout_s: float = 30) -> RawEnvelope:
        wait_for(f"the end of {job}", lambda: self.state(job).ended, timeout_s)
        envelope = run(self.redis, calls.envelope(job))
        assert envelope is not None
        return envelope

    def logged(self, line: str) -> None:
        wait_for(f"{line!r} in the model's log", lambda: line in self.probe.lines())

    def account(self, title: str, jobs: dict[str, list[int]], *, faults: int, fated: int = 0) -> None:
        """Check and print what every fault must leave behind.

        Args:
            title: What was done.
            jobs: Job id → the greys of its pictures.
            faults: How many struck the holder; each may cost one more execution of a picture.
            fated: Pictures that were to fail.
        """
        total = sum(map(len, jobs.values()))
        books = run(self.redis, calls.accounts())["probe"]
        executions = {grey: self.probe.executions(grey) for greys in jobs.values() for grey in greys}
        print(
            f"\n{title:34} submitted {books.submitted:3} = done {books.done:3} + failed {books.failed} + cancelled "
            f"{books.cancelled} + expired {books.expired}; executions {sum(executions.values())}, of one picture at "
            f"most {max(executions.values())} (bound {1 + faults})"
        )
        assert (books.submitted, books.open, books.failed) == (total, 0, fated)
        for job, greys in jobs.items():
            envelope = run(self.redis, calls.envelope(job))
            assert envelope is not None
            items = [json.loads(text) for text in envelope.items]
            assert [item["index"] for item in items] == list(range(len(greys))), "one outcome per item"
            for item, grey in zip(items, greys, strict=True):
                if item["result"] is not None:
                    assert item["result"]["classes"][0]["label"] == str(grey % 10)
                    assert 1 <= executions[grey] <= 1 + faults
        assert not list(self.redis.scan_iter("vp:blob:*")), "pixels are gone"
        assert not self.redis.exists("vp:leases", "vp:depth", "vp:running", "vp:deadlines")


@pytest.fixture(scope="session")
def _forge() -> Iterator[Forge]:
    folder = Path(tempfile.mkdtemp(prefix="vpf"))
    forge = Forge(folder)
    yield forge
    forge.close()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def _models(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ProbeModel]:
    models = tmp_path_factory.mktemp("models")
    return models, ProbeModel(models)


@pytest.fixture
def forge(_forge: Forge) -> Iterator[Forge]:
    yield _forge
    _forge.clear()


@pytest.fixture
def make_stage(forge: Forge, _models: tuple[Path, ProbeModel]) -> Iterator[Callable[[str], Stage]]:
    models, probe = _models
    probe.reset()
    made: list[Stage] = []

    def make(redis_url: str) -> Stage:
        made.append(Stage(forge, redis_url, models, probe))
        return made[-1]

    yield make
    forge.clear()
    for stage in made:
        stage.redis.close()


@pytest.fixture
def stage(make_stage: Callable[[str], Stage], redis_url: str) -> Stage:
    return make_stage(redis_url)
