"""A dump does what is missing, once, and can be stopped anywhere."""

from __future__ import annotations

import errno
import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import fsspec
import numpy as np
import pytest
import torch
from fsspec.implementations.memory import MemoryFileSystem
from numpy.typing import NDArray
from torch import Tensor

from pantheon.errors import (
    ConfigError,
    DatasetMismatch,
    DiskFullError,
    IdOutOfRange,
    RevisionMismatch,
    SchemaMismatch,
    StoreError,
)
from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import Entry, KnowledgeReader
from pantheon.store.claims import CLAIM, claim
from pantheon.store.folder import TEMPORARY, Folder
from pantheon.store.locks import lock
from teacher_server import dump as module
from teacher_server import dump_plan
from teacher_server.dump import dump

_numbers = itertools.count()
SIZE = 100


class Squares:
    """A scorer that knows the squares of ids, and counts what it is asked."""

    def __init__(self, **changes: Any) -> None:
        self.schema = KnowledgeSchema((FieldSpec("square", "float32", ()),))
        self.revision, self.dataset_fingerprint, self.size = "r1", "d1", SIZE
        self.batch_rows = 8
        self.asked: list[int] = []
        self.fail_at = -1
        vars(self).update(changes)

    def score(self, ids: NDArray[np.int64], views: NDArray[np.int64] | None = None) -> list[Tensor]:
        if self.fail_at in ids:
            raise KeyboardInterrupt
        self.asked += ids.tolist()
        view = torch.zeros(len(ids)) if views is None else torch.from_numpy(views)
        return [torch.from_numpy(ids).float() ** 2 + view / 4]


@pytest.fixture(params=["file", "memory"])
def path(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder that is not there yet."""
    return str(tmp_path / "d") if request.param == "file" else f"memory://dump-{next(_numbers)}"


def squares(path: str, ids: range | list[int] = range(SIZE), view: int = 0) -> bool:
    """Whether a dump holds the right squares of some ids."""
    wanted = np.asarray(ids, np.int64)
    with KnowledgeReader(path) as reader:
        (found,) = reader.read(wanted, np.full(len(wanted), view))
    return torch.equal(found, torch.from_numpy(wanted).float() ** 2 + view / 4)


def names(path: str) -> list[str]:
    """The shards of a folder, and whatever should not be left in it."""
    return sorted(n for n in Folder(path).files() if not n.endswith(".json"))


def test_a_dump_holds_every_sample(path: str) -> None:
    scorer = Squares()
    told: list[tuple[int, int]] = []
    report = dump(scorer, path, shard_rows=30, progress=lambda *done: told.append(done))
    assert squares(path)
    assert sorted(scorer.asked) == list(range(SIZE))
    assert (report.written, report.skipped, report.rows) == (4, 0, SIZE)
    assert report.bytes == sum(e.bytes for e in KnowledgeReader(path).shards)
    assert told == sorted(told)
    assert told[-1] == (SIZE, SIZE)


def test_the_second_dump_scores_nothing(path: str) -> None:
    dump(Squares(), path, shard_rows=30)
    scorer = Squares()
    report = dump(scorer, path, shard_rows=30)
    assert (report.written, report.skipped, report.rows, scorer.asked) == (0, 4, 0, [])


def test_a_stopped_dump_goes_on_where_it_was(path: str) -> None:
    with pytest.raises(KeyboardInterrupt):
        dump(Squares(fail_at=65), path, shard_rows=30)
    before = names(path)
    assert all(n.startswith("shard-") for n in before)
    scorer = Squares()
    report = dump(scorer, path, shard_rows=30)
    assert report.skipped == len(before) < 4
    assert len(scorer.asked) == report.rows == len(set(scorer.asked))
    assert report.rows + sum(e.rows for e in _shards(path, before)) == SIZE
    assert squares(path)


def _shards(path: str, named: list[str]) -> list[Entry]:
    return [e for e in KnowledgeReader(path).shards if e.shard in named]


def test_a_dump_of_a_part_is_filled_up_by_the_rest(path: str) -> None:
    dump(Squares(), path, ids=[5, 90, *range(20, 40), 5], shard_rows=16)
    assert squares(path, [90, 5, 39])
    scorer = Squares()
    dump(scorer, path, shard_rows=50)
    assert sorted(scorer.asked) == sorted(set(range(SIZE)) - {5, 90, *range(20, 40)})
    assert squares(path)


def test_views_are_dumped_one_to_k(path: str) -> None:
    report = dump(Squares(), path, views=3)
    assert report.rows == 3 * SIZE
    assert all(squares(path, view=v) for v in (1, 2, 3))
    assert KnowledgeReader(path).views == 3
    with pytest.raises(IdOutOfRange):
        squares(path, view=0)


@pytest.mark.parametrize("rows", [1, 7, 100, 1000])
def test_shards_of_any_size_hold_the_same(path: str, rows: int) -> None:
    dump(Squares(), path, shard_rows=rows)
    assert squares(path)
    assert len(names(path)) == -(-SIZE // rows)


def test_ranks_share_the_work_and_finish_for_each_other(path: str) -> None:
    scorers = [Squares() for _ in range(3)]
    dump(scorers[1], path, shard_rows=10, rank=1, world=3)
    assert sorted(scorers[1].asked) == list(range(SIZE))
    assert scorers[1].asked[:10] == list(range(10, 20))
    for rank in (0, 2):
        assert dump(scorers[rank], path, shard_rows=10, rank=rank, world=3).written == 0


def test_torchrun_says_which_rank_this_is(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", "3")
    scorer = Squares()
    dump(scorer, path, shard_rows=10)
    assert scorer.asked[:10] == list(range(20, 30))


def test_workers_at_once_write_what_one_would_alone(path: str, tmp_path: Path) -> None:
    alone = str(tmp_path / "alone")
    dump(Squares(), alone, shard_rows=5)
    start = threading.Barrier(4)
    scorers = [Squares() for _ in range(4)]

    def work(scorer: Squares) -> int:
        start.wait(20)
        return dump(scorer, path, shard_rows=5).written

    with ThreadPoolExecutor(4) as pool:
        written = list(pool.map(work, scorers))
    assert sum(written) >= 20
    assert {n: Folder(path).read(n, 1 << 20) for n in Folder(path).files()} == {
        n: Folder(alone).read(n, 1 << 20) for n in Folder(alone).files()
    }
    if Folder(path).local:
        assert sum(len(s.asked) for s in scorers) == SIZE


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"revision": "r2"}, RevisionMismatch),
        ({"dataset_fingerprint": "d2"}, DatasetMismatch),
        ({"size": SIZE - 1}, DatasetMismatch),
        ({"schema": KnowledgeSchema((FieldSpec("square", "float32", (2,)),))}, SchemaMismatch),
    ],
)
def test_another_teacher_does_not_touch_a_dump(
    path: str, changes: dict[str, Any], error: type[Exception]
) -> None:
    dump(Squares(), path)
    before = {n: Folder(path).read(n, 1 << 20) for n in Folder(path).files()}
    scorer = Squares(**changes)
    with pytest.raises(error):
        dump(scorer, path)
    assert {n: Folder(path).read(n, 1 << 20) for n in Folder(path).files()} == before
    assert not scorer.asked


@pytest.mark.parametrize(
    ("options", "error", "word"),
    [
        ({"ids": [5, SIZE, -1]}, IdOutOfRange, r"\[-1, 100\]"),
        ({"ids": [0.5]}, ConfigError, "integers"),
        ({"views": -1}, ConfigError, "views"),
        ({"shard_rows": 0}, ConfigError, "shard_rows"),
        ({"rank": 3, "world": 3}, ConfigError, "rank 3"),
    ],
)
def test_what_cannot_be_dumped_is_told(
    path: str, options: dict[str, Any], error: type[Exception], word: str
) -> None:
    with pytest.raises(error, match=word):
        dump(Squares(), path, **options)
    assert Folder(path).files() == {}


def test_a_teacher_without_dataset_cannot_be_dumped(path: str) -> None:
    with pytest.raises(ConfigError, match="dataset"):
        dump(Squares(size=None), path)


def test_a_file_in_the_way_is_named(tmp_path: Path) -> None:
    (tmp_path / "d").write_text("")
    with pytest.raises(StoreError, match="is a file"):
        dump(Squares(), str(tmp_path / "d"))


def test_a_file_system_that_cannot_publish_is_refused(tmp_path: Path) -> None:
    class Racy(MemoryFileSystem):
        protocol = "racy"

    fsspec.register_implementation("racy", Racy, clobber=True)
    fs = Folder("memory://x").fs
    with pytest.raises(StoreError, match=r"dir.*not known to publish"):
        dump(Squares(), f"dir::file://{tmp_path}/d")
    assert fs.protocol == "memory"


class Conditional(fsspec.AbstractFileSystem):  # type: ignore[misc]
    """A store in memory that calls itself s3, and creates on condition only when it says so."""

    protocol = "s3"
    honest = True
    cachable = False

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.memory = MemoryFileSystem()

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("condi://").strip("/")

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        self.memory.pipe_file(path, value, mode=mode if self.honest else "overwrite")

    def cat_file(self, path: str, start: Any = None, end: Any = None, **_: Any) -> bytes:
        return bytes(self.memory.cat_file(path, start, end))

    def ls(self, path: str, detail: bool = True, **_: Any) -> Any:
        return self.memory.ls(path, detail=detail)

    def info(self, path: str, **_: Any) -> Any:
        return self.memory.info(path)

    def _rm(self, path: str) -> None:
        self.memory.rm_file(path)

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        pass


@pytest.fixture
def conditional() -> Iterator[type[Conditional]]:
    """An object store registered as condi://."""
    fsspec.register_implementation("condi", Conditional, clobber=True)
    yield Conditional
    Conditional.honest = True


def test_a_store_with_conditional_creation_is_tried_and_used(
    conditional: type[Conditional],
) -> None:
    path = f"condi://bucket-{next(_numbers)}/d"
    dump(Squares(), path, shard_rows=30)
    assert squares(path)
    assert dump(Squares(), path, shard_rows=30).written == 0
    assert all(n.startswith("shard-") for n in names(path))


def test_a_store_that_only_pretends_is_refused(conditional: type[Conditional]) -> None:
    Conditional.honest = False
    path = f"condi://bucket-{next(_numbers)}/d"
    with pytest.raises(StoreError, match="not known to publish"):
        dump(Squares(), path)
    assert Folder(path).files() == {}


class Small(MemoryFileSystem):  # type: ignore[misc]
    """A file system in memory that is full after some bytes."""

    room = 0

    def pipe_file(self, path: str, value: bytes, mode: str = "overwrite", **_: Any) -> None:
        if len(value) > Small.room:
            raise OSError(errno.ENOSPC, "No space left on device")
        Small.room -= len(value)
        super().pipe_file(path, value, mode=mode)


def test_a_full_store_is_told_and_goes_on_when_there_is_room() -> None:
    fsspec.register_implementation("small", Small, clobber=True)
    path = f"small://{next(_numbers)}"
    Small.room = 3000
    with pytest.raises(DiskFullError, match=r"shard-.* bytes needed.*goes on"):
        dump(Squares(), path, shard_rows=10)
    there = len(names(path))
    assert 0 < there < 10
    Small.room = 1 << 20
    assert dump(Squares(), path, shard_rows=10).skipped == there
    assert squares(path)


def test_what_a_killed_worker_left_is_swept(tmp_path: Path) -> None:
    dump(Squares(), str(tmp_path), ids=range(30), shard_rows=30)
    (name,) = names(str(tmp_path))
    left = [
        f"{TEMPORARY}{name}-0123456789ab",
        f"{CLAIM}{name}",
        f"{TEMPORARY}manifest.json-0123456789ab",
    ]
    for file in left:
        (tmp_path / file).write_bytes(b"half")
    assert squares(str(tmp_path), range(30))
    dump(Squares(), str(tmp_path), shard_rows=30)
    assert squares(str(tmp_path))
    assert not [n for n in names(str(tmp_path)) if n.startswith(".")]


def test_what_a_living_worker_holds_is_not_swept(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    name = "shard-v9-0.safetensors"
    with claim(folder, name) as mine:
        assert mine
        temporary = tmp_path / f"{TEMPORARY}{name}-0123456789ab"
        with temporary.open("xb") as file:
            assert lock(file.fileno())
            with claim(folder, name) as theirs:
                assert not theirs
            dump(Squares(), str(tmp_path))
            assert temporary.exists()
    assert squares(str(tmp_path))


def test_a_worker_that_hangs_does_not_hold_up_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PATIENCE", 0.2)
    whole = tmp_path / "whole"
    dump(Squares(), str(whole), shard_rows=30)
    folder = Folder(tmp_path / "d")
    folder.prepare()
    with claim(folder, names(str(whole))[2]):
        assert dump(Squares(), folder.path, shard_rows=30).written == 4
    assert squares(folder.path)


def test_big_rows_make_shards_of_one(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dump_plan, "SHARD_BYTES", 10)
    dump(Squares(), path, ids=range(5))
    assert len(names(path)) == 5


def test_shards_are_sized_by_bytes_and_shared_out(path: str) -> None:
    ids = range(SIZE)
    wide = KnowledgeSchema((FieldSpec("square", "float32", (1 << 20,)),))
    assert dump_plan.shard_rows(Squares(schema=wide, batch_rows=4), ids, [0], None) == 12
    many = range(100_000)
    assert dump_plan.shard_rows(Squares(), many, [0], None) == 6248
    assert dump_plan.shard_rows(Squares(), range(10_000_000), [0], None) == dump_plan.MAX_ROWS
