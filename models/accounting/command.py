"""``visionpipe models profile``: what is typed, and what is shown."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from models.catalog import Catalog
from models.errors import UnsupportedOption
from models.measurements import DATA_DIR, Measurement, Measurements
from models.terminal import console_err, console_out, told

if TYPE_CHECKING:
    from models.accounting.layers import Profile
    from models.accounting.timing import Measured
    from models.catalog import Entry

Precision = Literal["fp32", "bf16", "fp16"]
"""The arithmetic that is timed, and whose width memory is told in."""
PICTURES = (".png", ".svg", ".pdf")
"""Endings of the files that a plot can be written to."""


def profile_model(
    model: Annotated[str, typer.Argument(help="name or name@digest; its weights need not be here.")],
    size: Annotated[
        str | None, typer.Option("--input", metavar="CxHxW", help="Input of the network, such as 3x224x224.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Show layers without multiply-adds, too.")] = False,
    csv_file: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="Write every row to a file.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw where the cost lies (.png, .svg or .pdf).")
    ] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time each layer on this device and set it against its roofline.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once: for memory and --measure.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Arithmetic: for memory and --measure.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N: for --measure.")] = "auto",
    runs: Annotated[int, typer.Option(min=3, help="Timed runs whose median is given.")] = 10,
    folder: Annotated[
        Path | None,
        typer.Option("--models-folder", envvar="VISIONPIPE_MODELS", help="Folder with one sub-folder per own model."),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="VISIONPIPE_DATA_DIR", help="Where --measure keeps latencies for `models choose`.")
    ] = DATA_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Say what a network costs, layer by layer: parameters, multiply-adds, memory, and what each position sees.

    Counts are those of a run of the network on one picture, in multiply-adds as torchvision publishes them.
    """
    with told():
        shape = parse_shape(size) if size is not None else None
        if plot is not None and plot.suffix.lower() not in PICTURES:
            raise UnsupportedOption(f"--plot: expected a file that ends in {', '.join(PICTURES)}, got {plot}.")
        entry = Catalog(folder).find(model)
        counted, measured = _work(entry, shape, measure, batch, precision, device, runs)
        if measured is not None:
            kept = Measurements(data_dir)
            kept.add(Measurement.of(entry.target, counted.input_shape, measured))
        _write(counted, measured, csv_file, plot)
    _print(counted, measured, everything=everything, precision=precision, batch=batch, as_json=as_json)
    for file in (csv_file, plot):
        if file is not None:
            console_err().print(f"Written: {file}", highlight=False, soft_wrap=True, markup=False)


def _work(
    entry: Entry,
    shape: tuple[int, int, int] | None,
    measure: bool,
    batch: int,
    precision: Precision,
    device: str,
    runs: int,
) -> tuple[Profile, Measured | None]:
    # Importing torch takes seconds; telling of a wrong option should not.
    from models.accounting.counting import profile

    with console_err().status(f"Counting {entry.name} ..."):
        counted = profile(entry, shape)
    if not measure:
        return counted, None
    from models.accounting.timing import assign
    from models.accounting.timing import measure as measure_model
    from models.devices import pick_device

    with console_err().status(f"Timing {entry.name} ..."):
        where = pick_device(device)
        measured = measure_model(entry, counted.input_shape, where, precision=precision, batch=batch, runs=runs)
    assign(counted, measured)
    return counted, measured


def _write(counted: Profile, measured: Measured | None, csv_file: Path | None, plot: Path | None) -> None:
    from models.accounting.export import write_csv
    from models.accounting.picture import draw_costs

    try:
        if csv_file is not None:
            write_csv(counted, measured, csv_file)
        if plot is not None:
            draw_costs(counted, plot)
    except OSError as error:
        raise UnsupportedOption(f"Expected files that can be written: {error}. Name another place.") from error


def _print(
    counted: Profile, measured: Measured | None, *, everything: bool, precision: Precision, batch: int, as_json: bool
) -> None:
    from models.accounting.export import as_facts
    from models.accounting.tables import show

    if as_json:
        typer.echo(json.dumps(as_facts(counted, measured), indent=2))
        return
    show(counted, console_out(), everything=everything, measured=measured, precision=precision, batch=batch)


def parse_shape(text: str) -> tuple[int, int, int]:
    """Read ``CxHxW``.

    Raises:
        UnsupportedOption: It is something else.
    """
    if not re.fullmatch(r"\d+x\d+x\d+", text.strip().lower()):
        raise UnsupportedOption(f"--input: expected channels, height and width such as 3x224x224, got {text!r}.")
    channels, height, width = (int(number) for number in text.strip().lower().split("x"))
    if not (channels and height and width):
        raise UnsupportedOption(f"--input: expected numbers above 0 such as 3x224x224, got {text!r}.")
    return channels, height, width
