"""The parts of a cache: arranged answers, a growing table, a budget, a folder that many share."""

from __future__ import annotations

import os
from pathlib import Path

import fsspec
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pantheon.errors import RevisionMismatch, SchemaError
from pantheon.sampling.itinerary import Stretch
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import DumpInfo, KnowledgeReader, KnowledgeWriter
from pantheon.store.arranged import Answer, arrange
from pantheon.store.budget import Budget
from pantheon.store.cache import KnowledgeCache, cache_folder
from pantheon.store.folder import Folder
from pantheon.store.ranges import RangeFile
from pantheon.store.table import PairTable
from pantheon.wire.buffers import from_raw, to_raw
from student_client.requests import Held, Request

SCHEMA = KnowledgeSchema(
    (
        FieldSpec("y", "float32", (2,)),
        FieldSpec("words", "float32", (3,), "topk:2@1", ragged="words"),
    )
)
INFO = DumpInfo(SCHEMA, "r1", "d", 100)


def answer(ids: list[int], view: int = 0) -> Answer:
    """What the teacher says of some samples: everything about a sample follows from its pair."""
    n = np.array(ids, np.int64)
    lengths = torch.from_numpy(n % 3)
    values = torch.from_numpy(n).float() + 1000 * view
    packed = values.repeat_interleave(lengths)[:, None]
    words = [lengths, packed.expand(-1, 2), packed.int().expand(-1, 2), packed]
    return Answer(n, np.full(len(n), view, np.int64), [*words, values[:, None].expand(-1, 2)])


pairs = st.tuples(st.integers(0, 20), st.integers(0, 2))


@given(st.lists(st.lists(pairs, max_size=8), min_size=1, max_size=4), st.sets(pairs))
def test_arranged_answers_hold_each_pair_once_with_its_own_values(
    given: list[list[tuple[int, int]]], unwanted: set[tuple[int, int]]
) -> None:
    def wanted(ids: np.ndarray, views: np.ndarray) -> np.ndarray:
        return np.array([(i, v) not in unwanted for i, v in zip(ids, views, strict=True)], bool)

    answers = [answer([i for i, w in some if w == v], v) for some in given for v in range(3)]
    found = arrange(SCHEMA, answers, wanted)
    held = list(zip(found.ids.tolist(), found.views.tolist(), strict=True))
    assert held == sorted({p for some in given for p in some} - unwanted)
    whole = [answer([i], v) for i, v in held]
    for at, part in enumerate(found.parts):
        assert torch.equal(part, torch.cat([p.parts[at] for p in whole] or [part[:0]]))


@given(st.lists(st.booleans(), min_size=2, max_size=12).filter(lambda h: any(h) and not all(h)))
def test_an_answer_is_completed_with_what_was_known_already(known: list[bool]) -> None:
    ids = np.random.default_rng(len(known)).permutation(len(known)).astype(np.int64)
    rows = np.flatnonzero(known)
    whole = Request(Stretch(0, len(ids), ids, None), {}, None)
    some = whole.holding("t", Held(rows, answer(ids[rows].tolist()).parts))
    assert whole.ids_for("t").tolist() == some.ids_for("u").tolist() == ids.tolist()
    asked = answer(some.ids_for("t").tolist())
    assert asked.ids.tolist() == [i for i, k in zip(ids.tolist(), known, strict=True) if not k]
    found = some.completed("t", SCHEMA, tuple(map(to_raw, asked.parts)))
    assert all(map(torch.equal, map(from_raw, found), answer(ids.tolist()).parts))


def test_lengths_that_are_not_those_of_the_rows_are_refused() -> None:
    wrong = answer([1, 2])
    parts = [torch.tensor([1, -1]), *wrong.parts[1:]]
    with pytest.raises(SchemaError, match="add up to 0; expected 3"):
        arrange(SCHEMA, [Answer(wrong.ids, wrong.views, parts)])


@given(st.lists(st.lists(pairs, max_size=10, unique=True), max_size=5), st.integers(0, 4))
def test_a_table_finds_each_pair_where_it_was_first(
    shards: list[list[tuple[int, int]]], removed: int
) -> None:
    table = PairTable()
    for number, held in enumerate(shards):
        ids, views = np.array(held, np.int64).reshape(-1, 2).T
        table = table.grown([(number, ids, views)])
    table = table.without(removed)
    for pair in {p for held in shards for p in held}:
        homes = [(n, held.index(pair)) for n, held in enumerate(shards) if pair in held]
        shard, row = table.find(*(np.array([x], np.int64) for x in pair))
        # What a removed shard held first is asked for again, even if another has it too.
        expected = homes[0] if homes[0][0] != removed else (-1, -1)
        assert (shard[0], row[0]) == expected
    assert table.find(np.array([99]), np.array([0]))[0].tolist() == [-1]


def test_a_budget_counts_what_it_gave_and_what_others_have_written(tmp_path: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    budget = Budget(fsspec.filesystem("file"), str(tmp_path), 100, clock=clock)
    assert budget.take(40)
    assert not budget.take(50, spare=20)
    assert budget.take(50)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "file").write_bytes(bytes(80))
    # Looking took a second, so that it is not done again for twenty.
    assert budget.used == 90
    now[0] += 20
    assert not budget.take(30)
    assert budget.take(20)


def cache(path: Path, info: DumpInfo = INFO) -> KnowledgeCache:
    found = KnowledgeCache(path, "t", info)
    found.open()
    return found


def read(found: KnowledgeCache, ids: list[int], view: int = 0) -> list[torch.Tensor] | None:
    n = np.array(ids, np.int64)
    where = found.find(n, np.full(len(n), view, np.int64))
    return None if where is None else found.read(where)


def same(parts: list[torch.Tensor] | None, wanted: Answer) -> bool:
    return parts is not None and all(map(torch.equal, parts, wanted.parts))


def test_what_was_written_is_read_by_this_and_by_other_processes(tmp_path: Path) -> None:
    one, two = cache(tmp_path), cache(tmp_path)
    assert one.write([answer([7, 3, 5]), answer([4, 3], 1)]) == 5
    assert same(read(one, [3, 7, 3]), answer([3, 7, 3]))
    assert read(one, [3, 4]) is None
    assert read(two, [3]) is None
    two.refresh()
    assert same(read(two, [4], 1), answer([4], 1))
    assert two.write([answer([7, 8])]) == 1
    one.refresh()
    assert same(read(one, [8, 5, 7]), answer([8, 5, 7]))


def test_a_finished_cache_is_a_dump_of_what_it_holds(tmp_path: Path) -> None:
    found = cache(tmp_path)
    for start in (0, 10, 20):
        found.write([answer(list(range(start, start + 7)))])
    found.finish()
    with KnowledgeReader(cache_folder(tmp_path, "t", INFO)) as reader:
        assert reader.ids.tolist() == [i for i in range(27) if i % 10 < 7]
        assert same(reader.read(np.array([21, 3])), answer([21, 3]))


def test_a_dump_that_has_ended_is_on_disk_with_all_its_names(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    on_disk: list[set[str]] = []
    fsync = os.fsync

    def noted(fd: int) -> None:
        fsync(fd)
        if os.path.samestat(os.fstat(fd), tmp_path.stat()):
            on_disk.append({n for n in os.listdir(tmp_path) if not n.startswith(".")})

    monkeypatch.setattr(os, "fsync", noted)
    writer, one = KnowledgeWriter(tmp_path, INFO), answer([1, 2])
    writer.write(one.ids, one.views, [one.parts])
    writer.finish()
    assert on_disk[-1] == set(os.listdir(tmp_path))
    assert len(on_disk[-1]) == 3


def test_a_shard_without_an_entry_is_taken_in_and_one_cut_short_is_made_again(
    tmp_path: Path,
) -> None:
    found = cache(tmp_path)
    found.write([answer([1, 2])])
    found.write([answer([3, 4])])
    folder = Path(cache_folder(tmp_path, "t", INFO))
    first, second = sorted(folder.glob("*.safetensors"))
    first.with_suffix(".json").unlink()
    os.truncate(second, 100)
    again = cache(tmp_path)
    assert same(read(again, [2]), answer([2]))
    assert read(again, [4]) is None
    assert again.write([answer([3, 4])]) == 2
    again.finish()
    assert same(read(again, [2, 4]), answer([2, 4]))


def test_a_shard_that_vanished_is_asked_for_again(tmp_path: Path) -> None:
    found = cache(tmp_path)
    found.write([answer([1, 2])])
    for shard in Path(cache_folder(tmp_path, "t", INFO)).glob("*.safetensors"):
        shard.unlink()
    assert read(found, [1]) is None
    assert found.write([answer([1, 2])]) == 2
    assert same(read(found, [1]), answer([1]))


def shard_of(path: Path) -> Path:
    """The only shard of the cache."""
    (shard,) = Path(cache_folder(path, "t", INFO)).glob("*.safetensors")
    return shard


def test_a_shard_removed_between_listing_and_reading_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = cache(tmp_path), cache(tmp_path)
    one.write([answer([1, 2])])
    read_all = Folder.read_all

    def slow(folder: Folder, sizes: dict[str, int]) -> dict[str, bytes]:
        discarded.append(shard_of(tmp_path))
        discarded[0].with_suffix(".json").unlink()
        discarded[0].unlink()
        return read_all(folder, sizes)

    discarded: list[Path] = []
    monkeypatch.setattr(Folder, "read_all", slow)
    two.refresh()
    assert discarded
    assert read(two, [1]) is None
    assert two.write([answer([1, 2])]) == 2
    assert same(read(two, [1]), answer([1]))


def test_a_shard_removed_while_its_entry_is_made_is_asked_for_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = cache(tmp_path), cache(tmp_path)
    one.write([answer([1, 2])])
    shard_of(tmp_path).with_suffix(".json").unlink()
    opened = Folder.open

    def slow(folder: Folder, name: str) -> RangeFile:
        file = opened(folder, name)
        shard_of(tmp_path).unlink()
        return file

    with monkeypatch.context() as patched:
        patched.setattr(Folder, "open", slow)
        two.refresh()
    assert read(two, [1]) is None
    assert two.usable
    assert two.write([answer([1, 2])]) == 2
    assert same(read(two, [1]), answer([1]))


def test_a_shard_that_another_process_has_made_anew_is_not_removed(tmp_path: Path) -> None:
    block = FieldSpec("y", "float32", (1 << 14,))
    info = DumpInfo(KnowledgeSchema((block,)), "r1", "d", 100)
    ids, views = np.array([1, 2]), np.zeros(2, np.int64)
    blocks = [Answer(ids, views, [torch.tensor([[1.0], [2.0]]).expand(2, 1 << 14)])]
    one = cache(tmp_path, info)
    one.write(blocks)
    late = cache(tmp_path, info)
    # It has the file open from now on, and has not looked at its second row.
    assert read(late, [1]) is not None
    (shard,) = Path(cache_folder(tmp_path, "t", info)).glob("*.safetensors")
    with shard.open("r+b") as file:
        file.seek(-4, os.SEEK_END)
        file.write(b"\xff" * 4)
    assert read(one, [2]) is None
    assert not shard.exists()
    one.write(blocks)
    assert read(late, [2]) is None
    assert shard.exists()
    late.refresh()
    assert same(read(late, [1, 2]), blocks[0])


@pytest.mark.parametrize("listed", [True, False])
def test_a_shard_whose_pairs_cannot_be_read_is_removed_at_the_start(
    tmp_path: Path, listed: bool
) -> None:
    info = DumpInfo(SCHEMA, "r1", "d", 1000)
    scattered = answer(list(range(0, 1000, 3)))
    cache(tmp_path, info).write([scattered])
    (shard,) = Path(cache_folder(tmp_path, "t", info)).glob("*.safetensors")
    data = bytearray(shard.read_bytes())
    data[len(data) // 10] ^= 1
    shard.write_bytes(data)
    if not listed:
        shard.with_suffix(".json").unlink()
    again = cache(tmp_path, info)
    assert not shard.exists()
    assert again.write([scattered]) == len(scattered.ids)
    assert same(read(again, [3, 999]), answer([3, 999]))


def test_a_folder_that_holds_something_else_is_refused(tmp_path: Path) -> None:
    other = DumpInfo(SCHEMA, "r2", "d", 100)
    writer = KnowledgeWriter(cache_folder(tmp_path, "t", INFO), other)
    one = answer([1])
    writer.write(one.ids, one.views, [one.parts])
    with pytest.raises(RevisionMismatch, match="this teacher"):
        cache(tmp_path)


def test_names_that_are_no_file_names_get_folders_of_their_own() -> None:
    names = ["a/b", "a_b", "..", "", "é" * 300, "é" * 301]
    folders = {cache_folder("/c", name, INFO) for name in names}
    assert len(folders) == len(names)
    assert all(f.count("/") == 3 and ".." not in f and len(f) < 200 for f in folders)
