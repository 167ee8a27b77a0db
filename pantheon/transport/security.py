"""Who may talk to whom: CURVE keys for ZeroMQ, TLS for gRPC."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

from pantheon.errors import ConfigError
from pantheon.transport.address import Address

Path = str | os.PathLike[str]


@dataclass(frozen=True, slots=True)
class Curve:
    """CURVE keys for ``tcp://`` and ``ipc://``: every byte is encrypted and authenticated.

    A server needs ``server.key_secret`` and the folder ``clients``, the allow-list of the clients'
    public keys; it reads the list again when it changes. A client needs ``server.key`` and its own
    secret key. ``pantheon keygen`` makes them all.

    Args:
        folder: of the keys.
        client: the name of this client's key: ``NAME.key_secret``.

    Example:
        >>> Curve("keys").client
        'student'
    """

    folder: Path
    client: str = "student"


@dataclass(frozen=True, slots=True)
class Tls:
    """TLS for ``grpc://``; mutual where the server is given the certificate authority.

    Args:
        ca: PEM certificates of the authorities that are trusted. A client without takes the
            system's; a server with it asks every client for a certificate that one of them signed.
        certificate, key: PEM certificate chain and secret key of this side. A server needs them, a
            client where the server asks for a certificate.
        name: what the server's certificate is to be valid for; None for the host of the address.

    Raises:
        ConfigError: a certificate without its key, or the reverse.
    """

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None

    def __post_init__(self) -> None:
        if (self.certificate is None) != (self.key is None):
            raise ConfigError("Tls needs certificate= and key= together, or neither")


One = Curve | Tls
Security = One | Sequence[One] | None
"""One kind of keys, or several for a server that listens in several ways; None: none."""

KINDS: dict[str, type[One]] = {"tcp": Curve, "ipc": Curve, "grpc": Tls}


def security_for(security: Security, address: Address) -> One | None:
    """What secures an address; None where nothing was given, or nothing leaves the process.

    Raises:
        ConfigError: keys were given, but none that the address's scheme can use. They are never
            left out in silence.

    Example:
        >>> from pantheon.transport import parse_address
        >>> security_for([Curve("keys"), Tls()], parse_address("grpc://teacher:8001"))
        Tls(ca=None, certificate=None, key=None, name=None)
    """
    given = [security] if isinstance(security, Curve | Tls) else list(security or ())
    wrong = [one for one in given if not isinstance(one, Curve | Tls)]
    if wrong:
        raise ConfigError(f"security is {wrong[0]!r}; expected Curve(folder), Tls(…) or both")
    kind = KINDS.get(address.speaks)
    if not given or kind is None:
        return None
    fitting = [one for one in given if isinstance(one, kind)]
    if len(fitting) != 1:
        raise ConfigError(
            f"{address} needs one {kind.__name__}(…) in security=, found {len(fitting)}: CURVE "
            "keys are for tcp and ipc, TLS is for grpc"
        )
    return fitting[0]


def curve_for(security: Security, address: Address) -> Curve | None:
    """`security_for` a ZeroMQ address."""
    found = security_for(security, address)
    return found if isinstance(found, Curve) else None


def tls_for(security: Security, address: Address) -> Tls | None:
    """`security_for` a gRPC address."""
    found = security_for(security, address)
    return found if isinstance(found, Tls) else None
