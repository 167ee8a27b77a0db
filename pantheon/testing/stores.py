"""What every file system that knowledge is dumped to must do: a suite to subclass, run by pytest.

::

    class TestMine(StoreContract):
        def folder_path(self) -> str:
            return "mine://bucket/some-new-folder"
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from torch import Tensor

from pantheon.errors import (
    DatasetMismatch,
    IdOutOfRange,
    ManifestError,
    MismatchError,
    RevisionMismatch,
    SchemaMismatch,
    ShardError,
)
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import (
    DumpInfo,
    KnowledgeReader,
    KnowledgeWriter,
    Manifest,
    describe,
    rebuild,
    verify,
)
from pantheon.store.arranged import Answer
from pantheon.store.cache import KnowledgeCache
from pantheon.store.folder import Folder
from pantheon.store.manifest import MANIFEST, entry_name
from pantheon.store.pairs import Ids

SCHEMA = KnowledgeSchema(
    (
        FieldSpec("logits", "float32", (5,), "float16"),
        FieldSpec("tokens", "int64", (), "raw", "tokens"),
    )
)
INFO = DumpInfo(SCHEMA, "r1", "d1", 100)
OTHERS: dict[type[MismatchError], DumpInfo] = {
    RevisionMismatch: DumpInfo(SCHEMA, "r2", "d1", 100),
    DatasetMismatch: DumpInfo(SCHEMA, "r1", "d2", 100),
    SchemaMismatch: DumpInfo(SCHEMA.select(("logits",)), "r1", "d1", 100),
}
SHARDS = [range(30), range(30, 31), range(31, 100)]


def knowledge(ids: Ids, view: int = 0) -> list[Tensor]:
    """What the contract's teacher knows of some samples: coded parts, no two samples alike.

    >>> [tuple(part.shape) for part in knowledge(np.arange(4))]
    [(4, 5), (4,), (6,)]
    """
    lengths = torch.from_numpy(ids) % 4
    logits = (torch.from_numpy(ids)[:, None] + torch.arange(5) / 8 + view / 4).half()
    return [logits, lengths, torch.repeat_interleave(torch.from_numpy(ids) * 10 + view, lengths)]


def write(path: str, shards: list[range], view: int = 0) -> Manifest:
    """Publish some shards and the manifest."""
    writer = KnowledgeWriter(path, INFO)
    for shard in shards:
        ids = np.asarray(shard, np.int64)
        writer.write(ids, np.full(len(ids), view), [knowledge(ids, view)])
    return writer.finish()


def content(path: str) -> dict[str, bytes]:
    """All files of a folder."""
    folder = Folder(path)
    return {name: folder.read(name, 1 << 30) for name in sorted(folder.files())}


def equal(found: list[Tensor], wanted: list[Tensor]) -> bool:
    """Whether coded parts are equal, bit by bit."""
    return all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))


class StoreContract:
    """The promises of a store, one test each; see the module."""

    def folder_path(self) -> str:
        """A folder that does not exist yet, another one at each call."""
        raise NotImplementedError

    def test_any_rows_are_read_in_the_order_asked_for(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        with KnowledgeReader(path) as reader:
            rng = np.random.default_rng(0)
            for ids in (np.arange(100), rng.permutation(100), rng.integers(0, 100, 300)):
                assert equal(reader.read(ids), knowledge(ids))
            assert [len(p) for p in reader.read(np.empty(0, np.int64))] == [0, 0, 0]
            assert equal(
                reader.read(np.array([7]), fields=["logits"]), knowledge(np.array([7]))[:1]
            )
            assert (reader.schema, reader.revision, reader.dataset) == (SCHEMA, "r1", "d1")
            assert reader.ids.tolist() == list(range(100))

    def test_views_are_kept_apart(self) -> None:
        path = self.folder_path()
        for view in (1, 2):
            write(path, SHARDS, view)
        with KnowledgeReader(path) as reader:
            ids = np.array([5, 99, 5, 31])
            for view in (1, 2):
                assert equal(reader.read(ids, np.full(4, view)), knowledge(ids, view))
            mixed = reader.read(ids, np.array([1, 2, 2, 1]))[0]
            assert torch.equal(mixed[2], knowledge(ids, 2)[0][2])
            assert reader.views == 2
            with pytest.raises(IdOutOfRange, match="views 1, 2"):
                reader.read(ids)

    def test_ids_that_are_missing_are_named(self) -> None:
        path = self.folder_path()
        write(path, SHARDS[:1])
        with KnowledgeReader(path) as reader:
            assert reader.holds(np.array([29, 30])).tolist() == [True, False]
            with pytest.raises(IdOutOfRange, match=r"2 of 3 .* 31, 77\."):
                reader.read(np.array([31, 5, 77]))

    def test_the_same_knowledge_gives_the_same_bytes(self) -> None:
        one, other = self.folder_path(), self.folder_path()
        write(one, SHARDS)
        write(other, SHARDS[::-1])
        assert content(one) == content(other)

    def test_what_is_there_already_stays(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before = content(path)
        writer = KnowledgeWriter(path, INFO)
        assert not writer.missing(np.arange(100), 0).any()
        assert writer.missing(np.arange(100), 1).all()
        write(path, SHARDS)
        assert content(path) == before

    def test_of_two_workers_the_first_one_stays(self) -> None:
        path, ids = self.folder_path(), np.arange(10)
        one, other = KnowledgeWriter(path, INFO), KnowledgeWriter(path, INFO)
        entry = one.write(ids, np.zeros(10, np.int64), [knowledge(ids)])
        assert other.write(ids, np.zeros(10, np.int64), [knowledge(ids, 9)]) == entry
        other.finish()
        with KnowledgeReader(path) as reader:
            assert equal(reader.read(ids), knowledge(ids))

    def test_many_workers_at_once_make_one_dump(self) -> None:
        path, alone = self.folder_path(), self.folder_path()
        write(alone, SHARDS)
        start = threading.Barrier(4)

        def work(turn: int) -> Manifest:
            start.wait(20)
            return write(path, SHARDS[turn:] + SHARDS[:turn])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(work, range(4)))
        assert content(path) == content(alone)

    @pytest.mark.parametrize("error", OTHERS)
    def test_other_knowledge_is_refused_and_nothing_touched(
        self, error: type[MismatchError]
    ) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before = content(path)
        with pytest.raises(error, match=r"another folder|same"):
            KnowledgeWriter(path, OTHERS[error])
        Folder(path).remove(MANIFEST)
        with pytest.raises(error):
            KnowledgeWriter(path, OTHERS[error])
        assert content(path) == {n: c for n, c in before.items() if n != MANIFEST}

    def test_samples_in_two_shards_are_read_once(self) -> None:
        path = self.folder_path()
        write(path, [range(30), range(20, 50), range(10, 40)])
        with KnowledgeReader(path) as reader:
            assert equal(reader.read(np.arange(50)), knowledge(np.arange(50)))
            assert reader.ids.tolist() == list(range(50))

    def test_scattered_ids_are_found_too(self) -> None:
        path = self.folder_path()
        ids = np.arange(0, 2000, 3)
        writer = KnowledgeWriter(path, DumpInfo(SCHEMA, "r1", "d1", 2000))
        assert writer.write(ids, np.zeros_like(ids), [knowledge(ids)]).runs is None
        writer.finish()
        again = KnowledgeWriter(path, DumpInfo(SCHEMA, "r1", "d1", 2000))
        assert again.missing(np.arange(4), 0).tolist() == [False, True, True, False]
        with KnowledgeReader(path) as reader:
            some = np.random.default_rng(0).permutation(ids)[:100]
            assert equal(reader.read(some), knowledge(some))

    def test_threads_read_at_once(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        with KnowledgeReader(path) as reader, ThreadPoolExecutor(8) as pool:
            orders = [np.random.default_rng(s).permutation(100) for s in range(40)]
            found = pool.map(reader.read, orders)
            assert all(equal(f, knowledge(o)) for f, o in zip(found, orders, strict=True))

    def test_a_reader_can_be_sent_to_another_process(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        with KnowledgeReader(path) as reader, copy.copy(reader) as again:
            assert equal(again.read(np.arange(100)), reader.read(np.arange(100)))

    def test_the_manifest_can_be_made_again(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before, folder = content(path), Folder(path)
        for lost in ([MANIFEST], [n for n in before if n.endswith(".json")]):
            for name in lost:
                folder.remove(name)
            with pytest.raises(ManifestError, match="rebuild"):
                KnowledgeReader(path)
            rebuild(path)
            assert folder.read(MANIFEST, 1 << 20) == before[MANIFEST]
            KnowledgeReader(path).close()
        KnowledgeWriter(path, INFO).finish()
        assert content(path) == before

    def test_a_worker_that_died_between_shard_and_entry_loses_nothing(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before, folder = content(path), Folder(path)
        name = next(n for n in before if n.endswith(".safetensors"))
        folder.remove(entry_name(name))
        folder.remove(MANIFEST)
        writer = KnowledgeWriter(path, INFO)
        assert not writer.missing(np.arange(100), 0).any()
        writer.finish()
        assert content(path) == before

    def test_a_dump_killed_before_its_manifest_leaves_what_it_made_anew(self) -> None:
        path, ids = self.folder_path(), np.asarray(SHARDS[0])
        write(path, SHARDS)
        with KnowledgeReader(path) as reader:
            name = reader.shards[0].shard
        for bits, again in enumerate((False, True), 1):
            Folder(path).remove(name)
            writer = KnowledgeWriter(path, INFO)
            assert writer.missing(ids, 0).all()
            writer.write(ids, np.zeros_like(ids), [knowledge(ids, bits)])
            rebuild(path) if again else KnowledgeWriter(path, INFO).finish()
            assert verify(path) == []
            with KnowledgeReader(path) as reader:
                assert equal(reader.read(ids), knowledge(ids, bits))

    @pytest.mark.parametrize(
        ("harm", "words"),
        [
            (lambda data: data[: len(data) // 2], ["cut short", "run the dump again"]),
            (lambda data: data + b"0", ["bytes", "run the dump again"]),
            (lambda data: data[:-1] + bytes([data[-1] ^ 1]), ["checksum", "run the dump again"]),
            (lambda data: None, ["missing", "run the dump again"]),
        ],
    )
    def test_a_damaged_shard_is_named_and_made_again(
        self, harm: Callable[[bytes], bytes | None], words: list[str]
    ) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before, folder = content(path), Folder(path)
        name = next(n for n in before if n.endswith(".safetensors"))
        harmed = harm(before[name])
        if harmed is None:
            folder.remove(name)
        else:
            folder.replace(name, harmed)
        with pytest.raises(ShardError) as caught:
            KnowledgeReader(path).read(np.arange(100))
        assert all(w in str(caught.value) for w in [name, *words])
        if harmed is not None and len(harmed) == len(before[name]):
            assert name in verify(path)[0]
            folder.remove(name)
        write(path, SHARDS)
        assert content(path) == before
        assert verify(path) == []

    def test_a_shard_that_is_not_in_the_manifest_is_named(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        folder = Folder(path)
        folder.replace("shard-extra.safetensors", b"1")
        with pytest.raises(ShardError, match=r"shard-extra\.safetensors is not in the manifest"):
            KnowledgeReader(path)
        with pytest.raises(ShardError, match=r"shard-extra"):
            KnowledgeWriter(path, INFO)

    @pytest.mark.parametrize("text", [b"{", b"[1]", b"{}", b'{"format": "pantheon-knowledge-1"}'])
    def test_a_manifest_that_is_none_is_named_and_made_again(self, text: bytes) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        before = content(path)
        Folder(path).replace(MANIFEST, text)
        with pytest.raises(ManifestError, match=r"manifest\.json: .*rebuild"):
            KnowledgeReader(path)
        KnowledgeWriter(path, INFO).finish()
        assert content(path) == before

    def test_a_cache_keeps_and_finds_what_was_said_from_the_first_start_on(self) -> None:
        path, ids, views = self.folder_path(), np.array([7, 3, 5]), np.zeros(3, np.int64)
        for start in range(2):
            cache = KnowledgeCache(path, "t", INFO, limit=1 << 20)
            cache.open()
            assert (cache.find(ids, views) is None) == (start == 0)
            assert cache.write([Answer(ids, views, knowledge(ids))]) == (3 if start == 0 else 0)
            found = cache.find(ids, views)
            assert found is not None
            assert equal(cache.read(found) or [], knowledge(ids))
            cache.finish()
            cache.close()

    def test_caches_that_share_a_folder_go_on_without_a_damaged_shard(self) -> None:
        path, ids, views = self.folder_path(), np.arange(9), np.zeros(9, np.int64)
        one, other = (KnowledgeCache(path, "t", INFO) for _ in range(2))
        one.open()
        one.write([Answer(ids, views, knowledge(ids))])
        other.open()
        found, folder = other.find(ids, views), one.folder
        assert found is not None
        name = next(n for n in folder.files() if n.endswith(".safetensors"))
        folder.replace(name, folder.read(name, 1 << 20)[:-1] + b"?")
        assert one.read(found) is None
        assert not folder.has(name)
        assert other.read(found) is None
        assert other.find(ids, views) is None
        one.write([Answer(ids, views, knowledge(ids))])
        other.refresh()
        assert (found := other.find(ids, views)) is not None
        assert equal(other.read(found) or [], knowledge(ids))

    def test_a_folder_without_a_dump_says_so(self) -> None:
        path = self.folder_path()
        with pytest.raises(ManifestError, match="is the path right"):
            KnowledgeReader(path)

    def test_a_dump_describes_itself(self) -> None:
        path = self.folder_path()
        write(path, SHARDS)
        told = json.loads(json.dumps(describe(path)))
        assert told["rows"] == 100
        assert told["ids"] == {"count": 100, "first": 0, "last": 99, "ranges": [[0, 100]]}
        assert (told["revision"], told["dataset"], told["size"]) == ("r1", "d1", 100)
        assert sum(s["bytes"] for s in told["shards"]) == told["bytes"]
        assert [row["id"] for row in told["sample"]] == [0, 1, 2]
        assert told["sample"][1]["logits"]["first"][0] == 1.0
        assert told["sample"][2]["tokens"]["first"] == [20, 20]
