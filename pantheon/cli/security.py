"""From a configuration or an option to the keys it means."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pantheon.config import SecurityConfig, TlsConfig
from pantheon.errors import ConfigError
from pantheon.transport.security import Curve, Security, Tls

KeysOption = Annotated[
    Path | None, typer.Option(help="Folder of CURVE keys, for teachers that ask for them.")
]
ClientOption = Annotated[str, typer.Option(help="Whose key of that folder to use.")]
CaOption = Annotated[
    Path | None, typer.Option(help="Certificates that vouch for a teacher, for grpc:// with TLS.")
]
CertificateOption = Annotated[
    Path | None, typer.Option(help="Our certificate, where the teacher asks for one.")
]
KeyOption = Annotated[Path | None, typer.Option(help="The certificate's private key.")]


def security_from(
    keys: Path | None, client: str, ca: Path | None, certificate: Path | None, key: Path | None
) -> Security:
    """The keys that a command line names; None for none.

    Raises:
        ConfigError: files that cannot be used together.
    """
    given = any(path is not None for path in (ca, certificate, key))
    tls = TlsConfig(ca=ca, certificate=certificate, key=key) if given else None
    return security_of(SecurityConfig(tls=tls), keys, client)


def security_of(
    config: SecurityConfig | None, keys: Path | None = None, client: str | None = None
) -> Security:
    """The keys of a file's ``security:``, or of ``--keys``; None for neither.

    Raises:
        ConfigError: both name a folder of CURVE keys.
    """
    found: list[Curve | Tls] = []
    if keys is not None and config is not None and config.curve is not None:
        raise ConfigError(f"--keys {keys} and security: curve: {config.curve}; give one of them")
    if keys is not None:
        found.append(Curve(keys, client or "student"))
    if config is not None and config.curve is not None:
        found.append(Curve(config.curve, client or config.client))
    if config is not None and config.tls is not None:
        found.append(Tls(**config.tls.model_dump()))
    return found or None
