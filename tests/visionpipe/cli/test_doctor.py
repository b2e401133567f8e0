"""The doctor: one line per thing, with what to do about what is wrong."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from tests.helpers import acl
from visionpipe.cli.app import app
from visionpipe.cli.checks import compute, folders, installed, redis
from visionpipe.settings import Settings

GPU = ("H100", 9, 0, 80 * 10**9)
GOOD = {"redis_version": "7.0.15", "maxmemory-policy": "noeviction", "aof_enabled": 1}


NO_TORCH = "raise ModuleNotFoundError(\"No module named 'torch'\")"


def test_it_prints_a_line_per_check_and_what_to_do(monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path))
    monkeypatch.setenv("VISIONPIPE_MODELS", str(tmp_path / "none"))
    # Importing torch takes seconds; one test with the real one is enough.
    monkeypatch.setattr(compute, "_TORCH", NO_TORCH)
    told = CliRunner().invoke(app, ["doctor"])
    assert told.exit_code == 1
    for part in (
        "pip install 'visionpipe[worker]'",
        "celery 5.7",
        "-server",
        "is no folder",
        "Create it",
        "1 to mend",
    ):
        assert part in told.stdout, told.stdout


def test_json_has_the_same_for_programs(monkeypatch, tmp_path):
    monkeypatch.setenv("VISIONPIPE_DATA_DIR", str(tmp_path))
    told = CliRunner().invoke(app, ["doctor", "--json"])
    checks = json.loads(told.stdout)
    assert told.exit_code == 0, checks
    assert {check["state"] for check in checks} <= {"ok", "note", "warn"}
    assert all(set(check) == {"name", "state", "found", "advice"} for check in checks)
    assert [check["name"] for check in checks][-2:] == ["torch", "device"]


def test_a_setting_that_cannot_be_used_fails_and_the_rest_is_still_looked_at(monkeypatch):
    monkeypatch.setenv("VISIONPIPE_LEASE_S", "soon")
    monkeypatch.setattr(compute, "_TORCH", NO_TORCH)
    told = CliRunner().invoke(app, ["doctor", "--json"])
    checks = {check["name"]: check for check in json.loads(told.stdout)}
    assert "VISIONPIPE_LEASE_S" in checks["settings"]["found"]
    assert checks["torch"]["state"] == "note"


def test_a_package_that_is_too_old_fails_with_the_command_that_mends_it(monkeypatch):
    real = installed.version
    monkeypatch.setattr(installed, "version", lambda name: "5.6.2" if name == "kombu" else real(name))
    check = installed.packages()
    assert check.state == "fail"
    assert check.advice == "pip install 'kombu<5.8,>=5.7'"


@pytest.mark.parametrize(
    ("change", "state", "advice"),
    [
        ({}, "ok", ""),
        ({"redis_version": "5.0.7"}, "fail", "6.2 or newer"),
        ({"redis_version": "6.0.16"}, "fail", "6.2 or newer"),
        ({"redis_version": "6.2.0"}, "ok", ""),
        ({"maxmemory-policy": "allkeys-lru"}, "warn", "noeviction"),
        ({"aof_enabled": 0}, "warn", "appendonly yes"),
    ],
)
def test_a_redis_is_judged_by_version_policy_and_log(change, state, advice):
    check = redis.judge(GOOD | change)
    assert check.state == state
    assert advice in check.advice


def test_a_real_redis_is_asked(redis_url):
    check = redis.configured(Settings(redis_url=redis_url))
    # The tests' server keeps no log; a worker's account may not even ask.
    state, word = ("ok", "permissions") if acl.WANTED else ("warn", "noeviction")
    assert (check.state, word in check.found) == (state, True)


def test_a_redis_that_does_not_answer_fails(tmp_path):
    check = redis.configured(Settings(redis_url=f"unix://{tmp_path}/none.sock"))
    assert check.state == "fail"
    assert "VISIONPIPE_REDIS_URL" in check.advice


def test_no_server_program_matters_only_without_a_redis(monkeypatch):
    monkeypatch.setenv("PATH", "")
    monkeypatch.setattr("visionpipe.redis_server._bundled_server", lambda: None)
    assert redis.embedded(Settings()).state == "fail"
    assert redis.embedded(Settings(redis_url="redis://there")).state == "note"


def test_the_users_models_are_listed(tmp_path):
    assert folders.models(Settings()).state == "note"
    assert folders.models(Settings(models=tmp_path)).state == "warn"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "card.toml").touch()
    check = folders.models(Settings(models=tmp_path))
    assert (check.state, check.found) == ("ok", f"mine in {tmp_path}")


def test_the_data_folder_is_judged_without_being_made(tmp_path):
    check = folders.data(Settings(data_dir=tmp_path / "not" / "yet"))
    assert check.state in ("ok", "warn")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").touch()
    assert folders.data(Settings(data_dir=tmp_path / "file" / "below")).state == "fail"


def test_few_open_files_are_a_warning():
    source = (
        "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (256, 256));"
        "from visionpipe.cli.checks.folders import open_files; print(open_files().state)"
    )
    assert subprocess.check_output([sys.executable, "-P", "-c", source], text=True, timeout=60).strip() == "warn"


def test_devices_tell_their_fast_precision():
    assert compute.device({"cuda": [GPU]}).found == "cuda:0 H100, 80.0 GB, bf16"
    assert "fp32 and fp16 only" in compute.device({"cuda": [("T4", 7, 5, 16 * 10**9)]}).found
    assert compute.device({"cuda": []}).found.startswith("cpu, ")


def test_no_compiler_is_a_warning(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compute.compiler().state == "warn"


@pytest.mark.parametrize(
    ("program", "state", "part"),
    [
        (NO_TORCH, "note", "not host models"),
        ("raise OSError('libcudart.so: wrong ELF class')", "fail", "wrong ELF class"),
        ("import os; os.abort()", "fail", "ended with status -6"),
        ("import time; time.sleep(60)", "fail", "not imported within"),
        ('print(\'{"torch": "2", "cuda": [], "fault": "no nms"}\')', "fail", "torchvision missing: no nms"),
    ],
    ids=["absent", "broken", "crashing", "hanging", "mismatched"],
)
def test_a_torch_that_does_not_work_is_told_apart(monkeypatch, program, state, part):
    monkeypatch.setattr(compute, "_TORCH", program)
    monkeypatch.setattr(compute, "TORCH_TIMEOUT_S", 3.0)
    check = next(compute.torch())
    assert check.state == state
    assert part in check.found
