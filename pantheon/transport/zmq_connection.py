"""A student's end over ZeroMQ: one DEALER socket and its monitor."""

from __future__ import annotations

import contextlib
import itertools
import math
import random
import struct
import time
from collections import deque
from typing import Any

import zmq

from pantheon.errors import MismatchError, ProtocolError, UnknownHost
from pantheon.transport.address import Address
from pantheon.transport.base import Connected, Connection, Event, Lost
from pantheon.transport.keys import client_keys
from pantheon.transport.lookup import SILENT, Lookup, is_zmtp, probe, resolve
from pantheon.transport.security import Curve
from pantheon.transport.zmq_link import WATCHED, Link
from pantheon.transport.zmq_socket import (
    LINGER_S,
    client_context,
    receive_frames,
    send_frames,
    set_options,
)
from pantheon.wire.framing import pack, unpack
from pantheon.wire.messages import Goodbye, Hello, Limits, Message
from pantheon.wire.pieces import to_pieces

RECONNECT_S = 0.1
RECONNECT_MAX_S = 2.0
CONNECT_S = 5.0
ROUND_S = 2.0
"""Seconds between two rounds through the addresses of a name."""

UNKNOWN_S = 1.0
UNKNOWN_MAX_S = 15.0
"""Seconds until a name that did not resolve is asked for again; they double up to the second."""

_monitors = itertools.count()


class ZmqConnection(Connection):
    """`Connection` over ``tcp://`` and ``ipc://``.

    Args:
        address: the teacher's.
        limits: replies beyond ``max_reply_bytes`` break the connection.
        curve: keys; None for none.

    Raises:
        ConfigError: keys that cannot be read.
    """

    def __init__(self, address: Address, limits: Limits, curve: Curve | None = None) -> None:
        keys = None if curve is None else client_keys(curve)
        self.address = str(address)
        self._where = address
        self._max_bytes = limits.max_reply_bytes
        self._link = Link(address.path or address.netloc, keyed=curve is not None)
        self._pending: deque[Event] = deque()
        self._lookup = Lookup()
        self._targets: list[Address] = []
        self._target = 0
        self._round_after = 0.0
        self._unknown = False
        self._ask_at, self._ask_pause = math.inf, UNKNOWN_S
        self._dead = self._closed = self._sealed = False
        self._socket = client_context().socket(zmq.DEALER)
        self._configure()
        if keys is not None:
            self._socket.curve_serverkey, self._socket.curve_publickey = keys[:2]
            self._socket.curve_secretkey = keys[2]
        self._monitor = self._watch_socket()
        if address.path or address.numeric:
            self._aim([address])
        else:
            self._lookup.ask(lambda: resolve(address))

    def _configure(self) -> None:
        # Nothing bounds what waits for us but what we ask for: libzmq 4.3 aborts a process that
        # connects again after its queue was full (https://github.com/zeromq/libzmq/issues/3937).
        set_options(self._socket, self._max_bytes)
        # With IMMEDIATE, libzmq would drop replies that came before a loss and are not read yet.
        # `send` sees to it that nothing is queued for nobody; what was queued when a teacher died
        # is refused by the next one, as it comes before Hello.
        self._socket.setsockopt(zmq.IMMEDIATE, 0)
        self._socket.setsockopt(zmq.RECONNECT_IVL, int(RECONNECT_S * 1000))
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, int(RECONNECT_MAX_S * 1000))
        self._socket.setsockopt(zmq.CONNECT_TIMEOUT, int(CONNECT_S * 1000))
        self._socket.setsockopt(zmq.IPV6, 1)

    def _watch_socket(self) -> zmq.Socket[bytes]:
        name = f"inproc://pantheon-monitor-{next(_monitors)}"
        return self._socket.get_monitor_socket(WATCHED, name)

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The socket, its monitor, and the descriptor of the name lookup."""
        return (self._socket, self._monitor, self._lookup.fd)

    def send(self, message: Message) -> bool:
        """Hand a message over without blocking; False when the other side is not there."""
        if isinstance(message, Hello):
            self._sealed = message.integrity
        if not self._link.up:
            return False
        return send_frames(self._socket, to_pieces(pack(message, sealed=self._sealed)))

    def receive(self) -> Event | None:
        """The next event, or None when there is none now. Never blocks."""
        while not self._closed:
            # Messages first, so that what arrived before a loss is heard before it.
            if not self._dead and (frames := receive_frames(self._socket)) is not None:
                return self._read(frames)
            if self._pending:
                return self._pending.popleft()
            if not self._look_around():
                break
        return None

    def _read(self, frames: list[zmq.Frame]) -> Event:
        try:
            return unpack([f.buffer for f in frames], self._max_bytes)
        except (ProtocolError, MismatchError) as error:
            reason = f"{self._link.name} sent what cannot be read: {error}"
            if self._sealed:
                # It was right when it was sent: greet the teacher anew, and ask again.
                self._pending.append(Connected())
                return Lost(reason)
            return self._die(Lost(reason, type(error)(reason)))

    def _look_around(self) -> bool:
        """Read the monitor, answers to questions and the clock; whether there is news."""
        if self._dead:
            return False
        now = time.monotonic()
        while (frames := receive_frames(self._monitor)) is not None and not self._dead:
            event, value = struct.unpack("=hi", frames[0].bytes)
            self._tell(self._link.feed(event, value, now))
            if event == zmq.EVENT_CONNECT_RETRIED:
                self._try_next(now)
        if self._link.up:
            return bool(self._pending)
        if self._lookup.busy and (answer := self._lookup.answer()) is not None:
            self._take(answer)
        if now >= self._ask_at and not self._lookup.busy and not self._dead:
            self._ask_at = math.inf
            self._lookup.ask(lambda: resolve(self._where))
        if self._link.stuck(now) and not self._dead:
            self._aim(self._targets)
        if self._link.suspect and not self._lookup.busy and not self._dead:
            self._link.suspect = False
            target = self._targets[self._target]
            self._lookup.ask(lambda: (probe(target),))
        return bool(self._pending)

    def _tell(self, event: Event | None) -> None:
        if isinstance(event, Lost) and event.fatal:
            event = self._die(event)
        if event is not None:
            self._pending.append(event)

    def _take(self, answer: Any) -> None:
        if isinstance(answer, UnknownHost):
            if not self._link.ever_up:
                self._miss(answer)
        elif isinstance(answer, list):
            if self._unknown:
                self._unknown = False
                self._tell(Lost(f"{self._link.name} resolves now, and is not reached yet"))
            if answer != self._targets:
                self._aim(answer)
        else:
            self._judge(answer[0])

    def _miss(self, error: UnknownHost) -> None:
        """Tell once that the name does not resolve, and go on asking: it may come to be known."""
        self._ask_at = time.monotonic() + self._ask_pause * random.uniform(0.5, 1.0)
        self._ask_pause = min(UNKNOWN_MAX_S, 2 * self._ask_pause)
        if not self._unknown:
            self._unknown = True
            self._pending.append(Lost(str(error), error))

    def _judge(self, said: bytes | None) -> None:
        """What a probe found after a handshake had failed; a teacher's proxy may just hang up."""
        if said and not is_zmtp(said) and not self._link.ever_up:
            what = "stays silent" if said is SILENT else f"answers {said!r}"
            self._tell(
                self._link.fatal(f"{self._link.name} does not speak our protocol: it {what}")
            )

    def _aim(self, targets: list[Address], target: int = 0) -> None:
        """Connect to one of the addresses, whatever went before."""
        self._disconnect()
        self._targets, self._target = targets, target
        self._socket.connect(_endpoint(targets[target]))

    def _disconnect(self) -> None:
        if not self._targets:
            return
        # libzmq forgets an endpoint by itself after a protocol error.
        with contextlib.suppress(zmq.ZMQError):
            self._socket.disconnect(_endpoint(self._targets[self._target]))

    def _try_next(self, now: float) -> None:
        """Go through the addresses of a name, and ask for them again every round."""
        if self._target + 1 < len(self._targets):
            self._aim(self._targets, self._target + 1)
        elif self._round_after < now and not self._where.path and not self._where.numeric:
            self._round_after = now + ROUND_S
            if not self._lookup.busy:
                self._lookup.ask(lambda: resolve(self._where))
            if self._target:
                self._aim(self._targets)

    def _die(self, lost: Lost) -> Lost:
        self._dead = True
        self._link.up = False
        self._disconnect()
        return lost

    def close(self) -> None:
        """Say goodbye if that is possible without waiting, and leave."""
        if self._closed:
            return
        if self._link.up:
            self.send(Goodbye("closed"))
        self._closed = self._dead = True
        self._link.up = False
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(int(LINGER_S * 1000))
        self._lookup.close()


def _endpoint(address: Address) -> str:
    return f"ipc://{address.path}" if address.path else f"tcp://{address.netloc}"
