"""What a dump says about itself: its description, one entry a shard, and the manifest of both.

All three are JSON with the xxh3_64 of their own content, so that a flipped byte is noticed, and
none holds a time or a host: the same knowledge gives the same bytes.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pantheon.errors import DatasetMismatch, ManifestError, PantheonError, RevisionMismatch
from pantheon.quote import quoted
from pantheon.schema import KnowledgeSchema
from pantheon.store.pairs import Run
from pantheon.store.sealed import seal, unseal

MANIFEST = "manifest.json"
PAIR = 16
"""Bytes of an id and a view, the least that a row takes."""
MAX_ROWS = 1 << 26
"""Rows of a shard at most: a file's size alone bounds nothing, as it may be sparse."""
MAX_RUNS = 256
"""A shard of more runs than this is listed without them; its pairs are read from the shard."""
MAX_MANIFEST = 1 << 28
MAX_ENTRY = 1 << 22
SHARD_NAME = re.compile(r"shard-[A-Za-z0-9-]{1,120}\.safetensors")
_HEX = re.compile(r"[0-9a-f]{16}")


@dataclass(frozen=True, slots=True)
class DumpInfo:
    """What all shards of a dump have in common; knowledge that differs here is never mixed.

    Args:
        schema: the fields, with their codecs.
        revision: the teacher's revision.
        dataset: fingerprint of the dataset, None when it is not known.
        size: number of samples of the dataset.

    Example:
        >>> from pantheon.schema import FieldSpec
        >>> info = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", None, 10)
        >>> DumpInfo.from_wire(info.to_wire()) == info
        True
    """

    schema: KnowledgeSchema
    revision: str
    dataset: str | None
    size: int

    def to_wire(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "schema": self.schema.to_wire(),
            "revision": self.revision,
            "dataset": self.dataset,
            "size": self.size,
        }

    @classmethod
    def from_wire(cls, wire: Any) -> DumpInfo:
        """Read `to_wire`'s answer; `ManifestError` names what is off."""
        _require(isinstance(wire, dict), "description is not a mapping")
        revision, dataset, size = (wire.get(k) for k in ("revision", "dataset", "size"))
        _require(isinstance(revision, str), f"revision is {quoted(revision)}, not a string")
        _require(dataset is None or isinstance(dataset, str), f"dataset is {quoted(dataset)}")
        _require(type(size) is int and 0 <= size < 1 << 63, f"size is {quoted(size)}, not a count")
        try:
            schema = KnowledgeSchema.from_wire(wire.get("schema"))
        except PantheonError as error:
            raise ManifestError(f"the schema cannot be read: {error}") from error
        return cls(schema, str(revision), dataset, int(size))

    def require_equal(self, other: DumpInfo, ours: str, theirs: str) -> None:
        """Raise the mismatch that says what differs.

        Args:
            ours, theirs: what to call the two sides in the message.

        Raises:
            SchemaMismatch, RevisionMismatch, DatasetMismatch: what differs first.
        """
        self.schema.require_equal(other.schema, ours, theirs)
        advice = "dump into another folder, or remove this one first"
        if self.revision != other.revision:
            raise RevisionMismatch(
                f"{ours} is of revision {self.revision!r}, {theirs} of {other.revision!r}; {advice}"
            )
        if (self.dataset, self.size) != (other.dataset, other.size):
            raise DatasetMismatch(
                f"{ours} knows a dataset of {self.size} samples, fingerprint {self.dataset!r}; "
                f"{theirs} one of {other.size}, fingerprint {other.dataset!r}; {advice}"
            )


@dataclass(frozen=True, slots=True)
class Entry:
    """One shard as the manifest lists it.

    Args:
        shard: the shard's file name.
        rows: number of (id, view) pairs.
        bytes: size of the file.
        xxh3_64: digest of the file, 16 hexadecimal digits.
        pairs: digest of the pairs.
        views: lowest and highest view.
        runs: the pairs as runs, or None when they are too many to list.
    """

    shard: str
    rows: int
    bytes: int
    xxh3_64: str
    pairs: str
    views: tuple[int, int]
    runs: tuple[Run, ...] | None

    def to_wire(self) -> dict[str, Any]:
        """As plain values for JSON."""
        return {
            "shard": self.shard,
            "rows": self.rows,
            "bytes": self.bytes,
            "xxh3_64": self.xxh3_64,
            "pairs": self.pairs,
            "views": list(self.views),
            "runs": None if self.runs is None else [list(r) for r in self.runs],
        }

    @classmethod
    def from_wire(cls, wire: Any) -> Entry:
        """Read `to_wire`'s answer; `ManifestError` names what is off."""
        _require(isinstance(wire, dict), "an entry is not a mapping")
        name, rows, size = (wire.get(k) for k in ("shard", "rows", "bytes"))
        _require(
            isinstance(name, str) and SHARD_NAME.fullmatch(name) is not None,
            f"an entry names the shard {quoted(name)}",
        )
        _require(
            _whole([rows, size], 2) and 0 < rows <= min(size // PAIR, MAX_ROWS),
            f"{quoted(name)} has {quoted(rows)} rows and {quoted(size)} bytes; expected 1 to "
            f"{MAX_ROWS} rows of at least {PAIR} bytes",
        )
        hashes = [wire.get(k) for k in ("xxh3_64", "pairs")]
        _require(
            all(isinstance(h, str) and _HEX.fullmatch(h) for h in hashes),
            f"{quoted(name)} has the digests {quoted(hashes)}",
        )
        views = wire.get("views")
        _require(_whole(views, 2), f"{quoted(name)} has the views {quoted(views)}")
        return cls(
            str(name),
            int(rows),
            int(size),
            str(hashes[0]),
            str(hashes[1]),
            (views[0], views[1]),
            _read_runs(str(name), int(rows), wire.get("runs")),
        )


@dataclass(frozen=True, slots=True)
class Manifest:
    """A dump's description and its entries, sorted by shard name."""

    info: DumpInfo
    entries: tuple[Entry, ...]

    @property
    def rows(self) -> int:
        """Pairs in all shards; a pair that two shards hold counts twice."""
        return sum(e.rows for e in self.entries)

    @property
    def nbytes(self) -> int:
        """Size in bytes of all shards."""
        return sum(e.bytes for e in self.entries)

    @property
    def views(self) -> int:
        """The highest view held; 0 when every pair has view 0."""
        return max((e.views[1] for e in self.entries), default=0)

    def to_json(self) -> bytes:
        """The file's content."""
        ordered = sorted(self.entries, key=lambda e: e.shard)
        return seal(
            {
                **self.info.to_wire(),
                "fingerprint": self.info.schema.fingerprint,
                "rows": self.rows,
                "views": self.views,
                "shards": [e.to_wire() for e in ordered],
            }
        )

    @classmethod
    def from_json(cls, data: bytes) -> Manifest:
        """Read the file's content; `ManifestError` says what is wrong with it."""
        wire = unseal(data)
        info, shards = DumpInfo.from_wire(wire), wire.get("shards")
        if not isinstance(shards, list):
            raise ManifestError("the list of shards is missing")
        found = cls(info, tuple(Entry.from_wire(e) for e in shards))
        names = [e.shard for e in found.entries]
        _require(names == sorted(set(names)), "shards are out of order or there twice")
        stated = (wire.get("rows"), wire.get("views"), wire.get("fingerprint"))
        counted = (found.rows, found.views, info.schema.fingerprint)
        _require(
            stated == counted, f"rows, views and schema are {quoted(stated)}, counted {counted}"
        )
        return found


def entry_json(info: DumpInfo, entry: Entry) -> bytes:
    """The content of the entry file beside a shard."""
    return seal({"dump": info.to_wire(), "entry": entry.to_wire()})


def read_entry(data: bytes) -> tuple[DumpInfo, Entry]:
    """Read `entry_json`'s answer; `ManifestError` says what is wrong with it."""
    wire = unseal(data)
    return DumpInfo.from_wire(wire.get("dump")), Entry.from_wire(wire.get("entry"))


def entry_name(shard: str) -> str:
    """Name of the entry file of a shard.

    Example:
        >>> entry_name("shard-0.safetensors")
        'shard-0.json'
    """
    return shard.removesuffix(".safetensors") + ".json"


def _whole(value: Any, length: int) -> bool:
    return (
        isinstance(value, list)
        and len(value) == length
        and all(type(v) is int and 0 <= v < 1 << 63 for v in value)
    )


def _read_runs(name: str, rows: int, wire: Any) -> tuple[Run, ...] | None:
    if wire is None:
        return None
    _require(
        isinstance(wire, list)
        and len(wire) <= MAX_RUNS
        and all(_whole(r, 3) and r[1] < r[2] for r in wire),
        f"{name} has runs that cannot be: {quoted(wire)}",
    )
    found: Sequence[Run] = [(r[0], r[1], r[2]) for r in wire]
    held = sum(stop - start for _, start, stop in found)
    _require(held == rows, f"{name} has {rows} rows and runs of {held}")
    return tuple(found)


def _require(holds: bool, complaint: str) -> None:
    if not holds:
        raise ManifestError(complaint)
