"""``visionpipe doctor``: check this machine, and say what to do about what is wrong."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.markup import escape

from visionpipe.cli.checks import Check, run_checks
from visionpipe.cli.output import err, out, table, write_json

COLOURS = {"ok": "green", "note": "dim", "warn": "yellow", "fail": "bold red"}


def register(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(doctor)


def doctor(
    redis_url: Annotated[str | None, typer.Option(help="Instead of VISIONPIPE_REDIS_URL.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write JSON.")] = False,
) -> None:
    """Check this machine, and say what to do about what is wrong.

    The exit status is 1 when something fails; warnings leave it at 0.
    """
    with err().status("Looking ..."):
        checks = list(run_checks(redis_url))
    if as_json:
        write_json([check._asdict() for check in checks])
    else:
        _show(checks)
    if any(check.state == "fail" for check in checks):
        raise typer.Exit(1)


def _show(checks: list[Check]) -> None:
    made = table("", "what", "found")
    for check in checks:
        colour = COLOURS[check.state]
        advice = f"\n[{colour}]{escape(check.advice)}[/]" if check.advice else ""
        made.add_row(f"[{colour}]{check.state}[/]", check.name, f"{escape(check.found)}{advice}")
    out().print(made)
    failed = sum(check.state == "fail" for check in checks)
    warned = sum(check.state == "warn" for check in checks)
    if failed:
        out().print(f"\n[bold red]{failed} to mend[/], {warned} warnings")
    else:
        out().print(f"\n[green]Ready[/]{f', {warned} warnings' if warned else ''}")
