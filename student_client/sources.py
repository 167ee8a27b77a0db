"""Where a student takes a teacher's knowledge: online, offline or in this process."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pantheon.errors import ConfigError
from pantheon.transport import Address, Connection, Security, connect, parse_address

_FILE_SYSTEMS = "file local memory s3 s3a gs gcs az abfs abfss adl hdfs webhdfs hf oci oss lakefs"
FILE_SYSTEMS = frozenset(_FILE_SYSTEMS.split(" "))
"""Schemes of fsspec's file systems on which a dump can lie; every other scheme is a server's."""

Given = Any
"""What a user may name as a teacher: an address, several replicas' addresses, a path, a model."""


@dataclass(frozen=True, slots=True)
class Source:
    """One teacher, by the connections to all of its replicas.

    Args:
        name: the teacher's name.
        kind: an offline or local source is in this process; it cannot get lost.
        connections: one for each replica.
        models: which of its server's models each connection asks for.
        integrity: per connection, whether payloads are to carry a checksum.
        names: ``dns://`` addresses, behind which more replicas are found while it is used.
        reach: begins to reach a replica found there; answers also whether with checksums.
    """

    name: str
    kind: Literal["online", "offline", "local"]
    connections: tuple[Connection, ...]
    models: tuple[str, ...] = ("",)
    integrity: tuple[bool, ...] = (False,)
    names: tuple[Address, ...] = ()
    reach: Callable[[Address], tuple[Connection, bool]] | None = None


def kind_of(given: Given) -> Literal["online", "offline", "local"]:
    """Which kind of source something is.

    Raises:
        ConfigError: something that names no teacher.

    Example:
        >>> kind_of("tcp://teacher:5557"), kind_of("s3://bucket/dump"), kind_of("dumps/bert")
        ('online', 'offline', 'offline')
    """
    if isinstance(given, str):
        # "first::second://" chains file systems, such as simplecache::s3://
        scheme, separator, _ = given.partition("://")
        return "offline" if not separator or scheme.split("::")[-1] in FILE_SYSTEMS else "online"
    if isinstance(given, os.PathLike):
        return "offline"
    if isinstance(given, list | tuple):
        return "online"
    if hasattr(given, "scorer") or hasattr(given, "score"):
        return "local"
    raise ConfigError(
        f"a teacher is an address, a list of addresses, a path or a Teacher; found "
        f"{type(given).__name__}"
    )


def open_source(
    name: str, given: Given, integrity: bool | None, security: Security = None
) -> Source:
    """Begin to reach a teacher; never waits for it.

    Args:
        integrity: ask for checksums; None: only over plain tcp or gRPC between hosts.
        security: our keys.

    Raises:
        ConfigError: an address that cannot be, or that is named twice.
        UnsupportedScheme: a scheme that is unknown or not built yet.
        StoreError: no dump at the path given.
    """
    match kind_of(given):
        case "online":
            addresses = [given] if isinstance(given, str) else list(given)
            return _online(name, addresses, integrity, security)
        case "offline":
            from student_client.offline import OfflineConnection

            return Source(name, "offline", (OfflineConnection(name, os.fspath(given)),))
        case "local":
            from student_client.local import LocalConnection

            scorer: Any = getattr(given, "scorer", given)
            return Source(name, "local", (LocalConnection(name, scorer),))


def _online(name: str, addresses: list[str], integrity: bool | None, security: Security) -> Source:
    if not addresses or not all(isinstance(a, str) for a in addresses):
        raise ConfigError(f"teacher {name!r} needs at least one address; found {addresses}")
    parsed = [parse_address(a) for a in addresses]
    twice = {str(a) for a in parsed if parsed.count(a) > 1}
    if twice:
        raise ConfigError(f"teacher {name!r} names {', '.join(sorted(twice))} more than once")

    def reach(address: Address) -> tuple[Connection, bool]:
        # Keys authenticate every byte already.
        plain = security is None and not address.loopback
        checked = plain if integrity is None else integrity
        return connect(str(address), security=security), checked

    single = [a for a in parsed if not a.many]
    reached: list[tuple[Connection, bool]] = []
    try:
        for address in single:
            reached.append(reach(address))
    except BaseException:
        for connection, _ in reached:
            connection.close()
        raise
    return Source(
        name,
        "online",
        tuple(connection for connection, _ in reached),
        tuple(a.model for a in single),
        tuple(checked for _, checked in reached),
        tuple(a for a in parsed if a.many),
        reach,
    )


def open_sources(
    teachers: Mapping[str, Given],
    integrity: bool | None,
    security: Mapping[str, Security] | None = None,
) -> list[Source]:
    """All teachers of a student; closes what it opened when one of them cannot be."""
    if not isinstance(teachers, Mapping) or not teachers:
        raise ConfigError(
            "teachers must name at least one teacher: teachers={'bert': 'tcp://host:5557'}"
        )
    sources: list[Source] = []
    try:
        for name, given in teachers.items():
            keys = (security or {}).get(name)
            sources.append(open_source(name, given, integrity, keys))
    except BaseException:
        for source in sources:
            for connection in source.connections:
                connection.close()
        raise
    return sources
