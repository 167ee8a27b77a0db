"""``pantheon status``: how teachers are doing, as a live table."""

from __future__ import annotations

import itertools
import time
from collections.abc import Sequence
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from pantheon.cli.output import say_json, size, stdout
from pantheon.cli.poll import DOWN, SERVING, STALLED, Found, Poll
from pantheon.cli.security import (
    CaOption,
    CertificateOption,
    ClientOption,
    KeyOption,
    KeysOption,
    security_from,
)
from pantheon.cli.serve import Json

STYLES = {SERVING: "green", DOWN: "red", STALLED: "red"}

Addresses = Annotated[list[str], typer.Argument(metavar="ADDRESS...")]
Patience = Annotated[float, typer.Option(min=0.0, help="Seconds to wait for an answer.")]


def status(
    addresses: Addresses,
    watch: Annotated[
        bool | None,
        typer.Option("--watch/--once", help="Go on until Ctrl-C; the default on a terminal."),
    ] = None,
    every: Annotated[float, typer.Option(min=0.1, help="Seconds between two rounds.")] = 1.0,
    patience: Patience = 3.0,
    keys: KeysOption = None,
    client: ClientOption = "student",
    ca: CaOption = None,
    certificate: CertificateOption = None,
    key: KeyOption = None,
    json: Json = False,
) -> None:
    """Show how teachers are doing: a line for each, behind a dns:// name too.

    With --once the status is 1 if one of them does not take work.
    """
    live = (stdout.is_terminal and not json) if watch is None else watch
    with Poll(addresses, security_from(keys, client, ca, certificate, key)) as poll:
        if live:
            _watch(poll, every, patience, json)
            return
        found = poll.round(patience)
    if json:
        _say(found)
    else:
        stdout.print(show(found))
    if not found or not all(server.well for server in found):
        raise typer.Exit(1)


def _watch(poll: Poll, every: float, patience: float, json: bool) -> None:
    start = time.monotonic()
    with Live(console=stdout, auto_refresh=False, transient=False) as live:
        for number in itertools.count(1):
            found = poll.round(min(patience, every) if number > 1 else patience)
            if json:
                _say(found)
            else:
                live.update(show(found), refresh=True)
            time.sleep(max(0.0, start + number * every - time.monotonic()))


def _say(found: Sequence[Found]) -> None:
    say_json({"at": time.time(), "teachers": [_plain(server) for server in found]})


def _plain(found: Found) -> dict[str, Any]:
    plain: dict[str, Any] = {"address": found.address, "state": found.state}
    if found.trouble:
        plain["trouble"] = found.trouble
    if found.status is not None:
        plain |= asdict(found.status) | {"models": dict(found.status.models)}
        plain["samples"] = plain.pop("rows")
    if found.rates is not None:
        names = ("requests_per_second", "samples_per_second", "bytes_per_second")
        plain |= dict(zip(names, found.rates, strict=True))
    return plain


def show(found: Sequence[Found]) -> RenderableType:
    """The table, and below it why a server cannot be reached."""
    troubles = [_cell(f"{f.address}: {f.trouble}") for f in found if f.trouble]
    return Group(table(found), *troubles)


def table(found: Sequence[Found]) -> Table:
    """A row for each server: rates where there was a round before, else totals.

    Example:
        >>> table([Found("tcp://a:1", DOWN, trouble="refused")]).row_count
        1
    """
    rated = any(server.rates is not None for server in found)
    made = Table(box=None, header_style="bold", pad_edge=False)
    made.add_column("teacher", overflow="fold")
    made.add_column("state", no_wrap=True)
    per = "\nper s" if rated else ""
    flows = [f"{name}{per}" for name in ("requests", "samples", "bytes")]
    for name in ("up", "students", "queued", *flows, "refused"):
        made.add_column(name, justify="right", no_wrap=True)
    for server in found:
        made.add_row(*(_cell(text) for text in _row(server, rated)), style=STYLES.get(server.state))
    return made


def _row(found: Found, rated: bool) -> list[str]:
    status = found.status
    if status is None:
        return [found.address, found.state]
    totals = (status.requests, status.rows, status.bytes)
    flows: Sequence[float] | None = found.rates if rated else totals
    models = [f"\n  {name} {revision[:12]}".rstrip() for name, revision in status.models]
    return [
        found.address + "".join(models),
        found.state,
        duration(status.uptime),
        f"{status.sessions}",
        f"{status.queued + status.scoring}",
        *([""] * 3 if flows is None else [f"{flows[0]:.0f}", f"{flows[1]:.0f}", size(flows[2])]),
        f"{status.refused}",
    ]


def _cell(text: str) -> Text:
    """A text from elsewhere as it may be shown: it moves no cursor and has no colours."""
    return Text(
        "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)
    )


def duration(seconds: float) -> str:
    """Seconds in the two largest units that fit.

    Example:
        >>> duration(59), duration(3725), duration(200_000)
        ('59s', '1h02m', '2d07h')
    """
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d{hours:02}h"
    return f"{hours}h{minutes:02}m" if hours else f"{minutes}m{rest:02}s" if minutes else f"{rest}s"
