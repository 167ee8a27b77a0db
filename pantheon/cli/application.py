"""The application: its commands and the options that all of them take."""

from __future__ import annotations

import os
from importlib.metadata import version
from typing import Annotated

import typer

from pantheon.cli.compress import compress
from pantheon.cli.demo import demo
from pantheon.cli.distill import distill
from pantheon.cli.dump import dump
from pantheon.cli.guard import (
    INTERRUPTED,
    guarded,
    interruptible,
    leave_at_once,
    set_debug,
)
from pantheon.cli.health import health
from pantheon.cli.inspect import inspect
from pantheon.cli.keygen import keygen
from pantheon.cli.latency import latency
from pantheon.cli.log import LogFormat, LogLevel, log_to_stderr
from pantheon.cli.report import report
from pantheon.cli.search import search
from pantheon.cli.serve import serve
from pantheon.cli.status import status

app = typer.Typer(
    name="pantheon",
    help="Teachers serve what they know; students learn from the stream.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

for command in (serve, dump, inspect, status, health, distill, compress, report, keygen, demo):
    app.command()(guarded(command))
app.add_typer(search, name="search")
app.add_typer(latency, name="latency")


def _version(asked: bool) -> None:
    if asked:
        typer.echo(version("pantheon-kd"))
        raise typer.Exit


@app.callback()
def options(
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Log more; twice for everything.")
    ] = 0,
    log_level: Annotated[
        LogLevel, typer.Option(envvar="PANTHEON_LOG_LEVEL", help="The least that is logged.")
    ] = LogLevel.WARNING,
    log_format: Annotated[
        LogFormat,
        typer.Option(envvar="PANTHEON_LOG_FORMAT", help="Text for people, JSON for programs."),
    ] = LogFormat.TEXT,
    debug: Annotated[bool, typer.Option(help="Show errors with their traceback.")] = False,
    _: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    """Teachers serve what they know; students learn from the stream."""
    set_debug(debug)
    log_to_stderr(verbose, log_level, log_format)
    interruptible()


def main() -> None:
    """Run the command line; ends the process with the command's status."""
    try:
        app()
    except KeyboardInterrupt:
        leave_at_once()
    except SystemExit as ended:
        several = int(os.environ.get("WORLD_SIZE", "1")) > 1
        if ended.code == INTERRUPTED or (several and isinstance(ended.code, int | None)):
            leave_at_once(ended.code or 0)
        raise
