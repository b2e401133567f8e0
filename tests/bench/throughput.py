"""Folder runs through the real service against the ideal pipeline: python -m tests.bench.throughput [MODEL...].

The yardstick (``ideal.py``) decodes, computes and compiles as the worker does, in one process and with no queue in it.
Rounds of both alternate, and for one case also with a plain loop as most people write it; medians are told. Where a
network is slow, ``--images`` makes the folders smaller. ``lenet-digits`` is measured with one worker, and as ``up`` and
``batch`` serve it, which start more workers where one interpreter is the limit.
"""

from __future__ import annotations

import argparse
import statistics
from dataclasses import dataclass, replace

from tests.bench.common import Stack, pictures, service_run, stack, table, write_folder
from tests.bench.ideal import Classify, Ideal, PlainLoop
from tests.bench.ideal_dense import Detect, Segment
from visionpipe.queue import calls, run

ROUNDS = 5
LONG, MOST_LONG = 100_000, 4
"""Images of the runs, and how many of them at most, in which a node finds out how many workers it wants."""
PLAIN_IMAGES = 60
"""As many in a round of the plain loop, which is slow and does each at the same pace."""


@dataclass(frozen=True)
class Case:
    """One model in one precision."""

    model: str
    precision: str
    number: int
    compiled: bool = False
    plain: bool = False
    task: str = "classification"
    workers: int | None = 1
    """Unset: as many as ``visionpipe up`` finds useful."""

    def __str__(self) -> str:
        more = {1: "", None: ", as many workers as help"}.get(self.workers, f", {self.workers} workers")
        return f"{self.model} {self.precision}{', compiled' if self.compiled else ''}{more}"


CASES = (
    Case("resnet50-generated", "fp32", 300),
    Case("resnet50-generated", "auto", 1000, compiled=True, plain=True),
    Case("mobilenet-generated", "auto", 3000, compiled=True),
    Case("vgg-digits", "auto", 4000, compiled=True),
    Case("lenet-digits", "auto", 40_000),
    Case("lenet-digits", "auto", 40_000, workers=None),
    Case("unet-cells", "auto", 300, compiled=True, task="segmentation"),
    Case("yolo-digits", "auto", 1500, compiled=True, task="detection"),
)
IDEALS: dict[str, type[Ideal]] = {"classification": Classify, "segmentation": Segment, "detection": Detect}


def measure(case: Case) -> list[object]:
    """Measure one case; ideal and service take turns."""
    compiling = "now" if case.compiled else "off"
    with stack(case.model, "--precision", case.precision, compiling=compiling, workers=case.workers) as bench:
        if case.compiled:
            bench.wait_compiled()
        record = run(bench.redis, calls.workers())[0]
        folder = bench.root / "run"
        paths = write_folder(folder, pictures(case.model, 64), case.number)
        ideal = IDEALS[case.task](case.model, bench.models, record.precision, packages=bench.data_dir / "compiled")
        how = ideal.best(paths[: len(paths) // 4], bench.root.parent / "i.jsonl", batch=record.max_batch)
        if case.workers is None:
            grow(bench, case)
        service_run(bench, folder, case.task)
        workers = num_workers(bench)
        rates: dict[str, list[float]] = {"ideal": [], "service": [], "plain": []}
        plain = PlainLoop(case.model, bench.models) if case.plain else None
        for _ in range(ROUNDS):
            out = bench.root.parent / "i.jsonl"
            rates["ideal"].append(ideal.rate(paths, out, batch=record.max_batch, how=how))
            rates["service"].append(service_run(bench, folder, case.task))
            if plain is not None:
                rates["plain"].append(plain.rate(paths[:PLAIN_IMAGES]))
        ratios = [mine / best for mine, best in zip(rates["service"], rates["ideal"], strict=True)]
        medians = [statistics.median(rates[name]) for name in ("ideal", "service")]
        against = ""
        if rates["plain"]:
            times = [mine / slow for mine, slow in zip(rates["service"], rates["plain"], strict=True)]
            against = f"{statistics.median(times):.1f}x of {statistics.median(rates['plain']):.1f}"
        crew = " to ".join(str(number) for number in sorted({workers, num_workers(bench)}))
        where = f"{record.precision}, {record.code}, workers: {crew}"
        spread = f"{min(ratios):.2f}-{max(ratios):.2f}"
        return [
            case.model,
            where,
            record.max_batch,
            how,
            *medians,
            statistics.median(ratios),
            spread,
            against,
        ]


def grow(bench: Stack, case: Case) -> None:
    """Give a node that chooses the number of its workers the time to find it out."""
    paths = write_folder(bench.root / "long", pictures(case.model, 64), LONG)
    for turn in range(MOST_LONG):
        before = num_workers(bench)
        service_run(bench, paths[0].parent, case.task)
        # One that was wanted late in the first run is there in the second.
        if turn and num_workers(bench) == before:
            return


def num_workers(bench: Stack) -> int:
    """How many serve."""
    return len(run(bench.redis, calls.workers()))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.throughput")
    parser.add_argument("models", nargs="*", metavar="MODEL", help="models, or parts of their names (all)")
    parser.add_argument("--images", type=int, metavar="N", help="at most so many images in each folder")
    asked = parser.parse_args()
    cases = [case for case in CASES if not asked.models or any(word in str(case) for word in asked.models)]
    if asked.images:
        cases = [replace(case, number=min(case.number, asked.images)) for case in cases]
    head = ["model", "as", "batch", "ideal with", "ideal/s", "service/s", "ratio", "spread", "plain loop"]
    table(f"Folder runs, medians of {ROUNDS} interleaved rounds", head, [measure(case) for case in cases])


if __name__ == "__main__":
    main()
