"""A real queue with one real worker process, to be attacked."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.conftest import start_redis
from tests.fuzz.corpus import encode, picture
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.images import InlineImage
from visionpipe.schemas.jobs import JobRecord, Lane
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.settings import Settings

MODEL = "lenet-digits"
SPEED = {"lease_s": 2.0, "renew_s": 0.3, "sweep_s": 0.3, "drain_s": 3.0}
PIXELS = encode(picture((12, 12)), "PNG")


class Service:
    """A Redis and a worker of ``lenet-digits``; a context manager."""

    model = MODEL

    def __init__(self, **more: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="vpz"))
        self._server = start_redis(self._folder)
        self.url = self._server.url
        self.settings = Settings(redis_url=self.url, data_dir=self._folder / "data", **SPEED)  # type: ignore[arg-type]
        self.redis = connect(self.url)
        self._log_path = self._folder / "worker.log"
        clean = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
        env = {**clean, **{f"VISIONPIPE_{name.upper()}": str(value) for name, value in SPEED.items()}, **more}
        env |= {"VISIONPIPE_REDIS_URL": self.url, "VISIONPIPE_DATA_DIR": str(self.settings.data_dir)}
        command = [sys.executable, "-P", "-m", "visionpipe", "worker", MODEL, "--worker-id", "victim"]
        with self._log_path.open("wb") as log:
            self._worker = subprocess.Popen([*command, "--precision", "fp32"], env=env, stdout=log, stderr=log)
        self.wait_for("a ready worker", lambda: run(self.redis, calls.workers()), 120)

    def __enter__(self) -> Service:
        return self

    def __exit__(self, *_: object) -> None:
        self.redis.close()
        self._worker.send_signal(signal.SIGTERM)
        try:
            self._worker.wait(20)
        except subprocess.TimeoutExpired:
            self._worker.kill()
            self._worker.wait()
        self._server.stop()
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def alive(self) -> bool:
        """Whether the worker is the process that was started."""
        return self._worker.poll() is None

    @property
    def pid(self) -> int:
        """The worker's process id."""
        return self._worker.pid

    def log(self) -> str:
        """What the worker has written."""
        return self._log_path.read_text(errors="replace")

    def wait_for(self, what: str, check: Callable[[], Any], timeout_s: float = 30) -> Any:
        """Wait until something holds while the worker lives."""
        until = time.monotonic() + timeout_s
        while not (found := check()):
            assert self.alive, f"the worker died while waiting for {what}:\n{self.log()[-3000:]}"
            assert time.monotonic() < until, f"waited {timeout_s:g} s in vain: {what}\n{self.log()[-3000:]}"
            time.sleep(0.01)
        return found

    def submit(
        self,
        *,
        lane: Lane = Lane.INTERACTIVE,
        request_text: str | bytes | None = None,
        items: int = 1,
        deadline_s: float | None = None,
    ) -> str:
        """Submit a classification, or whatever a hostile client writes in its place; gives the job's id."""
        job = uuid.uuid4().hex[:16]
        images = [InlineImage(data=PIXELS)] * items
        honest = ClassificationRequest(model=MODEL, images=images, deadline_s=deadline_s)
        call = calls.submit(honest, job=job, lane=lane, client="c", settings=self.settings, wait_for_worker=True)
        if request_text is not None:
            # The request is the last but one of the script's arguments.
            call = replace(call, args=(*call.args[:-2], request_text, call.args[-1]))
        run(self.redis, call)
        return job

    def submit_hidden(self, items: int) -> str:
        """Submit a job without a ticket, which nobody finds before the sweep has missed it."""
        job = uuid.uuid4().hex[:16]
        honest = ClassificationRequest(model=MODEL, images=[InlineImage(data=PIXELS)] * items)
        call = calls.submit(honest, job=job, lane=Lane.BULK, client="c", settings=self.settings, wait_for_worker=True)
        self.redis.script_load(call.script.text)
        pipeline = self.redis.pipeline(transaction=True)
        pipeline.evalsha(call.script.sha, 0, *call.args)
        pipeline.lpop(f"vp:{MODEL}:bulk")
        pipeline.execute()
        return job

    def record(self, job: str) -> JobRecord:
        """Read a job's record."""
        record = run(self.redis, calls.read(job))
        assert record is not None
        return record

    def outcome(self, job: str, timeout_s: float = 30) -> tuple[JobRecord, list[dict[str, Any]]]:
        """Wait for a job's end; gives its record and its items."""
        self.wait_for(f"the end of {job}", lambda: self.record(job).state.ended, timeout_s)
        return self.record(job), [json.loads(text) for text in run(self.redis, calls.read_items(job))]

    def check_serves(self, lane: Lane = Lane.INTERACTIVE, timeout_s: float = 30) -> float:
        """Have an honest job done; gives the seconds that took."""
        begun = time.monotonic()
        record, items = self.outcome(self.submit(lane=lane), timeout_s)
        assert record.state == "done", record
        assert items[0]["result"]["classes"], items
        return time.monotonic() - begun
