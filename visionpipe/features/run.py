"""Both passes over a folder: rank its images for every unit, then project the most exciting back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visionpipe.errors import InvalidRequestError
from visionpipe.extras import images_extra
from visionpipe.features.patterns import NotProjected, Patterns, discard_patterns
from visionpipe.features.ranking import Excited, UnitKey, ranked
from visionpipe.runs.folder import run_folder
from visionpipe.runs.ledger import LEDGER_NAME, Ledger
from visionpipe.runs.lock import output_lock
from visionpipe.runs.names import real_path
from visionpipe.runs.progress import OnProgress
from visionpipe.runs.report import RunReport
from visionpipe.schemas.results import FeatureVisualizationResult
from visionpipe.settings import Settings

if TYPE_CHECKING:
    from visionpipe.aclient import AsyncClient

TASK = "feature_visualization"
RANKING = "ranking"
"""Folder of the first pass: an ordinary folder run with its ledger, tables and report."""


@dataclass
class FeaturesReport:
    """What both passes found."""

    ranking: RunReport
    """The first pass: every file accounted for."""
    units: dict[UnitKey, list[Excited]]
    """Layer and channel → the most exciting images, the strongest first."""
    sheets: dict[str, list[str]]
    """Layer → its sheets, relative to the output folder."""
    failures: list[NotProjected] = field(default_factory=list)
    """What could not be projected back."""


async def run_features(
    client: AsyncClient,
    folder: Path,
    out: Path,
    *,
    model: str,
    layers: Sequence[str] | None = None,
    channels: Sequence[int] | None = None,
    max_channels: int = 9,
    top: int = 9,
    settings: Settings | None = None,
    on_ranking: OnProgress,
    on_patterns: Callable[[int, int], None],
    fresh: bool = False,
    more: Mapping[str, Any] | None = None,
) -> FeaturesReport:
    """Find what excites units; called again, it resumes where it was.

    Args:
        client: A connected client.
        folder: The images, scanned recursively.
        out: Where everything goes; outside of ``folder``.
        model: ``name`` or ``name@digest``.
        layers: Modules by their dotted names; unset means the last convolution.
        channels: Of each of those layers; unset means the first ``max_channels``.
        max_channels: How many channels of each layer where none are named.
        top: Images of each unit; 9 makes blocks of 3x3.
        settings: Media roots and limits.
        on_ranking: Told of the first pass.
        on_patterns: Told how many of how many images the second pass has done.
        fresh: Throw an earlier run in ``out`` away.
        more: Further arguments of ``run_folder``.

    Raises:
        InvalidRequestError: The model cannot do it; told before the folder is gone through.
        RunConflictError: ``out`` holds another run.
    """
    with images_extra():
        from visionpipe.features import writing
    _check_places(folder, out)
    units_wanted = _wanted(layers, channels, max_channels)
    with output_lock(out):
        if fresh:
            discard_patterns(out)
            writing.discard_sheets(out)
        if fresh or not (out / RANKING / LEDGER_NAME).exists():
            await _try_out(client, model, units_wanted)
        options = {"method": "activations", **units_wanted}
        how = {"settings": settings, "on_progress": on_ranking, "fresh": fresh, **(more or {})}
        report = await run_folder(client, folder, out / RANKING, task=TASK, model=model, options=options, **how)
        return await _projected(client, folder, out, report, top, on_patterns)


async def _projected(
    client: AsyncClient, folder: Path, out: Path, report: RunReport, top: int, on_patterns: Callable[[int, int], None]
) -> FeaturesReport:
    """Make the second pass, and write down what both found."""
    from visionpipe.features import writing

    units = await asyncio.to_thread(_ranked, out / RANKING, top)
    patterns = Patterns(client, folder, out, report.model, report.run)
    found = await patterns.make(units, on_patterns)
    subtitle = f"{report.model} · the {top} of {report.done:,} images that excite each unit most"
    writing.write_tables(out, units, found, {"model": report.model, "folder": report.folder, "top": top})
    sheets = writing.write_sheets(out, units, found, top=top, subtitle=subtitle)
    writing.write_page(out, units, found, folder, top=top, subtitle=subtitle)
    return FeaturesReport(report, units, sheets, patterns.failures)


def _wanted(layers: Sequence[str] | None, channels: Sequence[int] | None, max_channels: int) -> dict[str, Any]:
    # The most excited channels differ from image to image; a ranking needs the same of each.
    wanted: dict[str, Any] = {"max_channels": max_channels, "selection": "first"}
    if layers:
        wanted["layers"] = list(layers)
    if channels:
        wanted["channels"] = list(channels)
    return wanted


def _check_places(folder: Path, out: Path) -> None:
    if (real_path(out) + b"/").startswith(real_path(folder) + b"/"):
        raise InvalidRequestError(
            f"Expected an output folder outside of {str(folder)!r}, got {str(out)!r}: its pictures would be ranked."
        )


async def _try_out(client: AsyncClient, model: str, units: dict[str, Any]) -> None:
    """Ask for a pattern in a blank picture: what the network cannot do is told before a folder is gone through."""
    from PIL import Image

    job = await client.submit(
        FeatureVisualizationResult,
        [Image.new("L", (64, 64), 128)],
        model=model,
        options={"method": "deconvnet", "sheet": False, **units},
        wait_for_worker=True,
    )
    try:
        await job.result()
    except asyncio.CancelledError:
        with suppress(Exception):
            await job.cancel()
        raise


def _ranked(ranking: Path, top: int) -> dict[UnitKey, list[Excited]]:
    with Ledger(ranking, None) as ledger:
        return ranked(ledger.rows(), top)
