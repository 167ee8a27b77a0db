"""How many rows a request has, and what a row weighs. No I/O."""

from __future__ import annotations

import math
from collections.abc import Iterable

from pantheon.codec.parts import PartSpec, schema_parts
from pantheon.errors import ConfigError
from pantheon.schema import DTYPES, KnowledgeSchema
from pantheon.wire.messages import Limits

REQUEST_BYTES = 4 << 20
"""What a request's answer should weigh: small batches share a message."""

MOST_BATCHES = 32
"""Most batches that share a message."""

RAGGED_ROWS = 64
"""Packed rows a sample of a ragged field is taken to have before any was seen."""


def row_bytes(schema: KnowledgeSchema) -> int:
    """Coded bytes of one sample; a guess for ragged fields.

    >>> from pantheon.schema import FieldSpec
    >>> row_bytes(KnowledgeSchema((FieldSpec("x", "float32", (10,), "float16"),)))
    20
    """
    return max(1, sum(_part_bytes(p) for p in schema_parts(schema)))


def _part_bytes(part: PartSpec) -> int:
    rows = RAGGED_ROWS if part.per == "row" else 1
    return math.prod(part.shape) * DTYPES[part.dtype] * rows


def is_ragged(schema: KnowledgeSchema) -> bool:
    """Whether samples of these fields differ in size."""
    return any(f.ragged is not None for f in schema)


def request_rows(
    batch: int, weight: int, *, ragged: bool, limits: Iterable[Limits], asked: int | None
) -> int:
    """Rows of a request: as asked for, else whole batches, as many as weigh about `REQUEST_BYTES`.

    Args:
        batch: rows of a batch.
        weight: bytes of a row of the heaviest teacher.
        ragged: whether that is a guess; then a request is one batch.
        limits: the teachers' bounds.
        asked: what the user says.

    Raises:
        ConfigError: a row that no teacher could answer, or fewer than one row asked for.

    Example:
        >>> request_rows(32, 40, ragged=False, limits=[Limits()], asked=None)
        1024
        >>> request_rows(32, 40, ragged=False, limits=[Limits(max_rows=100)], asked=None)
        96
    """
    if asked is not None and asked < 1:
        raise ConfigError(f"request_rows is {asked}; expected at least 1, or None")
    bounds = tuple(limits)
    most = min(b.max_rows for b in bounds)
    if not ragged:
        most = min(most, min(b.max_reply_bytes for b in bounds) // weight)
    if most < 1:
        raise ConfigError(f"one row weighs {weight} bytes, more than a teacher may send at once")
    if asked is not None:
        return min(asked, most)
    batches = 1 if ragged else max(1, min(MOST_BATCHES, REQUEST_BYTES // (batch * weight)))
    rows = batches * batch
    if rows <= most:
        return rows
    # Whole batches where one fits, else an even part of a batch.
    return most // batch * batch or math.ceil(batch / math.ceil(batch / most))
