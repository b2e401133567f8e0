"""A Redis and workers of its own for what is measured, or the workers that serve the model already."""

from __future__ import annotations

import contextlib
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from visionpipe.errors import EmbeddedRedisError, WorkerStartError
from visionpipe.queue import calls, connect, run
from visionpipe.redis_server import RedisServer, find_server
from visionpipe.schemas.base import Schema
from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.settings import Settings
from visionpipe.stack import START_TIMEOUT_S, make_log_folder
from visionpipe.supervisor import Supervisor
from workers.benching.contenders import Contender

ROOT = "bench"
"""Media root of the pictures."""
COMPILE_S = 900.0
"""A worker that has not compiled its network by then is measured as it is."""
EARNING = "eager: inputs of no shape"
"""What a worker says that does not know yet for which shapes it shall compile."""
AS_EMBEDDED = ("--appendonly", "yes", "--appendfsync", "everysec")
"""How the embedded Redis keeps its data, which costs a little."""

Tell = Callable[[str], None]


class Memory(Schema):
    """What a worker occupies; the largest of several."""

    rss_bytes: int
    """Resident memory, as it last announced."""
    peak_rss_bytes: int | None = None
    """The most it ever was; absent where the system does not tell, and for a worker that ran already."""
    device_bytes: int = 0
    """The most that was reserved on a GPU."""


@dataclass
class Served:
    """A model that is served."""

    settings: Settings
    """With the queue's URL, and the media root of the pictures where the worker has it."""
    contender: Contender
    """What is measured."""
    supervisor: Supervisor | None = None
    """Keeps the workers that were started for this."""

    @property
    def own(self) -> bool:
        """Whether the workers were started for this."""
        return self.supervisor is not None

    def hire(self, number: int, tell: Tell) -> None:
        """Have so many workers of our own, in the place of those there are, and wait until all are compiled.

        They begin together: each must know with how many it shares a GPU.

        Raises:
            WorkerStartError: One of them did not start; the message has its last words.
        """
        self.dismiss()
        crew, log_folder = [self.contender.spec()] * number, make_log_folder(self.settings)
        self.supervisor = Supervisor(self.settings.redis_url or "", crew, self.settings, log_folder=log_folder)
        self.supervisor.start()
        tell(f"Starting {'a worker' if number == 1 else f'{number} workers'} of {self.contender.label}")
        self.supervisor.wait_ready(START_TIMEOUT_S)
        _wait_compiled(self.records, tell, self.contender)

    def dismiss(self) -> None:
        """End the workers that were started for this, if there are any."""
        if self.supervisor is not None:
            self.supervisor.stop()

    def waits_to_compile(self) -> bool:
        """Whether a worker of our own will compile once inputs of a shape have kept it busy, or compiles now."""
        if not self.own or self.settings.compile != "now":
            return False
        return any(one.code.startswith(("compiling", EARNING)) for one in self.records())

    def records(self) -> list[WorkerRecord]:
        """Read the announcements of the model's workers."""
        name, _, digest = self.contender.model.partition("@")
        with contextlib.closing(connect(self.settings.redis_url or "")) as redis:
            live = run(redis, calls.workers())
        return [one for one in live if one.model == name and digest in ("", one.digest) and one.state == "ready"]

    def memory(self) -> Memory:
        """Read what its workers occupy."""
        records = self.records()
        slots = self.supervisor.slots if self.supervisor is not None else []
        processes = [slot.process for slot in slots if slot.process is not None]
        peaks = [peak for peak in (_peak(process.pid) for process in processes) if peak is not None]
        return Memory(
            rss_bytes=max((one.rss_bytes for one in records), default=0),
            peak_rss_bytes=max(peaks, default=None),
            device_bytes=max((one.device_memory_bytes for one in records), default=0),
        )


@contextlib.contextmanager
def served(contender: Contender, base: Settings, pictures: Path, tell: Tell) -> Iterator[Served]:
    """Have the model served while the context lasts.

    Workers that serve it already behind ``VISIONPIPE_REDIS_URL`` are used; else a private Redis and workers are
    started, which are compiled before they are handed over.

    Args:
        contender: The model, and how its worker is run.
        base: The settings of this command.
        pictures: The folder that a worker of our own mounts.
        tell: Told in one line of each step.

    Raises:
        WorkerStartError: The worker did not start; the message has its last words.
        EmbeddedRedisError: There is no Redis program, or it does not start.
    """
    if base.redis_url is not None:
        there = Served(base, contender)
        if there.records():
            tell("Using the workers that serve it already; their options are theirs")
            yield there
            return
    settings = contender.settings(base)
    with tempfile.TemporaryDirectory(prefix="vp-bench-") as name, _redis(Path(name)) as url:
        # The data folder stays the user's: compiled networks lie there.
        settings = settings.model_copy(update={"redis_url": url, "media_roots": {ROOT: pictures}})
        there = Served(settings, contender)
        try:
            there.hire(contender.workers, tell)
            yield there
        finally:
            there.dismiss()


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    server = RedisServer(find_server(), folder / "s.sock", folder, options=AS_EMBEDDED)
    server.start()
    try:
        if not server.wait_ready(20):
            raise EmbeddedRedisError(f"A private Redis in {folder} did not start: {server.log_tail()}")
        yield server.url
    finally:
        server.stop()


def _wait_compiled(workers: Callable[[], list[WorkerRecord]], tell: Tell, contender: Contender) -> None:
    until, told = time.monotonic() + COMPILE_S, False
    while time.monotonic() < until:
        live = workers()
        if not live:
            raise WorkerStartError(f"Every worker of {contender.label} ended while the network was compiled.")
        if all(one.code.startswith(("compiled", "eager:", "graphs")) for one in live):
            return
        if any(one.code == "compiling" for one in live) and not told:
            tell("Compiling the network, once for this machine; compile=off measures it as it is")
            told = True
        time.sleep(0.2)


def _peak(pid: int) -> int | None:
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return None
    peaks = (int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:"))
    return next(peaks, None)
