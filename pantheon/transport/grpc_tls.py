"""TLS of gRPC: credentials from PEM files, and what gRPC's failures mean."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import grpc

from pantheon.errors import ConfigError
from pantheon.transport.security import Tls

MAX_BYTES = 1 << 20
"""Bytes of a PEM file; more are refused."""

FAILED = ("CERTIFICATE", "Peer name", "SSL_ERROR_SSL", "certificate", "Hostname Verification")
"""What gRPC's messages say when one side does not accept the other's certificate."""

ALERT = b"\x15\x03"
"""How a TLS server answers what is no TLS: an alert record."""


def channel_credentials(tls: Tls) -> Any:
    """A client's credentials.

    Raises:
        ConfigError: a file that cannot be read.
    """
    return grpc.ssl_channel_credentials(
        _read(tls.ca), None if tls.key is None else _secret(tls.key), _read(tls.certificate)
    )


def server_credentials(tls: Tls) -> Any:
    """A server's credentials; with an authority, every client needs a certificate.

    Raises:
        ConfigError: no certificate, or a file that cannot be read.
    """
    if tls.certificate is None or tls.key is None:
        raise ConfigError("a server's Tls needs certificate= and key=")
    pair = (_secret(tls.key), _read(tls.certificate))
    return grpc.ssl_server_credentials(
        [pair], root_certificates=_read(tls.ca), require_client_auth=tls.ca is not None
    )


def options(tls: Tls | None) -> list[tuple[str, str]]:
    """Channel options: the name that the server's certificate is to be valid for."""
    return [("grpc.ssl_target_name_override", tls.name)] if tls and tls.name else []


def refused(details: str) -> bool:
    """Whether a call failed because a certificate was not accepted.

    >>> refused("Ssl handshake failed: SSL_ERROR_SSL: ...:CERTIFICATE_VERIFY_FAILED")
    True
    >>> refused("failed to connect to all addresses; Connection refused")
    False
    """
    return any(word in details for word in FAILED)


def _secret(path: str | os.PathLike[str]) -> bytes | None:
    found = _read(path)
    mode = Path(path).stat().st_mode & 0o777
    if mode & 0o007:
        raise ConfigError(
            f"{path} has mode {mode:04o}, so anybody on this machine can read this secret key; "
            f"chmod 600 {path}"
        )
    return found


def _read(path: str | os.PathLike[str] | None) -> bytes | None:
    if path is None:
        return None
    try:
        with open(path, "rb") as file:
            found = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}; expected a PEM file") from None
    if len(found) > MAX_BYTES or b"-----BEGIN" not in found:
        raise ConfigError(f"{path} is no PEM file: expected '-----BEGIN …' and at most 1 MiB")
    return found
