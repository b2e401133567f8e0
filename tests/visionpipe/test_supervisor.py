from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from visionpipe.errors import QueueUnavailableError, WorkerStartError
from visionpipe.queue import calls, connect, run
from visionpipe.redis_server import RedisServer
from visionpipe.schemas.images import BlobImage
from visionpipe.schemas.jobs import JobState, Lane, ModelInfo
from visionpipe.schemas.requests import ClassificationRequest
from visionpipe.settings import Settings
from visionpipe.supervisor import Slot, Supervisor, WorkerSpec

Becomes = Callable[..., bool]
Exists = Callable[[int], bool]

STUBBORN = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("deaf", flush=True)
time.sleep(60)
"""

OWNER = """
import sys, time
sys.path.insert(0, sys.argv[2])
from test_supervisor import Script
from visionpipe.settings import Settings
from visionpipe.supervisor import Supervisor

supervisor = Supervisor(sys.argv[1], [Script(source="import time; time.sleep(60)")], Settings())
supervisor.start()
while supervisor.slots[0].process is None:
    time.sleep(0.02)
print(supervisor.slots[0].process.pid, flush=True)
time.sleep(60)
"""


@dataclass(frozen=True)
class Script(WorkerSpec):
    """A small program in a worker's place."""

    model: str = "script"
    source: str = "import time; time.sleep(60)"

    def command(self, worker_id: str) -> list[str]:
        return [sys.executable, "-c", self.source, worker_id]


def pid_of(slot: Slot) -> int:
    return slot.process.pid if slot.process else 0


def test_a_killed_worker_is_replaced_and_its_jobs_are_queued_again(
    settings: Settings, tmp_path: Path, becomes: Becomes
):
    assert settings.redis_url is not None
    slow = settings.model_copy(update={"lease_s": 60, "drain_s": 20})
    redis = connect(settings.redis_url)
    with Supervisor(settings.redis_url, [WorkerSpec("lenet-digits")], slow, log_folder=tmp_path) as supervisor:
        supervisor.wait_ready(100)
        slot = supervisor.slots[0]
        first = slot.process
        assert first is not None
        # A job of a model nobody hosts, claimed in the worker's name: it cannot finish before the kill.
        request = ClassificationRequest(model="other", images=[BlobImage(key="blob:job-1:0", size_bytes=1)])
        run(redis, calls.submit(request, job="job-1", lane=Lane.BULK, client="c", settings=slow, wait_for_worker=True))
        info = ModelInfo(name="other", digest="0" * 12, precision="fp32", device="cpu")
        assert run(redis, calls.claim("job-1", first.worker_id, "token", info, slow))
        os.kill(first.pid, signal.SIGKILL)
        killed = time.monotonic()
        assert becomes(lambda: state_of(redis, "job-1") is JobState.QUEUED, within_s=15)
        assert becomes(lambda: slot.process and slot.process is not first, within_s=15)
        assert time.monotonic() - killed < 20
        assert slot.restarts == 1
        assert f"worker {first.worker_id} was ended by signal 9" in slot.reason
        assert run(redis, calls.workers()) == []
    assert slot.state == "stopped"
    assert run(redis, calls.workers()) == []
    redis.close()


def state_of(redis, job: str) -> JobState | None:
    record = run(redis, calls.read(job))
    return record.state if record else None


def test_a_crash_loop_slows_down_and_is_told(redis_url: str, settings: Settings, tmp_path: Path, becomes: Becomes):
    events: list[str] = []
    spec = Script(source="import sys; sys.exit('out of luck')")
    started = time.monotonic()
    with Supervisor(redis_url, [spec], settings, log_folder=tmp_path, on_event=events.append) as supervisor:
        assert becomes(lambda: supervisor.slots[0].failures >= 3, within_s=30)
        assert time.monotonic() - started >= 1
        assert supervisor.slots[0].state == "waiting"
    assert any("out of luck\nIt is started again at once." in event for event in events)
    assert any("out of luck\nIt is started again in 2 s (3 failures in a row)." in event for event in events)


def test_a_program_that_is_missing_is_told_and_not_fatal(redis_url: str, settings: Settings, becomes: Becomes):
    @dataclass(frozen=True)
    class Missing(Script):
        def command(self, worker_id: str) -> list[str]:
            return ["/no/such/program"]

    with Supervisor(redis_url, [Missing(), Script()], settings) as supervisor:
        assert becomes(lambda: supervisor.slots[0].failures >= 2, within_s=20)
        assert supervisor.slots[1].process is not None
        assert supervisor.alive


def test_a_worker_whose_log_was_removed_is_replaced_all_the_same(
    redis_url: str, settings: Settings, tmp_path: Path, becomes: Becomes
):
    with Supervisor(redis_url, [Script()], settings, log_folder=tmp_path) as supervisor:
        slot = supervisor.slots[0]
        assert becomes(lambda: slot.process, within_s=5)
        first = slot.process
        assert first is not None
        assert slot.log_path is not None
        slot.log_path.unlink()
        first.kill()
        assert becomes(lambda: slot.process not in (None, first), within_s=5)
        assert "cannot be read" in slot.reason
        assert supervisor.alive


def test_a_name_that_no_model_has_is_refused_by_the_worker_and_not_by_its_log(
    redis_url: str, settings: Settings, tmp_path: Path, becomes: Becomes
):
    with Supervisor(
        redis_url, [Script(model="a/b", source="print('unknown')")], settings, log_folder=tmp_path
    ) as supervisor:
        assert becomes(lambda: "unknown" in supervisor.slots[0].reason, within_s=10)


def test_an_unusable_url_is_refused_before_anything_starts(settings: Settings):
    with pytest.raises(QueueUnavailableError, match="redis://"):
        Supervisor("foo://x", [Script()], settings)


def test_a_worker_that_does_not_get_ready_in_time_is_named(redis_url: str, settings: Settings, tmp_path: Path):
    spec = Script(source="import time; print('loading', flush=True); time.sleep(60)")
    with (
        Supervisor(redis_url, [spec], settings, log_folder=tmp_path) as supervisor,
        pytest.raises(WorkerStartError, match=r"(?s)No worker for script was ready within 1 s.*loading"),
    ):
        supervisor.wait_ready(1)


def test_workers_added_later_are_started_too(redis_url: str, settings: Settings, becomes: Becomes):
    with Supervisor(redis_url, [], settings) as supervisor:
        supervisor.add(Script())
        slot = supervisor.slots[-1]
        assert becomes(lambda: slot.process is not None, within_s=5)


def test_a_worker_that_will_not_drain_is_ended_when_told_so(
    redis_url: str, settings: Settings, tmp_path: Path, becomes: Becomes, exists: Exists
):
    supervisor = Supervisor(redis_url, [Script(source=STUBBORN)], settings, log_folder=tmp_path)
    supervisor.start()
    assert becomes(lambda: supervisor.slots[0].process and supervisor.slots[0].process.last_words(), within_s=20)
    pid = pid_of(supervisor.slots[0])
    supervisor.ask_to_stop()
    time.sleep(0.5)
    assert supervisor.alive
    assert exists(pid)
    supervisor.stop(drain=False)
    assert not supervisor.alive
    assert not exists(pid)


def test_a_worker_that_will_not_drain_is_ended_after_its_time(
    redis_url: str,
    settings: Settings,
    tmp_path: Path,
    becomes: Becomes,
    exists: Exists,
    monkeypatch: pytest.MonkeyPatch,
):
    monkeypatch.setattr("visionpipe.supervisor._KILL_AFTER_S", 0.5)
    events: list[str] = []
    brisk = settings.model_copy(update={"drain_s": 0.5})
    supervisor = Supervisor(redis_url, [Script(source=STUBBORN)], brisk, log_folder=tmp_path, on_event=events.append)
    with supervisor:
        assert becomes(lambda: supervisor.slots[0].process and supervisor.slots[0].process.last_words(), within_s=20)
        pid = pid_of(supervisor.slots[0])
    assert not exists(pid)
    assert any("did not drain" in event for event in events)


def test_workers_end_when_their_supervisor_is_killed(redis_url: str, becomes: Becomes, exists: Exists):
    command = [sys.executable, "-P", "-c", OWNER, redis_url, str(Path(__file__).parent)]
    owner = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert owner.stdout is not None
    pid = int(owner.stdout.readline())
    assert exists(pid)
    owner.kill()
    owner.communicate()
    assert becomes(lambda: not exists(pid), within_s=5)


def test_redis_may_be_away_for_a_while(redis_server: RedisServer, settings: Settings, tmp_path: Path, becomes: Becomes):
    events: list[str] = []
    redis_server.stop()
    spec = Script(source="import time; time.sleep(3)")
    # Between two sweeps there is nothing to ask of Redis, which says nothing about it.
    seldom = settings.model_copy(update={"sweep_s": 1})
    with Supervisor(redis_server.url, [spec], seldom, log_folder=tmp_path, on_event=events.append) as supervisor:
        assert becomes(lambda: supervisor.slots[0].restarts, within_s=10)
        assert becomes(lambda: supervisor._lost, within_s=2)
        redis_server.start()
        assert redis_server.wait_ready(10)
        assert becomes(lambda: not supervisor._lost, within_s=5)
        assert supervisor.alive
    assert sum(event.startswith("Redis: ") for event in events) <= 2


def test_only_the_newest_logs_are_kept(redis_url: str, settings: Settings, tmp_path: Path):
    for index in range(25):
        (tmp_path / f"old-{index:02}.log").touch()
        os.utime(tmp_path / f"old-{index:02}.log", (index, index))
    Supervisor(redis_url, [], settings, log_folder=tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir())[0] == "old-05.log"


def test_a_supervisor_that_was_never_started_can_be_stopped(redis_url: str, settings: Settings):
    threads = threading.active_count()
    Supervisor(redis_url, [Script()], settings).stop()
    assert threading.active_count() == threads


@pytest.mark.parametrize(("given", "expected"), [({}, 4), ({"cuda_workers": 1}, 1)])
def test_workers_are_told_how_many_share_a_gpu(given: dict[str, int], expected: int):
    specs = [WorkerSpec(model) for model in ("lenet-digits", "vgg-digits") for _ in range(2)]
    supervisor = Supervisor("redis://127.0.0.1:1", iter(specs), Settings(**given))
    assert len(supervisor.slots) == 4
    assert supervisor.settings.cuda_workers == expected
    assert "cuda_workers" in supervisor.settings.model_fields_set
