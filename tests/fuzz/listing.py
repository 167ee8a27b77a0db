"""What a dump says of itself: the manifest, and the entry beside each shard."""

from __future__ import annotations

import json
from random import Random

import numpy as np

from pantheon.errors import ManifestError
from pantheon.store.manifest import DumpInfo, Entry, Manifest, entry_json, read_entry
from pantheon.store.pack import make_entry
from pantheon.store.pairs import PairIndex
from pantheon.store.sealed import seal
from tests.fuzz import tree
from tests.fuzz.octets import dig, scramble
from tests.fuzz.target import Target
from tests.fuzz.wire import SCHEMA

INFO = DumpInfo(SCHEMA, "r1", "d", 100)


def entries() -> tuple[Entry, ...]:
    """Two shards: one run, and rows in two views."""
    some = make_entry(np.arange(5), np.zeros(5, np.int64), 4096, "0" * 16)
    views = make_entry(np.array([7, 7, 9]), np.array([1, 2, 1]), 4096, "1" * 16)
    return tuple(sorted((some, views), key=lambda e: e.shard))


def seeds() -> list[bytes]:
    """A manifest and an entry, the first byte says which."""
    return [b"m" + Manifest(INFO, entries()).to_json(), b"e" + entry_json(INFO, entries()[0])]


def read(data: bytes) -> None:
    """Read one, look for samples in it, and write it again."""
    if data[:1] == b"m":
        manifest = Manifest.from_json(data[1:])
        assert Manifest.from_json(manifest.to_json()) == manifest
        listed, size = manifest.entries, manifest.nbytes
    else:
        info, entry = read_entry(data[1:])
        assert read_entry(entry_json(info, entry)) == (info, entry)
        listed, size = (entry,), entry.bytes
    index = PairIndex(e.runs for e in listed if e.runs is not None)
    index.find(np.array([0, 7, 9]), np.array([0, 1, 2]))
    assert len(index.ids()) <= size


def mutate(data: bytes, rng: Random) -> bytes:
    """Change the JSON, and mostly seal it again."""
    how = rng.random()
    if how < 0.1:
        return data[:1] + dig(data[1:], rng)
    if how < 0.2:
        return scramble(data, rng)
    try:
        wire = tree.change(json.loads(data[1:]), rng)
        if how < 0.3:
            return data[:1] + json.dumps(wire).encode()
        wire.pop("digest", None)
        return data[:1] + seal(wire)
    except (ValueError, TypeError, AttributeError, RecursionError):
        return scramble(data, rng)


TARGET = Target(seeds, mutate, read, (ManifestError,))
