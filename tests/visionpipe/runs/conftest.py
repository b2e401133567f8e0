"""A Redis and a worker of the bundled digits model, shared by all tests of folder runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from visionpipe.aclient import AsyncClient
from visionpipe.redis_server import RedisServer, find_server
from visionpipe.settings import Settings

MODEL = "lenet-digits"
ROOT = "pictures"


@pytest.fixture(scope="session")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """Settings of a Redis that a real worker serves; the worker mounts the root ``pictures``."""
    folder, pictures = Path(tempfile.mkdtemp(prefix="vpr")), tmp_path_factory.mktemp("pictures")
    server = RedisServer(find_server(), folder / "s.sock", folder, options=("--appendonly", "no"))
    server.start()
    assert server.wait_ready(20), server.log_tail()
    settings = Settings(
        redis_url=server.url, data_dir=folder, lease_s=5, renew_s=0.3, sweep_s=0.3, media_roots={ROOT: pictures}
    )
    command = [
        sys.executable,
        "-m",
        "visionpipe",
        "worker",
        MODEL,
        "--device",
        "cpu",
        "--media-root",
        f"{ROOT}={pictures}",
    ]
    log = (folder / "worker.log").open("wb")
    worker = subprocess.Popen(command, env=environment(settings), stdout=log, stderr=log)
    yield settings
    worker.terminate()
    assert worker.wait(60) == 0, (folder / "worker.log").read_text()
    log.close()
    server.stop()
    shutil.rmtree(folder, ignore_errors=True)


def environment(settings: Settings) -> dict[str, str]:
    """The environment of a process that shares these settings."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("VISIONPIPE_")}
    names = ("redis_url", "data_dir", "lease_s", "renew_s", "sweep_s")
    return {**clean, **{f"VISIONPIPE_{name.upper()}": str(getattr(settings, name)) for name in names}}


@pytest.fixture
def service(served: Settings) -> Settings:
    """The same, with an empty Redis in which the worker has announced itself again."""
    with redis.Redis.from_url(served.redis_url or "") as connection:
        connection.flushall()
        until = time.monotonic() + 60
        while not list(connection.scan_iter("vp:worker*")):
            assert time.monotonic() < until, "the worker never announced itself"
            time.sleep(0.05)
    return served


@pytest.fixture
async def client(service: Settings):
    """A client of that service."""
    async with AsyncClient(settings=service) as client:
        yield client


@pytest.fixture(scope="session")
def digit_files(tmp_path_factory: pytest.TempPathFactory) -> list[tuple[bytes, str]]:
    """All of scikit-learn's digits as PNG bytes, with their true labels."""
    import io

    from PIL import Image

    from models.recipes import digits

    files = []
    for pixels_HW, label in zip(digits.pixels(), digits.targets(), strict=True):
        buffer = io.BytesIO()
        Image.fromarray(pixels_HW).save(buffer, "PNG")
        files.append((buffer.getvalue(), str(label)))
    return files


@pytest.fixture
def digit_folder(tmp_path: Path, digit_files: list[tuple[bytes, str]]) -> Path:
    """A folder of 200 digits, named ``<index>-<true label>.png``."""
    return write_digits(tmp_path / "in", digit_files, 200)


def write_digits(folder: Path, files: list[tuple[bytes, str]], count: int) -> Path:
    """Write as many digits as asked for, over and over if need be."""
    folder.mkdir(parents=True)
    for index in range(count):
        data, label = files[index % len(files)]
        (folder / f"{index:05}-{label}.png").write_bytes(data)
    return folder
