"""The two ends of every transport: a student's `Connection`, a teacher's `Listener`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

from pantheon.wire.messages import Message

Peer = Hashable
"""Whom a listener talks to; valid until `Lost` names it."""


@dataclass(frozen=True, slots=True)
class Lost:
    """The other side is gone (or, for a connection, not reached yet and being retried).

    Args:
        reason: for people.
        fatal: retrying cannot help (wrong protocol on the port, refused keys), or is not likely to
            (unknown host; it is asked for again all the same); a connection's `error` is then the
            exception to raise.
    """

    reason: str
    error: Exception | None = None

    @property
    def fatal(self) -> bool:
        """Whether waiting for a reconnect is pointless."""
        return self.error is not None


@dataclass(frozen=True, slots=True)
class Connected:
    """A connection was made, or made again: say Hello (again)."""


Event = Message | Lost | Connected


class Connection(ABC):
    """One teacher replica as a student sees it.

    Used from one thread. It connects, and connects again after a loss, by itself with back-off and
    jitter; every time it is up it reports `Connected`, every time it goes down `Lost`. While it is
    down, call `receive` at least once a second: deadlines of a handshake are looked at there.
    """

    address: str

    @property
    @abstractmethod
    def pollables(self) -> tuple[Any, ...]:
        """`zmq.Socket`s and file descriptors for `zmq.Poller`; any readable: events may wait.

        The same objects for the whole life of the connection. Read with `receive` until None.
        """

    @abstractmethod
    def send(self, message: Message) -> bool:
        """Hand a message over without blocking; False when the other side is not there."""

    @abstractmethod
    def receive(self) -> Event | None:
        """The next event, or None when there is none now. Never blocks."""

    @abstractmethod
    def close(self) -> None:
        """Leave, without waiting for anything. Safe to call twice."""


class Listener(ABC):
    """A teacher's end: many peers. `receive` is called from one thread, `send` from the same."""

    address: str
    """The address bound, with the port that was chosen when 0 was asked for."""

    malformed = 0
    """Messages that could not be read."""

    @property
    @abstractmethod
    def pollables(self) -> tuple[Any, ...]:
        """`zmq.Socket`s and file descriptors for `zmq.Poller`; any readable: messages may wait."""

    @abstractmethod
    def receive(self) -> tuple[Peer, Message | Lost] | None:
        """The next message and who sent it, or None. A malformed message is answered, counted and
        logged by the listener itself and never raised."""

    @abstractmethod
    def send(self, peer: Peer, message: Message) -> bool:
        """Hand a message over without blocking; False when the peer is gone."""

    def client(self, peer: Peer) -> Hashable:
        """Who a peer has proven to be, by its key or certificate; None where nobody has to."""
        return None

    def leave(self) -> None:  # noqa: B027 - most have nothing that keeps a process from ending
        """Let the process end though the thread that should `close` hangs; from any thread."""

    @abstractmethod
    def close(self) -> None:
        """Stop listening and free the address."""
