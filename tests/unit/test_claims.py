"""Claims that cost a sender nothing cost the reader nothing, and raise what is documented."""

from __future__ import annotations

import json
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from pantheon.errors import ManifestError, ProtocolError, SchemaError, ShardError, StoreError
from pantheon.knowledge import Ragged
from pantheon.saving import checkpoint
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store.manifest import DumpInfo, Entry, Manifest, read_entry
from pantheon.store.pack import make_entry, pack
from pantheon.store.sealed import FORMAT, seal, unseal
from pantheon.store.shard import open_shard
from pantheon.topk import TopKLogits, TopKMixture
from pantheon.transport import oip
from pantheon.transport.oip_fields import bounded
from pantheon.transport.oip_tensors import read_tensors
from pantheon.wire.buffers import from_raw
from pantheon.wire.framing import MAGIC, MAX_HEADER, unpack
from pantheon.wire.messages import RawTensor
from tests.fuzz.shard import Bytes

HUGE = (0, 1 << 40, 1 << 40)
INFO = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", None, 10)
ENTRY = make_entry(np.arange(4), np.zeros(4, np.int64), 1024, "0" * 16)


def test_an_empty_tensor_without_strides_is_a_protocol_error() -> None:
    parts = [["float32", list(HUGE)]]
    body = {"kind": "scored", "request": 1, "revision": "", "rows": 0, "parts": parts}
    with pytest.raises(ProtocolError, match="elements"):
        unpack([MAGIC + b"\x01" + bytes(msgpack.packb(body)), b""])
    with pytest.raises(ProtocolError, match="no strides"):
        from_raw(RawTensor("float32", HUGE, b""))


def nested(element: bytes, width: int) -> bytes:
    """The largest header of lists within each other, each with elements before the next."""
    level = b"\xdc" + width.to_bytes(2) + element * (width - 1)
    return b"\x81\xa4kind" + level * min(1000, (MAX_HEADER - 100) // len(level)) + b"\x01"


def side_by_side(element: bytes, width: int) -> bytes:
    """The largest header of a list of lists."""
    inner = b"\xdc" + width.to_bytes(2) + element * width
    count = (MAX_HEADER - 100) // len(inner)
    return b"\x81\xa4kind\xdc" + count.to_bytes(2) + inner * count


@pytest.mark.parametrize("element", [b"\x90", b"\x80", b"\x81\xa0\x01", b"\xa2\xc4\x80", b"\xa2ab"])
@pytest.mark.parametrize("shape", [nested, side_by_side])
def test_the_largest_header_takes_no_more_memory_than_stated(
    element: bytes, shape: Callable[[bytes, int], bytes]
) -> None:
    header = shape(element, 4095)
    assert MAX_HEADER * 9 // 10 < len(header) < MAX_HEADER - 5
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="16384 values"):
            unpack([MAGIC + b"\x01" + header])
        assert tracemalloc.get_traced_memory()[1] < 8 << 20
    finally:
        tracemalloc.stop()


def test_lists_that_are_claimed_and_never_come_take_no_memory() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="not valid msgpack"):
            unpack([MAGIC + b"\x01\x81\xa4kind" + b"\xdc\x0f\xff" * 1000])
        assert tracemalloc.get_traced_memory()[1] < 1 << 20
    finally:
        tracemalloc.stop()


def test_a_row_that_no_memory_holds_is_a_schema_error() -> None:
    with pytest.raises(SchemaError, match="row shape"):
        FieldSpec("y", "float32", HUGE)


def test_packed_rows_without_bytes_are_counted() -> None:
    rows = 1 << 30
    with pytest.raises(SchemaError, match="without elements"):
        Ragged(torch.empty(rows, 0), torch.tensor([rows]))


def test_packed_rows_of_a_top_k_without_bytes_are_counted() -> None:
    rows = 1 << 30
    empty = torch.empty(rows, 0)
    with pytest.raises(SchemaError, match="without elements"):
        Ragged(TopKLogits(empty, empty.int(), empty, (), 10), torch.tensor([rows]))
    mixture = TopKMixture(empty[:, None], empty.int(), empty, empty[:, None], (), 10)
    with pytest.raises(SchemaError, match="without elements"):
        Ragged(mixture, torch.tensor([rows]))


def test_more_tensors_than_a_message_may_have_are_refused() -> None:
    request = oip.ModelInferRequest()
    for i in range(1025):
        request.inputs.add(name=str(i), datatype="INT8", shape=[0])
    with pytest.raises(ProtocolError, match="1025 tensors"):
        read_tensors(request.inputs, [])


@pytest.mark.parametrize("field", [b"\x2a\x00", b"\x32\x00", b"\x3a\x00", b"\x22\x00", b"\x78\x00"])
def test_a_message_of_countless_fields_is_refused_before_it_is_parsed(field: bytes) -> None:
    data = field * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ProtocolError, match="more than 16384 fields"):
            bounded(oip.ModelInferRequest)(data)
        with pytest.raises(ProtocolError, match="more than 16384 fields"):
            bounded(oip.ModelStreamInferResponse)(b"\x12\x80\x89\x7a" + data)
        assert tracemalloc.get_traced_memory()[1] < 1 << 22
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("data", [b"\x2a\x05ab", b"\x2b\x2c", b"\xff" * 11, b"\x09123", b"\x2a"])
def test_fields_that_cannot_be_are_a_protocol_error(data: bytes) -> None:
    with pytest.raises(ProtocolError):
        bounded(oip.ModelInferRequest)(data)


def test_typed_contents_take_little_more_than_their_bytes() -> None:
    size = 1 << 20
    request = oip.ModelInferRequest()
    entry = request.inputs.add(name="x", datatype="BOOL", shape=[size])
    entry.contents.bool_contents.extend([True] * size)
    tracemalloc.start()
    try:
        assert len(read_tensors(request.inputs, [])["x"].data) == size
        assert tracemalloc.get_traced_memory()[1] < 4 * size
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("depth", [100, *range(900, 1010, 3), 100_000])
def test_nested_json_is_a_manifest_error_at_any_depth(depth: int) -> None:
    text = f'{{"format":"{FORMAT}","digest":"x","a":{"[" * depth + "]" * depth}}}'
    with pytest.raises(ManifestError):
        unseal(text.encode())


@pytest.mark.parametrize(
    "change",
    [
        {"rows": 10**4200},
        {"bytes": 10**4200},
        {"rows": 64, "runs": None, "bytes": 1023},
        {"runs": [[0, 0, 5], [0, 3, 2]]},
        {"runs": [[0, 0, 4], [0, 7, 7]]},
        {"views": [[], {}]},
    ],
)
def test_an_entry_that_cannot_be_is_a_manifest_error(change: dict[str, Any]) -> None:
    wire = {"dump": INFO.to_wire(), "entry": {**ENTRY.to_wire(), **change}}
    with pytest.raises(ManifestError, match="shard-"):
        read_entry(seal(wire))


def test_numbers_too_long_to_be_told_are_a_manifest_error() -> None:
    huge = 9 * 10**4299
    entries = [
        Entry(f"shard-{i}.safetensors", huge, huge, "0" * 16, "0" * 16, (0, 0), None).to_wire()
        for i in range(2)
    ]
    stated = {"fingerprint": INFO.schema.fingerprint, "rows": 0, "views": 0, "shards": entries}
    with pytest.raises(ManifestError):
        Manifest.from_json(seal({**INFO.to_wire(), **stated}))


def shard(ids: list[int]) -> bytes:
    """A shard of one number a sample."""
    scored = [[torch.zeros(len(ids))]]
    packed = pack(INFO, np.array(ids), np.zeros(len(ids), np.int64), scored)
    return b"".join(bytes(c) for c in packed.chunks)


def with_header(data: bytes, old: str, new: str) -> bytes:
    """The same file with something else in its header."""
    size = int.from_bytes(data[:8], "little")
    text = data[8 : 8 + size].decode()
    assert old in text
    header = text.replace(old, new).encode()
    return len(header).to_bytes(8, "little") + header + data[8 + size :]


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('\\"codec\\":\\"float32\\"', '\\"codec\\":\\"unknown\\"', "cannot be stored"),
        (
            '"ids":{"dtype":"I64","shape":[3]',
            f'"ids":{{"dtype":"I64","shape":[{10**4200}]',
            "rows of",
        ),
    ],
)
def test_a_header_that_no_dump_writes_is_a_shard_error(old: str, new: str, says: str) -> None:
    data = with_header(shard([1, 2, 3]), old, new)
    with pytest.raises(ShardError, match=says):
        open_shard(Bytes(data), len(data))


def test_pairs_out_of_order_are_a_shard_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pantheon.store.pack.require_sorted", lambda *_: None)
    data = shard([3, 1, 2])
    with pytest.raises(ShardError, match="sorted"):
        open_shard(Bytes(data), len(data))


def test_samples_beyond_the_dataset_are_a_shard_error() -> None:
    data = shard([1, (1 << 63) - 1])
    with pytest.raises(ShardError, match="of a dataset of 10"):
        open_shard(Bytes(data), len(data))


def test_a_deeply_nested_state_is_a_store_error(tmp_path: Path) -> None:
    path = tmp_path / "state.safetensors"
    for state in ("[" * 100_000, json.dumps({"list": []}).replace("[]", '[{"list":' * 400)):
        save_file({"x": torch.ones(1)}, path, {checkpoint.KEY: state})
        with pytest.raises(StoreError, match="contradicts itself"):
            checkpoint.load(path)
