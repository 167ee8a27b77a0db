"""A teacher's end over gRPC, which speaks the Open Inference Protocol v2."""

from __future__ import annotations

import logging
from collections.abc import Hashable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from pantheon.errors import TransportError
from pantheon.transport import oip
from pantheon.transport.address import Address
from pantheon.transport.base import Listener, Lost, Peer
from pantheon.transport.grpc_health import HealthServicer
from pantheon.transport.grpc_peers import GrpcPeers
from pantheon.transport.grpc_service import Servicer
from pantheon.transport.grpc_tls import server_credentials
from pantheon.transport.oip_messages import MAX_MESSAGE
from pantheon.transport.security import Tls
from pantheon.wire.messages import Limits, Message

logger = logging.getLogger(__name__)

MAX_CALLS = 256
"""Streams and calls at once; each takes a thread while it lasts."""

MAX_STREAMS = 64
"""Streams and calls of one connection at once; more wait at the client."""

HANDSHAKE_MS = 3000
"""Milliseconds in which a connection must have shaken hands, TLS and HTTP/2."""

GRACE_S = 0.5
"""Seconds in which replies may still leave after `close`."""


class GrpcListener(Listener):
    """`Listener` over ``grpc://``; a peer is a stream, or one call of a stock client.

    Args:
        address: where to bind; port 0 chooses a free one.
        limits: requests beyond ``max_request_bytes`` are refused.
        tls: certificate and key; None for none.

    Raises:
        ConfigError: certificates that cannot be read.
        TransportError: the address is in use or not this machine's.
    """

    def __init__(self, address: Address, limits: Limits, tls: Tls | None = None) -> None:
        credentials = None if tls is None else server_credentials(tls)
        self.malformed = 0
        self._peers = GrpcPeers()
        self._closed = False
        self._pool = ThreadPoolExecutor(MAX_CALLS, thread_name_prefix="grpc-listener")
        self._server = grpc.server(
            self._pool, options=_options(limits), maximum_concurrent_rpcs=MAX_CALLS
        )
        servicer = Servicer(self._peers, self._count)
        self._server.add_generic_rpc_handlers((oip.handlers(servicer),))
        add_HealthServicer_to_server(HealthServicer(servicer.inquire), self._server)
        try:
            if credentials is None:
                port = self._server.add_insecure_port(address.netloc)
            else:
                port = self._server.add_secure_port(address.netloc, credentials)
        except RuntimeError as error:
            self.close()
            raise TransportError(
                f"cannot listen at {address}: {error}; stop what listens there, or choose another "
                "address (port 0 takes a free one)"
            ) from None
        self.address = str(Address("grpc", address.host, port))
        self._server.start()

    def _count(self, error: Exception) -> None:
        self.malformed += 1
        logger.warning("%s: refused a malformed message: %s", self.address, error)

    @property
    def pollables(self) -> tuple[Any, ...]:
        """The descriptor of the queue that the calls' threads fill."""
        return (self._peers.inbox.fd,)

    def receive(self) -> tuple[Peer, Message | Lost] | None:
        """The next message and who sent it, or None when there is none now."""
        return None if self._closed else self._peers.receive()

    def client(self, peer: Peer) -> Hashable:
        """The certificate of a peer, None where none is asked for."""
        student = self._peers.get(peer)
        return None if student is None else student.client

    def send(self, peer: Peer, message: Message) -> bool:
        """Hand a message over without blocking; False when the peer is gone."""
        student = self._peers.get(peer)
        return student is not None and not self._closed and student.deliver(message)

    def leave(self) -> None:
        """End every call at once: the pool's threads would keep the process from ending."""
        self._peers.close()
        self._server.stop(None)
        self._pool.shutdown(wait=False)

    def close(self) -> None:
        """Stop listening and free the address; replies have `GRACE_S` seconds to leave."""
        if self._closed:
            return
        self._closed = True
        self._peers.close()
        self._server.stop(GRACE_S).wait()
        self._pool.shutdown(wait=False)
        self._peers.inbox.close()


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.max_receive_message_length", min(limits.max_request_bytes, MAX_MESSAGE)),
        ("grpc.max_send_message_length", -1),
        # Two servers on one port would each get some of the students.
        ("grpc.so_reuseport", 0),
        ("grpc.max_concurrent_streams", MAX_STREAMS),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.keepalive_time_ms", 20_000),
        ("grpc.keepalive_timeout_ms", 20_000),
        ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 5_000),
    ]
