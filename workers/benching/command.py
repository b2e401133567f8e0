"""``visionpipe bench``: what is typed, and what is shown."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from visionpipe.cli.output import err, out, write_json
from visionpipe.errors import InvalidRequestError, SettingsError
from visionpipe.settings import Settings, load_settings
from workers.benching.asking import asked, find
from workers.benching.contenders import Contender, parse_contender
from workers.benching.running import Plan, bench

app = typer.Typer(help="Measure a model on this machine through the real service, and say what holds it back.")

PICTURES = (".png", ".svg", ".pdf")


@app.command("bench")
def bench_command(
    models: Annotated[
        list[str], typer.Argument(metavar="MODEL...", help="NAME or NAME:KEY=VALUE,... (two with --compare).")
    ],
    compare: Annotated[bool, typer.Option("--compare", help="Measure two in turns: A B.")] = False,
    task: Annotated[str | None, typer.Option(help="What to ask; absent: the model's first task.")] = None,
    option: Annotated[
        list[str] | None, typer.Option("-O", help="KEY=VALUE, an option of the task; @FILE is an image.")
    ] = None,
    style: Annotated[list[str] | None, typer.Option(help="Picture whose style is wanted; repeat for several.")] = None,
    images: Annotated[
        Path | None, typer.Option(exists=True, file_okay=False, help="Folder to take pictures from.")
    ] = None,
    concurrency: Annotated[
        str | None, typer.Option(help="Requests in flight, by comma; absent: doubled while that helps.")
    ] = None,
    rates: Annotated[
        str | None, typer.Option("--rate", help="Requests a second, by comma: sent at random moments instead.")
    ] = None,
    seconds: Annotated[float, typer.Option(min=0.1, help="Of each load.")] = 4.0,
    rounds: Annotated[
        int | None,
        typer.Option(min=0, help="Folder runs beside the bare stages, 3; 0 leaves them out. With --compare, 5."),
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda or cuda:N.")] = None,
    precision: Annotated[str | None, typer.Option(help="auto, fp32, bf16 or fp16.")] = None,
    max_batch: Annotated[int | None, typer.Option(min=1, help="Largest micro-batch of the worker.")] = None,
    most_workers: Annotated[int | None, typer.Option(min=1, help="Try so many workers at most.")] = None,
    redis_url: Annotated[str | None, typer.Option(help="Instead of VISIONPIPE_REDIS_URL.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE.png", help="Draw throughput and latency.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON for programs.")] = False,
) -> None:
    """Measure a model on this machine through the real service, and say what holds it back.

    Single requests at rising load; folder runs beside the bare stages (decoding, the network) in turns; the forward
    pass by size of micro-batch; folder runs by more workers, where those leave cores idle. A private Redis and worker
    are started; without --compare, workers behind VISIONPIPE_REDIS_URL that serve the model are used as they are.
    Keys of NAME:KEY=VALUE are device, precision, max_batch, workers, decode_threads, full_decode and compile.
    """
    if plot is not None and plot.suffix.lower() not in PICTURES:
        raise SettingsError(f"--plot: expected a file that ends in {', '.join(PICTURES)}, got {plot}.")
    plan = Plan(
        seconds=seconds,
        in_flight=[round(number) for number in numbers(concurrency, "--concurrency", least=1)],
        rates=numbers(rates, "--rate", least=0.01),
        rounds=(5 if compare else 3) if rounds is None else rounds,
        folder_s=1.5 * seconds,
        most_workers=most_workers,
    )
    defaults = {"device": device, "precision": precision, "max_batch": max_batch}
    contenders = [parse_contender(word, defaults) for word in models]
    settings = load_settings(redis_url=redis_url)
    ask = {"task": task, "words": option or [], "styles": style or [], "images": images}
    console = err()
    with console.status("Starting ...") as status:
        tell: Callable[[str], None] = lambda line: status.update(line) if console.is_terminal else console.print(line)  # noqa: E731
        if compare:
            _compare(contenders, settings, ask, plan, tell, plot=plot, as_json=as_json)
        else:
            _bench(contenders, settings, ask, plan, tell, plot=plot, as_json=as_json)


def _bench(
    contenders: list[Contender], settings: Settings, ask: dict[str, Any], plan: Plan, tell: Callable[[str], None],
    *, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    if len(contenders) != 1:
        raise InvalidRequestError("Expected one model, or --compare with two.")
    entry = find(contenders[0].model, settings)
    with asked(entry, settings, **ask) as question:
        report = bench(contenders[0], entry, question, settings, plan, tell)
    from workers.benching.keeping import keep
    from workers.benching.plot import draw
    from workers.benching.tables import show

    kept = keep(report, entry, settings)
    if plot is not None:
        _write(lambda: draw(report, plot), plot)
    if as_json:
        write_json(report.model_dump(mode="json"))
        return
    console = _out()
    show(console, report)
    if kept:
        console.print(f"Kept for `visionpipe models choose`: {kept}", style="dim", soft_wrap=True)


def _compare(
    contenders: list[Contender], settings: Settings, ask: dict[str, Any], plan: Plan, tell: Callable[[str], None],
    *, plot: Path | None, as_json: bool,
) -> None:  # fmt: skip
    if len(contenders) != 2 or plot is not None or plan.rates:
        raise InvalidRequestError("Expected two models with --compare, and neither --plot nor --rate.")
    from workers.benching.comparing import compare
    from workers.benching.tables import show_comparison

    entries = [find(one.model, settings) for one in contenders]
    with ExitStack() as stack:
        questions = [stack.enter_context(asked(entry, settings, **ask)) for entry in entries]
        report = compare(contenders, list(zip(entries, questions, strict=True)), settings, plan, tell)
    if as_json:
        write_json(report.model_dump(mode="json"))
    else:
        show_comparison(_out(), report)


def numbers(text: str | None, option: str, *, least: float) -> list[float]:
    """Read numbers by comma.

    Raises:
        SettingsError: One of them is none, or is too small.
    """
    try:
        found = [float(word) for word in (text or "").split(",") if word.strip()]
    except ValueError as error:
        raise SettingsError(f"{option}: expected numbers by comma, got {text!r}.") from error
    if any(not least <= number < 1e6 for number in found):
        raise SettingsError(f"{option}: expected numbers of at least {least:g}, got {text!r}.")
    return found


def _write(write: Callable[[], None], path: Path) -> None:
    try:
        write()
    except OSError as error:
        raise SettingsError(f"--plot: {path} cannot be written: {error}. Name another place.") from error


def _out() -> Console:
    return out()
