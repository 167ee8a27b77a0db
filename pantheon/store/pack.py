"""From coded parts to the bytes of a shard, and what its entry says of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from pantheon.codec.parts import PartSpec, check_parts, schema_parts
from pantheon.errors import ConfigError, SchemaError
from pantheon.schema import KnowledgeSchema
from pantheon.store.layout import BLOCK, plan, ragged, stored_parts
from pantheon.store.manifest import MAX_ROWS, MAX_RUNS, DumpInfo, Entry
from pantheon.store.pairs import Ids, digest, require_sorted, runs
from pantheon.wire.buffers import dtype_name, to_raw
from pantheon.wire.messages import Buffer


@dataclass(frozen=True, slots=True)
class Packed:
    """A shard ready to be written: the bytes of the file, in order, and its entry."""

    entry: Entry
    chunks: Sequence[Buffer]


def shard_name(ids: Ids, views: Ids) -> str:
    """The file name of a shard of these pairs: the same pairs, the same name.

    Example:
        >>> shard_name(np.arange(5), np.zeros(5, np.int64))
        'shard-v0-000000000000-656e2d423d4a096e.safetensors'
    """
    return f"shard-v{views[0]}-{ids[0]:012d}-{digest(ids, views)}.safetensors"


def pack(info: DumpInfo, ids: Ids, views: Ids, scored: Sequence[Sequence[Tensor]]) -> Packed:
    """Lay out a shard of one or more answers of a scorer that follow each other.

    Args:
        ids, views: int64 ``[n]``, sorted by (id, view), n at least 1.
        scored: for each answer its coded parts, in the order of `schema_parts`.

    Raises:
        SchemaError: parts that do not fit the schema or the number of pairs.
        ConfigError: pairs out of order, or too many for one shard.
    """
    if len(ids) > MAX_ROWS:
        raise ConfigError(
            f"a shard would have {len(ids)} rows; expected at most {MAX_ROWS}: lower shard_rows"
        )
    require_sorted(ids, views)
    columns = _columns(info.schema, len(ids), scored)
    stored = stored_parts(info.schema)
    offsets = {}
    for field in ragged(info.schema):
        packed = sum(len(t) for t in columns[stored[field][0].name])
        offsets[field] = _offsets(field, columns, packed)
    kept = [p.name for own in stored.values() for p in own]
    payload = [raw for name in kept for raw in _bytes_of(columns[name])]
    index = [ids, views, *offsets.values(), _blocks(payload)]
    index_bytes = [np.ascontiguousarray(a, "<i8").tobytes() for a in index]
    totals = {name: int(o[-1]) for name, o in offsets.items()}
    layout = plan(info, len(ids), totals, _digest(index_bytes))
    chunks = [layout.header, *index_bytes, *payload]
    return Packed(make_entry(ids, views, layout.size, _digest(chunks)), chunks)


def make_entry(ids: Ids, views: Ids, size: int, file_digest: str) -> Entry:
    """The entry of a shard of these pairs, whose file has this size and digest."""
    found = runs(ids, views)
    return Entry(
        shard_name(ids, views),
        len(ids),
        size,
        file_digest,
        digest(ids, views),
        (int(views.min()), int(views.max())),
        tuple(found) if len(found) <= MAX_RUNS else None,
    )


def _columns(
    schema: KnowledgeSchema, rows: int, scored: Sequence[Sequence[Tensor]]
) -> dict[str, list[Tensor]]:
    """The answers by part, after checking that they fit the schema."""
    specs = schema_parts(schema)
    if not rows or any(len(parts) != len(specs) for parts in scored):
        found = sorted({len(parts) for parts in scored})
        raise SchemaError(
            f"a shard of {rows} pairs got answers of {found} parts; expected {len(specs)}"
        )
    columns = {s.name: [parts[i] for parts in scored] for i, s in enumerate(specs)}
    for spec in specs:
        for tensor in columns[spec.name]:
            _require_part(spec, tensor)
    shapes = [(s.dtype, (sum(len(t) for t in columns[s.name]), *s.shape)) for s in specs]
    check_parts(schema, rows, shapes)
    return columns


def _require_part(spec: PartSpec, tensor: Tensor) -> None:
    if dtype_name(tensor.dtype) != spec.dtype or tuple(tensor.shape[1:]) != spec.shape:
        raise SchemaError(
            f"part {spec.name!r} is {dtype_name(tensor.dtype)} {tuple(tensor.shape)}; expected "
            f"{spec.dtype} rows of shape {spec.shape}"
        )


def _bytes_of(column: Sequence[Tensor]) -> Iterator[Buffer]:
    for tensor in column:
        if tensor.numel():
            yield to_raw(tensor.detach().cpu().contiguous()).data


def _offsets(field: str, columns: Mapping[str, Sequence[Tensor]], packed: int) -> Ids:
    """Cumulative lengths of a ragged field, which must end at the packed rows there are."""
    lengths = np.concatenate([t.detach().cpu().numpy() for t in columns[f"{field}.lengths"]])
    if (lengths < 0).any() or lengths.sum() != packed:
        raise SchemaError(
            f"the lengths of {field!r} are at least {lengths.min()} and add up to {lengths.sum()}; "
            f"expected no negative one and a sum of {packed}, the packed rows there are"
        )
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int64)


def _blocks(payload: Sequence[Buffer]) -> NDArray[np.int64]:
    """Digests of every `BLOCK` bytes of buffers that follow each other."""
    found: list[int] = []
    block, room = xxhash.xxh3_64(), BLOCK
    for buffer in payload:
        view = memoryview(buffer).cast("B")
        while view.nbytes:
            block.update(view[:room])
            view, room = view[room:], room - min(room, view.nbytes)
            if not room:
                found.append(block.intdigest())
                block, room = xxhash.xxh3_64(), BLOCK
    if room < BLOCK:
        found.append(block.intdigest())
    return np.array(found, np.uint64).view(np.int64)


def _digest(chunks: Sequence[Buffer]) -> str:
    whole = xxhash.xxh3_64()
    for chunk in chunks:
        whole.update(chunk)
    return str(whole.hexdigest())
