"""Rows wanted of some shards, read as coded parts."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from pantheon.codec.parts import PartSpec
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store.layout import stored_parts
from pantheon.store.opened import Shards, Touched, groups, packed_rows
from pantheon.store.pairs import Ids
from pantheon.store.ranges import gather

_stored = lru_cache(maxsize=256)(stored_parts)


def read_rows(
    shards: Shards, schema: KnowledgeSchema, shard: Ids, row: Ids, *, check: bool = True
) -> list[Tensor]:
    """The coded parts of some rows, in the order asked for.

    Args:
        shards: the dump's.
        schema: the fields wanted, some of the dump's or all.
        shard, row: int64 ``[n]``, where each lies.
        check: verify the checksums of what is touched for the first time.

    Returns:
        Tensors on the CPU, in the order of `schema_parts`.

    Raises:
        ShardError: a shard is missing or damaged.
    """
    touched = [Touched(*shards.open(s), row[at], at) for s, at in groups(shard)]
    stored = _stored(schema)
    return [
        part
        for field in schema
        for part in _field(field, stored[field.name], touched, len(row), check)
    ]


def _field(
    field: FieldSpec, parts: list[PartSpec], touched: list[Touched], n: int, check: bool
) -> Iterator[Tensor]:
    if field.ragged is None:
        for part in parts:
            yield _part(part, touched, n, check)
        return
    lengths, packed = packed_rows(field.name, touched, n)
    yield torch.from_numpy(lengths)
    for part in parts:
        if part.per == "row":
            yield _part(part, packed, int(lengths.sum()), check)
        else:
            yield _part(part, touched, n, check)


def _part(part: PartSpec, touched: list[Touched], n: int, check: bool) -> Tensor:
    found = torch.empty((n, *part.shape), dtype=getattr(torch, part.dtype))
    if not found.numel():
        return found
    out = found.reshape(-1).view(torch.uint8).numpy().reshape(n, -1)
    for shard in touched:
        region = shard.head.layout.parts[part.name]
        if check:
            shard.head.check_rows(shard.file, region.start, region.width, shard.rows)
        gather(shard.file, region.start, shard.rows, out, shard.where)
    return found
