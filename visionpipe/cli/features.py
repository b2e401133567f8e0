"""``visionpipe features``: the images of a folder that excite units most, and what in them does."""

from __future__ import annotations

import asyncio
import re
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape

from visionpipe.aclient import AsyncClient
from visionpipe.cli.batch import EXIT_SOME_FAILED, folder_stack
from visionpipe.cli.batch_view import print_report
from visionpipe.cli.output import out as console_out
from visionpipe.cli.output import table, write_json
from visionpipe.errors import InvalidRequestError
from visionpipe.features import FeaturesReport, run_features
from visionpipe.runs.names import as_text
from visionpipe.runs.progress import OnProgress
from visionpipe.stack import Stack

MOST_ROWS = 40
"""Units that are printed."""
TELL_EVERY = 0.1
"""The second pass is told in such parts."""


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(features)


def features(
    folder: Annotated[
        Path, typer.Argument(exists=True, file_okay=False, help="Folder of images, scanned recursively.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="Where everything goes; resumes what it finds there.")],
    model: Annotated[str, typer.Option("--model", "-m", help="NAME or NAME@DIGEST.")],
    layers: Annotated[
        list[str] | None, typer.Option(help="Modules by name, comma between; the last convolution by default.")
    ] = None,
    channels: Annotated[str | None, typer.Option(help="Such as 0,1,2 or 0-15; the first 9 by default.")] = None,
    top: Annotated[int, typer.Option(min=1, max=100, help="Images of each unit.")] = 9,
    pattern: Annotated[list[str] | None, typer.Option(help="Names to take, such as '*.png'.")] = None,
    every_file: Annotated[bool, typer.Option("--all", help="Take every file, whatever its name.")] = False,
    fresh: Annotated[bool, typer.Option("--fresh", help="Throw away what OUTPUT holds of an earlier run.")] = False,
    redis_url: Annotated[str | None, typer.Option(help="Redis to use instead of the embedded one.")] = None,
    device: Annotated[str, typer.Option(help="Device of a worker started for this run.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print what was found as JSON.")] = False,
) -> None:
    """Find the images that excite units of a network most, and project what does back to pixels.

    Writes nine-patch sheets, one per layer (Zeiler & Fergus 2013), units.csv, units.json and index.html. Stopped at
    any point, the same command resumes it. Exit code: 0 all done, 3 some inputs failed, 1 an error, 130 interrupted.
    """
    console = Console(stderr=True)
    job = _Job(
        folder,
        output,
        model,
        {
            "layers": [name for word in layers or [] for name in word.split(",") if name] or None,
            "channels": parse_channels(channels) if channels else None,
            "top": top,
            "fresh": fresh,
            "more": {"patterns": tuple(pattern or ()), "every_file": every_file},
        },
    )
    report = _carry_out(console, job, redis_url, device)
    if as_json:
        write_json(_data(report))
    else:
        print_report(console, report.ranking)
        _print_units(report, output)
    for failure in report.failures:
        console.print(f"[yellow]{escape(failure.path)}, {escape(failure.layer)}: {escape(failure.message)}[/]")
    if report.ranking.failed or report.failures:
        raise typer.Exit(EXIT_SOME_FAILED)


def parse_channels(words: str) -> list[int]:
    """Read channels such as ``0,1,4-7``.

    Raises:
        InvalidRequestError: They are not of this form.
    """
    found: list[int] = []
    for word in words.replace(" ", "").split(","):
        matched = re.fullmatch(r"(\d{1,6})(?:-(\d{1,6}))?", word)
        if matched is None:
            raise InvalidRequestError(f"Expected --channels such as 0,1,2 or 0-15, got {words!r}.")
        first, last = int(matched[1]), int(matched[2] or matched[1])
        found.extend(range(first, last + 1))
    return list(dict.fromkeys(found))


@dataclass(frozen=True)
class _Job:
    folder: Path
    output: Path
    model: str
    wanted: dict[str, Any]

    async def run(
        self, stack: Stack, on_ranking: OnProgress, on_patterns: Callable[[int, int], None]
    ) -> FeaturesReport:
        """Run it; SIGTERM interrupts as Ctrl-C does."""
        ours = asyncio.current_task()
        assert ours is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, ours.cancel)
        async with AsyncClient(stack.redis_url, settings=stack.settings) as client:
            return await run_features(
                client,
                self.folder,
                self.output,
                model=self.model,
                settings=stack.settings,
                on_ranking=on_ranking,
                on_patterns=on_patterns,
                **self.wanted,
            )


def _carry_out(console: Console, job: _Job, redis_url: str | None, device: str) -> FeaturesReport:
    with folder_stack(console, job.folder, job.output, job.model, redis_url, device=device) as (stack, on_ranking):
        return asyncio.run(job.run(stack, on_ranking, _teller(console)))


def _teller(console: Console) -> Callable[[int, int], None]:
    told = 0

    def tell(done: int, total: int) -> None:
        nonlocal told
        part = int(done / total / TELL_EVERY)
        if part > told:
            told = part
            console.print(f"Projecting back {done} of {total}", style="dim", highlight=False)

    return tell


def _data(report: FeaturesReport) -> dict[str, Any]:
    return {
        "ranking": report.ranking.model_dump(mode="json"),
        "sheets": report.sheets,
        "units": [
            {
                "layer": layer,
                "channel": channel,
                "images": [{"path": as_text(image.path), "activation": image.activation} for image in images],
            }
            for (layer, channel), images in report.units.items()
        ],
        "failures": [failure._asdict() for failure in report.failures],
    }


def _print_units(report: FeaturesReport, output: Path) -> None:
    console = console_out()
    made = table("layer", "channel", "activations", "most exciting image", right=["channel"])
    for (layer, channel), images in list(report.units.items())[:MOST_ROWS]:
        strengths = f"{images[0].activation:.4g} … {images[-1].activation:.4g}" if images else "[dim]none[/]"
        made.add_row(escape(layer), str(channel), strengths, escape(as_text(images[0].path)) if images else "")
    console.print(made)
    if len(report.units) > MOST_ROWS:
        console.print(f"[dim]... and {len(report.units) - MOST_ROWS} more in units.csv[/]")
    names = [name for sheets in report.sheets.values() for name in sheets]
    for name in [*names, "units.csv", "units.json", "index.html"]:
        console.print(f"  {escape(str(output / name))}", style="dim", soft_wrap=True)
