"""``python -m tests.fuzz``: damaged pictures, drawn requests and a hostile client, as a table."""

from __future__ import annotations

import argparse
import secrets
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from tests.fuzz.asking import ask
from tests.fuzz.attacking import aftermath, attacks, withstand
from tests.fuzz.decoding import Report, decode_damaged
from tests.fuzz.service import Service

REQUESTS_A_MINUTE = 1200


@dataclass
class Line:
    """One line of the table."""

    what: str
    cases: int
    outcomes: str
    worst: str
    problems: list[str]


def main() -> int:
    """Run everything; the exit status says whether anything was found."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--cases", type=int, default=20_000, help="damaged pictures")
    parser.add_argument("--requests", type=int, default=800, help="drawn requests")
    parser.add_argument("--minutes", type=float, help="instead: how long, two thirds of it on pictures")
    parser.add_argument("--seed", type=int, default=None, help="printed when made up")
    wanted = parser.parse_args()
    seed = secrets.randbelow(10**6) if wanted.seed is None else wanted.seed
    begun, lines = time.monotonic(), []
    console = Console(width=100)
    for line in _lines(wanted, seed):
        lines.append(line)
        console.print(f"{line.what}: {line.cases:,} cases, {len(line.problems)} problems", highlight=False)
    _show(console, lines, seed, time.monotonic() - begun)
    return 1 if any(line.problems for line in lines) else 0


def _lines(wanted: argparse.Namespace, seed: int) -> Iterator[Line]:
    seconds = None if wanted.minutes is None else wanted.minutes * 40
    yield _pictures(decode_damaged(wanted.cases, seed=seed, seconds=seconds))
    with Service() as service:
        asked = ask(
            service, wanted.requests if seconds is None else int(wanted.minutes / 3 * REQUESTS_A_MINUTE), seed=seed
        )
        for what, outcomes in (("requests that fit", asked.valid), ("requests that nearly fit", asked.near_valid)):
            told = ", ".join(f"{count} {name}" for name, count in outcomes.most_common(4))
            yield Line(what, outcomes.total(), told, "", asked.untyped if what.endswith("nearly fit") else [])
        problems, count, said = [], 0, 0
        for name, attack in attacks():
            count += 1
            try:
                said += bool(withstand(service, name, attack))
            except AssertionError as error:
                problems.append(f"{name}: {error}")
            if not service.alive:
                break
        problems += aftermath(service)
        yield Line("hostile writes into Redis", count, f"worker alive, {said} told in the log", "", problems)


def _pictures(report: Report) -> Line:
    told = ", ".join(f"{count:,} {name}" for name, count in report.outcomes.most_common(5))
    worst = f"{report.slowest_s:.2f} s, peak {report.peak_mib:.0f} MiB, growth {report.growth_mib:.1f} MiB"
    return Line("damaged pictures", report.cases, told, worst, report.problems)


def _show(console: Console, lines: list[Line], seed: int, spent_s: float) -> None:
    table = Table(title=f"Seed {seed}, {spent_s:.0f} s", title_justify="left")
    for column in ("", "cases", "outcomes", "worst", "problems"):
        table.add_column(column, justify="right" if column in ("cases", "problems") else "left")
    for line in lines:
        table.add_row(line.what, f"{line.cases:,}", line.outcomes, line.worst, str(len(line.problems)))
    console.print(table)
    for line in lines:
        for problem in line.problems[:20]:
            console.print(f"{line.what}: {problem}", markup=False, highlight=False)


if __name__ == "__main__":
    sys.exit(main())
