"""What a YAML file may say of keys and certificates."""

from __future__ import annotations

from pathlib import Path

from pantheon.config.section import Section


class TlsConfig(Section):
    """TLS of gRPC; see `pantheon.transport.Tls`."""

    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    name: str | None = None


class SecurityConfig(Section):
    """Keys: a folder of CURVE keys for ``tcp`` and ``ipc``, TLS for ``grpc``.

    `client` is whose CURVE key a student uses.
    """

    curve: Path | None = None
    client: str = "student"
    tls: TlsConfig | None = None
