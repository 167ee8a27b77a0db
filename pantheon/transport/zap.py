"""ZAP (ZeroMQ RFC 27): libzmq asks who may come in, and the allow-list answers."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Mapping, Sequence
from typing import Any

import zmq
from zmq.utils import z85

from pantheon.transport.allow_list import REFRESH_S, AllowList
from pantheon.transport.wake import Wake

logger = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
DOMAIN = b"pantheon"
WARN_S = 10.0
"""Seconds between two warnings of strangers."""


class Zap:
    """Answers libzmq's questions about clients, in a thread of its own.

    A server's loop may be inside a forward, and a handshake has only a few seconds.

    Args:
        context: the server's; ZAP is per context, and has to be bound before the server is.
        allow: who may come in.

    Attributes:
        denied: how many were not let in.
    """

    def __init__(self, context: zmq.Context[zmq.Socket[bytes]], allow: AllowList) -> None:
        self.allow, self.denied = allow, 0
        self._quiet_until = 0.0
        self._over = False
        self._wake = Wake()
        self._socket = context.socket(zmq.REP)
        self._socket.setsockopt(zmq.LINGER, 0)
        self._socket.bind(ENDPOINT)
        self._thread = threading.Thread(target=self._run, name="zap", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._wake.fd, zmq.POLLIN)
        while not self._over:
            ready = dict(poller.poll(int(REFRESH_S * 1000)))
            self.allow.refresh()
            if self._socket in ready:
                self._answer(self._socket.recv_multipart())
        self._socket.close(0)

    def _answer(self, frames: Sequence[bytes]) -> None:
        """Answer one question; whatever goes wrong, the next one is answered too."""
        try:
            answer, name = decide(frames, self.allow.names)
            self._log(name, frames)
        except Exception:
            logger.exception("cannot say whether a client may come in; it may try again")
            answer = _reply(frames, b"300", b"try again")
        self._socket.send_multipart(answer)

    def _log(self, name: str | None, frames: Sequence[bytes]) -> None:
        """Who came in; of strangers, who may be many, a line every few seconds."""
        where = frames[3].decode(errors="replace")[:64] if len(frames) > 3 else "?"
        if name is not None:
            logger.info("client %r comes in from %s", name, where)
            return
        self.denied += 1
        if time.monotonic() >= self._quiet_until:
            self._quiet_until = time.monotonic() + WARN_S
            logger.warning(
                "refused a key that is not on the allow-list, from %s (%d so far)",
                where,
                self.denied,
            )

    def permits(self, user: Any) -> bool:
        """Whether a client that came in may still be here: its key counts, not its name.

        Args:
            user: the ``User-Id`` of its messages.
        """
        return str(user).partition(":")[2].encode() in self.allow.names

    def close(self) -> None:
        """Answer no more. Safe to call twice."""
        if not self._over:
            self._over = True
            self._wake.set()
            self._thread.join()
            self._wake.close()


def client_name(user: Any) -> str:
    """The name in a ``User-Id``, which is a name and a public key: two keys may bear one name.

    Example:
        >>> client_name("ann:rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7")
        'ann'
    """
    return str(user).partition(":")[0]


def decide(frames: Sequence[bytes], names: Mapping[bytes, str]) -> tuple[list[bytes], str | None]:
    """The answer to a ZAP request, and the client's name if it may come in.

    Args:
        frames: version, request id, domain, address, identity, mechanism, credentials.
        names: clients by public key in Z85.

    Example:
        >>> ask = [b"1.0", b"7", DOMAIN, b"127.0.0.1", b"", b"CURVE", bytes(32)]
        >>> decide(ask, {z85.encode(bytes(32)): "ann"})[0][:5]
        [b'1.0', b'7', b'200', b'OK', b'ann:0000000000000000000000000000000000000000']
        >>> decide(ask, {})[1] is None
        True
    """
    fits = len(frames) == 7 and frames[0] == b"1.0" and frames[5] == b"CURVE"
    key = z85.encode(frames[6]) if fits and len(frames[6]) == 32 else b""
    name = names.get(key)
    if name is None:
        return _reply(frames, b"400", b"not on the allow-list"), None
    return _reply(frames, b"200", b"OK", name.encode() + b":" + key), name


def _reply(frames: Sequence[bytes], status: bytes, text: bytes, user: bytes = b"") -> list[bytes]:
    number = frames[1] if len(frames) > 1 else b""
    return [b"1.0", number, status, text, user, b""]
