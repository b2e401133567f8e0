"""One model, from the first request to the last figure."""

from __future__ import annotations

import statistics
import time
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

from visionpipe.errors import ModelLoadError
from visionpipe.runs.report import RunReport
from visionpipe.schemas.jobs import WorkerRecord
from visionpipe.settings import Settings
from workers.benching.asking import Asked, images_for, typical
from workers.benching.bare_process import BareProcess, bare_process
from workers.benching.contenders import Contender
from workers.benching.crews import crew_rates
from workers.benching.load import Ask, closed_loop, open_loop
from workers.benching.measures import Bare, Question
from workers.benching.points import Point
from workers.benching.private import Served, Tell, served
from workers.benching.report import BenchReport, FolderPhase, Subject
from workers.benching.verdict import advise, bare_ceiling

if TYPE_CHECKING:
    from models.catalog import Entry

T = TypeVar("T")

MAX_IN_FLIGHT = 128
GAIN = 1.03
"""A doubled load that brings less than this twice in a row ends the sweep."""
SETTLE_S = 0.5
"""Requests that are not counted: the client's first ones open connections."""
EARN_S = 300.0
"""A network that is not compiled by then is measured as it is."""


@dataclass(frozen=True)
class Plan:
    """How to measure."""

    seconds: float = 4.0
    """Of each load."""
    in_flight: Sequence[int] = ()
    """Loads of closed loops; none means doubled until that brings nothing."""
    rates: Sequence[float] = ()
    """Rates of open loops, instead of closed ones."""
    rounds: int = 3
    """Folder runs, each with the bare stages beside it; 0 leaves both out."""
    folder_s: float = 6.0
    """About how long a folder run should take."""
    most_workers: int | None = None
    """More workers than there are tried up to so many; unset: as many as there are cores."""


def bench(contender: Contender, entry: Entry, asked: Asked, base: Settings, plan: Plan, tell: Tell) -> BenchReport:
    """Measure one model through the real service.

    Args:
        contender: The model, and how its worker is run.
        entry: Its card.
        asked: What is asked of it.
        base: The settings of this command.
        plan: How to measure.
        tell: Told in one line of each step.
    """
    with served(contender, base, asked.folder, tell) as service, ExitStack() as stack:
        settle(asked, service)
        earn(asked, service, tell)
        record = service.records()[0]
        points = list(_points(asked, service, record, plan, tell))
        bare, notes = _bare(stack, asked, service, record, plan, tell)
        fastest = max((point.images_per_s for point in points), default=0.0)
        runs, rounds = _rounds(asked, service, bare, fastest, plan, tell, notes)
        subject, memory = subject_of(service, record, asked, bare), service.memory()
        batches = (_or_note(bare.batches, notes) or []) if bare is not None else []
        threads = (_or_note(bare.thread_rates, notes) or []) if bare is not None else []
        crews = crew_rates(asked, service, runs, plan.most_workers, tell, notes)
        cores = record.usage.cores if record.usage is not None else float(bare.cores) if bare is not None else 1.0
        # Several interpreters may do more than the one that measures the stages.
        comparable = contender.workers == 1
        measured = [(one, run if comparable else None) for one, run in rounds if one is not None]
        if rounds and bare is not None and not measured and not notes:
            notes.append("The stages were not measured without a queue: one image takes too long.")
        ceiling = bare_ceiling(measured, cores=cores, on_cpu=record.device == "cpu")
        return BenchReport(
            subject=subject,
            pictures=asked.about,
            points=points,
            folder=_folder_phase(runs),
            ceiling=ceiling,
            batches=batches,
            threads=threads,
            crews=crews,
            advice=advise(batches, threads, ceiling.forward_per_s if ceiling else None, crews),
            memory=memory,
            notes=notes,
            measured_at=round(time.time(), 3),
        )


def settle(asked: Asked, service: Served) -> None:
    """Send what is not counted."""

    async def act(ask: Ask) -> Point:
        return await closed_loop(ask, in_flight=2, seconds=SETTLE_S)

    asked.drive(service.settings, service.contender.model, act)


def earn(asked: Asked, service: Served, tell: Tell) -> None:
    """Keep a worker busy until it has compiled its network, where its inputs' shapes must earn that first."""
    until, told = time.monotonic() + EARN_S, False
    while time.monotonic() < until and service.waits_to_compile():
        if not told:
            tell("Working until the network is compiled, once for this machine; compile=off measures it as it is")
            told = True

        async def act(ask: Ask) -> Point:
            return await closed_loop(ask, in_flight=4, seconds=2.0)

        asked.drive(service.settings, service.contender.model, act)


def _points(asked: Asked, service: Served, record: WorkerRecord, plan: Plan, tell: Tell) -> Iterator[Point]:
    def measure(act: Callable[[Ask], Awaitable[Point]]) -> Point:
        return asked.drive(service.settings, service.contender.model, act)

    if plan.rates:
        for rate in plan.rates:
            tell(f"{rate:g} requests a second")
            yield measure(lambda ask, rate=rate: open_loop(ask, per_s=rate, seconds=plan.seconds))  # type: ignore[misc]
        return
    rates: list[float] = []
    for in_flight in plan.in_flight or doubled(max(32, 2 * record.max_batch)):
        tell(f"{in_flight} in flight")
        point = measure(
            lambda ask, number=in_flight: closed_loop(ask, in_flight=number, seconds=plan.seconds)  # type: ignore[misc]
        )
        yield point
        rates.append(point.images_per_s)
        # Where requests take longer than a load, more of them only wait for longer.
        if not plan.in_flight and (has_levelled(rates) or point.unfinished):
            return


def doubled(most: int) -> list[int]:
    """Give 1, 2, 4 and so on, up to the last one that is no more than allowed."""
    found = [1]
    while found[-1] * 2 <= min(most, MAX_IN_FLIGHT):
        found.append(found[-1] * 2)
    return found


def has_levelled(rates: Sequence[float]) -> bool:
    """Whether the last two loads brought nothing over the best one before them."""
    return len(rates) > 3 and max(rates[-2:]) < GAIN * max(rates[:-2])


def _bare(
    stack: ExitStack, asked: Asked, service: Served, record: WorkerRecord, plan: Plan, tell: Tell
) -> tuple[BareProcess | None, list[str]]:
    if not plan.rounds:
        return None, []
    if not service.own:
        return None, ["Ceilings are measured only beside a worker that was started for this."]
    if not asked.pictures or asked.options.image_refs():
        return None, ["The stages are measured without a queue only where a request needs nothing but its pictures."]
    tell("Loading the model without a queue")
    question = Question(
        model=f"{record.model}@{record.digest}",
        task=asked.task,
        options=asked.plain_options,
        device=record.device,
        precision=record.precision,
        compiled=record.code.startswith("compiled"),
        max_batch=record.max_batch,
        folder=str(asked.first_folder),
        num_images=len(asked.pictures),
        seconds=plan.seconds / 4,
    )
    try:
        return stack.enter_context(bare_process(question, service.settings)), []
    except ModelLoadError as error:
        return None, [error.message]


def _rounds(
    asked: Asked, service: Served, bare: BareProcess | None, fastest: float, plan: Plan, tell: Tell, notes: list[str]
) -> tuple[list[RunReport], list[tuple[Bare | None, float | None]]]:
    """Run folders and the bare stages in turns, so that a machine that slows down slows both."""
    runs: list[RunReport] = []
    rounds: list[tuple[Bare | None, float | None]] = []
    number = images_for(fastest, plan.folder_s)
    if asked.pictures and fastest > 0 and plan.rounds:
        # Single requests cost far more than images of a folder: how many of those fill the time is found by trying.
        tell("A short folder run that is not counted")
        tried = asked.run_folder(service.settings, service.contender.model, images_for(fastest, plan.folder_s / 4))
        number = images_for(tried.images_per_s, plan.folder_s)
    for index in range(plan.rounds):
        report = None
        if asked.pictures and fastest > 0:
            tell(f"Folder run of {number:,} images, {index + 1} of {plan.rounds}")
            report = asked.run_folder(service.settings, service.contender.model, number)
            runs.append(report)
        if bare is not None:
            tell(f"The same stages without a queue, {index + 1} of {plan.rounds}")
            rounds.append((_or_note(bare.round, notes), report.images_per_s if report is not None else None))
    return runs, rounds


def _or_note(measure: Callable[[], T], notes: list[str]) -> T | None:
    """Measure something, or note why that failed: what was measured before shall not be lost."""
    try:
        return measure()
    except ModelLoadError as error:
        if error.message not in notes:
            notes.append(error.message)
        return None


def _folder_phase(runs: Sequence[RunReport]) -> FolderPhase | None:
    if not runs:
        return None
    rates = [run.images_per_s for run in runs]
    return FolderPhase(
        images=runs[-1].found,
        images_per_s=round(statistics.median(rates), 3),
        runs=rates,
        failed=runs[-1].failed,
        ceiling=typical(runs).ceiling,
    )


def subject_of(service: Served, record: WorkerRecord, asked: Asked, bare: BareProcess | None = None) -> Subject:
    """Say what was measured, and where."""
    return Subject(
        label=service.contender.label,
        model=f"{record.model}@{record.digest}",
        task=asked.task,
        options=asked.plain_options,
        device=record.device,
        device_name=_device_name(record) if service.own else None,
        cores=record.usage.cores if record.usage is not None else None,
        precision=record.precision,
        code=record.code,
        max_batch=record.max_batch,
        decode_threads=bare.decode_threads if bare is not None else None,
        workers=len(service.records()),
        own_worker=service.own,
        version=record.version,
        torch=_torch_version() if service.own else None,
    )


def _device_name(record: WorkerRecord) -> str:
    import torch

    from models.accounting.device import device_name

    return device_name(torch.device(record.device))


def _torch_version() -> str:
    import torch

    return str(torch.__version__)
