"""The service under soak: one Redis, several workers of several models, and everything that can befall them."""

from __future__ import annotations

import random
import shutil
import signal
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from redis.exceptions import RedisError

from tests.conftest import start_redis
from tests.faults.forge import Forge, Worker, wait_for
from tests.faults.probe_model import ProbeModel
from tests.faults.proxy import Proxy
from visionpipe.errors import ServiceError
from visionpipe.queue import calls, connect, run
from visionpipe.settings import Settings

MODELS = ("probe-a", "probe-b")
WORKERS_EACH = 2
RESULT_TTL_S = 40.0
WORKER_ENV = {"VISIONPIPE_HANG_S": "2", "VISIONPIPE_DRAIN_S": "2", "VISIONPIPE_DECODE_THREADS": "1"}
MOST_RSS_GROWTH_MB = 200.0
NATURAL_DEATHS = ("Unrecoverable error", "thread died", "Fatal Python error")
"""What a worker's log says of an end that nobody brought about."""


@dataclass
class Post:
    """One worker's place."""

    model: str
    worker: Worker
    ready_mb: float = 0.0
    wake_at: float | None = None
    """When a stopped worker goes on."""


@dataclass
class Service:
    """Redis and workers; used by the main thread alone, with which Redis ends.

    Args:
        forge: Makes workers.
        chance: All randomness of faults.
    """

    forge: Forge
    chance: random.Random
    struck: Counter[str] = field(default_factory=Counter)
    grown_mb: float = 0.0
    wrong: list[str] = field(default_factory=list)
    posts: list[Post] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="vps"))
        self.server = start_redis(self.folder, options=("--appendonly", "yes", "--appendfsync", "everysec"))
        self.settings = Settings(
            redis_url=self.server.url, lease_s=1.5, renew_s=0.3, sweep_s=0.3, result_ttl_s=RESULT_TTL_S
        )
        self.redis = connect(self.server.url)
        self.proxy = Proxy(str(self.server.socket_path))
        self.models = {name: ProbeModel(self.folder / "models", name) for name in MODELS}
        for probe in self.models.values():
            probe.each("seconds", 0.004)
        self.posts = [Post(name, self._start(name)) for name in MODELS for _ in range(WORKERS_EACH)]

    def _start(self, model: str) -> Worker:
        clock_s = self.chance.choice((0, 0, 60, -60))
        url = self.proxy.url if self.chance.random() < 0.4 else self.server.url
        return self.forge.start(url, self.folder / "models", model=model, clock_s=clock_s, **WORKER_ENV)

    def wait_ready(self) -> None:
        """Wait until every worker serves."""

        def all_ready() -> bool:
            self.tend()
            live = {record.worker for record in run(self.redis, calls.workers())}
            return all(post.worker.worker in live for post in self.posts)

        wait_for("ready workers", all_ready, 120)

    def tend(self) -> None:
        """Do what a supervisor does, for most of the dead; the rest is left to their leases."""
        now = time.monotonic()
        for post in self.posts:
            if post.wake_at is not None and now >= post.wake_at:
                post.wake_at = None
                post.worker.signal(signal.SIGCONT)
            if post.worker.alive:
                self._weigh(post)
                continue
            self._inquire(post)
            if self.chance.random() < 0.7:
                try:
                    run(self.redis, calls.expire_worker(post.worker.worker, self.settings))
                except ServiceError:
                    continue
            post.worker, post.ready_mb, post.wake_at = self._start(post.model), 0.0, None

    def _inquire(self, post: Post) -> None:
        """Tell of a worker that ended by itself, other than by what we have done to it."""
        lines = post.worker.log().splitlines()
        for index, line in enumerate(lines):
            if any(sign in line for sign in NATURAL_DEATHS):
                self.wrong.append("\n".join([f"{post.worker.worker} ended by itself:", *lines[index : index + 60]]))
                return

    def _weigh(self, post: Post) -> None:
        try:
            rss_mb = post.worker.rss_mb()
        except (OSError, IndexError):
            return
        # Until it serves, a worker is still loading.
        if not post.ready_mb and "ready:" in post.worker.log():
            post.ready_mb = rss_mb
        if post.ready_mb:
            self.grown_mb = max(self.grown_mb, rss_mb - post.ready_mb)

    def strike(self) -> str:
        """Let something befall the service."""
        post = self.chance.choice(self.posts)
        name = self.chance.choice(FAULTS)
        self.struck[name] += 1
        try:
            getattr(self, f"_{name}")(post)
        except RedisError:
            # The fault before it is not over yet.
            self.struck[f"{name} (missed)"] += 1
        return name

    def _kill(self, post: Post) -> None:
        post.worker.signal(signal.SIGKILL)

    def _stop(self, post: Post) -> None:
        post.worker.signal(signal.SIGSTOP)
        post.wake_at = time.monotonic() + self.chance.uniform(0.2, 4)

    def _stop_and_kill(self, post: Post) -> None:
        post.worker.signal(signal.SIGSTOP)
        time.sleep(self.chance.uniform(0.1, 0.5))
        post.worker.signal(signal.SIGKILL)

    def _drain(self, post: Post) -> None:
        post.worker.signal(signal.SIGTERM)

    def _cut(self, _: Post) -> None:
        self.redis.client_kill_filter(_type="normal", skipme=True)

    def _pause(self, _: Post) -> None:
        self.redis.execute_command("CLIENT", "PAUSE", self.chance.randint(300, 3000), "ALL")

    def _squeeze(self, _: Post) -> None:
        self.redis.config_set("maxmemory", max(1, self.redis.info("memory")["used_memory"] - 1000))
        time.sleep(self.chance.uniform(0.2, 1.5))
        self.redis.config_set("maxmemory", 0)

    def _silence(self, _: Post) -> None:
        self.proxy.silence()

    def _restart(self, _: Post) -> None:
        assert self.server.process is not None
        self.server.process.send_signal(signal.SIGKILL)
        self.server.process.wait()
        time.sleep(self.chance.uniform(0, 1.5))
        self.server.start()
        assert self.server.wait_ready(30), self.server.log_tail()

    def heal(self) -> None:
        """End every fault that lasts."""
        for post in self.posts:
            post.worker.signal(signal.SIGCONT)
            post.wake_at = None
        assert self.server.wait_ready(30)
        self.redis.config_set("maxmemory", 0)

    def used_bytes(self) -> int:
        """What the keys in Redis take."""
        return sum(self.redis.memory_usage(key) or 0 for key in self.redis.scan_iter("*", count=10_000))

    def close(self) -> None:
        """End everything."""
        self.forge.clear()
        self.redis.close()
        self.proxy.close()
        self.server.stop()
        shutil.rmtree(self.folder, ignore_errors=True)


FAULTS = ("kill", "kill", "stop", "stop_and_kill", "drain", "cut", "pause", "squeeze", "silence", "restart")
