from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.helpers import acl
from visionpipe.embedded import MAX_SOCKET_PATH, ServerFacts, data_folder, embedded_redis, socket_path
from visionpipe.embedded_server import LINGER_S
from visionpipe.errors import EmbeddedRedisError
from visionpipe.locks import FileLock
from visionpipe.redis_server import RedisServer, find_server, ping
from visionpipe.settings import Settings

Becomes = Callable[..., bool]
Exists = Callable[[int], bool]

USER = """
import sys
from visionpipe.embedded import embedded_redis
from visionpipe.settings import Settings

with embedded_redis(Settings(data_dir=sys.argv[1])) as url:
    print(url, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def data_dir(tmp_path: Path, becomes: Becomes, exists: Exists) -> Iterator[Path]:
    """A data directory whose keeper is ended, at the latest, with the test."""
    folder = tmp_path / "data"
    yield folder
    facts = ServerFacts.read(data_folder(folder))
    # A signal to process 0 would reach the tests themselves.
    if facts and facts.keeper:
        with contextlib.suppress(ProcessLookupError):
            os.kill(facts.keeper, signal.SIGTERM)
        assert becomes(lambda: not exists(facts.keeper), within_s=10)


@pytest.fixture
def user(data_dir: Path) -> Iterator[Callable[[], subprocess.Popen[str]]]:
    """Starts processes that use the embedded Redis until their stdin is closed."""
    started: list[subprocess.Popen[str]] = []

    def start() -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-c", USER, str(data_dir)]
        started.append(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def facts_of(data_dir: Path) -> ServerFacts:
    facts = ServerFacts.read(data_folder(data_dir))
    assert facts is not None
    return facts


def queued(url: str) -> list[bytes]:
    with redis.Redis.from_url(url) as connection:
        return connection.lrange("queue", 0, -1)


def enqueue(url: str, *jobs: str) -> None:
    with redis.Redis.from_url(url) as connection:
        connection.rpush("queue", *jobs)


def test_two_processes_share_one_server(data_dir: Path, user: Callable[[], subprocess.Popen[str]]):
    first = user()
    enqueue(url_of(first), "a")
    facts = facts_of(data_dir)
    second = user()
    url = url_of(second)
    first.communicate()
    assert facts_of(data_dir) == facts
    assert queued(url) == [b"a"]


def test_six_processes_that_start_at_the_same_moment_get_one_server(
    data_dir: Path, user: Callable[[], subprocess.Popen[str]]
):
    urls = {url_of(process) for process in [user() for _ in range(6)]}
    assert len(urls) == 1
    with redis.Redis.from_url(urls.pop()) as connection:
        assert connection.info("server")["process_id"] == facts_of(data_dir).server
    assert (data_folder(data_dir) / "keeper.log").read_text().count("answers after") == 1


@pytest.mark.parametrize("how", ["leaves", "is killed"])
def test_the_server_is_gone_five_seconds_after_the_last_user(
    data_dir: Path, user: Callable[[], subprocess.Popen[str]], how: str, becomes: Becomes, exists: Exists
):
    process = user()
    enqueue(url_of(process), "a", "b")
    facts = facts_of(data_dir)
    if how == "leaves":
        process.communicate()
    else:
        process.kill()
        process.wait()
    left = time.monotonic()
    assert becomes(lambda: not exists(facts.server) and not exists(facts.keeper), within_s=LINGER_S + 3)
    assert time.monotonic() - left >= LINGER_S - 0.5
    assert not Path(facts.socket).parent.exists()
    assert queued(url_of(user())) == [b"a", b"b"]


def test_a_killed_server_is_back_within_two_seconds_with_its_queue(data_dir: Path, becomes: Becomes):
    with embedded_redis(Settings(data_dir=data_dir)) as url:
        enqueue(url, "a", "b", "c")
        before = facts_of(data_dir)
        os.kill(before.server, signal.SIGKILL)
        assert becomes(lambda: facts_of(data_dir) != before and ping(Path(before.socket)), within_s=2)
        assert queued(url) == [b"a", b"b", b"c"]


def test_a_killed_keeper_is_replaced_while_somebody_uses_the_server(data_dir: Path, becomes: Becomes, exists: Exists):
    with embedded_redis(Settings(data_dir=data_dir)) as url:
        enqueue(url, "a")
        before = facts_of(data_dir)
        os.kill(before.keeper, signal.SIGKILL)
        assert becomes(lambda: facts_of(data_dir).keeper != before.keeper, within_s=6)
        assert not exists(before.server)
        assert queued(url) == [b"a"]


def test_the_next_user_recovers_from_a_killed_keeper(
    data_dir: Path, user: Callable[[], subprocess.Popen[str]], exists: Exists
):
    process = user()
    enqueue(url_of(process), "a")
    before = facts_of(data_dir)
    process.kill()
    os.kill(before.keeper, signal.SIGKILL)
    assert queued(url_of(user())) == [b"a"]
    assert not exists(before.server)


@pytest.mark.skipif(acl.WANTED, reason="the embedded server, on a private socket, has no users")
def test_a_server_without_keeper_is_ended_before_another_has_its_data(data_dir: Path, tmp_path: Path):
    folder = data_folder(data_dir)
    folder.mkdir(parents=True)
    orphan = RedisServer(find_server(), socket_path(folder), folder, options=("--appendonly", "yes"))
    with FileLock(folder / "server.lock") as lock:
        assert lock.acquire()
        orphan.start(pass_fds=[lock.fileno()])
    assert orphan.wait_ready(10)
    assert orphan.process is not None
    ServerFacts(str(orphan.socket_path), 0, orphan.process.pid).write(folder)
    enqueue(orphan.url, "a")
    with embedded_redis(Settings(data_dir=data_dir)) as url:
        assert queued(url) == [b"a"]
        assert not orphan.alive


def test_a_removed_data_directory_ends_its_keeper_and_the_next_user_starts_afresh(
    data_dir: Path, becomes: Becomes, exists: Exists
):
    settings = Settings(data_dir=data_dir)
    with embedded_redis(settings) as url:
        enqueue(url, "a")
        before = facts_of(data_dir)
        data_folder(data_dir).rename(data_dir / "elsewhere")
    with embedded_redis(settings) as url:
        assert becomes(lambda: not exists(before.keeper), within_s=3)
        assert becomes(lambda: ping(Path(before.socket)), within_s=3)
        assert queued(url) == []


def test_a_lost_socket_file_is_replaced(data_dir: Path, becomes: Becomes):
    with embedded_redis(Settings(data_dir=data_dir)) as url:
        enqueue(url, "a")
        path = Path(facts_of(data_dir).socket)
        path.unlink()
        assert becomes(lambda: ping(path), within_s=3)
        assert queued(url) == [b"a"]


def test_a_long_data_directory_path_gets_a_short_socket_path(tmp_path: Path, data_dir: Path):
    deep = data_dir.joinpath(*["a folder with a long name"] * 8)
    assert len(os.fsencode(deep)) > 200
    deep.mkdir(parents=True)
    with embedded_redis(Settings(data_dir=deep)) as url:
        enqueue(url, "a")
        facts = facts_of(deep)
        assert len(facts.socket) <= MAX_SOCKET_PATH
        assert Path(facts.socket).parent.stat().st_mode & 0o777 == 0o700
        os.kill(facts.keeper, signal.SIGTERM)


def test_the_socket_lies_in_the_runtime_folder_if_that_is_short_enough(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    assert socket_path(tmp_path).is_relative_to(short_folder)
    long = tmp_path / ("x" * MAX_SOCKET_PATH)
    long.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(long))
    assert not socket_path(tmp_path).is_relative_to(long)
    socket_path(tmp_path).parent.rmdir()


def test_a_socket_folder_that_others_can_enter_is_refused(
    tmp_path: Path, short_folder: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(short_folder))
    socket_path(tmp_path).parent.chmod(0o777)
    with pytest.raises(EmbeddedRedisError, match="only you can enter"):
        socket_path(tmp_path)


def test_an_unusable_data_directory_is_named(tmp_path: Path):
    (tmp_path / "file").touch()
    with (
        pytest.raises(EmbeddedRedisError, match=r"cannot write to .*file.*VISIONPIPE_DATA_DIR"),
        embedded_redis(Settings(data_dir=tmp_path / "file")),
    ):
        pass


def test_a_home_that_nobody_has_is_told(tmp_path: Path):
    settings = Settings(data_dir=Path("~no-such-user/data"))
    with pytest.raises(EmbeddedRedisError, match="VISIONPIPE_DATA_DIR"), embedded_redis(settings):
        pass


def test_data_that_the_server_cannot_read_is_reported_with_its_log(data_dir: Path):
    folder = data_folder(data_dir) / "appendonlydir"
    folder.mkdir(parents=True)
    (folder / "appendonly.aof.manifest").write_text("nonsense\n")
    with (
        pytest.raises(EmbeddedRedisError, match=r"(?s)did not start: the server ended with status 1.*manifest"),
        embedded_redis(Settings(data_dir=data_dir)),
    ):
        pass


def test_a_data_directory_used_by_another_machine_is_refused(data_dir: Path):
    folder = data_folder(data_dir)
    folder.mkdir(parents=True)
    ServerFacts("/nowhere/redis.sock", 0, 0, host="elsewhere").write(folder)
    with FileLock(folder / "keeper.lock") as keeper:
        assert keeper.acquire()
        with (
            pytest.raises(EmbeddedRedisError, match=r"another machine, elsewhere"),
            embedded_redis(Settings(data_dir=data_dir)),
        ):
            pass
    (folder / "server.json").unlink()


def test_on_windows_the_way_out_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(EmbeddedRedisError, match="VISIONPIPE_REDIS_URL"), embedded_redis(Settings(data_dir=tmp_path)):
        pass
