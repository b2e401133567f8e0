from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from visionpipe.child import _MAX_LOG_BYTES, WorkerProcess, WorkerSpec, settings_environment
from visionpipe.settings import Settings, load_settings

SETTINGS = Settings(redis_url="redis://user:secret@host:1/0", lease_s=3, media_roots={"scans": Path("/mnt/scans")})


@dataclass(frozen=True)
class Script(WorkerSpec):
    """A small program in a worker's place."""

    model: str = "script"
    source: str = ""

    def command(self, worker_id: str) -> list[str]:
        return [sys.executable, "-c", self.source, worker_id]


def run_to_end(source: str, log: Path, becomes: Callable[..., bool]) -> WorkerProcess:
    process = WorkerProcess(Script(source=source), SETTINGS, log)
    assert becomes(process.reap, within_s=20)
    return process


def test_a_spec_spells_the_command_line_of_its_worker():
    spec = WorkerSpec(
        "resnet50@0123456789ab",
        device="cuda:1",
        max_batch=8,
        lanes=("bulk",),
        media_roots={"a": Path("/b")},
        http_port=0,
    )
    assert " ".join(spec.command("w1")[1:]) == (
        "-P -m visionpipe worker resnet50@0123456789ab --worker-id w1 --device cuda:1 --precision auto "
        "--max-batch 8 --lanes bulk --http-port 0 --media-root a=/b"
    )


def test_settings_survive_the_way_through_the_environment(monkeypatch: pytest.MonkeyPatch):
    spelt = settings_environment(SETTINGS)
    assert set(spelt) == {"VISIONPIPE_REDIS_URL", "VISIONPIPE_LEASE_S", "VISIONPIPE_MEDIA_ROOTS"}
    for name, value in spelt.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == SETTINGS


def test_a_worker_gets_the_settings_given_and_no_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, becomes: Callable[..., bool]
):
    monkeypatch.setenv("VISIONPIPE_HANG_S", "1")
    source = "import os; print(sorted(name for name in os.environ if name.startswith('VISIONPIPE_')))"
    process = run_to_end(source, tmp_path / "log", becomes)
    assert process.last_words() == "['VISIONPIPE_LEASE_S', 'VISIONPIPE_MEDIA_ROOTS', 'VISIONPIPE_REDIS_URL']"


def test_the_redis_password_stands_on_no_command_line():
    assert not any("secret" in word for word in WorkerSpec("m").command("w1"))


def test_a_dead_worker_leaves_its_exit_code_and_last_words(tmp_path: Path, becomes: Callable[..., bool]):
    log = tmp_path / "worker.log"
    log.write_text("from an earlier run\n")
    process = run_to_end("print('one'); import sys; sys.exit('no weights')", log, becomes)
    assert process.exit_code == 1
    assert process.last_words().splitlines() == ["one", "no weights"]


def test_what_a_dead_worker_started_ends_with_it(
    tmp_path: Path, becomes: Callable[..., bool], exists: Callable[[int], bool]
):
    source = "import subprocess; print(subprocess.Popen(['sleep', '60']).pid)"
    process = run_to_end(source, tmp_path / "log", becomes)
    assert becomes(lambda: not exists(int(process.last_words())), within_s=2)


def test_a_long_log_is_moved_aside_while_its_writer_goes_on(tmp_path: Path, becomes: Callable[..., bool]):
    log = tmp_path / "worker.log"
    source = (
        f"import sys, time; sys.stdout.write('x' * {_MAX_LOG_BYTES + 1} + '\\n'); sys.stdout.flush()\n"
        "import os\nwhile os.path.getsize(sys.stdout.fileno()): time.sleep(0.01)\nprint('afterwards')"
    )
    process = WorkerProcess(Script(source=source), SETTINGS, log)
    assert becomes(lambda: log.stat().st_size > _MAX_LOG_BYTES, within_s=20)
    process.trim_log()
    assert becomes(process.reap, within_s=20)
    assert log.read_text() == "afterwards\n"
    assert (tmp_path / "worker.log.1").stat().st_size > _MAX_LOG_BYTES


def test_a_log_that_cannot_be_moved_aside_is_left_as_it_is(tmp_path: Path, becomes: Callable[..., bool]):
    log = tmp_path / "worker.log"
    (tmp_path / "worker.log.1").mkdir()
    process = run_to_end(f"print('x' * {_MAX_LOG_BYTES + 1})", log, becomes)
    process.trim_log()
    assert log.stat().st_size > _MAX_LOG_BYTES
    assert process.last_words().endswith("x")


def test_output_without_a_log_goes_to_ours(capfd: pytest.CaptureFixture[str], becomes: Callable[..., bool]):
    process = WorkerProcess(Script(source="print('hello')"), SETTINGS, None)
    assert becomes(process.reap, within_s=20)
    assert capfd.readouterr().out == "hello\n"
    assert process.last_words() == ""


def test_ids_name_the_starter_and_are_never_the_same(tmp_path: Path, becomes: Callable[..., bool]):
    first = run_to_end("", tmp_path / "log", becomes)
    second = run_to_end("", tmp_path / "log", becomes)
    assert first.worker_id != second.worker_id
    assert f"-{os.getpid()}-" in first.worker_id
