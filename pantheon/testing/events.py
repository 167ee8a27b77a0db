"""Waiting for what an end of a transport reports, never longer than said."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import zmq

from pantheon.transport.base import Connection, Listener

PATIENCE_S = 20.0

T = TypeVar("T")


def next_event(end: Connection | Listener, seconds: float = PATIENCE_S) -> Any | None:
    """What `end.receive` gives next, or None when nothing comes for so many seconds."""
    poller = zmq.Poller()
    for pollable in end.pollables:
        poller.register(pollable, zmq.POLLIN)
    deadline = time.monotonic() + seconds
    while (event := end.receive()) is None:
        left = deadline - time.monotonic()
        if left <= 0:
            return None
        poller.poll(int(min(left, 0.1) * 1000) + 1)
    return event


def expect(end: Connection, kind: type[T], seconds: float = PATIENCE_S) -> T:
    """The next event of a connection, which must be of this kind.

    Raises:
        AssertionError: it is of another, or there is none in time.
    """
    event = next_event(end, seconds)
    if not isinstance(event, kind):
        raise AssertionError(f"expected {kind.__name__} within {seconds} s, found {event!r:.300}")
    return event


def expect_from(end: Listener, kind: type[T], seconds: float = PATIENCE_S) -> tuple[Any, T]:
    """The next event of a listener, of this kind, and the peer it is about.

    Raises:
        AssertionError: it is of another, or there is none in time.
    """
    event = next_event(end, seconds)
    if event is None or not isinstance(event[1], kind):
        raise AssertionError(f"expected {kind.__name__} within {seconds} s, found {event!r:.300}")
    peer, message = event
    return peer, message
