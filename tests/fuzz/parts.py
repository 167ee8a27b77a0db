"""A teacher's Welcome and its answer, down to the values: codec parts, dtypes, ragged lengths."""

from __future__ import annotations

from random import Random

import torch

from pantheon.codec import encode
from pantheon.errors import ProtocolError, SchemaError, VersionMismatch
from pantheon.knowledge import Ragged, take_value, value_rows
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.wire.buffers import from_raw, to_raw
from pantheon.wire.framing import pack, unpack
from pantheon.wire.messages import Scored, Welcome
from student_client.known import KnownTeacher
from tests.fuzz import wire
from tests.fuzz.octets import join, split
from tests.fuzz.target import Target

ROWS = 3
_RAGGED = Ragged(torch.arange(4.0)[:, None], torch.tensor([1, 0, 3]))
VALUES = {
    "a": torch.ones(ROWS, 2),
    "b": torch.arange(15.0).view(ROWS, 5),
    "c": Ragged(torch.arange(4), torch.tensor([1, 0, 3])),
    "d": torch.randn(ROWS, 2, generator=torch.Generator().manual_seed(1)),
    "e": torch.zeros(ROWS, 0, dtype=torch.bool),
}
SCHEMAS = (
    wire.SCHEMA,
    KnowledgeSchema((FieldSpec("a", "float32", (2,)),)),
    KnowledgeSchema((FieldSpec("c", "int64", (), "raw", ragged="boxes"),)),
    KnowledgeSchema((FieldSpec("b", "float32", (5,), "topk:4@1:bfloat16"),)),
)


def seeds() -> list[bytes]:
    """For each schema its Welcome and an answer."""
    found = []
    for schema in SCHEMAS:
        parts = tuple(to_raw(t) for t in encode(schema, VALUES))
        frames = pack(Welcome("m", "r", schema)) + pack(Scored(1, "r", ROWS, parts))
        found.append(join([bytes(f) for f in frames]))
    return found


def read(data: bytes) -> None:
    """What a student does with a Welcome and an answer, and a little with the values."""
    frames = split(data)
    welcome, scored = unpack(frames[:1]), unpack(frames[1:])
    if not isinstance(welcome, Welcome) or not isinstance(scored, Scored):
        return
    teacher = KnownTeacher.of("t", welcome, None)
    # A student knows for how many rows it asked.
    teacher.check(ROWS, [(p.dtype, p.shape) for p in scored.parts])
    for value in teacher.codec.decode([from_raw(p) for p in scored.parts]).values():
        assert value_rows(value) == ROWS
        assert value_rows(take_value(value[1:], torch.tensor([1, 0, 1]))) == 3


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the schema or the answer."""
    frames = split(data) or [b""]
    if rng.random() < 0.4:
        return join([wire.change_header(frames[0], rng), *frames[1:]])
    return join([frames[0], *split(wire.mutate(join(frames[1:]), rng))])


TARGET = Target(seeds, mutate, read, (ProtocolError, VersionMismatch, SchemaError))
