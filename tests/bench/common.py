"""What every measurement needs: a Redis, a worker process, models, pictures, a table."""

from __future__ import annotations

import io
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from visionpipe.queue import calls, connect, run
from visionpipe.redis_server import RedisServer, find_server
from visionpipe.schemas.images import BlobImage, ImageRef, MediaImage
from visionpipe.schemas.jobs import Lane
from visionpipe.settings import Settings
from visionpipe.tasks import build_request

RESNET = """
name = "{name}"
tasks = ["classification"]
network = "net:make"
licence = "Apache-2.0"
[preprocess]
resize = 256
crop = 224
[serving]
max_batch = 16
[provenance]
origin = "weights generated from a seed, for measuring only"
"""
RESNET_NETWORK = """
import numpy as np
import torch
import torchvision
from skimage import data
from sklearn.datasets import load_digits
from torch.nn import functional

def photographs():
    '''Sixteen crops, with the mean and deviation that torchvision's networks expect, about.'''
    random = np.random.default_rng(0)
    for picture in (data.astronaut(), data.coffee(), data.chelsea(), data.rocket()):
        for _ in range(4):
            top, left = (random.integers(0, side - 224) for side in picture.shape[:2])
            crop = torch.from_numpy(picture[top : top + 224, left : left + 224].copy())
            yield (crop.permute(2, 0, 1).float() / 255 - 0.45) / 0.225

def digits(number):
    found = load_digits()
    levels = torch.from_numpy(found.images[:number]).float()[:, None].expand(-1, 3, -1, -1) / 16
    enlarged = functional.interpolate(levels, size=(224, 224), mode="bicubic")
    return (enlarged - 0.45) / 0.225, torch.from_numpy(found.target[:number])

@torch.no_grad()
def make():
    torch.manual_seed(0)
    network = torchvision.models.{builder}(weights=None).train()
    for name, weights in network.named_parameters():
        # Small steps from block to block, as trained networks have them, do not blow up the rounding of fifty layers.
        if name.endswith(("bn3.weight", "layer4.0.bn2.weight")):
            weights.fill_(0.3)
    for module in network.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.momentum = None
    network(torch.stack(list(photographs())))
    head = [module for module in network.modules() if isinstance(module, torch.nn.Linear)][-1]
    taken = []
    hook = head.register_forward_pre_hook(lambda _, inputs: taken.append(inputs[0]))
    x_NCHW, targets_N = digits(64)
    network.eval()(x_NCHW)
    hook.remove()
    features_ND = taken[0]
    mean_D = features_ND.mean(0)
    centred_ND = features_ND - mean_D
    wanted_NK = functional.one_hot(targets_N, 10) - 0.1
    gram_NN = centred_ND @ centred_ND.T
    # Ridge regression, in the form that needs only as many equations as there are digits.
    gram_NN.diagonal().add_(gram_NN.diagonal().mean())
    weights_KD = 4 * (centred_ND.T @ torch.linalg.solve(gram_NN, wanted_NK)).T
    head.weight.zero_()
    head.bias.fill_(-12)
    head.weight[:10] = weights_KD
    head.bias[:10] = -weights_KD @ mean_D
    return network
"""
"""Batch norms have the statistics of photographs, and the last layer tells scikit-learn's digits: with random weights
alone every picture is one class, by margins that the least rounding moves, and no reduced precision passes."""
GENERATED = {
    "resnet18-generated": "resnet18",
    "resnet50-generated": "resnet50",
    "mobilenet-generated": "mobilenet_v3_small",
}


def write_networks(folder: Path) -> None:
    """Write user models: networks of torchvision with weights from a seed."""
    for name, builder in GENERATED.items():
        (folder / name).mkdir()
        (folder / name / "card.toml").write_text(RESNET.format(name=name))
        (folder / name / "net.py").write_text(RESNET_NETWORK.format(builder=builder))


def _cells(index: int) -> NDArray[np.uint8]:
    """A held-out scene as large as a tile."""
    from models.recipes import cells

    return cells.scene(1_000_000 + index, size_wh=(512, 512), held_out=True).image


def _page(index: int) -> NDArray[np.uint8]:
    from models.recipes import pages

    return pages.held_out().page(index).pixels


START_S = 300
"""How long workers may take to start."""
COMPILED_S = 400
"""How long compiling may take."""
DRAWN: dict[str, Callable[[int], NDArray[np.uint8]]] = {
    "unet-cells": _cells,
    "yolo-digits": _page,
    "fasterrcnn-digits": _page,
}
"""Models whose speed depends on what is in a picture, and how theirs are drawn."""


def encoded(levels: NDArray[np.uint8], file_format: str, **how: int) -> bytes:
    """Encode grey levels (H, W) or colours (H, W, 3)."""
    stream = io.BytesIO()
    Image.fromarray(levels).save(stream, file_format, **how)
    return stream.getvalue()


def pictures(model: str, number: int) -> list[bytes]:
    """Make encoded pictures: 28x28 PNG digits' size for lenet-digits, else JPEGs of about 640x480 with grain."""
    if model in DRAWN:
        drawn = [encoded(DRAWN[model](index), "PNG") for index in range(min(number, 32))]
        return [drawn[index % len(drawn)] for index in range(number)]
    random, made = np.random.default_rng(0), []
    for index in range(min(number, 64)):
        stream = io.BytesIO()
        if model.endswith("-digits"):
            side = 28 if model == "lenet-digits" else 64
            Image.fromarray(random.integers(0, 255, (side, side), dtype=np.uint8)).save(stream, "PNG")
        else:
            coarse = Image.fromarray(random.integers(0, 255, (24, 32, 3), dtype=np.uint8))
            coarse.resize((640 - index, 480), Image.Resampling.BICUBIC).save(stream, "JPEG", quality=90)
        made.append(stream.getvalue())
    return [made[index % len(made)] for index in range(number)]


@dataclass
class Stack:
    """A Redis, and a worker process that is ready."""

    model: str
    redis: Any
    settings: Settings
    process: subprocess.Popen[bytes]
    root: Path
    models: Path
    data_dir: Path
    sent: list[str] = field(default_factory=list)

    @property
    def naive_url(self) -> str:
        """The same Redis, in the words of Celery, and in a database of its own."""
        return f"{(self.settings.redis_url or '').replace('unix://', 'redis+socket://')}?virtual_host=1"

    def submit(self, refs: Sequence[ImageRef], payloads: dict[str, bytes], lane: Lane, job: str) -> str:
        """Submit one job."""
        request = build_request("classification", model=self.model, images=list(refs))
        wanted = calls.submit(request, job=job, lane=lane, client="bench", settings=self.settings, payloads=payloads)
        run(self.redis, wanted)
        return job

    def submit_blobs(self, images: Sequence[bytes], lane: Lane) -> str:
        """Submit one job whose pixels lie in Redis."""
        job = uuid.uuid4().hex[:12]
        payloads = {f"blob:{job}:{i}": data for i, data in enumerate(images)}
        return self.submit(
            [BlobImage(key=key, size_bytes=len(data)) for key, data in payloads.items()], payloads, lane, job
        )

    def submit_files(self, paths: Sequence[Path], lane: Lane) -> str:
        """Submit one job whose pixels lie in the worker's media root."""
        refs: list[ImageRef] = []
        for path in paths:
            status = path.stat()
            refs.append(
                MediaImage(
                    root="bench",
                    path=str(path.relative_to(self.root)),
                    size_bytes=status.st_size,
                    mtime_ns=status.st_mtime_ns,
                )
            )
        return self.submit(refs, {}, lane, uuid.uuid4().hex[:12])

    def ended(self, job: str) -> bool:
        """Whether a job has ended."""
        record = run(self.redis, calls.read(job))
        return record is not None and record.state.ended

    def wait(self, job: str, *, every_s: float = 0.001) -> None:
        """Wait for a job's end."""
        while not self.ended(job):
            if self.process.poll() is not None:
                raise RuntimeError("the worker ended")
            time.sleep(every_s)

    def wait_compiled(self) -> None:
        """Wait until the worker answers with compiled code, or has found that eager code is better."""
        until = time.monotonic() + COMPILED_S
        while not (code := run(self.redis, calls.workers())[0].code).startswith(("compiled", "eager:")):
            if time.monotonic() > until:
                raise RuntimeError(f"the worker says {code!r}")
            time.sleep(0.5)

    def rss_mb(self) -> float:
        """The worker's resident memory."""
        import psutil

        return float(psutil.Process(self.process.pid).memory_info().rss / 2**20)


@contextmanager
def stack(
    model: str,
    *arguments: str,
    write: Callable[[Path], None] = write_networks,
    compiling: str = "off",
    workers: int | None = 1,
) -> Iterator[Stack]:
    """Start a private Redis and workers; yields when they are ready.

    Args:
        model: What the worker hosts.
        arguments: More of its command line.
        write: Writes the models that the user's folder shall hold.
        compiling: Whether the worker compiles its network: ``off``, ``auto`` or ``now``.
        workers: How many; the first is the stack's ``process``. Unset: ``visionpipe up`` starts as many as it finds
            useful, and is the stack's ``process``.
    """
    with tempfile.TemporaryDirectory(prefix="vpb") as name:
        folder = Path(name)
        for part in ("models", "media"):
            (folder / part).mkdir()
        write(folder / "models")
        server = RedisServer(find_server(), folder / "s.sock", folder, options=("--appendonly", "no"))
        server.start()
        if not server.wait_ready(20):
            raise RuntimeError(server.log_tail())
        environment = {
            **os.environ,
            "VISIONPIPE_MODELS": str(folder / "models"),
            "VISIONPIPE_REDIS_URL": server.url,
            "VISIONPIPE_DATA_DIR": str(folder / "data"),
            "VISIONPIPE_COMPILE": compiling,
        }
        number, words = workers or 1, ["worker", "--log-level", "WARNING"] if workers else ["up"]
        command = [
            sys.executable, "-P", "-m", "visionpipe", *words, model, "--device", "cpu",
            "--media-root", f"bench={folder / 'media'}", *arguments,
        ]  # fmt: skip
        # Up tells what it does, and its workers what they do.
        told = None if workers else subprocess.DEVNULL
        crew = [
            subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=told) for _ in range(number)
        ]
        try:
            redis, until = connect(server.url), time.monotonic() + START_S
            while len(run(redis, calls.workers())) < number:
                if any(process.poll() is not None for process in crew) or time.monotonic() > until:
                    raise RuntimeError("a worker ended, or was not ready in time")
                time.sleep(0.05)
            settings = Settings(redis_url=server.url)
            yield Stack(model, redis, settings, crew[0], folder / "media", folder / "models", folder / "data")
        finally:
            for process in crew:
                process.terminate()
            for process in crew:
                process.wait(90)
            server.stop()


def start_run(
    bench: Stack, folder: Path, out: Path, *words: str, task: str = "classification"
) -> subprocess.Popen[bytes]:
    """Start ``visionpipe batch`` over a folder below the worker's media root, with more of its words."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "visionpipe", "batch", task, folder, "-o", out, "-m", bench.model, *words],
        env={
            **os.environ,
            "VISIONPIPE_REDIS_URL": bench.settings.redis_url or "",
            "VISIONPIPE_MEDIA_ROOTS": json.dumps({"bench": str(bench.root)}),
        },
        stdout=subprocess.PIPE if "--json" in words else subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def write_folder(folder: Path, encoded: Sequence[bytes], number: int) -> list[Path]:
    """Write a folder of pictures: each once, and then links to them."""
    folder.mkdir()
    suffix = "png" if encoded[0].startswith(b"\x89PNG") else "jpg"
    paths = [folder / f"{index:06}.{suffix}" for index in range(number)]
    for index, path in enumerate(paths):
        if index < len(encoded):
            path.write_bytes(encoded[index])
        else:
            path.hardlink_to(paths[index % len(encoded)])
    return paths


def service_run(bench: Stack, folder: Path, task: str) -> float:
    """Images a second of one whole folder run, from its first chunk to its last outcome."""
    out = bench.root.parent / "out"
    shutil.rmtree(out, ignore_errors=True)
    told, _ = (process := start_run(bench, folder, out, "--json", task=task)).communicate()
    if process.returncode:
        raise RuntimeError(f"the folder run ended with status {process.returncode}")
    report: dict[str, Any] = json.loads(told)
    return float(report["done"] / report["worked_s"])


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which a share of the values lies."""
    return statistics.quantiles(values, n=100, method="inclusive")[round(share * 100) - 1]


def table(title: str, head: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print rows under a title."""
    texts = [list(head), *[[f"{cell:.2f}" if isinstance(cell, float) else str(cell) for cell in row] for row in rows]]
    widths = [max(len(row[column]) for row in texts) for column in range(len(head))]
    print(f"\n{title}")
    for row in texts:
        print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)))
