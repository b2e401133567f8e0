from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import redis

from visionpipe.errors import EmbeddedRedisError
from visionpipe.redis_server import RedisServer, find_server, ping, server_version
from visionpipe.settings import Settings


def fake_server(folder: Path, said: str) -> Path:
    folder.mkdir(exist_ok=True)
    program = folder / "redis-server"
    program.write_text(f"#!/bin/sh\necho '{said}'\n")
    program.chmod(0o755)
    return program


def test_each_test_gets_an_empty_redis(redis_url: str):
    with redis.Redis.from_url(redis_url) as connection:
        assert connection.dbsize() == 0
        connection.set("vp:left", "behind")


def test_what_one_test_leaves_behind_the_next_does_not_see(redis_url: str):
    with redis.Redis.from_url(redis_url) as connection:
        assert connection.dbsize() == 0


def test_the_settings_of_tests_point_at_that_redis(settings: Settings, redis_url: str):
    assert settings.redis_url == redis_url
    assert settings.lease_s < 5


def test_a_killed_server_keeps_its_data_and_starts_again(redis_server: RedisServer):
    with redis.Redis.from_url(redis_server.url) as connection:
        connection.rpush("vp:list", "a", "b")
        assert redis_server.process is not None
        os.kill(redis_server.process.pid, signal.SIGKILL)
        redis_server.process.wait(5)
        assert not redis_server.alive
        assert not ping(redis_server.socket_path)
        redis_server.start()
        assert redis_server.wait_ready(10)
        assert connection.lrange("vp:list", 0, -1) == [b"a", b"b"]


def test_a_stopped_server_is_gone(redis_server: RedisServer):
    redis_server.stop()
    assert not redis_server.alive
    assert not redis_server.wait_ready(0.2)


def test_the_version_of_a_real_server_is_new_enough():
    assert server_version(find_server()) >= (6, 2)


def test_a_program_that_is_no_server_has_no_version(tmp_path: Path):
    assert server_version(fake_server(tmp_path / "bin", "hello")) == ()
    assert server_version(tmp_path / "absent") == ()


def test_a_server_on_the_path_that_is_too_old_is_passed_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    program = fake_server(tmp_path / "bin", "Redis server v=6.0.16 sha=0")
    monkeypatch.setenv("PATH", str(program.parent))
    assert find_server().name == "valkey-server"
    monkeypatch.setattr("visionpipe.redis_server._bundled_server", lambda: None)
    with pytest.raises(EmbeddedRedisError, match=r"6\.0\.16.*6\.2 or newer.*visionpipe\[embedded\]"):
        find_server()


def test_no_server_at_all_says_which_package_brings_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("visionpipe.redis_server._bundled_server", lambda: None)
    with pytest.raises(EmbeddedRedisError, match=r"no redis-server.*visionpipe\[embedded\].*VISIONPIPE_REDIS_URL"):
        find_server()
