"""Keeps one node's workers running: starts them, restarts dead ones, gives back their jobs, drains them in the end."""

from __future__ import annotations

import contextlib
import logging
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING

from visionpipe.child import WorkerProcess, WorkerSpec
from visionpipe.errors import ServiceError, WorkerStartError
from visionpipe.growing import WINDOW_S, Growth
from visionpipe.machine import Machine
from visionpipe.queue import calls, connect, run
from visionpipe.queue.sweeping import Sweeper
from visionpipe.settings import Settings
from visionpipe.slots import Slot, Slots

if TYPE_CHECKING:
    from redis import Redis

    from visionpipe.schemas.jobs import WorkerRecord

__all__ = ["Slot", "Supervisor", "WorkerSpec"]

RESTART_WAITS_S = (0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 30.0)
"""How long to wait before each restart in a row."""
STEADY_S = 60.0
"""A worker that was ready for so long may fail again at no cost."""

_TICK_S = 0.05
_POLL_READY_S = 0.2
_GROW_S = 1.0
_REDIS_AGAIN_S = 0.5
_KILL_AFTER_S = 5.0
_log = logging.getLogger(__name__)


class Supervisor:
    """The workers of one node. Use it as a context manager, or call ``start`` and ``stop``.

    One thread starts and reaps all workers. The workers end when that thread does, also by ``kill -9`` (on Linux).

    Args:
        redis_url: Where the workers take their work.
        specs: One entry per worker.
        settings: Theirs and ours.
        log_folder: Where their output goes, a file each; ``None`` means to our own.
        grows: Whether a model gets more workers where the interpreter of those there are is the limit.
        on_event: Told in one line of whatever happens; called from the supervisor's thread.

    Raises:
        QueueUnavailableError: The URL cannot be used.
    """

    def __init__(
        self,
        redis_url: str,
        specs: Iterable[WorkerSpec],
        settings: Settings,
        *,
        log_folder: Path | None = None,
        grows: bool = False,
        on_event: Callable[[str], None] | None = None,
    ) -> None:
        self.redis_url = redis_url
        # The workers of a node share its devices, whoever starts them.
        self._counts = "cuda_workers" not in settings.model_fields_set
        self.settings = settings.model_copy(update={"redis_url": redis_url})
        self._slots = Slots(log_folder)
        self._on_event = on_event or _log.info
        self._stopping = threading.Event()
        self._impatient = threading.Event()
        self._lost: list[str] = []
        self._look_at = self._redis_at = self._grow_at = 0.0
        gpu_workers = 1 if self._counts else settings.cuda_workers
        self._growth = Growth(gpu_workers=gpu_workers, renew_s=settings.renew_s)
        self._machine = Machine(WINDOW_S)
        # Two workers of a node cannot listen on one port.
        self._grows = grows and not settings.http_port
        self._redis = connect(redis_url)
        self._sweeper = Sweeper(self._redis, settings)
        self._redis_fault = ""
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self.add(*specs)

    def __enter__(self) -> Supervisor:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def slots(self) -> list[Slot]:
        """Its workers' places."""
        return self._slots.all

    @property
    def alive(self) -> bool:
        """Whether it is at work."""
        return self._thread.is_alive()

    def add(self, *specs: WorkerSpec) -> None:
        """Have more workers; they start at once if the supervisor has, and know how many there are by then."""
        if self._counts:
            number = max(1, len(self._slots.needed) + len(specs))
            self.settings = self.settings.model_copy(update={"cuda_workers": number})
        self._slots.open(*specs)

    def start(self) -> None:
        """Start the workers; ``wait_ready`` tells when they serve."""
        self._thread.start()

    def wait_ready(self, timeout_s: float) -> None:
        """Wait until every worker has announced itself.

        Raises:
            WorkerStartError: A worker died before it was ready, or the time is over; with what it last wrote.
        """
        until = time.monotonic() + timeout_s
        while any(slot.state != "ready" for slot in self._slots.needed):
            for slot in self._slots.needed:
                if slot.failures and not slot.ready_at:
                    raise WorkerStartError(f"The worker for {slot.spec.model} did not start: {slot.reason}")
            if time.monotonic() >= until:
                late = [slot for slot in self._slots.needed if slot.state != "ready"]
                names = ", ".join(slot.spec.model for slot in late)
                said = [self._redis_fault, *(slot.process.last_words() for slot in late if slot.process)]
                raise WorkerStartError(
                    "\n".join([f"No worker for {names} was ready within {timeout_s:.0f} s.", *filter(None, said)])
                )
            time.sleep(_TICK_S)

    def stop(self, *, drain: bool = True) -> None:
        """Drain the workers and wait until all are gone; ``drain=False`` ends them at once."""
        self.ask_to_stop(drain=drain)
        if self._thread.is_alive():
            self._thread.join()

    def ask_to_stop(self, *, drain: bool = True) -> None:
        """As ``stop``, without waiting; ``alive`` tells when it is done."""
        if not drain:
            self._impatient.set()
        self._stopping.set()

    def _watch(self) -> None:
        try:
            while not self._stopping.is_set():
                for slot in self.slots:
                    self._tend(slot)
                if time.monotonic() >= self._redis_at:
                    self._keep_queue()
                self._stopping.wait(_TICK_S)
        finally:
            self._drain()
            self._keep_queue()
            self._redis.close()

    def _tend(self, slot: Slot) -> None:
        if slot.process is None:
            if time.monotonic() >= slot.start_at:
                self._launch(slot)
        elif slot.process.reap():
            self._bury(slot, slot.process)
            self._schedule(slot)
        else:
            slot.process.trim_log()

    def _launch(self, slot: Slot) -> None:
        slot.state = "starting"
        try:
            slot.process = WorkerProcess(slot.spec, self.settings, slot.log_path)
        except OSError as error:
            slot.failures += 1
            slot.reason = f"no worker process can be started: {error}."
            self._schedule(slot)
        else:
            self._on_event(f"{slot.spec.model}: worker {slot.process.worker_id} starts (pid {slot.process.pid})")

    def _bury(self, slot: Slot, process: WorkerProcess) -> None:
        if slot.state == "ready" and time.monotonic() - slot.ready_at > STEADY_S:
            slot.failures = 0
        slot.failures += 1
        slot.process = None
        code = process.exit_code or 0
        how = f"was ended by signal {-code}" if code < 0 else f"ended with status {code}"
        slot.reason = f"worker {process.worker_id} {how}. {process.last_words()}".rstrip()
        self._lost.append(process.worker_id)

    def _schedule(self, slot: Slot) -> None:
        if slot.is_extra:
            self._slots.close(slot)
            if slot.state != "retiring":
                self._growth.give_up(slot.spec.model, time.monotonic())
                log = f" All it wrote: {slot.log_path}" if slot.log_path else ""
                told = f"{slot.reason}\nIt was one more than needed, and is not started again.{log}"
                self._on_event(f"{slot.spec.model}: {told}")
            return
        wait_s = RESTART_WAITS_S[min(slot.failures, len(RESTART_WAITS_S)) - 1]
        slot.state, slot.start_at = "waiting", time.monotonic() + wait_s
        slot.restarts += 1
        loop = f" ({slot.failures} failures in a row)" if slot.failures > 1 else ""
        when = f"in {wait_s:.0f} s" if wait_s else "at once"
        self._on_event(f"{slot.spec.model}: {slot.reason}\nIt is started again {when}{loop}.")

    def _keep_queue(self) -> None:
        with self._redis_or_not() as redis:
            while self._lost:
                lapsed = run(redis, calls.expire_worker(self._lost[0], self.settings))
                worker_id = self._lost.pop(0)
                if lapsed:
                    self._on_event(f"{lapsed} jobs of worker {worker_id} are queued again")
            now = time.monotonic()
            if now >= self._sweeper.due_at:
                self._sweeper.sweep(now)
                self._redis_fault = ""
            if now >= self._look_at and any(slot.state == "starting" for slot in self.slots):
                self._look_at = now + _POLL_READY_S
                self._note_ready({record.worker for record in run(redis, calls.workers())})
            if self._grows and now >= self._grow_at:
                self._grow_at = now + _GROW_S
                self._grow(run(redis, calls.workers()))

    def _grow(self, live: list[WorkerRecord]) -> None:
        self._growth.observe(live)
        room = self._machine.look()
        ready = {slot.process.worker_id: slot for slot in self.slots if slot.process and slot.state == "ready"}
        self._retire_outdated(ready)
        # One at a time: what has just started shows no effect yet, and will use more memory than it does.
        if len(ready) < len(self.slots):
            return
        node = {worker: slot.spec for worker, slot in ready.items()}
        if spec := self._growth.one_more(node, room, time.monotonic()):
            self._on_event(f"{spec.model}: device and cores wait for Python; one more worker starts")
            self._slots.open(spec, is_extra=True)

    def _retire_outdated(self, ready: dict[str, Slot]) -> None:
        """Drain what was started for speed and hosts a version that the others of its model have left meanwhile."""
        extra = {worker for worker, slot in ready.items() if slot.is_extra}
        for worker in self._growth.outdated(ready.keys() - extra, extra):
            slot = ready.pop(worker)
            self._on_event(f"{slot.spec.model}: worker {worker} ends, since the others host another version now")
            slot.state = "retiring"
            assert slot.process is not None
            slot.process.terminate()

    @contextlib.contextmanager
    def _redis_or_not(self) -> Iterator[Redis]:
        # Redis may be away for a while; workers are kept, and dead ones' jobs given back, all the same.
        try:
            yield self._redis
        except ServiceError as error:
            self._sweeper.note_silence()
            if error.message != self._redis_fault:
                self._on_event(f"Redis: {error.message}")
            self._redis_fault = error.message
            self._redis_at = time.monotonic() + _REDIS_AGAIN_S

    def _note_ready(self, live: set[str]) -> None:
        for slot in self.slots:
            if slot.state == "starting" and slot.process is not None and slot.process.worker_id in live:
                slot.ready_at = time.monotonic()
                # Told first, so that whoever waits for the state has heard it.
                self._on_event(f"{slot.spec.model}: worker {slot.process.worker_id} is ready")
                slot.state = "ready"

    def _drain(self) -> None:
        running = [(slot, slot.process) for slot in self.slots if slot.process is not None]
        for _, process in running:
            process.terminate()
        kill_at = time.monotonic() + self.settings.drain_s + _KILL_AFTER_S
        while running:
            for slot, process in list(running):
                if process.reap():
                    running.remove((slot, process))
                    # A worker that is still importing has no handler for the signal yet.
                    if process.exit_code not in (0, -signal.SIGTERM):
                        self._on_event(f"{slot.spec.model}: a worker did not drain; its jobs are queued again")
                    self._bury(slot, process)
                elif time.monotonic() >= kill_at or self._impatient.is_set():
                    process.kill()
            time.sleep(_TICK_S)
        for slot in self.slots:
            slot.state = "stopped"
