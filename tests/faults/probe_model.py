"""A user's model that counts its own executions, and blocks, dies, swallows memory or takes long where a test wants it.

Each picture is of one colour, a number of 24 bits; that is its identity and, modulo ten, its class.
"""

from __future__ import annotations

import io
from collections import Counter
from pathlib import Path

from PIL import Image

CARD = """
name = "{name}"
tasks = ["classification"]
network = "probe:make"
labels = ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9"]
licence = "Apache-2.0"

[hooks]
preprocess = "probe:preprocess"
postprocess = "probe:postprocess"

[preprocess]
mode = "RGB"
mean = [0.0, 0.0, 0.0]
std = [1.0, 1.0, 1.0]

[serving]
max_batch = 8

[provenance]
origin = "the tests"
"""

CODE = '''
import ctypes
import os
import signal
import time
from pathlib import Path

import torch

FOLDER = Path(__file__).parent
SWITCHES = FOLDER / "switches"


def tell(*lines):
    with open(FOLDER / "log", "a") as log:
        log.write("".join(f"{line}\\n" for line in lines))


def stage(name, numbers):
    """Obey the switches ``<what>-<stage>-<number>``; the number 0 is a warm-up."""
    numbers = [number for number in numbers if number]
    if not numbers:
        return
    tell(*(f"{name} {number}" for number in numbers))
    on = set(os.listdir(SWITCHES))
    if not on:
        return
    for number in numbers:
        for what in ("kill", "crash", "hang", "stall", "block"):
            switch = f"{what}-{name}-{number}"
            if switch in on:
                tell(f"{what} {name} {number}")
                obey(what, SWITCHES / switch)


def obey(what, switch):
    if what == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if what == "crash":
        ctypes.string_at(0)
    if what == "hang":
        switch.unlink()
    if what in ("hang", "stall"):
        time.sleep(3600)
    while switch.exists():
        time.sleep(0.01)


def amount(what):
    """Read the number in a switch that is for all pictures, if it is on."""
    try:
        return float((SWITCHES / what).read_text() or 0)
    except OSError:
        return 0.0


def preprocess(image):
    red, green, blue = image.convert("RGB").getpixel((0, 0))
    number = red + 256 * green + 65536 * blue
    stage("decode", [number])
    return torch.full((1, 8, 8), float(number))


class Probe(torch.nn.Module):
    def forward(self, x_NCHW):
        numbers = [int(value) for value in x_NCHW[:, 0, 0, 0]]
        real = [number for number in numbers if number]
        if real and (mib := amount("mib")):
            tell(f"asks for {len(real)}")
            torch.ones(int(len(real) * mib * 2**18))
            tell(f"had {len(real)}")
        stage("forward", numbers)
        if real and (seconds := amount("seconds")):
            time.sleep(seconds * len(real))
        return torch.tensor([[float(number)] for number in numbers])


def postprocess(outputs):
    """After the forward pass, before the commit."""
    numbers = [int(row[0]) for row in outputs]
    stage("forwarded", numbers)
    return torch.nn.functional.one_hot(torch.tensor(numbers) % 10, 10).float() * 20


def make():
    return Probe()
'''


def picture(number: int) -> bytes:
    """A PNG of 8x8 pixels that is a number."""
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number & 255, number >> 8 & 255, number >> 16)).save(buffer, "PNG")
    return buffer.getvalue()


class ProbeModel:
    """The model's folder, as the tests see it.

    Args:
        models: The folder of user models.
        name: The model's name.
    """

    def __init__(self, models: Path, name: str = "probe") -> None:
        self.name = name
        self.folder = models / name
        self._switches = self.folder / "switches"
        self._switches.mkdir(parents=True)
        (self.folder / "card.toml").write_text(CARD.format(name=name))
        (self.folder / "probe.py").write_text(CODE)
        self.reset()

    def reset(self) -> None:
        """Nothing was computed, nothing is switched on."""
        (self.folder / "log").write_text("")
        for switch in self._switches.iterdir():
            switch.unlink()

    def switch(self, what: str, stage: str, number: int, *, on: bool = True) -> None:
        """Block, hang (once), stall, kill or crash (each time) at a stage of one picture."""
        path = self._switches / f"{what}-{stage}-{number}"
        if on:
            path.touch()
        else:
            path.unlink(missing_ok=True)

    def each(self, what: str, amount: float) -> None:
        """Let each forward pass take so many ``seconds``, or ``mib`` of memory, per picture."""
        (self._switches / what).write_text(str(amount))

    def lines(self) -> list[str]:
        """What the model's own code wrote down."""
        return (self.folder / "log").read_text().splitlines()

    def all_executions(self) -> Counter[int]:
        """How often the network was given each picture."""
        return Counter(int(line[8:]) for line in self.lines() if line.startswith("forward "))

    def executions(self, number: int) -> int:
        """How often the network was given this picture."""
        return self.all_executions()[number]
