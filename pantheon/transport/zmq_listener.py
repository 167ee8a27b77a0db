"""A teacher's end over ZeroMQ: one ROUTER socket, with a context of its own, and its monitor."""

from __future__ import annotations

import contextlib
import logging
import os
import socket
import stat
import struct
import time
from collections import deque
from collections.abc import Hashable, Iterator, Sequence
from typing import Any

import zmq

from pantheon.errors import ConfigError, ProtocolError, TransportError, UnknownHost, VersionMismatch
from pantheon.transport.address import Address
from pantheon.transport.allow_list import AllowList
from pantheon.transport.base import Listener, Lost, Peer
from pantheon.transport.keys import clients_folder, server_keys
from pantheon.transport.lookup import resolve
from pantheon.transport.security import Curve
from pantheon.transport.strikes import Strikes
from pantheon.transport.zap import DOMAIN, Zap, client_name
from pantheon.transport.zmq_socket import (
    LOCAL_BUFFER,
    receive_first,
    receive_frames,
    receive_rest,
    send_frames,
    set_options,
)
from pantheon.wire.framing import MAX_HEADER, Damaged, is_sealed, pack, unpack
from pantheon.wire.messages import Buffer, Limits, Message, Refused
from pantheon.wire.pieces import PIECE, from_pieces

logger = logging.getLogger(__name__)

LINGER_S = 0.5
"""Seconds in which replies may still leave after `close`."""

BACKLOG = 512

UNREAD = 128
"""Messages of a peer that may wait for us: as many requests as it may have in flight, and a Cancel
of each. More are left in the network."""

UNSENT = 1024
"""Messages that may wait for a peer; far above its requests. More are not sent to who does not
read."""

SKIPPED = 64
SKIPPED_S = 0.02
"""Messages without a meaning that are passed over at once, and seconds, before others are looked
after."""

REMEMBERED = 256
"""Lost peers whose last messages may still come, as those of several peers come in turns."""


class ZmqListener(Listener):
    """`Listener` over ``tcp://`` and ``ipc://``; a peer is its routing id.

    Args:
        address: where to bind; port 0 chooses a free one.
        limits: requests beyond ``max_request_bytes`` are refused.
        curve: keys and allow-list; None lets everybody in who can reach it.

    Raises:
        TransportError: the address is in use or not this machine's.
        ConfigError: an ``ipc`` path is something else than a socket.
    """

    def __init__(self, address: Address, limits: Limits, curve: Curve | None = None) -> None:
        keys = None if curve is None else server_keys(curve)
        allow = None if curve is None else AllowList(clients_folder(curve))
        self.malformed = 0
        self._max_bytes = limits.max_request_bytes
        self._pending: deque[tuple[Peer, Message | Lost]] = deque()
        self._peers: dict[bytes, int] = {}
        self._clients: dict[bytes, str] = {}
        self._by_fd: dict[int, bytes] = {}
        self._open: set[int] = set()
        self._sealed: set[bytes] = set()
        self._strikes = Strikes()
        self._gone: deque[bytes] = deque(maxlen=REMEMBERED)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.ROUTER)
        set_options(self._socket, min(self._max_bytes, max(PIECE, MAX_HEADER)))
        self._socket.setsockopt(zmq.RCVHWM, max(UNREAD, 2 * limits.max_in_flight))
        self._socket.setsockopt(zmq.SNDHWM, max(UNSENT, 4 * limits.max_in_flight))
        self._socket.setsockopt(zmq.ROUTER_MANDATORY, 1)
        self._socket.setsockopt(zmq.BACKLOG, BACKLOG)
        self._zap: Zap | None = None
        if keys is not None and allow is not None:
            # Before the socket is bound: without a ZAP handler, CURVE lets any key in.
            self._zap = Zap(self._context, allow)
            self._socket.setsockopt(zmq.ZAP_DOMAIN, DOMAIN)
            self._socket.setsockopt(zmq.ZAP_ENFORCE_DOMAIN, 1)
            self._socket.curve_server = True
            self._socket.curve_publickey, self._socket.curve_secretkey = keys
        self._monitor = self._socket.get_monitor_socket(zmq.EVENT_ACCEPTED | zmq.EVENT_DISCONNECTED)
        self._closed = False
        self._file: tuple[str, int] | None = None
        try:
            self.address = self._bind(address)
        except BaseException:
            self.close()
            raise

    def _bind(self, address: Address) -> str:
        if address.path:
            _clear_stale(address)
        elif not address.numeric:
            found = resolve(address)
            if isinstance(found, UnknownHost):
                raise found
            address = found[0]
        self._socket.setsockopt(zmq.IPV6, int(":" in address.host))
        if address.loopback:
            self._socket.setsockopt(zmq.SNDBUF, LOCAL_BUFFER)
        endpoint = f"ipc://{address.path}" if address.path else f"tcp://{address.netloc}"
        try:
            self._socket.bind(endpoint)
        except zmq.ZMQError as error:
            raise TransportError(
                f"cannot listen at {endpoint}: {error.strerror}; stop what listens there, or "
                "choose another address (port 0 takes a free one)"
            ) from None
        if address.path:
            self._file = (address.path, os.stat(address.path).st_ino)
        return str(self._socket.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The socket and its monitor."""
        return (self._socket, self._monitor)

    def receive(self) -> tuple[Peer, Message | Lost] | None:
        """The next message and who sent it, or None when there is none now."""
        until = time.monotonic() + SKIPPED_S
        for _ in range(SKIPPED):
            if self._closed or time.monotonic() > until:
                break
            if self._pending:
                return self._pending.popleft()
            if (first := receive_first(self._socket)) is not None:
                rest = receive_rest(self._socket, first)
                event = self._read(first, rest)
                deque(rest, maxlen=0)  # What was not looked at is still to be taken.
                if event is not None:
                    return event
            elif not self._look_around():
                break
        return self._pending.popleft() if self._pending and not self._closed else None

    def _read(self, first: zmq.Frame, rest: Iterator[zmq.Frame]) -> tuple[Peer, Message] | None:
        peer = first.bytes
        if self._zap is not None and not self._permitted(peer, first):
            return None
        if self._strikes.shut(peer):
            return None
        frames: Sequence[Buffer] = ()
        try:
            frames = from_pieces((f.buffer for f in rest), self._max_bytes)
            message = unpack(frames, self._max_bytes)
        except (ProtocolError, VersionMismatch) as error:
            # Pieces that do not fit together count as much as the largest of them.
            self._refuse(peer, error, memoryview(frames[0]).nbytes if frames else PIECE)
            return None
        if peer not in self._peers:
            if peer in self._gone:
                # Its descriptor may be another peer's by now, which must not be taken for it.
                return None
            self._meet(peer, first)
        if peer in self._peers and is_sealed(frames[0]):
            self._sealed.add(peer)
        return peer, message

    def _permitted(self, peer: bytes, frame: zmq.Frame) -> bool:
        """Whether a peer's key is still on the allow-list; one whose key is not is left."""
        assert self._zap is not None
        user = frame.get("User-Id")
        if self._zap.permits(user):
            return True
        if peer in self._peers:
            name = client_name(user)
            logger.warning("%s: the key of client %r is no longer allowed", self.address, name)
            self._lose(peer, self._peers[peer])
        return False

    def _refuse(self, peer: bytes, error: Exception, header_bytes: int) -> None:
        self.malformed += 1
        damaged = isinstance(error, Damaged)
        if said := self._strikes.add(peer, 0 if damaged else 1 + header_bytes):
            logger.warning("%s: refused a malformed message: %s (%s)", self.address, error, said)
        code = "version" if isinstance(error, VersionMismatch) else "protocol"
        if peer in self._sealed or damaged:
            code = "damaged"
        self._send(peer, Refused(None, code, str(error)))

    def _meet(self, peer: bytes, frame: zmq.Frame) -> None:
        """Note on which descriptor a new peer came, so that its end is noticed.

        The monitor is read first: what it says of the descriptor so far is about an earlier peer.
        """
        self._look_around()
        fd = int(frame.get(zmq.SRCFD))
        if (earlier := self._by_fd.get(fd)) is not None:
            self._lose(earlier, fd)
        self._peers[peer], self._by_fd[fd] = fd, peer
        if self._zap is not None:
            self._clients[peer] = str(frame.get("User-Id"))
        if fd not in self._open:
            self._lose(peer, fd)

    def _lose(self, peer: bytes, fd: int) -> None:
        del self._peers[peer], self._by_fd[fd]
        self._clients.pop(peer, None)
        self._sealed.discard(peer)
        self._gone.append(peer)
        self._pending.append((peer, Lost("the student disconnected")))

    def _look_around(self) -> bool:
        while (frames := receive_frames(self._monitor)) is not None:
            event, fd = struct.unpack("=hi", frames[0].bytes)
            if event == zmq.EVENT_ACCEPTED:
                self._open.add(fd)
                continue
            self._open.discard(fd)
            if (peer := self._by_fd.get(fd)) is not None:
                self._lose(peer, fd)
        return bool(self._pending)

    def client(self, peer: Peer) -> Hashable:
        """The name and key of a peer, None where no keys are asked for."""
        return self._clients.get(peer) if isinstance(peer, bytes) else None

    def send(self, peer: Peer, message: Message) -> bool:
        """Hand a message over without blocking; False when the peer is gone."""
        # libzmq reports a loss a moment before it stops queueing for the peer.
        if self._closed or not isinstance(peer, bytes) or peer not in self._peers:
            return False
        return self._send(peer, message)

    def _send(self, peer: bytes, message: Message) -> bool:
        return send_frames(self._socket, [peer, *pack(message, sealed=peer in self._sealed)])

    def close(self) -> None:
        """Stop listening and free the address; replies have `LINGER_S` seconds to leave."""
        if self._closed:
            return
        self._closed = True
        if self._file is not None:
            _remove(*self._file)
        self._socket.disable_monitor()
        self._monitor.close(0)
        self._socket.close(int(LINGER_S * 1000))
        if self._zap is not None:
            self._zap.close()
        self._context.term()


def _remove(path: str, inode: int) -> None:
    """Remove our socket file, which libzmq leaves behind, unless it is another's by now."""
    with contextlib.suppress(FileNotFoundError):
        if os.stat(path).st_ino == inode:
            os.unlink(path)


def _clear_stale(address: Address) -> None:
    """Remove the socket file of a dead listener; libzmq would remove any file, a live one too."""
    try:
        mode = os.stat(address.path).st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise ConfigError(f"cannot listen at {address}: {address.path} exists and is no socket")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        try:
            sock.connect(address.path)
        except ConnectionRefusedError:
            os.unlink(address.path)
        else:
            raise TransportError(f"cannot listen at {address}: another process listens there")
