"""A student's end over gRPC: to Pantheon teachers, and to any Open Inference Protocol v2 server."""

from __future__ import annotations

import logging
import random
import threading
from typing import Any

import grpc

from pantheon.errors import (
    ConfigError,
    PantheonError,
    ProtocolError,
    SecurityError,
    UnknownHost,
)
from pantheon.transport import oip
from pantheon.transport.address import Address
from pantheon.transport.base import Connected, Connection, Event, Lost
from pantheon.transport.grpc_session import Session, StreamSession
from pantheon.transport.grpc_stock import StockSession
from pantheon.transport.grpc_tls import ALERT, channel_credentials, refused
from pantheon.transport.grpc_tls import options as tls_options
from pantheon.transport.inbox import Inbox
from pantheon.transport.lookup import HTTP2_GREETING, SILENT, is_http2, probe, resolve
from pantheon.transport.oip_messages import MAX_MESSAGE
from pantheon.transport.security import Tls
from pantheon.wire.messages import Limits, Message

logger = logging.getLogger(__name__)

GREETING_S = 3.0
"""Seconds in which a server must say what it is."""

RETRY_S = 0.1
RETRY_MAX_S = 2.0


class GrpcConnection(Connection):
    """`Connection` over ``grpc://``.

    Args:
        address: the server's; for a stock server it must name the model.
        limits: replies beyond ``max_reply_bytes`` break the connection.
        tls: the authorities trusted, and our certificate; None for a plain connection.

    Raises:
        ConfigError: certificates that cannot be read.
    """

    def __init__(self, address: Address, limits: Limits, tls: Tls | None = None) -> None:
        self._tls = tls
        self._credentials = None if tls is None else channel_credentials(tls)
        self.address = str(address)
        self._where = address
        self._limits = limits
        self._inbox = Inbox()
        self._session: Session | None = None
        self._channel: Any = None
        self._down = self._ever_up = self._unknown = False
        self._retry = RETRY_S
        self._closing = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="grpc-connection", daemon=True)
        self._thread.start()

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The descriptor of the queue that the connection's thread fills."""
        return (self._inbox.fd,)

    def send(self, message: Message) -> bool:
        """Hand a message over without blocking; False when the other side is not there."""
        session = self._session
        return session is not None and session.send(message)

    def receive(self) -> Event | None:
        """The next event, or None when there is none now."""
        event: Event | None = None if self._closing.is_set() else self._inbox.get()
        return event

    def close(self) -> None:
        """Leave; what is in flight is cancelled."""
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            session, channel = self._session, self._channel
        if session is not None:
            session.close()
            self._thread.join(0.2)  # Time for a Goodbye.
        if channel is not None:
            channel.close()
        self._thread.join(1.0)
        self._inbox.close()

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._lose(self._attempt())
            except UnknownHost as error:
                # It may come to be known.
                self._lose(str(error), error)
            except PantheonError as error:
                self._lose(str(error), error)
                return
            except grpc.RpcError as error:
                if not self._closing.is_set() and not self._failed(error):
                    return
            except ValueError:
                # grpc raises it for a channel that `close` has closed meanwhile.
                if not self._closing.is_set():
                    raise
            self._closing.wait(self._retry * random.uniform(0.5, 1.0))
            self._retry = min(self._retry * 2, RETRY_MAX_S)

    def _attempt(self) -> str:
        """Connect and serve until the connection is lost; why it was."""
        if not self._where.numeric and isinstance(found := resolve(self._where), UnknownHost):
            if not self._ever_up:
                raise found
            return str(found)
        channel = self._channel_to(self._where.netloc)
        with self._lock:
            if self._closing.is_set():
                channel.close()
                return "closed"
            self._channel = channel
        try:
            return self._serve(oip.Stub(channel))
        finally:
            self._session = None
            channel.close()

    def _channel_to(self, netloc: str) -> Any:
        options = [*_options(self._limits), *tls_options(self._tls)]
        if self._credentials is None:
            return grpc.insecure_channel(netloc, options=options)
        return grpc.secure_channel(netloc, self._credentials, options=options)

    def _serve(self, stub: oip.Stub) -> str:
        metadata = stub.ServerMetadata(oip.ServerMetadataRequest(), timeout=GREETING_S)
        native = oip.EXTENSION in metadata.extensions
        if not native and not self._where.model:
            raise ConfigError(
                f"{self.address} is a stock server ({metadata.name:.80}); name its model: "
                f"{self.address}/model"
            )
        kind = StreamSession if native else StockSession
        session = kind(stub, self._inbox, self._where.model)
        with self._lock:
            if self._closing.is_set():
                session.close()
            self._session = session
        self._ever_up, self._down, self._retry = True, False, RETRY_S
        self._unknown = False
        self._inbox.put(Connected())
        return session.run()

    def _failed(self, error: Any) -> bool:
        """Report a failed call; whether trying again can help."""
        code, netloc = error.code(), self._where.netloc
        if code is grpc.StatusCode.UNIMPLEMENTED:
            what = "speaks gRPC, but not the Open Inference Protocol v2"
            return self._foreign(what)
        if self._tls is not None and not self._ever_up and refused(error.details() or ""):
            return self._denied(f"no TLS with {netloc}: {error.details():.300}")
        said = None if self._ever_up or self._tls is not None else self._probe()
        if said and said.startswith(ALERT):
            return self._denied(f"{netloc} wants TLS; give security=Tls(ca=…)")
        if said and not is_http2(said):
            what = "stays silent" if said is SILENT else f"answers {said!r}"
            return self._foreign(f"does not speak gRPC: it {what}")
        if said is None and not self._ever_up and self._tls is None:
            self._lose(f"connection refused by {netloc}: nobody listens there yet")
        else:
            lost = f"the connection to {netloc} was lost ({code.name}: {error.details():.300})"
            self._lose(lost if self._ever_up else f"{lost}; {self._doubt()}")
        return True

    def _doubt(self) -> str:
        """What may be wrong with keys where the server just hangs up."""
        if self._tls is None:
            return "if it wants TLS, give security=Tls(ca=…)"
        return "does it accept our certificate (signed by its ca, not expired)?"

    def _probe(self) -> bytes | None:
        found = [self._where] if self._where.numeric else resolve(self._where)
        if isinstance(found, UnknownHost):
            return None
        return next((said for a in found if (said := probe(a, HTTP2_GREETING)) is not None), None)

    def _foreign(self, what: str) -> bool:
        reason = f"{self._where.netloc} {what}; check host, port and scheme"
        self._lose(reason, ProtocolError(reason))
        return False

    def _denied(self, reason: str) -> bool:
        self._lose(reason, SecurityError(reason))
        return False

    def _lose(self, reason: str, error: Exception | None = None) -> None:
        unknown = isinstance(error, UnknownHost)
        fatal = error is not None and not unknown
        if fatal or not self._down or unknown != self._unknown:
            self._inbox.put(Lost(reason, error))
        self._down, self._unknown = True, unknown


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(limits.max_reply_bytes, MAX_MESSAGE)),
        ("grpc.max_send_message_length", -1),
        # Each connection its own: a shared one would share its back-off too.
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.enable_http_proxy", 0),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
    ]
