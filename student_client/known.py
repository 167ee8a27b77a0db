"""What is known of a teacher once its first replica has answered, and what it has delivered."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

from pantheon.codec.api import compiled
from pantheon.codec.base import SchemaCodec
from pantheon.codec.parts import PartsCheck
from pantheon.sampling.reading import Reader
from pantheon.wire.messages import Welcome
from student_client.cache_writer import CacheWriter
from student_client.refusals import FINAL, LATER

CODES = frozenset({*FINAL, *LATER, "error"})
"""Codes that refusals are counted by."""


@dataclass(slots=True)
class KnownTeacher:
    """A teacher that has been heard of.

    Args:
        name: its name.
        welcome: what its first replica said, and all others have to.
        codec, check: its schema, made ready for many replies.
        reader: reads the student's inputs for it, where it has no dataset of its own.

    Attributes:
        asked: requests sent, those sent again included.
        requests, seconds: of these, the answers taken in, and how long all of them took together.
        samples, bytes: taken in, with their coded bytes, from replicas or a cache.
        wait: seconds in which it had not answered what the student was waiting for.
        late: answers nobody waited for any more.
        refusals: requests it did not answer, by code.
        corrupt: answers whose checksum was wrong.
        cache: where its answers are kept, None where they are not.
        cached, cached_bytes: samples and coded bytes read from there.
        uncached: samples it answered although it has a cache, as they were not there.
        missed: rows that were gone on without, as it could not be reached.
        verified, unverified: requests that two replicas answered, and that were chosen for it but
            were not answered twice.
        disagreements: of those verified, the ones answered differently.
        disagreement: the largest absolute difference among them.
    """

    name: str
    welcome: Welcome
    codec: SchemaCodec
    check: PartsCheck
    reader: Reader | None = None
    asked: int = 0
    requests: int = 0
    seconds: float = 0.0
    samples: int = 0
    bytes: int = 0
    wait: float = 0.0
    late: int = 0
    refusals: Counter[str] = field(default_factory=Counter)
    corrupt: int = 0
    cache: CacheWriter | None = None
    cached: int = 0
    cached_bytes: int = 0
    uncached: int = 0
    missed: int = 0
    verified: int = 0
    unverified: int = 0
    disagreements: int = 0
    disagreement: float = 0.0

    @classmethod
    def of(cls, name: str, welcome: Welcome, reader: Reader | None) -> KnownTeacher:
        """A teacher by its Welcome; `reader` is used if it takes no ids."""
        schema = welcome.schema
        own = None if welcome.accepts_ids else reader
        return cls(name, welcome, compiled(schema), PartsCheck(schema), own)

    def answered(self, samples: int, seconds: float) -> None:
        """A request was answered that was asked some seconds ago."""
        self.requests += 1
        self.seconds += seconds
        if self.cache is not None:
            self.uncached += samples

    def refuse(self, code: str) -> None:
        """A request was refused; codes nobody knows are counted together."""
        self.refusals[code if code in CODES else "other"] += 1
