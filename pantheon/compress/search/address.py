"""Addresses of databases: which driver they mean, how they are reached, how they are shown."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError

from pantheon.errors import ConfigError
from pantheon.quote import near

LOCKED = 60
"""Seconds for which SQLite waits for other workers."""

SILENT = 60
"""Seconds without a word from a server after which a connection is taken for broken."""

DRIVER = "postgresql+pg8000"
"""For an address that names none."""

MODES = ("disable", "allow", "prefer", "require", "verify-ca", "verify-full")
"""How TLS is asked for, in libpq's words: from not at all to with a certificate that fits."""

QUERY = ("sslmode", "sslrootcert", "host", "port", "application_name")
"""What may follow the question mark of an address without a driver."""


def masked(url: str) -> str:
    """A storage's address without its password; also a text that quotes one.

    Example:
        >>> masked("postgresql://me:secret@host/db")
        'postgresql://me:***@host/db'
    """
    known = re.sub(r"(://[^:/@\s]*):\S*@", r"\1:***@", url)
    return re.sub(r"(?i)(password=)[^&\s'\"]*", r"\1***", known)


@dataclass(frozen=True, slots=True)
class Address:
    """What SQLAlchemy is given to reach a database.

    Args:
        url: with the driver's name.
        arguments: of the driver's ``connect``.
    """

    url: str
    arguments: Mapping[str, Any] = field(default_factory=dict)

    @property
    def lite(self) -> bool:
        """Whether it is a file of SQLite."""
        return self.url.startswith("sqlite")


def address_of(url: str) -> Address:
    """How a database is reached: PostgreSQL by the driver that is tested, if none is named.

    Without a driver's name, an address of PostgreSQL is read as its own programs read it, as far as
    `QUERY` goes; with one, it is left as it is.

    Raises:
        ConfigError: it is no address, or says what cannot be.

    Example:
        >>> address_of("postgresql://me@db.lan/search").url
        'postgresql+pg8000://me@db.lan/search'
        >>> address_of("postgresql+psycopg://me@db.lan/search").url
        'postgresql+psycopg://me@db.lan/search'
    """
    try:
        found = make_url(url)
    except (ArgumentError, ValueError) as error:
        raise ConfigError(
            f"the storage {masked(url)!r} is no address; expected one as in "
            "sqlite:///search.db or postgresql://user:word@host/db"
        ) from error
    if found.get_backend_name() == "sqlite":
        return Address(url, {"timeout": LOCKED})
    if found.drivername in ("postgresql", "postgres"):
        return _without_driver(found)
    own = {"timeout": SILENT} if found.drivername == DRIVER else {}
    return Address(url, own)


def _without_driver(url: URL) -> Address:
    asked = {name: value for name, value in url.query.items() if isinstance(value, str)}
    if unknown := sorted(set(url.query) - set(QUERY)):
        raise ConfigError(
            f"the storage {_shown(url)} says {unknown[0]}, which is not known"
            f"{near(unknown[0], QUERY)}; expected some of {', '.join(QUERY)}, or a driver's name, "
            f"as in {DRIVER}://"
        )
    given: dict[str, Any] = {"timeout": SILENT}
    if "application_name" in asked:
        given["application_name"] = asked["application_name"]
    if url.username is None:
        raise ConfigError(f"the storage {_shown(url)} names no user; postgresql://user@host/db")
    host, port = asked.get("host", url.host), asked.get("port", url.port)
    if host is None or host.startswith("/"):  # The folder of a socket, by default Debian's.
        given["unix_sock"] = f"{host or '/var/run/postgresql'}/.s.PGSQL.{port or 5432}"
        given["ssl_context"] = False
        url = url.set(host=None, port=None)
    else:
        given["ssl_context"] = _tls(url, asked)
        url = url.set(host=host, port=int(port) if port else None)
    plain = url.set(drivername=DRIVER, query={})
    return Address(plain.render_as_string(hide_password=False), given)


def _tls(url: URL, asked: Mapping[str, str]) -> ssl.SSLContext | bool | None:
    """What pg8000 is told of TLS: not at all, a context that checks, or (None) where it can."""
    mode, roots = asked.get("sslmode", "prefer"), asked.get("sslrootcert")
    if mode not in MODES:
        raise ConfigError(
            f"the storage {_shown(url)} has sslmode {mode!r}{near(mode, MODES)}; expected one of "
            f"{', '.join(MODES)}"
        )
    if mode in ("disable", "allow"):
        return False
    if mode == "prefer" and roots is None:
        return None
    if mode == "require" and roots is None:
        return True
    try:
        context = ssl.create_default_context(cafile=roots)
    except OSError as error:
        raise ConfigError(f"sslrootcert {roots!r} cannot be read: {error}") from error
    context.check_hostname = mode == "verify-full"
    return context


def _shown(url: URL) -> str:
    return masked(url.render_as_string(hide_password=True))
