"""A kept AOTInductor package against a warmed Inductor cache: python -m tests.bench.warm_start [NETWORK...].

What a worker that starts again would wait for either, each in a process of its own, and how fast both then are.
Networks are torchvision's, with random weights; none of the figures depends on them.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from models.compiling import compile_network, load_compiled
from tests.bench.common import table
from workers.device import keep_freed_memory

NETWORKS = ("resnet18",)
SHAPE_CHW = (3, 224, 224)
BATCHES = (1, 2, 3, 5, 8)
"""What a busy worker meets in its first second."""
ROUNDS = 10
SETTINGS: dict[str, Any] = {"fx_graph_cache": True}
"""Freezing, which packages have, would keep the cache from being used."""


def make(name: str) -> torch.nn.Module:
    """Make a network as a worker has it."""
    import torchvision

    torch.manual_seed(0)
    network: torch.nn.Module = getattr(torchvision.models, name)(weights=None)
    return network.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def batch(size: int) -> torch.Tensor:
    """Make a micro-batch."""
    return torch.zeros(size, *SHAPE_CHW).contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def child(how: str, name: str, package: str) -> None:
    """Start as a worker would, and tell after how long it answers a first and every batch, and how fast it then is."""
    keep_freed_memory()
    network = make(name)
    started = time.perf_counter()
    answering: Any = network
    if how == "package":
        compile_network(network, SHAPE_CHW, Path(package), dtype=torch.float32)
        answering = load_compiled(Path(package))
    elif how == "cache":
        answering = torch.compile(network, dynamic=True, options=SETTINGS)
    first_s = 0.0
    for size in BATCHES:
        inputs = batch(size)
        answering(inputs)
        first_s = first_s or time.perf_counter() - started
    ready_s = time.perf_counter() - started
    taken = []
    for _ in range(ROUNDS):
        begun = time.perf_counter()
        answering(batch(BATCHES[-1]))
        taken.append(time.perf_counter() - begun)
    print(json.dumps([first_s, ready_s, BATCHES[-1] / statistics.median(taken)]))


def run(how: str, name: str, folder: Path) -> list[float]:
    """Have a process of its own do it."""
    environment = {**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(folder / "cache")}
    command = [sys.executable, "-P", "-m", "tests.bench.warm_start", "--child", how, name, str(folder / f"{name}.pt2")]
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    found: list[float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main(names: list[str]) -> None:
    """Print the table."""
    rows: list[list[object]] = []
    with tempfile.TemporaryDirectory(prefix="vpw") as made:
        for name in names:
            for how in ("eager", "package", "cache"):
                cold = run(how, name, Path(made))
                warm = cold if how == "eager" else run(how, name, Path(made))
                rows.append([name, how, cold[1], warm[0], warm[1], warm[2]])
    head = ["network", "how", "cold: ready s", "again: first answer s", "again: all batches s", "images/s"]
    table(f"Starting again, torch {torch.__version__}", head, rows)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main(sys.argv[1:] or list(NETWORKS))
