"""The Redis of deploy/, started by its own script, with its own ACL."""

from __future__ import annotations

import os
import pwd
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from tests.helpers.deployed import DEPLOY, deployed_redis
from visionpipe.child import WorkerSpec
from visionpipe.client import Client
from visionpipe.redis_server import find_server
from visionpipe.settings import Settings
from visionpipe.supervisor import Supervisor

DIGIT = DEPLOY.parent / "models" / "bundled" / "lenet-digits" / "parity" / "7.png"


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory, becomes: Callable[..., bool]) -> Iterator[str]:
    """Host and port of a server started as compose starts it."""
    with deployed_redis(tmp_path_factory.mktemp("deployed"), becomes, "pw", "op") as port:
        yield f"127.0.0.1:{port}"


@pytest.fixture
def operator(address: str) -> Iterator[redis.Redis]:
    with redis.Redis.from_url(f"redis://operator:op@{address}", decode_responses=True) as connection:
        yield connection


def test_a_job_goes_all_the_way_and_no_command_is_refused(
    address: str, operator: redis.Redis, settings: Settings, tmp_path: Path
):
    url = f"redis://visionpipe:pw@{address}/0"
    ours = settings.model_copy(update={"redis_url": url})
    operator.acl_log_reset()
    with Supervisor(url, [WorkerSpec("lenet-digits")], ours, log_folder=tmp_path) as supervisor:
        supervisor.wait_ready(100)
        with Client(url, settings=ours) as client:
            assert client.classify(DIGIT).classes
            assert client.upload(DIGIT)
    assert operator.acl_log() == []
    strays = [key for key in operator.scan_iter() if not key.startswith(("vp:", "_kombu.binding"))]
    assert strays == []


@pytest.mark.parametrize("command", ["FLUSHALL", "CONFIG GET dir", "SET other 1", "KEYS *", "ACL LIST", "SHUTDOWN"])
def test_what_a_worker_need_not_do_it_may_not_do(address: str, command: str):
    with (
        redis.Redis.from_url(f"redis://visionpipe:pw@{address}") as connection,
        pytest.raises(redis.exceptions.NoPermissionError),
    ):
        connection.execute_command(command)


@pytest.mark.parametrize("user", ["", "default:pw@", "visionpipe:op@", "operator:pw@", "operator:@"])
def test_nobody_gets_in_without_the_right_password(address: str, user: str):
    with (
        redis.Redis.from_url(f"redis://{user}{address}") as connection,
        pytest.raises((redis.AuthenticationError, redis.exceptions.NoPermissionError)),
    ):
        connection.get("vp:x")


def test_the_server_keeps_jobs_and_never_evicts_them(operator: redis.Redis):
    assert operator.config_get("append*")["appendonly"] == "yes"
    assert operator.config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


@pytest.mark.skipif(os.geteuid() != 0 or shutil.which("setpriv") is None, reason="needs root, and setpriv to leave it")
def test_started_by_root_the_server_runs_as_somebody_else(becomes: Callable[..., bool]):
    folder = Path(tempfile.mkdtemp(prefix="vpu"))
    folder.chmod(0o755)
    try:
        # What the script's user may not read, it could not start.
        server = shutil.copy(find_server(), folder / "server")
        with deployed_redis(folder, becomes, "pw", "op", server=Path(server), env={"REDIS_RUN_AS": "nobody"}) as port:
            with redis.Redis.from_url(f"redis://operator:op@127.0.0.1:{port}") as connection:
                connection.set("vp:x", 1)
                pid = connection.info("server")["process_id"]
            owner = re.search(r"^Uid:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
            assert owner is not None
            assert owner[1] == str(pwd.getpwnam("nobody").pw_uid)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def test_the_script_refuses_to_start_without_a_password():
    command = ["sh", DEPLOY / "redis" / "start.sh", "conf", "acl"]
    done = subprocess.run(command, env={"PATH": os.environ["PATH"]}, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "set REDIS_PASSWORD" in done.stderr
