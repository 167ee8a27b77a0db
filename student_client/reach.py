"""From what the user named as teachers to a fleet of replicas that are being reached."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from pantheon.dataset import Ids, check_map_style, fingerprint
from pantheon.errors import ConfigError
from pantheon.transport import Address, Connection, Security
from pantheon.wire.messages import Hello
from student_client.discovery import Discovery
from student_client.fleet import Fleet
from student_client.handshake import Agreement
from student_client.options import for_teachers
from student_client.replica import Replica
from student_client.sources import Given, Source, open_sources

Keys = Security | Mapping[str, Security]


@dataclass(frozen=True, slots=True)
class Own:
    """The student's own dataset, as far as teachers have to agree on it.

    Args:
        fingerprint: None leaves it unchecked.
        size: None without a dataset.
    """

    fingerprint: str | None
    size: int | None

    @classmethod
    def of(cls, dataset: Any, given: str | None) -> Own:
        """A dataset's, or that of none.

        Raises:
            DatasetError: the dataset gives no ids, or reads differ.

        Example:
            >>> Own.of(None, "toy")
            Own(fingerprint='toy', size=None)
        """
        if dataset is None:
            return cls(given, None)
        size = check_map_style(dataset)
        if given is None and type(dataset) is Ids:
            return cls(None, size)
        return cls(fingerprint(dataset, given), size)


def session_name() -> str:
    """A name by which a teacher's log tells this student from others."""
    return f"{platform.node()[:40]}-{os.getpid()}-{uuid.uuid4().hex[:8]}"


def reach(
    teachers: Mapping[str, Given],
    own: Own,
    *,
    rank: int = 0,
    views: int = 0,
    patience: float = 60.0,
    fields: Mapping[str, Sequence[str]] | None = None,
    revision: Mapping[str, str] | None = None,
    integrity: bool | None = None,
    security: Keys = None,
    queries: bool = False,
) -> Fleet:
    """Begin to reach all teachers; never waits for them.

    Args:
        security: our keys, for all teachers or by name.
        queries: the student sends inputs that no dataset holds.

    Raises:
        ConfigError: addresses, or names of teachers, that cannot be.
        StoreError: no dump at a path given.
    """
    keys = dict(security) if isinstance(security, Mapping) else dict.fromkeys(teachers, security)
    sources = open_sources(teachers, integrity, for_teachers("security", keys, list(teachers)))
    try:
        names = [s.name for s in sources]
        wanted = for_teachers("fields", fields, names)
        stated = for_teachers("revision", revision, names)
        hello = Hello(session_name(), rank=rank, dataset=own.fingerprint)
        greet = {
            s.name: Greeting(s, hello, wanted.get(s.name), strict=integrity is True)
            for s in sources
        }
        agreements = {
            name: Agreement(name, stated.get(name), own.fingerprint, own.size, views, queries)
            for name in names
        }
        replicas = [r for g in greet.values() for r in g.replicas()]
        discoveries = [Discovery(s.name, s.names, greet[s.name].reach) for s in sources if s.names]
        return Fleet(replicas, agreements, patience, discoveries=discoveries, session=hello.session)
    except BaseException:
        for source in sources:
            for connection in source.connections:
                connection.close()
        raise


@dataclass(frozen=True, slots=True)
class Greeting:
    """How the replicas of a source are greeted.

    Args:
        hello: what every teacher is told.
        fields: the fields to ask for; None for all.
        strict: a reply without the checksum asked for is refused.
    """

    source: Source
    hello: Hello
    fields: Sequence[str] | None
    strict: bool

    def replicas(self) -> list[Replica]:
        """The replicas that are known from the start."""
        source = self.source
        return [
            self._replica(*each)
            for each in zip(source.connections, source.models, source.integrity, strict=True)
        ]

    def reach(self, address: Address) -> Replica:
        """Begin to reach a replica that was found behind a name."""
        if self.source.reach is None:
            raise ConfigError(f"teacher {self.source.name!r} has no replicas to be found")
        connection, integrity = self.source.reach(address)
        replica = self._replica(connection, address.model, integrity)
        replica.found = address
        return replica

    def _replica(self, connection: Connection, model: str, integrity: bool) -> Replica:
        fields = None if self.fields is None else tuple(self.fields)
        hello = replace(self.hello, model=model, fields=fields, integrity=integrity)
        supervised = self.source.kind == "online"
        return Replica(self.source.name, connection, hello, supervised, self.strict)
