"""Addresses: ``tcp://host:port[/model]``, ``ipc:///path[#model]``, ``grpc://…``, ``inproc://name``.

``dns://host:port[/model]`` and ``dns+grpc://…`` stand for every address that a name resolves to.
"""

from __future__ import annotations

import ipaddress
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass

from pantheon.errors import ConfigError, UnsupportedScheme

SCHEMES = ("tcp", "ipc", "grpc", "inproc")
NAMES: Mapping[str, str] = {"dns": "tcp", "dns+grpc": "grpc"}
"""Schemes of names with many addresses, and the scheme that each of these addresses has."""

PLANNED = ("shm",)

MAX_IPC_PATH = 103 if sys.platform == "darwin" else 107
"""Bytes of the longest path a Unix socket can have."""


@dataclass(frozen=True, slots=True)
class Address:
    """Where a teacher is, taken apart.

    Args:
        scheme: one of `SCHEMES` or `NAMES`.
        host: name or numeric address without brackets; the name of an in-process one.
        port: 0 to 65535; 0 asks a listener to choose.
        path: absolute path of an ``ipc`` socket, else empty.
        model: which of a server's models; empty for its only one.
    """

    scheme: str
    host: str = ""
    port: int = 0
    path: str = ""
    model: str = ""

    def __str__(self) -> str:
        if self.scheme == "ipc":
            return f"ipc://{self.path}" + (f"#{self.model}" if self.model else "")
        if self.scheme == "inproc":
            return f"inproc://{self.host}" + (f"/{self.model}" if self.model else "")
        return f"{self.scheme}://{self.netloc}" + (f"/{self.model}" if self.model else "")

    @property
    def netloc(self) -> str:
        """``host:port``, an IPv6 host in brackets."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"

    @property
    def many(self) -> bool:
        """Whether it stands for every address of a name."""
        return self.scheme in NAMES

    @property
    def speaks(self) -> str:
        """The scheme of what listens there: one of `SCHEMES`."""
        return NAMES.get(self.scheme, self.scheme)

    @property
    def numeric(self) -> bool:
        """Whether the host is an address rather than a name that must be resolved."""
        try:
            ipaddress.ip_address(self.host.partition("%")[0])
        except ValueError:
            return False
        return True

    @property
    def loopback(self) -> bool:
        """Whether only this machine can reach it."""
        if self.scheme in ("ipc", "inproc"):
            return True
        if not self.numeric:
            return self.host == "localhost"
        return ipaddress.ip_address(self.host.partition("%")[0]).is_loopback


def parse_address(text: str) -> Address:
    """Take an address apart.

    Raises:
        UnsupportedScheme: unknown, or not built yet.
        ConfigError: a part is missing or out of range; says which.

    Example:
        >>> parse_address("tcp://teacher:5557/bert")
        Address(scheme='tcp', host='teacher', port=5557, path='', model='bert')
    """
    scheme, separator, rest = text.partition("://")
    known = ", ".join(f"{s}://" for s in (*SCHEMES, *NAMES))
    if not separator:
        raise ConfigError(f"address {text!r} has no scheme; expected one of {known}")
    if scheme in PLANNED:
        raise UnsupportedScheme(f"address {text!r}: {scheme}:// is not built yet; use {known}")
    if scheme not in SCHEMES and scheme not in NAMES:
        raise UnsupportedScheme(f"address {text!r}: unknown scheme {scheme}://; expected {known}")
    if scheme == "ipc":
        return _ipc(text, rest)
    host, _, model = rest.partition("/")
    if scheme == "inproc":
        if not host:
            raise ConfigError(f"address {text!r} has no name; write inproc://name")
        return Address(scheme, host, model=model)
    return _host_port(text, scheme, host, model.strip("/"))


def _ipc(text: str, rest: str) -> Address:
    path, _, model = rest.partition("#")
    if not path:
        raise ConfigError(f"address {text!r} has no path; write ipc:///path/to/socket[#model]")
    path = os.path.abspath(path)
    if len(os.fsencode(path)) > MAX_IPC_PATH:
        raise ConfigError(
            f"address {text!r}: the socket path has {len(os.fsencode(path))} bytes, the system "
            f"allows {MAX_IPC_PATH}; choose a shorter one, such as /tmp/name"
        )
    return Address("ipc", path=path, model=model)


def _host_port(text: str, scheme: str, netloc: str, model: str) -> Address:
    host, colon, port = netloc.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ConfigError(f"address {text!r}: write an IPv6 address in brackets, [{host}]:{port}")
    if not colon or not host or not port.isascii() or not port.isdigit():
        raise ConfigError(f"address {text!r} needs a host and a port: {scheme}://host:port[/model]")
    if int(port) > 65535:
        raise ConfigError(f"address {text!r}: port {port} is beyond 65535")
    if any(c.isspace() or c in "@?#" for c in host):
        raise ConfigError(f"address {text!r}: {host!r} is not a host name")
    return Address(scheme, "0.0.0.0" if host == "*" else host, int(port), model=model)
