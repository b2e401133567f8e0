"""The queue over TLS: certificates are checked everywhere, and a planted password is found nowhere."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from typer.testing import CliRunner

from tests.helpers.deployed import DEPLOY, deployed_redis
from tests.helpers.tls import authority, signed, terminated
from visionpipe.child import WorkerSpec
from visionpipe.cli.app import app
from visionpipe.cli.checks import compute
from visionpipe.client import Client
from visionpipe.errors import QueueUnavailableError
from visionpipe.queue import connect, make_app
from visionpipe.settings import Settings
from visionpipe.stack import ensure_stack
from visionpipe.supervisor import Supervisor

pytestmark = pytest.mark.skipif(
    shutil.which("openssl") is None, reason="openssl, which makes the certificates, is not here"
)

SECRET = "planted-8f2e61c0"
DIGIT = DEPLOY.parent / "models" / "bundled" / "lenet-digits" / "parity" / "7.png"


class Guarded(NamedTuple):
    """A Redis behind TLS."""

    port: int
    plain_port: int
    ca: Path
    folder: Path

    def url(self, *, host: str = "localhost", ca: Path | None = None, port: int | None = None) -> str:
        """The worker's URL."""
        return f"rediss://visionpipe:{SECRET}@{host}:{port or self.port}/0?ssl_ca_certs={ca or self.ca}"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory, becomes: Callable[..., bool]) -> Iterator[Guarded]:
    """The Redis of deploy/ behind TLS; a terminator gives it, since the server in our extra is built without."""
    folder = tmp_path_factory.mktemp("tls")
    ca = authority(folder, "ours")
    certificate = signed(folder, ca, "server", "DNS:localhost")
    with (
        deployed_redis(tmp_path_factory.mktemp("deployed"), becomes, SECRET, f"{SECRET}-operator") as port,
        terminated(*certificate, ("127.0.0.1", port)) as front,
    ):
        yield Guarded(front.port, port, ca, folder)


def _ways(url: str) -> dict[str, Callable[[], object]]:
    """Every way in which the product connects."""

    def through_kombu() -> None:
        with make_app(url).connection_for_read() as connection:
            connection.ensure_connection(max_retries=0)

    def as_client() -> None:
        with Client(url, settings=Settings()) as client:
            client.workers()

    return {"redis-py": lambda: connect(url).ping(), "kombu": through_kombu, "a client": as_client}


@pytest.mark.parametrize("way", ["redis-py", "kombu", "a client"])
def test_every_connection_trusts_the_named_authority_alone(guarded: Guarded, way: str, tmp_path: Path):
    _ways(guarded.url())[way]()
    stranger = authority(tmp_path, "stranger")
    for url in (guarded.url(ca=stranger), guarded.url(host="127.0.0.1"), guarded.url().partition("?")[0]):
        with pytest.raises(Exception, match=r"(?i)certificate") as caught:
            _ways(url)[way]()
        assert SECRET not in repr(caught.value)


def test_whoever_stands_between_with_another_certificate_hears_nothing(guarded: Guarded, tmp_path: Path):
    stranger = authority(tmp_path, "stranger")
    certificate = signed(tmp_path, stranger, "between", "DNS:localhost")
    with terminated(*certificate, ("127.0.0.1", guarded.plain_port)) as between:
        for connect_so in _ways(guarded.url(port=between.port)).values():
            with pytest.raises(Exception, match=r"(?i)certificate"):
                connect_so()
        assert between.heard == b""


def test_a_server_with_tls_of_its_own_serves_too(guarded: Guarded, tmp_path: Path, becomes: Callable[..., bool]):
    server = shutil.which("redis-server") or shutil.which("valkey-server")
    if server is None or not _has_tls(Path(server), guarded.folder):
        pytest.skip("no server with TLS on PATH; the one in our extra is built without")
    files = {kind: guarded.folder / f"server.{kind}" for kind in ("crt", "key")}
    options = ("--port", "0", "--tls-port", "{port}", "--tls-cert-file", str(files["crt"]), "--tls-key-file",
               str(files["key"]), "--tls-ca-cert-file", str(guarded.ca), "--tls-auth-clients", "no")  # fmt: skip
    url = f"rediss://operator:{{operator}}@localhost:{{port}}?ssl_ca_certs={guarded.ca}"
    with deployed_redis(tmp_path, becomes, SECRET, "op", server=Path(server), options=options, url=url) as port:
        for connect_so in _ways(guarded.url(port=port)).values():
            connect_so()


def _has_tls(server: Path, folder: Path) -> bool:
    options = ["--port", "0", "--tls-port", "0", "--tls-cert-file", str(folder / "none.crt"), "--unixsocket", "s.sock"]
    with subprocess.Popen(
        [server, *options, "--tls-port", "1"], cwd=folder, stdout=subprocess.PIPE, text=True
    ) as process:
        said, _ = process.communicate(timeout=10)
    return "Missing implement of connection type tls" not in said and "Failed finding TLS support" not in said


def _said_by(url: str, *words: str, folder: Path) -> str:
    """What a command prints, with the traceback that ``--debug`` would show."""
    env = {"VISIONPIPE_REDIS_URL": url, "VISIONPIPE_DATA_DIR": str(folder), "COLUMNS": "200"}
    done = CliRunner().invoke(app, words, env=env)
    return f"{done.output} {''.join(traceback.format_exception(*done.exc_info)) if done.exc_info else ''}"


def test_a_planted_password_is_found_in_no_log_error_repr_title_or_record(
    guarded: Guarded, tmp_path: Path, becomes: Callable[..., bool], monkeypatch: pytest.MonkeyPatch
):
    # The doctor would import torch in a process of its own.
    monkeypatch.setattr(compute, "_TORCH", "raise ModuleNotFoundError('torch')")
    url, away = guarded.url(), guarded.url(port=1)
    settings = Settings(redis_url=url, data_dir=tmp_path, lease_s=2, renew_s=0.4, sweep_s=0.3, drain_s=5)
    said: dict[str, str] = {}
    told: list[str] = []
    spec = WorkerSpec("lenet-digits")
    with Supervisor(url, [spec], settings, log_folder=tmp_path / "logs", on_event=told.append) as supervisor:
        supervisor.wait_ready(120)
        with Client(url, settings=settings) as client:
            job = client.submit("classification", DIGIT, model="lenet-digits")
            said["client"] = f"{client!r} {settings!r} {job!r} {job.result()!r}"
        process = supervisor.slots[0].process
        assert process is not None
        said["supervisor"] = f"{supervisor!r} {supervisor.slots!r} {spec!r}"
        said["titles"] = _titles(process.pid)
        for words in (("status",), ("status", "--json"), ("status", "--ready", "none"), ("doctor",)):
            said[" ".join(words)] = _said_by(url, *words, folder=tmp_path)
        with connect(url) as redis:
            said["records"] = repr([redis.hgetall(f"vp:job:{job.id}"), redis.hgetall("vp:workers")])
        os.kill(process.pid, signal.SIGKILL)
        assert becomes(lambda: any("signal 9" in event for event in told), within_s=20)
    for name, wrong in (("away", away), ("refused", url.replace(SECRET, f"{SECRET}-wrong"))):
        said[name] = "".join(_said_by(wrong, "--debug", word, folder=tmp_path) for word in ("status", "doctor"))
    said["logs"] = "".join(path.read_text() for path in (tmp_path / "logs").iterdir())
    said["events"] = repr(told)
    with pytest.raises(QueueUnavailableError) as caught, ensure_stack([], settings=Settings(redis_url=away)):
        pass
    said["error"] = f"{caught.value} {caught.value!r} {caught.value.__cause__!r}"
    assert "lenet-digits" in said["status"]
    assert "Traceback" in said["away"]
    assert "ready" in said["logs"]
    assert "visionpipe" in said["titles"]
    assert {place: text for place, text in said.items() if SECRET in text} == {}


def _titles(pid: int) -> str:
    """The command lines of a process, of its neighbours from the same parent, and of this one."""
    return "".join(
        path.read_text(errors="replace") for path in Path("/proc").glob("[0-9]*/cmdline") if _ours(path, pid)
    )


def _ours(path: Path, pid: int) -> bool:
    try:
        return (
            path.parent.name in (str(pid), str(os.getpid())) or f" {os.getpid()} " in (path.parent / "stat").read_text()
        )
    except OSError:
        return False
