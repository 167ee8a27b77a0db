"""A manifest is read as it was written, or refused with a reason."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import (
    DatasetMismatch,
    ManifestError,
    MismatchError,
    RevisionMismatch,
    SchemaMismatch,
)
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store.manifest import DumpInfo, Entry, Manifest, entry_json, read_entry
from pantheon.store.sealed import seal, unseal

SCHEMA = KnowledgeSchema((FieldSpec("logits", "float32", (10,), "float16"),))
INFO = DumpInfo(SCHEMA, "r1", "d1", 100)
ENTRIES = (
    Entry("shard-a.safetensors", 5, 1000, "0" * 16, "1" * 16, (0, 0), ((0, 0, 3), (0, 7, 9))),
    Entry("shard-b.safetensors", 9, 1200, "2" * 16, "3" * 16, (1, 2), None),
)


def test_a_manifest_is_read_as_it_was_written() -> None:
    manifest = Manifest(INFO, ENTRIES)
    again = Manifest.from_json(manifest.to_json())
    assert again == manifest
    assert (again.rows, again.views, again.nbytes) == (14, 2, 2200)
    assert read_entry(entry_json(INFO, ENTRIES[0])) == (INFO, ENTRIES[0])


@given(st.data())
def test_no_flipped_byte_goes_unnoticed(data: st.DataObject) -> None:
    content = bytearray(Manifest(INFO, ENTRIES).to_json())
    at = data.draw(st.integers(0, len(content) - 2))
    content[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises(ManifestError):
        Manifest.from_json(bytes(content))


def resealed(change: Callable[[dict[str, Any]], object]) -> bytes:
    """A manifest altered by somebody who also made its digest anew."""
    wire = unseal(Manifest(INFO, ENTRIES).to_json())
    change(wire)
    return seal(wire)


ALTERATIONS: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "a path instead of a name": (
        lambda w: w["shards"][0].update(shard="../shard-a.safetensors"),
        "names the shard",
    ),
    "rows below none": (lambda w: w["shards"][0].update(rows=-1), "rows"),
    "rows without end": (
        lambda w: w["shards"][0].update(rows=1 << 35, bytes=1 << 40, runs=[[0, 0, 1 << 35]]),
        "expected 1 to",
    ),
    "rows as text": (lambda w: w["shards"][0].update(rows="5"), "rows"),
    "rows that runs do not have": (lambda w: w["shards"][0].update(rows=6), "6 rows and runs of 5"),
    "a run backwards": (lambda w: w["shards"][0].update(runs=[[0, 9, 4]]), "runs that cannot be"),
    "runs without end": (lambda w: w["shards"][0].update(runs=[[0, 0, 1 << 70]]), "runs"),
    "no digest": (lambda w: w["shards"][0].pop("xxh3_64"), "digests"),
    "views of three": (lambda w: w["shards"][1].update(views=[1, 2, 3]), "views"),
    "out of order": (lambda w: w["shards"].reverse(), "order"),
    "twice": (lambda w: w["shards"].insert(0, w["shards"][0]), "twice"),
    "no shards": (lambda w: w.pop("shards"), "missing"),
    "another count": (lambda w: w.update(rows=3), "counted"),
    "another fingerprint": (lambda w: w.update(fingerprint="0"), "counted"),
    "no revision": (lambda w: w.pop("revision"), "revision"),
    "a size that is none": (lambda w: w.update(size=True), "size"),
    "no schema": (lambda w: w.update(schema=[]), "schema"),
    "an unknown dtype": (lambda w: w["schema"][0].update(dtype="object"), "dtype"),
}


@pytest.mark.parametrize("name", ALTERATIONS)
def test_an_inconsistent_manifest_says_what_is_wrong(name: str) -> None:
    change, word = ALTERATIONS[name]
    with pytest.raises(ManifestError, match=word):
        Manifest.from_json(resealed(change))


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"format": "zip"}', b"\xff\xfe"])
def test_what_is_no_manifest_is_told(content: bytes) -> None:
    with pytest.raises(ManifestError, match=r"JSON|format"):
        Manifest.from_json(content)


def test_nesting_without_end_is_an_error_like_any_other() -> None:
    with pytest.raises(ManifestError, match="JSON"):
        Manifest.from_json(b"[" * 1_000_000)


@pytest.mark.parametrize(
    ("other", "error", "words"),
    [
        (DumpInfo(SCHEMA, "r2", "d1", 100), RevisionMismatch, ["r1", "r2"]),
        (DumpInfo(SCHEMA, "r1", "d2", 100), DatasetMismatch, ["d1", "d2"]),
        (DumpInfo(SCHEMA, "r1", "d1", 99), DatasetMismatch, ["100", "99"]),
        (
            DumpInfo(KnowledgeSchema((FieldSpec("logits", "float32", (9,)),)), "r1", "d1", 100),
            SchemaMismatch,
            ["logits", "shape"],
        ),
    ],
)
def test_dumps_of_different_knowledge_do_not_mix(
    other: DumpInfo, error: type[MismatchError], words: list[str]
) -> None:
    with pytest.raises(error) as caught:
        INFO.require_equal(other, "ours", "theirs")
    assert all(w in str(caught.value) for w in words)


def test_the_manifest_is_plain_json() -> None:
    wire = json.loads(Manifest(INFO, ENTRIES).to_json())
    assert wire["revision"] == "r1"
    assert [s["shard"] for s in wire["shards"]] == [e.shard for e in ENTRIES]
