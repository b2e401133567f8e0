"""One private, real Redis server for the whole session, emptied between tests."""

from __future__ import annotations

import logging
import os
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import redis

from tests.faults import table
from tests.helpers import acl
from tests.helpers.acl import servers_under_acl
from visionpipe.redis_server import RedisServer, find_server
from visionpipe.settings import Settings

# Threads of torch that wait for work otherwise keep a core busy for milliseconds, and what the tests start beside them
# gets it late: on a full machine a small network becomes a hundred times slower. Read when torch is imported.
os.environ.setdefault("GOMP_SPINCOUNT", "500")


def pytest_configure(config: pytest.Config) -> None:
    """Hear Ctrl-C, also where the shell that started the tests in the background has it ignored by all children."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    logging.getLogger("visionpipe.threads").addHandler(LastWords(config))


class LastWords(logging.Handler):
    """Prints why a thread of a worker ends this whole process: what pytest captures would be lost with it."""

    def __init__(self, config: pytest.Config) -> None:
        super().__init__(logging.CRITICAL)
        self._capture: Any = config.pluginmanager.getplugin("capturemanager")

    def emit(self, record: logging.LogRecord) -> None:
        """Print it past the capture."""
        with self._capture.global_and_fixture_disabled():
            print(os.environ.get("PYTEST_CURRENT_TEST"), self.format(record), sep=": ", file=sys.stderr, flush=True)


@pytest.fixture(autouse=True)
def _rows_of_faults(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test adds to the table of faults travels with its report, from whichever process ran it."""
    before = len(table.rows)
    yield
    request.node.user_properties += [(table.PROPERTY, asdict(row)) for row in table.rows[before:]]


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of faults, where there were any."""
    reports = [report for some in terminalreporter.stats.values() for report in some]
    told = [report for report in reports if isinstance(report, pytest.TestReport) and report.when == "teardown"]
    found = [table.Row(**row) for report in told for name, row in report.user_properties if name == table.PROPERTY]
    if found:
        terminalreporter.section("faults")
        for line in table.lines(found):
            terminalreporter.write_line(line)
        table.write_json(found)


@pytest.fixture(scope="session", autouse=True)
def _acl() -> Iterator[None]:
    """Under ``VISIONPIPE_TEST_ACL=1`` every Redis of the tests has the users of deploy/, and denies the rest."""
    with servers_under_acl() if acl.WANTED else nullcontext():
        yield


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder whose path is short enough for unix sockets; pytest's own are not."""
    folder = Path(tempfile.mkdtemp(prefix="vpt"))
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


def start_redis(folder: Path, *, options: tuple[str, ...] = ("--appendonly", "no")) -> RedisServer:
    """Start a server in an existing folder and wait until it serves."""
    server = RedisServer(find_server(), folder / "s.sock", folder, options=options)
    server.start()
    assert server.wait_ready(20), server.log_tail()
    return server


@pytest.fixture(scope="session")
def _session_redis(short_folder: Path) -> Iterator[RedisServer]:
    folder = short_folder / "shared"
    folder.mkdir()
    server = start_redis(folder)
    yield server
    server.stop()


@pytest.fixture
def redis_url(_session_redis: RedisServer) -> Iterator[str]:
    """URL of a real, empty Redis that is shared with no other test while this one runs."""
    with redis.Redis.from_url(_session_redis.url) as connection:
        connection.flushall()
        connection.script_flush()
        yield _session_redis.url


@pytest.fixture
def redis_server() -> Iterator[RedisServer]:
    """A server of the test's own, with an append-only file, to kill and start again."""
    folder = Path(tempfile.mkdtemp(prefix="vpr"))
    server = start_redis(folder, options=("--appendonly", "yes", "--appendfsync", "everysec"))
    yield server
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture
def settings(tmp_path: Path, redis_url: str) -> Settings:
    """Settings at the speed of tests, on the session's Redis."""
    return Settings(redis_url=redis_url, data_dir=tmp_path / "data", lease_s=2, renew_s=0.4, sweep_s=0.3, drain_s=10)


@pytest.fixture(scope="session")
def becomes() -> Callable[..., bool]:
    """A function that waits until a condition holds and says whether it did."""

    def becomes(condition: Callable[[], object], *, within_s: float) -> bool:
        until = time.monotonic() + within_s
        while not (fulfilled := bool(condition())) and time.monotonic() < until:
            time.sleep(0.02)
        return fulfilled

    return becomes


@pytest.fixture(scope="session")
def exists() -> Callable[[int], bool]:
    """A function that says whether a process runs; a zombie does not."""

    def exists(pid: int) -> bool:
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except (FileNotFoundError, ProcessLookupError):
            return False

    return exists
