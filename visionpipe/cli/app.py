"""``visionpipe``: finds the command, runs it, and says in plain words what went wrong."""

from __future__ import annotations

import sys
from itertools import groupby
from types import TracebackType
from typing import Annotated, Any

import typer
from rich.table import Table
from typer.core import TyperGroup

from visionpipe.cli.commands import Commands, missing_extra
from visionpipe.cli.guard import check_names
from visionpipe.cli.output import out, write_error
from visionpipe.cli.title import hide_passwords
from visionpipe.errors import InternalError, VisionPipeError


class VisionPipeGroup(TyperGroup):
    """The top level: commands load when wanted, our errors become messages."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__(**attributes)
        self.commands: Any = Commands()

    def list_commands(self, ctx: Any) -> list[str]:
        """Name the commands without loading any."""
        return list(self.commands)

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Note which command is meant, and whether a program will read its answer."""
        ctx.meta["command"] = next((word for word in args if not word.startswith("-")), "")
        ctx.meta["as_json"] = "--json" in args
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command; one of our errors ends it with status 1 and a message."""
        if not ctx.params.get("debug"):
            sys.excepthook = _report
        try:
            # The doctor must be able to tell of a clash.
            if ctx.meta["command"] != "doctor":
                check_names()
            return super().invoke(ctx)
        except VisionPipeError as error:
            fault = error
        except ModuleNotFoundError as error:
            told = missing_extra(error, ctx.meta["command"])
            if told is error or not isinstance(told, VisionPipeError):
                raise
            fault = told
        if ctx.params.get("debug"):
            raise fault
        write_error(fault, as_json=ctx.meta["as_json"])
        raise typer.Exit(1)

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Print our own overview: typer's would load every command first."""
        console = out()
        console.print("\n [bold]Usage[/]  visionpipe \\[OPTIONS] COMMAND ...\n")
        console.print(f" {self.help}\n")
        entries = self.commands.listed.items()
        grid = Table.grid(padding=(0, 2), pad_edge=True)
        for panel, group in groupby(entries, key=lambda entry: entry[1].panel):
            grid.add_row(f"[bold]{panel}[/]")
            for name, listed in group:
                grid.add_row(f"  [cyan]{name}[/]", listed.help)
        grid.add_row("[bold]Options[/]")
        for parameter in self.get_params(ctx):
            record = parameter.get_help_record(ctx)
            if record:
                grid.add_row(f"  [cyan]{record[0]}[/]", record[1])
        console.print(grid)
        console.print("\n `visionpipe COMMAND --help` says more.\n", highlight=False)


app = typer.Typer(
    cls=VisionPipeGroup,
    help="A queue of computer-vision workers: submit images, get typed results, lose nothing.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version

        typer.echo(f"visionpipe {version('visionpipe')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_print_version, is_eager=True)
    ] = False,
    debug: Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")] = False,
) -> None:
    """Run before every command."""


def main() -> None:
    """Run the command line; ends the process."""
    hide_passwords()
    app(prog_name="visionpipe")


def _report(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    told = InternalError(
        f"{kind.__name__}: {error}. This is a fault in VisionPipe; `visionpipe --debug ...` shows where."
    )
    write_error(told, as_json="--json" in sys.argv)
