"""Messages between a student and a teacher in one process: objects in queues, nothing coded."""

from __future__ import annotations

import itertools
import threading
from typing import Any

from pantheon.errors import TransportError
from pantheon.transport.address import Address
from pantheon.transport.base import Connected, Connection, Event, Listener, Lost, Peer
from pantheon.transport.inbox import Inbox
from pantheon.wire.messages import Message

_lock = threading.RLock()
_listeners: dict[str, InprocListener] = {}
_waiting: dict[str, list[InprocConnection]] = {}
_peers = itertools.count(1)


class InprocConnection(Connection):
    """`Connection` to a listener of this process; tensors are shared, so nobody may change them."""

    def __init__(self, address: Address) -> None:
        self.address = str(address)
        self._name = address.host
        self._inbox = Inbox()
        self._peer = next(_peers)
        self._listener: InprocListener | None = None
        self._closed = False
        with _lock:
            _waiting.setdefault(self._name, []).append(self)
            if self._name in _listeners:
                _listeners[self._name]._accept(self)
            else:
                self._inbox.put(Lost(f"connection refused by {self.address}: nobody listens yet"))

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The descriptor of the inbox."""
        return (self._inbox.fd,)

    def send(self, message: Message) -> bool:
        """Hand a message over; False when there is no listener."""
        with _lock:
            if self._listener is None:
                return False
            self._listener._inbox.put((self._peer, message))
            return True

    def receive(self) -> Event | None:
        """The next event, or None when there is none now."""
        event: Event | None = None if self._closed else self._inbox.get()
        return event

    def close(self) -> None:
        """Leave; the listener hears `Lost`."""
        with _lock:
            if self._closed:
                return
            self._closed = True
            _waiting[self._name].remove(self)
            if not _waiting[self._name]:
                del _waiting[self._name]
            if self._listener is not None:
                self._listener._drop(self._peer)
                self._listener = None
        self._inbox.close()


class InprocListener(Listener):
    """`Listener` under a name of this process.

    Raises:
        TransportError: the name is taken.
    """

    def __init__(self, address: Address) -> None:
        self.address = str(address)
        self._name = address.host
        self._inbox = Inbox()
        self._students: dict[int, InprocConnection] = {}
        self._closed = False
        with _lock:
            if self._name in _listeners:
                raise TransportError(f"cannot listen at {self.address}: the name is in use")
            _listeners[self._name] = self
            for connection in _waiting.get(self._name, ()):
                self._accept(connection)

    def _accept(self, connection: InprocConnection) -> None:
        connection._peer = next(_peers)
        connection._listener = self
        self._students[connection._peer] = connection
        connection._inbox.put(Connected())

    def _drop(self, peer: int) -> None:
        del self._students[peer]
        self._inbox.put((peer, Lost("the student closed its connection")))

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The descriptor of the inbox."""
        return (self._inbox.fd,)

    def receive(self) -> tuple[Peer, Message | Lost] | None:
        """The next message and who sent it, or None when there is none now."""
        event: tuple[Peer, Message | Lost] | None = None if self._closed else self._inbox.get()
        return event

    def send(self, peer: Peer, message: Message) -> bool:
        """Hand a message over; False when the peer is gone."""
        with _lock:
            student = self._students.get(peer) if isinstance(peer, int) else None
            if student is None:
                return False
            student._inbox.put(message)
            return True

    def close(self) -> None:
        """Free the name; the students hear `Lost`."""
        with _lock:
            if self._closed:
                return
            self._closed = True
            del _listeners[self._name]
            for student in self._students.values():
                student._listener = None
                student._inbox.put(Lost(f"{self.address} was closed"))
            self._students.clear()
        self._inbox.close()
