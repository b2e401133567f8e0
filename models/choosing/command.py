"""``visionpipe models choose``: what is typed, and what is shown."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from models.accounting.command import PICTURES, Precision
from models.cards import Task
from models.catalog import Catalog
from models.choosing.candidates import Candidate, Field, field_of
from models.choosing.measuring import Circumstances, Report, at_resolution, with_latencies
from models.choosing.verdicts import Budget, Verdict, faults, judge, miss
from models.errors import UnsupportedOption
from models.measurements import DATA_DIR, Measurements
from models.terminal import console_err, console_out, told

ABOVE, BELOW = 6, 8
"""Neighbours of the choice that are listed: better ones that lost, and the next best."""


def choose_model(
    task: Annotated[Task, typer.Option(help="What the network must be able to do.")],
    resolution: Annotated[
        int | None, typer.Option(min=8, help="Edge of square inputs in pixels; absent: each model's own.")
    ] = None,
    gflops: Annotated[float | None, typer.Option(min=0, help="At most so many 10^9 multiply-adds a picture.")] = None,
    params: Annotated[float | None, typer.Option(min=0, help="At most so many parameters; 5e6 is 5 million.")] = None,
    latency_ms: Annotated[float | None, typer.Option(min=0, help="At most so many milliseconds a batch, here.")] = None,
    min_accuracy: Annotated[
        float | None, typer.Option(min=0, help="At least so good: a fraction of 1, or above 1 per cent.")
    ] = None,
    metric: Annotated[str | None, typer.Option(help="Compare by this metric instead of the commonest one.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Time here what keeps to the other limits; weights need not be here.")
    ] = False,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once: for latencies.")] = 1,
    precision: Annotated[Precision, typer.Option(help="Arithmetic: for latencies.")] = "fp32",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N: for latencies.")] = "auto",
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE.png", help="Draw quality against cost (.png, .svg or .pdf).")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="List every candidate, not only neighbours.")] = False,
    folder: Annotated[
        Path | None,
        typer.Option("--models-folder", envvar="VISIONPIPE_MODELS", help="Folder with one sub-folder per own model."),
    ] = None,
    data_dir: Annotated[
        Path, typer.Option(envvar="VISIONPIPE_DATA_DIR", help="Where measured latencies are kept.")
    ] = DATA_DIR,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Find the best network for a task under a budget, and say why each neighbour lost.

    Qualities are published ones, each at the model's own resolution, and compared only where metric, data and labels
    are the same. Latencies are those measured on this machine, here, by `visionpipe models profile --measure` or by
    `visionpipe bench`.
    """
    circumstances = Circumstances(device, precision, batch)
    with told():
        if plot is not None and plot.suffix.lower() not in PICTURES:
            raise UnsupportedOption(f"--plot: expected a file that ends in {', '.join(PICTURES)}, got {plot}.")
        field = field_of(Catalog(folder).entries(), task, metric)
        if min_accuracy is not None and min_accuracy > 1 and field.unit:
            min_accuracy /= 100
        budget = Budget(gflops, params, latency_ms, min_accuracy)
        with _status() as report:
            field = _completed(field, budget, circumstances, Measurements(data_dir), resolution, measure, report)
        verdicts = judge(field.candidates, budget, field.unit)
        _draw(field, verdicts, budget, plot)
        if as_json:
            typer.echo(json.dumps(_facts(task, field, verdicts, budget, resolution), indent=2))
        else:
            _show(field, verdicts, budget, console_out(), everything=everything)
        for note in _notes(field, budget, circumstances, resolution):
            console_err().print(f"[yellow]Note:[/] {escape(note)}", highlight=False)
        if plot is not None:
            console_err().print(f"Written: {plot}", highlight=False, soft_wrap=True, markup=False)
        if not any(verdict.fits for verdict in verdicts):
            raise UnsupportedOption(nothing_fits(field, budget), task=task)


def _completed(
    field: Field,
    budget: Budget,
    circumstances: Circumstances,
    kept: Measurements,
    resolution: int | None,
    measure: bool,
    report: Report,
) -> Field:
    candidates = field.candidates
    if resolution is not None:
        candidates = at_resolution(candidates, resolution, report)
    # Torch is needed to name the device, and takes seconds.
    if budget.latency_ms is not None or measure:
        candidates = with_latencies(candidates, kept, circumstances, budget=budget, measure=measure, report=report)
    return Field(field.metric, field.data, candidates, field.others)


@contextmanager
def _status() -> Iterator[Report]:
    with console_err().status("Reading the cards ...") as status:
        yield lambda what, done, total: status.update(f"{what} ({done + 1} of {total}) ...")


def nearest_of(field: Field, budget: Budget) -> Candidate:
    """Pick the candidate that misses the budget by least."""
    return min(field.candidates, key=lambda one: (miss(one, budget), -one.quality))


def nothing_fits(field: Field, budget: Budget) -> str:
    """Say that no candidate keeps to the budget, which one is nearest, and by how much it misses."""
    nearest = nearest_of(field, budget)
    if miss(nearest, budget) == float("inf"):
        why = "; ".join(dict.fromkeys(fault for one in field.candidates[:3] for fault in faults(one, budget)))
        return (
            f"None of {len(field.candidates)} models is known to fit: {why}. Give --measure to time what keeps to the "
            "other limits, or drop a limit."
        )
    return (
        f"None of {len(field.candidates)} models fits. The nearest is {nearest.name} ({_quality(nearest, field)}): "
        f"{' and '.join(faults(nearest, budget))}, which misses by {miss(nearest, budget):.0%}. Loosen a limit."
    )


def _draw(field: Field, verdicts: Sequence[Verdict], budget: Budget, plot: Path | None) -> None:
    if plot is None:
        return
    from models.choosing.picture import draw_front

    try:
        draw_front(field, verdicts, budget, plot)
    except OSError as error:
        raise UnsupportedOption(f"--plot: {plot} cannot be written: {error}. Name another place.") from error


def _notes(field: Field, budget: Budget, circumstances: Circumstances, resolution: int | None) -> Iterator[str]:
    if resolution is not None:
        yield (
            f"multiply-adds are counted at {resolution}x{resolution}; {field.metric} is published at each model's own "
            "resolution and is lower, or higher, at another one."
        )
    missing = [one for one in field.candidates if one.latency_ms is None and one.fault is None]
    if budget.latency_ms is not None and missing:
        yield (
            f"{len(missing)} of {len(field.candidates)} models were not timed here (batch {circumstances.batch}, "
            f"{circumstances.precision}). `--measure` times those within the other limits, "
            f"`visionpipe models profile {missing[0].name} --measure` one alone."
        )
    served = [one.name for one in field.candidates if one.as_served]
    if served and len(served) < sum(one.latency_ms is not None for one in field.candidates):
        yield (
            f"the latencies of {', '.join(served)} are those of `visionpipe bench`, of the network as a worker runs "
            "it; the others are of the plain network."
        )
    if field.others:
        yield f"not compared, since they are measured otherwise: {'; '.join(field.others)}. --metric chooses."


def _show(field: Field, verdicts: Sequence[Verdict], budget: Budget, console: Console, *, everything: bool) -> None:
    chosen = next((one for one in verdicts if one.reason.startswith("chosen")), None)
    nearest = chosen.candidate.name if chosen is not None else nearest_of(field, budget).name
    console.print(
        f"[bold]{escape(field.metric)}[/] on {escape(field.data)}, {len(verdicts)} model{'s' * (len(verdicts) != 1)}, "
        f"{sum(one.fits for one in verdicts)} within the budget",
        highlight=False,
    )
    if chosen is not None:
        one = chosen.candidate
        told_costs = ", ".join(f"{value} {name}" for name, value in _costs(one) if value)
        console.print(
            f"[bold green]{escape(one.name)}[/]: {_quality(one, field)}, {told_costs}. "
            f"Serve it: [bold]visionpipe worker {escape(one.name)}[/]\n",
            highlight=False,
        )
    shown = verdicts if everything else list(neighbours(verdicts, nearest))
    console.print(_table(field, shown, "neighbours" if not everything else "all candidates"), highlight=False)
    front = sorted((one for one in verdicts if one.on_front), key=lambda one: -one.candidate.quality)
    if not everything:
        console.print("\nNothing is as good and cheaper than these:", highlight=False)
        console.print(_table(field, front, "front", with_why=False), highlight=False)


def neighbours(verdicts: Sequence[Verdict], centre: str) -> Iterator[Verdict]:
    """Pick one model, the better ones nearest to it, and the next best; all are sorted by quality."""
    place = next(index for index, one in enumerate(verdicts) if one.candidate.name == centre)
    yield from verdicts[max(0, place - ABOVE) : place + BELOW + 1]


def _table(field: Field, verdicts: Sequence[Verdict], title: str, *, with_why: bool = True) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold underline")
    table.add_column(title, overflow="fold", min_width=16)
    has_latency = any(one.candidate.latency_ms is not None for one in verdicts)
    headings = [
        field.metric,
        "GFLOPs",
        "Mparams",
        *(["ms"] if has_latency else []),
        "px",
        *(["front"] if with_why else []),
    ]
    for heading in headings:
        table.add_column(heading, justify="right", no_wrap=True)
    if with_why:
        table.add_column("why", overflow="fold", min_width=30)
    for one in verdicts:
        candidate = one.candidate
        amounts = dict(_costs(candidate))
        size = candidate.input_hw
        cells = [_quality(candidate, field), amounts["GFLOPs"], amounts["M parameters"]]
        cells += [amounts["ms"]] if has_latency else []
        cells += ["any" if size is None else str(size[0])]
        cells += ["yes" if one.on_front else "", escape(one.reason)] if with_why else []
        style = "bold green" if one.reason.startswith("chosen") else None if one.fits else "dim"
        table.add_row(escape(candidate.name), *cells, style=style)
    return table


def _costs(one: Candidate) -> Iterator[tuple[str, str]]:
    yield "GFLOPs", "" if one.gflops is None else f"{one.gflops:.3g}"
    yield "M parameters", "" if one.num_params is None else f"{one.num_params / 1e6:.3g}"
    yield "ms", "" if one.latency_ms is None else f"{one.latency_ms:.3g}"


def _quality(one: Candidate, field: Field) -> str:
    return f"{one.quality:.2%}" if field.unit else f"{one.quality:.4g}"


def _facts(
    task: Task, field: Field, verdicts: Sequence[Verdict], budget: Budget, resolution: int | None
) -> dict[str, Any]:
    return {
        "task": task,
        "metric": field.metric,
        "data": field.data,
        "resolution": resolution,
        "budget": {
            "gflops": budget.gflops, "params": budget.params, "latency_ms": budget.latency_ms,
            "min_accuracy": budget.min_accuracy,
        },
        "chosen": next((one.candidate.name for one in verdicts if one.reason.startswith("chosen")), None),
        "candidates": [
            {
                "name": one.candidate.name, "quality": one.candidate.quality, "input_size_hw": one.candidate.input_hw,
                "gflops": one.candidate.gflops, "num_params": one.candidate.num_params,
                "latency_ms": one.candidate.latency_ms, "fits": one.fits, "on_front": one.on_front,
                "reason": one.reason,
            }
            for one in verdicts
        ],
    }  # fmt: skip
