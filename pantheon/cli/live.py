"""What a live teacher says of itself, and some rows of what it knows."""

from __future__ import annotations

import time
from typing import Any, TypeVar

import numpy as np
import zmq

from pantheon.codec import check_parts, decode
from pantheon.errors import ProtocolError, RefusedError, TeacherUnavailable
from pantheon.store.contents import shown
from pantheon.transport import (
    Connected,
    Connection,
    Event,
    Lost,
    Security,
    connect,
    parse_address,
)
from pantheon.wire.buffers import from_raw
from pantheon.wire.messages import Hello, Refused, Score, Scored, Welcome

Wanted = TypeVar("Wanted", bound=Event)


def describe_live(
    address: str, rows: int, patience: float, security: Security = None
) -> dict[str, Any]:
    """A teacher's handshake as plain values, and its first samples where it answers ids.

    Raises:
        TransportError: it cannot be reached within `patience` seconds.
        RefusedError: it does not want to answer, and says why.
    """
    connection = connect(address, security=security)
    try:
        talk = _Talk(connection, time.monotonic() + patience)
        talk.wait(Connected)
        connection.send(Hello("inspect", model=parse_address(address).model))
        welcome = talk.wait(Welcome)
        return _facts(welcome) | {"address": address, "sample": _sample(talk, welcome, rows)}
    finally:
        connection.close()


class _Talk:
    """Waiting for one kind of message at a time, until a moment."""

    def __init__(self, connection: Connection, until: float) -> None:
        self.connection, self._until = connection, until
        self._poller, self._last = zmq.Poller(), "nobody answered"
        for pollable in connection.pollables:
            self._poller.register(pollable, zmq.POLLIN)

    def wait(self, kind: type[Wanted]) -> Wanted:
        """The next message of a kind; a refusal raises, anything else is passed over."""
        while True:
            event = self.connection.receive()
            match event:
                case None:
                    self._poll()
                case Lost(error=None):
                    self._last = event.reason
                case Lost(error=Exception() as error):
                    raise error
                case Refused():
                    raise RefusedError(f"{self.connection.address}: {event.message}")
                case _ if isinstance(event, kind):
                    return event

    def _poll(self) -> None:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TeacherUnavailable(
                f"no answer from {self.connection.address} in time: {self._last}; is the teacher "
                "running there? --patience waits longer"
            )
        self._poller.poll(int(min(left, 0.2) * 1000) + 1)


def _facts(welcome: Welcome) -> dict[str, Any]:
    return {
        "model": welcome.model,
        "revision": welcome.revision,
        "dataset": welcome.dataset,
        "size": welcome.size,
        "views": welcome.views,
        "accepts_ids": welcome.accepts_ids,
        "accepts_inputs": welcome.accepts_inputs,
        "schema": welcome.schema.to_wire(),
        "fingerprint": welcome.schema.fingerprint,
    }


def _sample(talk: _Talk, welcome: Welcome, rows: int) -> list[dict[str, Any]]:
    """The first samples by id, decoded."""
    ids = np.arange(min(rows, welcome.size or 0), dtype=np.int64)
    if not welcome.accepts_ids or not len(ids):
        return []
    views = np.ones_like(ids) if welcome.views else None
    talk.connection.send(Score(1, ids, views))
    scored = talk.wait(Scored)
    shapes = [(part.dtype, part.shape) for part in scored.parts]
    if scored.rows != len(ids):
        raise ProtocolError(
            f"{talk.connection.address} answered {scored.rows} rows for {len(ids)} ids"
        )
    check_parts(welcome.schema, scored.rows, shapes)
    values = decode(welcome.schema, [from_raw(part) for part in scored.parts])
    view = 1 if welcome.views else 0
    return [
        {"id": i, "view": view, **{name: shown(value[i]) for name, value in values.items()}}
        for i in range(len(ids))
    ]
