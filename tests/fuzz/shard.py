"""A shard: its header, its index and its knowledge."""

from __future__ import annotations

import json
from collections.abc import Sequence
from random import Random
from typing import Any

import numpy as np
import torch
import xxhash

from pantheon.codec import encode
from pantheon.errors import PantheonError, ShardError
from pantheon.schema import KnowledgeSchema
from pantheon.store.layout import plan, ragged, stored_parts
from pantheon.store.manifest import DumpInfo
from pantheon.store.opened import Touched, packed_rows
from pantheon.store.pack import pack
from pantheon.store.ranges import RangeFile, gather
from pantheon.store.shard import entry_of, open_shard, require_entry
from tests.fuzz import parts, tree
from tests.fuzz.octets import dig, scramble
from tests.fuzz.target import MAX_INPUT, Target


class Bytes(RangeFile):
    """A file in memory."""

    name, gap = "shard-0.safetensors", 4096

    def __init__(self, data: bytes) -> None:
        self.data = data

    def read(self, offsets: Sequence[int], buffers: Sequence[memoryview]) -> None:
        for offset, buffer in zip(offsets, buffers, strict=True):
            found = self.data[offset : offset + buffer.nbytes]
            if len(found) != buffer.nbytes:
                raise ShardError("the file ends early")
            buffer[:] = found

    def size(self) -> int:
        return len(self.data)


def seeds() -> list[bytes]:
    """A shard of each schema, and one of each field alone."""
    found = []
    alone = [KnowledgeSchema((field,)) for field in parts.SCHEMAS[0]]
    for schema in (*parts.SCHEMAS, *alone):
        info, n = DumpInfo(schema, "r1", "d", 100), parts.ROWS
        scored = encode(schema, parts.VALUES)
        packed = pack(info, np.arange(n), np.zeros(n, np.int64), [scored])
        found.append(b"".join(bytes(c) for c in packed.chunks))
    return found


def read(data: bytes) -> None:
    """Open a shard, check every byte, make its entry, and read all rows of all fields."""
    file = Bytes(data)
    info, head = open_shard(file, len(data))
    require_entry(head, entry_of(file, head))
    rows = np.arange(head.rows)
    touched = [Touched(file, head, rows, rows)]
    for field, own in stored_parts(info.schema).items():
        taken, n = touched, head.rows
        if field in ragged(info.schema):
            lengths, taken = packed_rows(field, touched, head.rows)
            n = int(lengths.sum())
        for part in own:
            region = head.layout.parts[part.name]
            out = np.empty((n, region.width), np.uint8)
            for t in taken:
                head.check_rows(file, region.start, region.width, t.rows)
                gather(file, region.start, t.rows, out, t.where)


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the header's JSON, or lay the shard out again for another description, or bytes."""
    size = int.from_bytes(data[:8], "little")
    text, rest = data[8 : 8 + size], data[8 + size :]
    how = rng.random()
    if how < 0.15:
        return scramble(data, rng)
    try:
        if how < 0.2:
            return _file(dig(text, rng), rest)
        wire = json.loads(text)
        if how < 0.4:
            return _file(_json(tree.change(wire, rng)), rest)
        if how < 0.6:
            return _file(text, scramble(rest, rng), rng)
        return _again(wire, rest, rng)
    except (
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        PantheonError,
    ):
        return scramble(data, rng)


def _again(wire: dict[str, Any], rest: bytes, rng: Random) -> bytes:
    """A shard whose header is all it should be for a changed description or number of rows."""
    told = tree.change(json.loads(wire["__metadata__"]["dump"]), rng)
    info = DumpInfo.from_wire(told)
    rows = max(0, wire["ids"]["shape"][0] + rng.choice((-1, 0, 0, 0, 1, 1 << 40, 1 << 62)))
    totals = {f: rng.choice((0, 1, 4, 5, 1 << 50)) for f in ragged(info.schema)}
    layout = plan(info, rows, totals)
    size = min(layout.size - len(layout.header), MAX_INPUT)
    return _file(layout.header[8:], rest[:size].ljust(size, b"\0"), rng)


def _file(text: bytes, rest: bytes, rng: Random | None = None) -> bytes:
    """A file of this header; with `rng`, often with the right digest of its index."""
    if rng is not None and rng.random() < 0.8:
        wire = json.loads(text)
        end = int(wire["blocks"]["data_offsets"][1])
        wire["__metadata__"]["index"] = xxhash.xxh3_64_hexdigest(rest[:end])
        text = _json(wire)
    return len(text).to_bytes(8, "little") + text + rest


def _json(wire: Any) -> bytes:
    text = json.dumps(wire, separators=(",", ":")).encode()
    return text + b" " * (-(len(text) + 8) % 64)


torch.set_num_threads(1)
TARGET = Target(seeds, mutate, read, (ShardError,))
