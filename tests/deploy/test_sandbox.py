"""A worker needs no root, no capability and no file system to write to but its data folder and /tmp."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.conftest import start_redis
from visionpipe.client import Client
from visionpipe.media import MAX_OPEN
from visionpipe.settings import Settings

ROOT = Path(__file__).parents[2]
UNIT = ROOT / "deploy" / "systemd" / "visionpipe-worker@.service"
DIGIT = ROOT / "models" / "bundled" / "lenet-digits" / "parity" / "7.png"
USER = "10001"


def sandbox(data: Path) -> list[str]:
    """What the unit and compose.yaml ask for, in the words of bubblewrap."""
    return [
        "bwrap", "--ro-bind", "/", "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs", "/home",
        # Our sources may lie in one of the two.
        "--ro-bind", str(ROOT), str(ROOT),
        "--bind", str(data), "/data" if Path("/data").is_dir() else "/tmp/data",
        "--unshare-user", "--uid", USER, "--gid", USER, "--unshare-pid", "--unshare-ipc", "--unshare-uts",
        "--cap-drop", "ALL", "--new-session", "--die-with-parent", "--chdir", "/tmp",
    ]  # fmt: skip


@pytest.fixture(scope="module")
def data() -> Iterator[Path]:
    if shutil.which("bwrap") is None:
        pytest.skip("bubblewrap (bwrap) is not installed")
    folder = Path(tempfile.mkdtemp(prefix="vps"))
    try:
        tried = subprocess.run([*sandbox(folder), "true"], capture_output=True, text=True, timeout=20, check=False)
        if tried.returncode != 0:
            pytest.skip(f"the kernel allows no such sandbox here: {tried.stderr.strip()}")
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def inside(data: Path, *words: str, **env: str) -> dict[str, object]:
    """How to start a command in the sandbox."""
    kept = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "LD_LIBRARY_PATH")}
    return {"args": [*sandbox(data), *words], "env": {**kept, "HOME": "/nonexistent", **env}}


def test_the_sandbox_is_one(data):
    attempts = ["/etc/x", "/usr/x", "/var/x", "/x", str(ROOT / "x"), str(ROOT / "models" / "bundled" / "x")]
    code = (
        "import os, sys\n"
        "assert os.getuid() == int(sys.argv[1])\n"
        "for path in sys.argv[2:]:\n"
        "    try: open(path, 'w')\n"
        "    except OSError as error: print(error.strerror)\n"
        "open('/tmp/x', 'w')\n"
    )
    how = inside(data, sys.executable, "-c", code, USER, *attempts)
    done = subprocess.run(**how, capture_output=True, text=True, timeout=60, check=False)
    assert done.stderr == ""
    assert set(done.stdout.split("\n")) <= {"Read-only file system", "Permission denied", ""}
    assert done.stdout.count("\n") == len(attempts)


def test_a_worker_does_every_kind_of_work_in_it(data: Path, becomes: Callable[..., bool]):
    server = start_redis(data)
    place = sandbox(data)[sandbox(data).index("--bind") + 2]
    settings = Settings(redis_url=server.url, lease_s=3, renew_s=0.4, sweep_s=0.4)
    env = {
        "VISIONPIPE_REDIS_URL": f"unix://{place}/s.sock", "VISIONPIPE_DATA_DIR": place,
        "XDG_CACHE_HOME": f"{place}/cache",
        "MPLCONFIGDIR": f"{place}/cache/matplotlib",
        "VISIONPIPE_LEASE_S": "3", "VISIONPIPE_RENEW_S": "0.4", "VISIONPIPE_SWEEP_S": "0.4",
    }  # fmt: skip
    command = inside(data, sys.executable, "-P", "-m", "visionpipe", "worker", "lenet-digits", **env)
    with (data / "worker.log").open("wb") as log:
        worker = subprocess.Popen(**command, stdout=log, stderr=log)
    try:
        with Client(server.url, settings=settings) as client:
            assert becomes(client.workers, within_s=90), (data / "worker.log").read_text()
            facts = _status_of(_innermost(worker.pid))
            assert client.classify(DIGIT).top.label == "7"
            assert client.explain(DIGIT, model="lenet-digits", method="lime", samples=100).attributions
            assert client.embed(DIGIT, model="lenet-digits").dimensions
    finally:
        worker.terminate()
        worker.wait(30)
        server.stop()
    assert (facts["CapEff"], facts["CapBnd"], facts["NoNewPrivs"]) == ("0" * 16, "0" * 16, "1")
    said = (data / "worker.log").read_text()
    assert "Traceback" not in said
    assert "Read-only" not in said


def _innermost(pid: int) -> int:
    """The worker behind its sandbox's own processes."""
    while children := Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
        pid = int(children[0])
    return pid


def _status_of(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {name: value.strip() for name, _, value in (line.partition(":") for line in lines)}


def test_the_unit_asks_for_the_same():
    text = UNIT.read_text()
    options = dict(line.split("=", 1) for line in text.splitlines() if re.match(r"[A-Z]\w+=", line))
    assert options["User"] != "root"
    assert options["ProtectSystem"] == "strict"
    assert options["CapabilityBoundingSet"] == ""
    # Room for the folders of 64 decode threads of each lane, and as much again for all else.
    assert int(options["LimitNOFILE"]) >= 2 * 2 * 64 * MAX_OPEN
    for name in ("NoNewPrivileges", "PrivateTmp", "PrivateIPC", "ProtectHome", "RestrictNamespaces", "LockPersonality"):
        assert options[name] == "yes"


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
def test_systemd_calls_the_unit_well_protected(tmp_path):
    unit = tmp_path / UNIT.name
    unit.write_text(re.sub(r"ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text()))
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=25", str(unit)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if "unrecognized option" in done.stderr:
        pytest.skip("this systemd cannot judge a file")
    assert done.returncode == 0, done.stdout[-300:]
