"""From what the user named as teachers to a fleet of replicas that are being reached."""

from __future__ import annotations

import os
import platform
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pantheon.dataset import Ids, check_map_style, fingerprint
from pantheon.messages import Hello
from student_client.fleet import Fleet
from student_client.handshake import Agreement
from student_client.options import for_teachers
from student_client.replica import Replica
from student_client.sources import Given, Source, open_sources


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
    queries: bool = False,
) -> Fleet:
    """Begin to reach all teachers; never waits for them.

    Args:
        queries: the student sends inputs that no dataset holds.

    Raises:
        ConfigError: addresses, or names of teachers, that cannot be.
        StoreError: no dump at a path given.
    """
    sources = open_sources(teachers, integrity)
    try:
        names = [s.name for s in sources]
        wanted = for_teachers("fields", fields, names)
        stated = for_teachers("revision", revision, names)
        hello = Hello(session_name(), rank=rank, dataset=own.fingerprint)
        replicas = [
            r
            for s in sources
            for r in replicas_of(s, hello, wanted.get(s.name), strict=integrity is True)
        ]
        agreements = {
            name: Agreement(name, stated.get(name), own.fingerprint, own.size, views, queries)
            for name in names
        }
        return Fleet(replicas, agreements, patience)
    except BaseException:
        for source in sources:
            for connection in source.connections:
                connection.close()
        raise


def replicas_of(
    source: Source, hello: Hello, fields: Sequence[str] | None, *, strict: bool
) -> list[Replica]:
    """A source's replicas, each with the Hello it is to be greeted with."""
    online = source.kind == "online"
    return [
        Replica(
            source.name,
            connection,
            Hello(
                session=hello.session,
                model=model,
                rank=hello.rank,
                dataset=hello.dataset,
                fields=None if fields is None else tuple(fields),
                integrity=integrity,
            ),
            supervised=online,
            strict=strict,
        )
        for connection, model, integrity in zip(
            source.connections, source.models, source.integrity, strict=True
        )
    ]
