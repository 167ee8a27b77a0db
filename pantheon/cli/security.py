"""From a configuration or an option to the keys it means."""

from __future__ import annotations

from pathlib import Path

from pantheon.config import SecurityConfig
from pantheon.errors import ConfigError
from pantheon.transport.security import Curve, Security, Tls


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
