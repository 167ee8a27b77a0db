"""Asking many servers how they are, again and again, over connections that stay open."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import zmq

from pantheon.transport import (
    Connected,
    Connection,
    Lost,
    Security,
    connect,
    parse_address,
)
from pantheon.wire.messages import Inquiry, Status

DOWN, STOCK, DRAINING, STALLED, SERVING = "down", "up", "draining", "stalled", "serving"
"""The states of a server: stalled where all workers of a model die again and again; a stock server
of the Open Inference Protocol is merely up."""

LOOK_S = 0.2


@dataclass(frozen=True, slots=True)
class Found:
    """One server in one round.

    Args:
        address: where it was asked.
        state: one of the five above.
        status: what it said.
        trouble: why it is not reachable.
        seconds: since the answer before, None for the first one; what `rates` are about.
        rates: requests, rows and bytes a second since then.
    """

    address: str
    state: str
    status: Status | None = None
    trouble: str = ""
    seconds: float | None = None
    rates: tuple[float, float, float] | None = None

    @property
    def well(self) -> bool:
        """Whether it takes work."""
        return self.state in (SERVING, STOCK)


def compare(now: Found, before: Found | None, seconds: float) -> Found:
    """`now` with what happened a second since an earlier round, if it is the same run.

    Example:
        >>> old = Found("a", SERVING, Status("1", 5.0, False, (), requests=10))
        >>> new = Found("a", SERVING, Status("1", 7.0, False, (), requests=50))
        >>> compare(new, old, 2.0).rates
        (20.0, 0.0, 0.0)
    """
    if now.status is None or before is None or before.status is None or seconds <= 0:
        return now
    if now.status.uptime < before.status.uptime:
        return now
    pairs = [(getattr(now.status, k), getattr(before.status, k)) for k in _RATED]
    first, second, third = [(a - b) / seconds for a, b in pairs]
    return replace(now, seconds=seconds, rates=(first, second, third))


_RATED = ("requests", "rows", "bytes")


@dataclass(slots=True, eq=False)
class _Asked:
    """A server and the connection to it, for as long as it has one."""

    connection: Connection
    up: bool = False
    waiting: bool = False
    trouble: str = "nobody answered"
    status: Status | None = None
    over: bool = False

    def ask(self) -> None:
        """Ask how it is; a stock server cannot be asked, which is found out by its refusal."""
        self.status = None
        self.waiting = self.up and self.connection.send(Inquiry())

    def take(self, event: Any) -> None:
        """Take one event in."""
        match event:
            case Connected():
                self.up = True
                self.ask()
            case Lost():
                self.up, self.waiting, self.trouble = False, False, event.reason
                self.over = event.fatal
            case Status():
                self.status, self.waiting = event, False

    def found(self, address: str) -> Found:
        """How it is."""
        if self.status is not None:
            state = STALLED if self.status.stalled else SERVING
            state = DRAINING if self.status.draining else state
            return Found(address, state, self.status)
        if self.up and not self.waiting:
            return Found(address, STOCK)
        trouble = "connected, but it does not answer" if self.up else self.trouble
        return Found(address, DOWN, trouble=trouble)

    @property
    def done(self) -> bool:
        """Whether there is nothing to wait for in this round."""
        return self.over or (self.up and not self.waiting)


class Poll:
    """Asks servers in rounds; ``dns://`` names are resolved anew in each.

    Args:
        addresses: online teachers'.
        security: our keys.

    Raises:
        ConfigError: what is no address.
    """

    def __init__(self, addresses: Sequence[str], security: Security = None) -> None:
        self._given = [parse_address(a) for a in addresses]
        self._security = security
        self._asked: dict[str, _Asked] = {}
        self._last: dict[str, tuple[float, Found]] = {}

    def round(self, patience: float) -> list[Found]:
        """How all of them are; takes `patience` seconds only where one does not answer."""
        names, troubles = self._resolve()
        for gone in self._asked.keys() - set(names):
            self._asked.pop(gone).connection.close()
        for name in names:
            self._reach(name)
        self._listen(time.monotonic() + patience)
        found = [self._compared(name, self._asked[name].found(name)) for name in names]
        return found + troubles

    def _resolve(self) -> tuple[list[str], list[Found]]:
        """The single addresses, and the names that have none."""
        from student_client.discovery import look_up

        names: dict[str, None] = {}
        troubles = []
        for given in self._given:
            if not given.many:
                names[str(given)] = None
                continue
            found, trouble = look_up([given])
            names |= dict.fromkeys(sorted(str(address) for address in found))
            if trouble:
                troubles.append(Found(str(given), DOWN, trouble=trouble))
        return list(names), troubles

    def _reach(self, name: str) -> None:
        asked = self._asked.get(name)
        if asked is not None and not asked.over:
            asked.ask()
            return
        if asked is not None:
            asked.connection.close()
        self._asked[name] = _Asked(connect(name, security=self._security))

    def _listen(self, until: float) -> None:
        poller = zmq.Poller()
        for asked in self._asked.values():
            for pollable in asked.connection.pollables:
                poller.register(pollable, zmq.POLLIN)
        while True:
            for asked in self._asked.values():
                while not asked.over and (event := asked.connection.receive()) is not None:
                    asked.take(event)
            left = until - time.monotonic()
            if left <= 0 or all(asked.done for asked in self._asked.values()):
                return
            poller.poll(int(min(left, LOOK_S) * 1000) + 1)

    def _compared(self, name: str, found: Found) -> Found:
        now = time.monotonic()
        then, before = self._last.get(name, (now, None))
        self._last[name] = now, found
        return compare(found, before, now - then)

    def close(self) -> None:
        """Leave all servers."""
        for asked in self._asked.values():
            asked.connection.close()

    def __enter__(self) -> Poll:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
