"""What is known of a teacher once its first replica has answered, and what it has delivered."""

from __future__ import annotations

from dataclasses import dataclass

from pantheon.codec.api import compiled
from pantheon.codec.base import SchemaCodec
from pantheon.codec.parts import PartsCheck
from pantheon.messages import Welcome
from pantheon.reading import Reader
from student_client.cache_writer import CacheWriter


@dataclass(slots=True)
class KnownTeacher:
    """A teacher that has been heard of.

    Args:
        name: its name.
        welcome: what its first replica said, and all others have to.
        codec, check: its schema, made ready for many replies.
        reader: reads the student's inputs for it, where it has no dataset of its own.

    Attributes:
        bytes: coded bytes accepted.
        late: answers nobody waited for any more.
        refused: requests it did not answer.
        corrupt: answers whose checksum was wrong.
        cache: where its answers are kept, None where they are not.
        cached, cached_bytes: samples and coded bytes read from there.
        missed: rows that were gone on without, as it could not be reached.
        verified, unverified: requests that two replicas answered, and that were chosen for it but
            could not be asked twice.
        disagreements: of those verified, the ones answered differently.
        disagreement: the largest absolute difference among them.
    """

    name: str
    welcome: Welcome
    codec: SchemaCodec
    check: PartsCheck
    reader: Reader | None = None
    bytes: int = 0
    late: int = 0
    refused: int = 0
    corrupt: int = 0
    cache: CacheWriter | None = None
    cached: int = 0
    cached_bytes: int = 0
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
