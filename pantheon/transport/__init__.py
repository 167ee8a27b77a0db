"""Ways between a student and a teacher, behind one interface: `connect` and `listen`."""

from __future__ import annotations

from pantheon.errors import ConfigError
from pantheon.transport.address import Address, parse_address
from pantheon.transport.base import Connected, Connection, Event, Listener, Lost, Peer
from pantheon.transport.security import Curve, Security, Tls, curve_for, tls_for
from pantheon.wire.messages import Limits

__all__ = [
    "Address",
    "Connected",
    "Connection",
    "Curve",
    "Event",
    "Listener",
    "Lost",
    "Peer",
    "Security",
    "Tls",
    "connect",
    "listen",
    "parse_address",
]

DEFAULT_LIMITS = Limits()


def connect(
    address: str, *, limits: Limits = DEFAULT_LIMITS, security: Security = None
) -> Connection:
    """A connection to the teacher at `address`, being made; never blocks.

    Args:
        address: ``tcp://host:port[/model]``, ``ipc:///path[#model]``, ``grpc://host:port[/model]``
            or ``inproc://name[/model]``. The model is for `Hello.model`.
        limits: what a reply may be at most.
        security: our keys, `Curve` or `Tls`.

    Raises:
        UnsupportedScheme: a scheme that is unknown or not built yet.
        ConfigError: an address that cannot be, or keys that it cannot use or that cannot be read.

    Example:
        >>> teacher = connect("tcp://127.0.0.1:9"); teacher.address
        'tcp://127.0.0.1:9'
        >>> teacher.close()
    """
    where = _single(address)
    if where.scheme == "inproc":
        from pantheon.transport.inproc import InprocConnection

        return InprocConnection(where)
    if where.scheme == "grpc":
        from pantheon.transport.grpc_connection import GrpcConnection

        return GrpcConnection(where, limits, tls_for(security, where))
    from pantheon.transport.zmq_connection import ZmqConnection

    return ZmqConnection(where, limits, curve_for(security, where))


def listen(address: str, *, limits: Limits = DEFAULT_LIMITS, security: Security = None) -> Listener:
    """A listener bound to `address`; port 0 chooses one, which `Listener.address` then names.

    Args:
        address: as for `connect`, without a model.
        limits: what a request may be at most.
        security: the server's keys, `Curve` or `Tls` or both; with them nobody comes in without.

    Raises:
        UnsupportedScheme: a scheme that is unknown or not built yet.
        ConfigError: an address that cannot be, or keys that it cannot use or that cannot be read.
        TransportError: the address is in use or not this machine's.

    Example:
        >>> listener = listen("inproc://example"); listener.address; listener.close()
        'inproc://example'
    """
    where = _single(address)
    if where.scheme == "inproc":
        from pantheon.transport.inproc import InprocListener

        return InprocListener(where)
    if where.scheme == "grpc":
        from pantheon.transport.grpc_listener import GrpcListener

        return GrpcListener(where, limits, tls_for(security, where))
    from pantheon.transport.zmq_listener import ZmqListener

    return ZmqListener(where, limits, curve_for(security, where))


def _single(text: str) -> Address:
    """An address that is one end, rather than a name with many addresses."""
    where = parse_address(text)
    if where.many:
        raise ConfigError(
            f"{text} stands for every address of a name, for students; expected one address, such "
            f"as {where.speaks}://{where.netloc}"
        )
    return where
