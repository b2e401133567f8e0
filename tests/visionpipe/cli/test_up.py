from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from visionpipe.queue import calls, connect, run
from visionpipe.settings import Settings

Becomes = Callable[..., bool]


def command(*words: str) -> list[str]:
    return [sys.executable, "-P", "-m", "visionpipe", "up", *words]


@pytest.fixture
def env(settings: Settings, tmp_path: Path) -> dict[str, str]:
    assert settings.redis_url is not None
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
    ours = {"VISIONPIPE_REDIS_URL": settings.redis_url, "VISIONPIPE_DATA_DIR": str(tmp_path)}
    return {**inherited, **ours, "VISIONPIPE_RENEW_S": "0.4", "VISIONPIPE_SWEEP_S": "0.3", "COLUMNS": "120"}


def test_up_serves_until_it_is_told_to_end_and_leaves_no_worker(
    env: dict[str, str], redis_url: str, tmp_path: Path, becomes: Becomes
):
    scans = tmp_path / "scans"
    scans.mkdir()
    redis = connect(redis_url)
    with (tmp_path / "log").open("wb") as log:
        words = command("lenet-digits", "--media-root", f"scans={scans}")
        process = subprocess.Popen(words, env=env, stdout=log, stderr=log)
    assert becomes(lambda: "is ready" in (tmp_path / "log").read_text(), within_s=80), (tmp_path / "log").read_text()
    (record,) = run(redis, calls.workers())
    assert (record.model, record.media_roots) == ("lenet-digits", ["scans"])
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    assert run(redis, calls.workers()) == []
    redis.close()
    said = (tmp_path / "log").read_text()
    assert said.index("Redis: as configured") < said.index("starts (pid") < said.index("is ready")
    assert said.rstrip().endswith("All workers have ended")


def test_up_on_a_terminal_shows_a_table_and_ends_at_ctrl_c(env: dict[str, str]):
    terminal, theirs = pty.openpty()
    process = subprocess.Popen(command("lenet-digits"), env={**env, "TERM": "xterm"}, stdin=theirs, stderr=theirs)
    os.close(theirs)
    shown = ""
    while "restarts" not in shown or "starts (pid" not in shown:
        shown += os.read(terminal, 4096).decode()
    process.send_signal(signal.SIGINT)
    while chunk := read_or_end(terminal):
        shown += chunk
    assert process.wait(30) == 0
    os.close(terminal)
    assert "starting" in shown
    assert "All workers have ended" in shown


def read_or_end(terminal: int) -> str:
    try:
        return os.read(terminal, 4096).decode(errors="replace")
    except OSError:
        return ""


def test_a_media_root_that_is_no_folder_is_refused(env: dict[str, str]):
    done = subprocess.run(
        command("lenet-digits", "--media-root", "scans=/no/such/folder"), env=env, capture_output=True, text=True,
        timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "NAME=PATH with an existing folder" in done.stderr
