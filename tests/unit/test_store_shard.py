"""Whatever knowledge goes into a shard comes out of it; whatever else is in it is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import xxhash
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from torch import Tensor

from pantheon.codec.parts import schema_parts
from pantheon.errors import PantheonError, SchemaError, ShardError
from pantheon.schema import DTYPES, FieldSpec, KnowledgeSchema
from pantheon.store import DumpInfo, KnowledgeReader, KnowledgeWriter
from pantheon.store.layout import BLOCK
from pantheon.store.pack import pack
from pantheon.store.ranges import LocalFile
from pantheon.store.shard import entry_of, open_shard

SHAPES = st.lists(st.integers(0, 3), max_size=3).map(tuple)
NAMES = st.sampled_from(["logits", "ids", "views", "blocks", "__metadata__", "a.b", "é", "field:x"])
CODECS = {"float32": ["float32", "float16", "bfloat16", "int8", "topk:2@1,2"]}


@st.composite
def fields(draw: st.DrawFn, name: str) -> FieldSpec:
    """A field of any dtype, shape and codec, dense or ragged."""
    dtype = draw(st.sampled_from(sorted(DTYPES)))
    codec = draw(st.sampled_from(CODECS.get(dtype, ["raw"])))
    shape = draw(SHAPES)
    if codec.startswith("topk"):
        shape = (*shape, draw(st.integers(1, 4)))
    return FieldSpec(name, dtype, shape, codec, draw(st.sampled_from([None, "tokens"])))


@st.composite
def schemas(draw: st.DrawFn) -> KnowledgeSchema:
    """One to three fields, some with names that shards use themselves."""
    names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return KnowledgeSchema(tuple(draw(fields(n)) for n in names))


def random_tensor(dtype: str, shape: tuple[int, ...], seed: int) -> Tensor:
    """Any bits at all; for booleans, true and false."""
    generator = torch.Generator().manual_seed(seed)
    kind = getattr(torch, dtype)
    if dtype == "bool":
        return torch.randint(0, 2, shape, generator=generator, dtype=torch.uint8).bool()
    size = int(np.prod(shape)) * DTYPES[dtype]
    data = torch.randint(0, 256, (size,), generator=generator, dtype=torch.uint8)
    return data.view(kind).reshape(shape) if size else torch.empty(shape, dtype=kind)


def random_parts(schema: KnowledgeSchema, n: int, seed: int) -> list[Tensor]:
    """Coded parts of n samples, of random bits."""
    found, packed = [], 0
    for part in schema_parts(schema):
        if part.name.endswith(".lengths"):
            lengths = torch.randint(0, 4, (n,), generator=torch.Generator().manual_seed(seed))
            packed = int(lengths.sum())
            found.append(lengths)
        else:
            rows = packed if part.per == "row" else n
            found.append(random_tensor(part.dtype, (rows, *part.shape), seed + len(found)))
    return found


def bits(parts: list[Tensor]) -> list[tuple[torch.dtype, torch.Size, bytes]]:
    """What makes tensors the same, NaN included."""
    return [
        (p.dtype, p.shape, p.contiguous().view(-1).view(torch.uint8).numpy().tobytes())
        if p.numel()
        else (p.dtype, p.shape, b"")
        for p in parts
    ]


def pick(schema: KnowledgeSchema, parts: list[Tensor], rows: list[int]) -> list[Tensor]:
    """Some samples of coded parts, the slow way."""
    found, starts = [], [0]
    for part, spec in zip(parts, schema_parts(schema), strict=True):
        if spec.name.endswith(".lengths"):
            starts = [0, *part.cumsum(0).tolist()]
        if spec.per == "sample":
            found.append(part[rows])
        else:
            spans = [part[starts[r] : starts[r + 1]] for r in rows]
            found.append(torch.cat([part[:0], *spans]))
    return found


@given(schemas(), st.data())
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_any_knowledge_comes_back_bit_by_bit(
    tmp_path_factory: pytest.TempPathFactory, schema: KnowledgeSchema, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("dump")
    ids = np.array(sorted(data.draw(st.sets(st.integers(0, 20), min_size=1, max_size=12))))
    whole = random_parts(schema, len(ids), data.draw(st.integers(0, 1000)))
    at = data.draw(st.integers(0, len(ids)))
    writer = KnowledgeWriter(path, DumpInfo(schema, "r", None, 21))
    for some in (range(at), range(at, len(ids))):
        if some:
            views = np.zeros(len(some), np.int64)
            writer.write(ids[some], views, [pick(schema, whole, list(some))])
    writer.finish()
    rows = data.draw(st.lists(st.integers(0, len(ids) - 1), max_size=20))
    with KnowledgeReader(path) as reader:
        assert bits(reader.read(ids)) == bits(whole)
        assert bits(reader.read(ids[rows])) == bits(pick(schema, whole, rows))
        for name in schema.names:
            own = [i for i, p in enumerate(schema_parts(schema)) if p in _of(schema, name)]
            assert bits(reader.read(ids, fields=[name])) == bits([whole[i] for i in own])


def _of(schema: KnowledgeSchema, name: str) -> tuple[object, ...]:
    return schema_parts(schema.select((name,)))


LOGITS = DumpInfo(KnowledgeSchema((FieldSpec("logits", "float32", (1000,)),)), "r1", "d", 1000)
RAGGED = DumpInfo(
    KnowledgeSchema((FieldSpec("tokens", "float32", (3,), ragged="tokens"),)), "r1", "d", 1000
)


def write(path: Path, info: DumpInfo, n: int = 40) -> bytes:
    """A shard of the first n samples, as a file; answers its content."""
    ids, views = np.arange(n), np.zeros(n, np.int64)
    packed = pack(info, ids, views, [random_parts(info.schema, n, 0)])
    path.write_bytes(b"".join(packed.chunks))
    return path.read_bytes()


def read_whole(path: Path, info: DumpInfo | None = None) -> None:
    """Open a shard and check every byte."""
    file = LocalFile(str(path))
    _, head = open_shard(file, path.stat().st_size, info)
    entry_of(file, head)


def test_the_safetensors_library_reads_a_shard(tmp_path: Path) -> None:
    path = tmp_path / "shard.safetensors"
    write(path, LOGITS)
    with safe_open(path, "pt") as shard:
        assert shard.get_tensor("ids").tolist() == list(range(40))
        (logits,) = random_parts(LOGITS.schema, 40, 0)
        assert bits([shard.get_tensor("logits")]) == bits([logits])
    write(path, RAGGED)
    with safe_open(path, "pt") as shard:
        lengths = random_parts(RAGGED.schema, 40, 0)[0]
        assert shard.get_tensor("tokens.offsets")[1:].tolist() == lengths.cumsum(0).tolist()


@pytest.mark.parametrize("info", [LOGITS, RAGGED])
def test_the_same_knowledge_gives_the_same_bytes_however_it_was_scored(
    tmp_path: Path, info: DumpInfo
) -> None:
    whole = random_parts(info.schema, 40, 0)
    cuts = [pick(info.schema, whole, list(r)) for r in (range(7), range(7, 8), range(8, 40))]
    packed = pack(info, np.arange(40), np.zeros(40, np.int64), cuts)
    assert b"".join(packed.chunks) == write(tmp_path / "shard", info)


@pytest.mark.parametrize("info", [LOGITS, RAGGED])
def test_a_flipped_byte_anywhere_is_found(tmp_path: Path, info: DumpInfo) -> None:
    path = tmp_path / "shard"
    whole = write(path, info)
    read_whole(path)
    rng = np.random.default_rng(0)
    index = len(whole) - (160_000 if info is LOGITS else 0)
    places = [*range(0, min(index, 1500), 7), *rng.integers(0, len(whole), 100).tolist()]
    for at in places:
        altered = bytearray(whole)
        altered[at] ^= 1 << int(rng.integers(8))
        path.write_bytes(altered)
        with pytest.raises(ShardError, match="shard"):
            read_whole(path, info)


@pytest.mark.parametrize("info", [LOGITS, RAGGED])
def test_a_shard_cut_short_anywhere_is_found(tmp_path: Path, info: DumpInfo) -> None:
    path = tmp_path / "shard"
    whole = write(path, info)
    for size in [0, 5, 8, 100, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(ShardError, match="shard"):
            read_whole(path)
    path.write_bytes(whole + b"\0")
    with pytest.raises(ShardError, match="bytes"):
        read_whole(path)


@pytest.mark.parametrize(
    "header",
    [
        b"",
        b"{",
        b"[]",
        b"{}",
        b'{"__metadata__": {}}',
        b'{"__metadata__": {"dump": "[[[["}}',
        b'{"__metadata__": {"dump": 7}}',
        b"[" * 100_000,
    ],
)
def test_a_header_of_anything_else_is_refused(tmp_path: Path, header: bytes) -> None:
    path = tmp_path / "shard"
    path.write_bytes(len(header).to_bytes(8, "little") + header + b"\0" * 64)
    with pytest.raises(ShardError, match="header"):
        read_whole(path)


def test_a_header_that_promises_terabytes_allocates_nothing(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    whole = write(path, LOGITS)
    size = 1 << 40
    path.write_bytes(size.to_bytes(8, "little") + whole[8:])
    with pytest.raises(ShardError, match=str(size)):
        read_whole(path)
    path.write_bytes(whole.replace(b"[40,1000]", b"[40,9999]"))
    with pytest.raises(ShardError, match="header"):
        read_whole(path)


def test_offsets_whose_differences_wrap_around_are_refused(tmp_path: Path) -> None:
    info = DumpInfo(
        KnowledgeSchema((FieldSpec("x", "uint8", (), "raw", ragged="tokens"),)), "r1", None, 4
    )
    path = tmp_path / "shard-0.safetensors"
    content = bytearray(write(path, info, 4))
    _, head = open_shard(LocalFile(str(path)), len(content))
    offsets = head.layout.index["x.offsets"]
    told = head.layout.parts["x"].rows
    far = np.array([0, (1 << 63) - 1, -(1 << 63), -1, told], "<i8")
    assert (np.diff(far) >= 0).all()
    begin, end = len(head.layout.header), head.layout.data
    before = xxhash.xxh3_64_hexdigest(content[begin:end])
    content[offsets.start : offsets.stop] = far.tobytes()
    after = xxhash.xxh3_64_hexdigest(content[begin:end])
    path.write_bytes(content.replace(before.encode(), after.encode()))
    with pytest.raises(ShardError, match="do not rise"):
        open_shard(LocalFile(str(path)), len(content))


def test_a_shard_of_another_dump_is_named(tmp_path: Path) -> None:
    path = tmp_path / "shard"
    write(path, LOGITS)
    other = DumpInfo(LOGITS.schema, "r2", "d", 1000)
    with pytest.raises(ShardError, match=r"'r1'.*'r2'"):
        read_whole(path, other)


@pytest.mark.parametrize(
    ("parts", "word"),
    [
        ([], "parts"),
        ([torch.zeros(40, 1000, dtype=torch.float64)], "float64"),
        ([torch.zeros(40, 999)], "999"),
        ([torch.zeros(39, 1000)], "39"),
    ],
)
def test_knowledge_that_does_not_fit_the_schema_is_not_written(
    parts: list[Tensor], word: str
) -> None:
    with pytest.raises(SchemaError, match=word):
        pack(LOGITS, np.arange(40), np.zeros(40, np.int64), [parts])


def test_lengths_that_do_not_add_up_are_not_written() -> None:
    for lengths in ([2, 2], [5, -2]):
        parts = [torch.tensor(lengths), torch.zeros(3, 3)]
        with pytest.raises(SchemaError, match="lengths"):
            pack(RAGGED, np.arange(2), np.zeros(2, np.int64), [parts])


def test_only_touched_blocks_are_checked(tmp_path: Path) -> None:
    path = tmp_path / "dump"
    writer = KnowledgeWriter(path, LOGITS)
    n = 200
    writer.write(np.arange(n), np.zeros(n, np.int64), [random_parts(LOGITS.schema, n, 0)])
    writer.finish()
    (shard,) = path.glob("shard-*.safetensors")
    whole = bytearray(shard.read_bytes())
    whole[-1] ^= 1
    shard.write_bytes(whole)
    with KnowledgeReader(path) as reader:
        reader.read(np.arange(n - BLOCK // 4000 - 1))
        with pytest.raises(ShardError, match="checksum"):
            reader.read(np.array([n - 1]))
    with KnowledgeReader(path, verify="never") as reader:
        reader.read(np.array([n - 1]))
    with pytest.raises(ShardError, match="checksum"):
        KnowledgeReader(path, verify="open")


@given(st.binary(max_size=300))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_no_bytes_crash_the_reader(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "shard"
    path.write_bytes(content)
    with pytest.raises(PantheonError):
        read_whole(path)
