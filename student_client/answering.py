"""A teacher inside this process, seen as a connection: what offline and local sources share."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from typing import Any

from torch import Tensor

from pantheon.errors import PantheonError
from pantheon.transport import Connected, Connection, Event
from pantheon.transport.wake import Wake
from pantheon.wire.buffers import to_raw
from pantheon.wire.messages import Cancel, Goodbye, Hello, Message, Score, Scored, Welcome

NAMED = 5
"""How many ids an error names."""


class Answering(Connection):
    """A connection whose other side is an object here; it is up at once and never lost.

    Subclasses answer `welcome` and put the answers to `ask` into the events, from the caller's
    thread; an exception of theirs is raised to the caller as it is.

    Args:
        teacher: its name, for messages.
        address: what to call it in messages.
    """

    def __init__(self, teacher: str, address: str) -> None:
        self.teacher, self.address = teacher, address
        self._events: deque[Event] = deque([Connected()])
        self._wake = Wake()
        self._wake.set()
        self._fields: tuple[str, ...] | None = None
        self._revision = ""

    @property
    def pollables(self) -> tuple[Any, ...]:
        """A descriptor, readable while there is something to receive or to do."""
        return (self._wake.fd,)

    def send(self, message: Message) -> bool:
        """Take a message in; always possible."""
        match message:
            case Hello():
                self._fields = message.fields
                welcome = self.welcome(message.fields)
                self._revision = welcome.revision
                self._events.append(welcome)
            case Score():
                self.ask(message)
            case Cancel():
                self.cancel(frozenset(message.requests))
            case Goodbye():
                return True
            case _:
                return False
        self._wake.set()
        return True

    def receive(self) -> Event | None:
        """The next event, or None when there is none now."""
        if not self._events:
            self._wake.clear()
            self.work()
            if self._busy():
                self._wake.set()
        return self._events.popleft() if self._events else None

    def _scored(self, score: Score, parts: list[Tensor]) -> Scored:
        rows = score_rows(score)
        return Scored(score.request, self._revision, rows, tuple(to_raw(p) for p in parts))

    def _named(self, error: PantheonError, score: Score) -> PantheonError:
        """The same error, naming the teacher and the ids asked for."""
        return type(error)(f"teacher {self.teacher!r} ({self.address}): {error}; {asked(score)}")

    def close(self) -> None:
        """Forget what was asked. Safe to call twice."""
        self._events.clear()
        self._wake.close()

    @abstractmethod
    def welcome(self, fields: tuple[str, ...] | None) -> Welcome:
        """What this teacher says of itself."""

    @abstractmethod
    def ask(self, score: Score) -> None:
        """Take a request in."""

    @abstractmethod
    def cancel(self, requests: frozenset[int]) -> None:
        """Forget requests that were not answered yet."""

    @abstractmethod
    def work(self) -> None:
        """Put the next answers, if there are any, into the events."""

    @abstractmethod
    def _busy(self) -> bool:
        """Whether `receive` should be called again although nobody wakes the poller."""


def score_rows(score: Score) -> int:
    """Number of samples a request is about."""
    if score.ids is not None:
        return len(score.ids)
    return next(iter(score.inputs.values())).shape[0]


def asked(score: Score) -> str:
    """What a request asked for, for messages; the first ids are named."""
    if score.ids is None:
        return f"inputs of {score_rows(score)} samples were sent"
    more = f" and {len(score.ids) - NAMED} more" if len(score.ids) > NAMED else ""
    return f"asked for ids {score.ids[:NAMED].tolist()}{more}"
