"""Latencies measured on this machine, kept in one small JSON file.

``latencies.json`` in the data folder (``VISIONPIPE_DATA_DIR``, else ``~/.local/share/visionpipe``) holds a list: one
object for each model, input, device, precision and batch. A new measurement takes the place of an older one.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.errors import UnsupportedOption

if TYPE_CHECKING:
    from models.accounting.timing import Measured

DATA_DIR = Path("~/.local/share/visionpipe")
"""Where the file lies unless told otherwise."""
FILE = "latencies.json"
"""Its name."""


@dataclass(frozen=True)
class Measurement:
    """How long a model took."""

    model: str
    """``name@digest``."""
    input_shape: tuple[int, ...]
    """(C, H, W)."""
    device: str
    """Name of the processor or GPU."""
    precision: str
    """The arithmetic."""
    batch: int
    """Pictures at once."""
    latency_ms: float
    """Of a batch; the median."""
    runs: int
    """How many were timed."""
    measured_at: float
    """Seconds since 1970."""
    by: str = "profile"
    """``profile`` for the network as it was trained, ``bench`` for the one that a worker answers with: batch norms
    folded, compiled where it can be, and its input normalised in the same step."""

    @classmethod
    def of(cls, model: str, input_shape: tuple[int, ...], measured: Measured) -> Measurement:
        """Take what has to be remembered out of what was timed."""
        return cls(
            model, input_shape, measured.device, measured.precision, measured.batch, measured.total_ms, measured.runs,
            time.time(),
        )  # fmt: skip

    @property
    def key(self) -> tuple[Any, ...]:
        """What it is a measurement of."""
        return self.model, self.input_shape, self.device, self.precision, self.batch


class Measurements:
    """The file of measurements.

    Args:
        data_dir: The folder it lies in; made when something is written.
    """

    def __init__(self, data_dir: Path = DATA_DIR) -> None:
        self.path = data_dir.expanduser() / FILE

    def all(self) -> list[Measurement]:
        """Read everything; nothing where there is no file.

        Raises:
            UnsupportedOption: The file is damaged.
        """
        try:
            listed = json.loads(self.path.read_text(encoding="utf-8"))
            return list(_parsed(listed))
        except FileNotFoundError:
            return []
        except (OSError, ValueError, TypeError, KeyError) as error:
            raise UnsupportedOption(
                f"{self.path}: expected the latencies that `visionpipe models profile --measure` writes, got something "
                f"else ({error}). Delete the file, or name another folder by --data-dir."
            ) from error

    def find(
        self, model: str, input_shape: tuple[int, ...], *, device: str, precision: str, batch: int
    ) -> Measurement | None:
        """Find the measurement of one model under the same circumstances."""
        wanted = (model, tuple(input_shape), device, precision, batch)
        return next((one for one in self.all() if one.key == wanted), None)

    def add(self, new: Measurement) -> None:
        """Keep a measurement; an older one of the same is replaced.

        Raises:
            UnsupportedOption: The file is damaged, or cannot be written.
        """
        kept = [one for one in self.all() if one.key != new.key]
        text = json.dumps([asdict(one) for one in (*kept, new)], indent=1)
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            draft = self.path.with_name(f"{self.path.name}.{os.getpid()}.new")
            draft.write_text(text, encoding="utf-8")
            draft.replace(self.path)
        except OSError as error:
            raise UnsupportedOption(
                f"{self.path} cannot be written: {error}. Name another folder by --data-dir."
            ) from error


def _parsed(listed: list[dict[str, Any]]) -> Iterator[Measurement]:
    for fields in listed:
        yield Measurement(**{**fields, "input_shape": tuple(fields["input_shape"])})
