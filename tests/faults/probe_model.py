"""A user's model that counts its own executions and blocks or dies where a test wants it.

Each picture is one grey; its value is its identity and, modulo ten, its class.
"""

from __future__ import annotations

from pathlib import Path

CARD = """
name = "probe"
tasks = ["classification"]
network = "probe:make"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence = "Apache-2.0"

[hooks]
preprocess = "probe:preprocess"
postprocess = "probe:postprocess"

[preprocess]
mode = "L"
mean = [0.0]
std = [1.0]

[serving]
max_batch = 8

[provenance]
origin = "the tests"
"""

CODE = '''
import os
import signal
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SWITCHES = FOLDER / "switches"


def tell(line):
    with open(FOLDER / "log", "a") as log:
        log.write(line + "\\n")


def values(x_NCHW):
    return [round(float(x.mean()) * 255) for x in x_NCHW]


def stage(name, greys):
    """Obey the switches ``<what>-<stage>-<grey>``; the grey 0 is a warm-up."""
    for grey in filter(None, greys):
        tell(f"{name} {grey}")
        for what in ("kill", "hang", "block"):
            switch = SWITCHES / f"{what}-{name}-{grey}"
            if not switch.exists():
                continue
            tell(f"{what} {name} {grey}")
            if what == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if what == "hang":
                switch.unlink()
                time.sleep(3600)
            while switch.exists():
                time.sleep(0.01)


def preprocess(image):
    grey = image.convert("L").resize((8, 8)).getpixel((0, 0))
    stage("decode", [grey])
    return torch.full((1, 8, 8), grey / 255)


class Probe(torch.nn.Module):
    def forward(self, x_NCHW):
        greys = values(x_NCHW)
        stage("forward", greys)
        return torch.tensor([[float(grey)] for grey in greys])


def postprocess(outputs):
    """After the forward pass, before the commit."""
    greys = [int(row[0]) for row in outputs]
    stage("forwarded", greys)
    return torch.nn.functional.one_hot(torch.tensor(greys) % 10, 10).float() * 20


def make():
    return Probe()
'''


class ProbeModel:
    """The model's folder, as the tests see it."""

    def __init__(self, models: Path) -> None:
        self.folder = models / "probe"
        self._switches = self.folder / "switches"
        self._switches.mkdir(parents=True)
        (self.folder / "card.toml").write_text(CARD)
        (self.folder / "probe.py").write_text(CODE)

    def reset(self) -> None:
        """Nothing was computed, nothing is switched on."""
        (self.folder / "log").write_text("")
        for switch in self._switches.iterdir():
            switch.unlink()

    def switch(self, what: str, stage: str, grey: int, *, on: bool = True) -> None:
        """Block, hang (once) or kill (each time) at a stage of one picture."""
        path = self._switches / f"{what}-{stage}-{grey}"
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def lines(self) -> list[str]:
        """What the model's own code wrote down."""
        return (self.folder / "log").read_text().splitlines()

    def executions(self, grey: int) -> int:
        """How often the network was given this picture."""
        return self.lines().count(f"forward {grey}")
