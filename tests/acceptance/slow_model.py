"""A model that takes its time and logs every image it computes: an independent counter of forward passes."""

from __future__ import annotations

from pathlib import Path

CARD = """
name = "slow"
tasks = ["classification"]
network = "slow_network:build"
labels = ["dark", "bright"]
licence = "Apache-2.0"

[arguments]
log = "{log}"
seconds = {seconds}

[preprocess]
mode = "L"
resize = [8, 8]
mean = [0.0]
std = [1.0]

[serving]
max_batch = 4

[provenance]
origin = "the test"
"""

NETWORK = '''
import os
import time

import torch


class Slow(torch.nn.Module):
    """Tells dark pictures from bright ones, slowly; logs the grey of each plain one that is not black."""

    def __init__(self, log, seconds):
        super().__init__()
        self.log, self.seconds = log, seconds

    def forward(self, x_NCHW):
        time.sleep(self.seconds * len(x_NCHW))
        means = x_NCHW.float().mean(dim=(1, 2, 3))
        greys = [round(float(x.mean()) * 255) for x in x_NCHW if x.max() == x.min() and x.max() > 0]
        with open(self.log, "a") as log:
            log.write("".join(f"{os.getpid()} {grey}\\n" for grey in greys))
        return torch.stack([1 - means, means], dim=1) * 20


def build(log, seconds):
    return Slow(log, seconds)
'''


def write_slow_model(models: Path, log: Path, *, seconds: float) -> None:
    """Put the model into a user folder.

    Args:
        models: The folder that ``VISIONPIPE_MODELS`` names.
        log: Where each forward pass of a plain picture that is not black leaves a line: process id and grey.
        seconds: Per image.
    """
    folder = models / "slow"
    folder.mkdir(parents=True)
    (folder / "card.toml").write_text(CARD.format(log=log, seconds=seconds))
    (folder / "slow_network.py").write_text(NETWORK)
