from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from visionpipe.embedded import ServerFacts, data_folder, embedded_redis
from visionpipe.errors import QueueUnavailableError, SettingsError, WorkerStartError
from visionpipe.queue import calls, connect, run
from visionpipe.schemas.jobs import Lane, WorkerRecord
from visionpipe.settings import Settings
from visionpipe.stack import Stack, ensure_stack, local_stack, make_log_folder

Becomes = Callable[..., bool]
Exists = Callable[[int], bool]

DIGIT = Path(__file__).parent.parent.parent / "models" / "bundled" / "lenet-digits" / "parity" / "7.png"


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Settings that configure no Redis, with a data directory of their own."""
    return Settings(data_dir=tmp_path_factory.mktemp("stack"), lease_s=2, renew_s=0.4, sweep_s=0.3, drain_s=10)


@pytest.fixture(scope="module")
def running(alone: Settings, becomes: Becomes, exists: Exists) -> Iterator[tuple[Stack, list[str]]]:
    """A stack over the embedded Redis with a worker of its own, and what it told while starting."""
    told: list[str] = []
    with ensure_stack(["lenet-digits"], settings=alone, on_progress=told.append) as stack:
        facts = ServerFacts.read(data_folder(alone.data_dir))
        worker = stack.supervisor.slots[0].process
        yield stack, told
    assert worker is not None
    assert not exists(worker.pid)
    assert facts is not None
    os.kill(facts.keeper, signal.SIGTERM)
    assert becomes(lambda: not exists(facts.keeper), within_s=10)


def test_a_stack_starts_what_is_missing_and_tells_so(running: tuple[Stack, list[str]]):
    stack, told = running
    assert stack.started == ["lenet-digits"]
    assert stack.redis_url.startswith("unix://")
    assert [line.split()[0] for line in told] == ["Redis:", "Starting", "Ready"]


def test_a_client_over_a_local_stack_gets_answers(running: tuple[Stack, list[str]], alone: Settings):
    stack, _ = running
    with local_stack(settings=alone) as client:
        assert len(client.classify(DIGIT).classes) == 5
        assert [record.worker for record in client.workers()] == [stack.supervisor.slots[0].process.worker_id]


def test_a_second_stack_uses_the_worker_that_runs_and_leaves_it_running(
    running: tuple[Stack, list[str]], alone: Settings
):
    stack, _ = running
    process = stack.supervisor.slots[0].process
    with ensure_stack(["lenet-digits"], settings=alone) as second:
        assert second.started == []
        assert second.redis_url == stack.redis_url
    assert stack.supervisor.slots[0].process is process
    assert stack.supervisor.slots[0].state == "ready"


def test_a_worker_that_cannot_start_ends_the_stack_with_its_words(alone: Settings, running: tuple[Stack, list[str]]):
    with (
        pytest.raises(WorkerStartError, match="No model is called 'no-such-model'"),
        ensure_stack(["lenet-digits", "no-such-model"], settings=alone),
    ):
        pass


def test_a_worker_of_ours_takes_the_place_of_one_that_went(settings: Settings, becomes: Becomes):
    assert settings.redis_url is not None
    theirs = WorkerRecord(
        worker="theirs", model="lenet-digits", digest="0" * 12, tasks=["classification"], device="cpu",
        precision="fp32", lanes=list(Lane), max_batch=1, version="0", started_at=0,
    )  # fmt: skip
    redis = connect(settings.redis_url)
    run(redis, calls.announce(theirs, settings.model_copy(update={"renew_s": 60})))
    with ensure_stack(["lenet-digits"], settings=settings) as stack:
        assert stack.started == []
        run(redis, calls.retire(theirs))
        assert becomes(lambda: stack.started == ["lenet-digits"], within_s=5)
        assert becomes(lambda: stack.supervisor.slots[0].process, within_s=5)
        pid = stack.supervisor.slots[0].process.pid
    assert not Path(f"/proc/{pid}").exists()
    redis.close()


def test_a_configured_redis_that_is_away_is_told_at_once(tmp_path: Path):
    settings = Settings(redis_url=f"unix://{tmp_path}/none.sock", data_dir=tmp_path)
    with pytest.raises(QueueUnavailableError, match="VISIONPIPE_REDIS_URL"), ensure_stack(["m"], settings=settings):
        pass


def test_logs_go_elsewhere_when_the_data_directory_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    assert make_log_folder(Settings(data_dir=tmp_path / "data")) == tmp_path / "data" / "logs"
    for unusable in (tmp_path / "file", Path("~no-such-user/data")):
        folder = make_log_folder(Settings(data_dir=unusable))
        assert folder.is_dir()
        assert folder.parent == tmp_path


def test_a_worker_that_dies_later_is_told_with_its_reason(running: tuple[Stack, list[str]], becomes: Becomes):
    stack, told = running
    slot = stack.supervisor.slots[0]
    assert slot.process is not None
    os.kill(slot.process.pid, signal.SIGKILL)
    assert becomes(lambda: any("was ended by signal 9" in line for line in told), within_s=5)
    assert becomes(lambda: slot.state == "ready", within_s=60)
    assert told[-1].endswith("is ready")


def test_several_workers_serve_a_model_where_that_is_wanted(settings: Settings):
    told: list[str] = []
    with ensure_stack(["lenet-digits"], settings=settings, workers=2, on_progress=told.append) as stack:
        assert stack.started == ["lenet-digits"] * 2
        assert len(run(connect(stack.redis_url), calls.workers())) == 2
    assert told[1].startswith("Starting 2 workers for lenet-digits ")
    with pytest.raises(SettingsError, match="at least one"), ensure_stack(["m"], settings=settings, workers=0):
        pass


def test_no_models_need_no_workers(alone: Settings, running: tuple[Stack, list[str]]):
    with ensure_stack([], settings=alone) as stack, embedded_redis(alone) as url:
        assert (stack.redis_url, stack.started) == (url, [])
