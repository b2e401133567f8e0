"""Keeps forward passes where ``visionpipe models choose`` looks for latencies."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from visionpipe.errors import SettingsError
from visionpipe.settings import Settings
from workers.benching.report import BenchReport

if TYPE_CHECKING:
    from models.catalog import Entry


def keep(report: BenchReport, entry: Entry, settings: Settings) -> Path | None:
    """Write down the forward pass of each size of micro-batch; gives the file, if something was written.

    Only where the card fixes the network's input: other latencies would be those of one picture.

    Raises:
        SettingsError: The file cannot be written.
    """
    from models.errors import ModelError
    from models.measurements import Measurement, Measurements

    size_hw = entry.card.preprocess.input_size_hw
    device = report.subject.device_name
    if size_hw is None or device is None or not report.batches:
        return None
    kept = Measurements(settings.data_dir)
    try:
        for one in report.batches:
            shape = (len(entry.card.preprocess.mode), *size_hw)
            kept.add(
                Measurement(
                    report.subject.model, shape, device, report.subject.precision, one.batch, one.ms, one.runs,
                    time.time(), by="bench",
                )
            )  # fmt: skip
    except ModelError as error:
        raise SettingsError(error.message) from error
    return kept.path
