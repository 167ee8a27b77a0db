"""Where the bytes of a shard lie: a safetensors header that follows from what the shard holds.

The header is a function of schema, row counts and digests, so a reader writes it again and
compares: whatever was altered in it shows. Tensors follow each other without gaps::

    ids      int64 [rows]           sorted with views by (id, view)
    views    int64 [rows]
    <ragged field>.offsets int64 [rows + 1]   cumulative; packed rows of sample i are
                                              offsets[i] to offsets[i + 1]
    blocks   int64 [n]              xxh3_64 of every 64 KiB of what follows
    <part>   one tensor a part, dense [rows, ...] or packed [offsets[rows], ...]
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from pantheon.codec.parts import PartSpec, field_parts
from pantheon.errors import SchemaError, ShardError
from pantheon.quote import quoted
from pantheon.schema import DTYPES, KnowledgeSchema
from pantheon.store.manifest import DumpInfo

BLOCK = 1 << 16
"""Bytes of knowledge under one digest: what a touched row makes a reader check."""
MAX_HEADER = 1 << 22
ALIGN = 64
RESERVED = ("ids", "views", "blocks", "__metadata__")
_CODES = {
    "float64": "F64",
    "float32": "F32",
    "float16": "F16",
    "bfloat16": "BF16",
    "int64": "I64",
    "int32": "I32",
    "int16": "I16",
    "int8": "I8",
    "uint8": "U8",
    "bool": "BOOL",
}


@dataclass(frozen=True, slots=True)
class Region:
    """A tensor in a shard's file.

    Args:
        part: what it is; its shape is without the first dimension.
        rows: first dimension.
        start: offset in the file.
    """

    part: PartSpec
    rows: int
    start: int

    @property
    def width(self) -> int:
        """Bytes of one row."""
        return width(self.part)

    @property
    def stop(self) -> int:
        """Offset in the file after the last byte."""
        return self.start + self.rows * self.width


@dataclass(frozen=True, slots=True)
class Layout:
    """A shard's header and the places of its tensors.

    Args:
        header: the file's first bytes: length, JSON and padding.
        index: ids, views, offsets and block digests, by name.
        parts: the knowledge, by part name.
        data: where the knowledge starts.
        size: bytes of the file.
    """

    header: bytes
    index: Mapping[str, Region]
    parts: Mapping[str, Region]
    data: int
    size: int = field(default=0)


def width(part: PartSpec) -> int:
    """Bytes of one row of a part.

    Example:
        >>> width(PartSpec("logits", "float16", (10,), "sample"))
        20
    """
    return math.prod(part.shape) * DTYPES[part.dtype]


def offsets_name(name: str) -> str:
    """The tensor that holds a ragged field's row ends.

    Example:
        >>> offsets_name("tokens")
        'tokens.offsets'
    """
    return f"{name}.offsets"


def tensor_name(part: str) -> str:
    """The tensor that holds a part: its own name but for the few that a shard needs itself.

    Example:
        >>> tensor_name("logits"), tensor_name("ids")
        ('logits', 'field:ids')
    """
    return f"field:{part}" if part in RESERVED or part.startswith("field:") else part


def ragged(schema: KnowledgeSchema) -> list[str]:
    """The names of the ragged fields, in order."""
    return [f.name for f in schema if f.ragged is not None]


def stored_parts(schema: KnowledgeSchema) -> dict[str, list[PartSpec]]:
    """The parts on disk of every field: all but the lengths, which are kept as offsets.

    Raises:
        SchemaError: two tensors of one name.
    """
    kept = {f.name: [p for p in field_parts(f) if not _is_lengths(p, f.name)] for f in schema}
    names = [tensor_name(p.name) for parts in kept.values() for p in parts]
    names += [offsets_name(name) for name in ragged(schema)]
    twice = sorted({n for n in names if names.count(n) > 1})
    if twice:
        raise SchemaError(f"two tensors of a shard would be named {twice[0]!r}; rename a field")
    return kept


def plan(
    info: DumpInfo, rows: int, totals: Mapping[str, int], index_digest: str = "0" * 16
) -> Layout:
    """Lay a shard out.

    Args:
        rows: number of pairs.
        totals: packed rows of every ragged field.
        index_digest: xxh3_64 of the index tensors' bytes.
    """
    parts = stored_parts(info.schema)
    counts = {
        p.name: totals[f] if p.per == "row" else rows for f, own in parts.items() for p in own
    }
    payload = sum(width(p) * counts[p.name] for own in parts.values() for p in own)
    index = [("ids", rows), ("views", rows)]
    index += [(offsets_name(name), rows + 1) for name in ragged(info.schema)]
    index += [("blocks", -(-payload // BLOCK))]
    named = [(name, PartSpec(name, "int64", (), "sample"), n) for name, n in index]
    named += [(tensor_name(p.name), p, counts[p.name]) for f in info.schema for p in parts[f.name]]
    header = _header(named, _metadata(info, index_digest))
    regions = _place(named, len(header))
    places = {name: region for (name, _, _), region in zip(named, regions, strict=True)}
    inside = {name for name, _ in index}
    return Layout(
        header,
        {name: r for name, r in places.items() if name in inside},
        {r.part.name: r for name, r in places.items() if name not in inside},
        places["blocks"].stop,
        regions[-1].stop,
    )


def parse(header: bytes, name: str) -> dict[str, Any]:
    """The JSON of a header; `ShardError` when it is none."""
    try:
        wire = json.loads(header)
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{name}: the header is not JSON ({error})") from error
    if not isinstance(wire, dict) or not isinstance(wire.get("__metadata__"), dict):
        raise ShardError(f"{name}: the header has no metadata; expected a shard written by a dump")
    return wire


def stated_rows(wire: Mapping[str, Any], tensor: str, name: str, most: int) -> int:
    """The first dimension a header states for a tensor; `ShardError` unless it is 0 to `most`."""
    told = wire.get(tensor)
    shape = told.get("shape") if isinstance(told, dict) else None
    if not isinstance(shape, list) or not shape or type(shape[0]) is not int:
        raise ShardError(f"{name}: the header has no tensor {tensor!r} with rows")
    if not 0 <= shape[0] <= most:
        raise ShardError(
            f"{name}: the header states {quoted(shape[0])} rows of {tensor!r}; a shard of its "
            f"size has at most {most}: it was cut short or altered"
        )
    return int(shape[0])


def _is_lengths(part: PartSpec, field_name: str) -> bool:
    return part.per == "sample" and part.name == f"{field_name}.lengths"


def _metadata(info: DumpInfo, index_digest: str) -> dict[str, str]:
    dump = json.dumps(info.to_wire(), sort_keys=True, separators=(",", ":"))
    return {"block": str(BLOCK), "dump": dump, "format": "pt", "index": index_digest}


def _place(named: list[tuple[str, PartSpec, int]], start: int) -> list[Region]:
    regions = []
    for _, part, rows in named:
        regions.append(Region(part, rows, start))
        start = regions[-1].stop
    return regions


def _header(named: list[tuple[str, PartSpec, int]], metadata: dict[str, str]) -> bytes:
    wire: dict[str, Any] = {"__metadata__": metadata}
    for (name, part, rows), region in zip(named, _place(named, 0), strict=True):
        wire[name] = {
            "dtype": _CODES[part.dtype],
            "shape": [rows, *part.shape],
            "data_offsets": [region.start, region.stop],
        }
    text = json.dumps(wire, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % ALIGN)
    if len(text) > MAX_HEADER:
        raise SchemaError(
            f"the header of a shard would have {len(text)} bytes; expected at most {MAX_HEADER}: "
            "use fewer fields or shorter names"
        )
    return len(text).to_bytes(8, "little") + text
