"""What comes online is kept on disk, and read instead of asked for again."""

from __future__ import annotations

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon.dataset import Ids
from pantheon.errors import StoreError
from pantheon.knowledge import Value
from pantheon.ragged import Ragged
from pantheon.store import verify
from pantheon.store.cache import KnowledgeCache
from pantheon.store.ranges import LocalFile
from pantheon.topk import TopKLogits
from student_client import KnowledgeLoader
from teacher_server import Server, Teacher
from tests.integration import cacher
from tests.integration.programs import ROOT

SIZE = 600
BATCH = 50


class Words:
    """Sample i is i % 4 words of the number i; view v adds v to each."""

    def __len__(self) -> int:
        return SIZE

    def __getitem__(self, i: int) -> Tensor:
        return self.get(i, 0)

    def get(self, i: int, view: int) -> Tensor:
        return torch.tensor([float(i) + 1000 * view])


class Many(torch.nn.Module):
    """A field of every kind."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(factor))

    def forward(self, x: Tensor) -> dict[str, Value]:
        y = self.factor * x + torch.linspace(-3, 3, 16)
        lengths = x.flatten().long() % 4
        packed = y.repeat_interleave(lengths, 0)
        return {"dense": y, "small": y, "top": y, "words": Ragged(packed[:, :3], lengths)}


SCHEMA = {"dense": "float32", "small": "int8", "top": "topk:4@1,2", "words": "float16"}


def serving(factor: float = 1.0, **options: Any) -> Server:
    """A teacher that is being served in a thread here."""
    with torch.no_grad():
        teacher = Teacher(Many(factor).eval(), Words(), schema=SCHEMA, views=3, **options)
        return teacher.start("tcp://127.0.0.1:0")


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as running:
        yield running


def reading(server: Server, cache: Path, **options: Any) -> KnowledgeLoader:
    """A student of that teacher."""
    settings = {"batch_size": BATCH, "shuffle": True, "patience": 10.0, "cache": cache} | options
    return KnowledgeLoader(Words(), teachers={"t": server.addresses[0]}, **settings)


def bits(value: Value) -> list[Tensor]:
    """Everything a value is made of."""
    if isinstance(value, Ragged):
        return [value.lengths, *bits(value.values)]
    if isinstance(value, TopKLogits):
        return [value.values, value.indices, value.tail]
    assert isinstance(value, Tensor)
    return [value]


def epoch(loader: KnowledgeLoader) -> dict[int, list[Tensor]]:
    """One epoch's knowledge by id, every part of every field."""
    seen: dict[int, list[Tensor]] = {}
    for batch in loader:
        for sample, row in zip(batch.ids.tolist(), batch.knowledge.split(1), strict=True):
            seen[sample] = [part for f in sorted(SCHEMA) for part in bits(row[f])]
    assert len(seen) == SIZE
    return seen


def same(a: dict[int, list[Tensor]], b: dict[int, list[Tensor]]) -> bool:
    """Whether two epochs' knowledge is the same to the bit."""
    return a.keys() == b.keys() and all(
        torch.equal(x, y) for i in a for x, y in zip(a[i], b[i], strict=True)
    )


def test_the_second_epoch_asks_no_teacher_and_is_the_same_to_the_bit(
    server: Server, tmp_path: Path
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
        asked = server.stats().requests
        assert asked > 0
        assert loader.stats().teachers["t"].cached == 0
        second = epoch(loader)
        stats = loader.stats().as_dict()["teachers"]["t"]
    assert server.stats().requests == asked
    assert same(first, second)
    assert stats["cached"] == stats["stored"] == SIZE
    assert 0 < stats["cached_bytes"] == stats["bytes"] / 2
    assert stats["cache"] == "on"


def test_another_student_and_a_later_stage_read_what_the_first_has_kept(
    server: Server, tmp_path: Path
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
    asked = server.stats().requests
    with reading(server, tmp_path, batch_size=60, seed=8) as other:
        assert same(first, epoch(other))
    assert server.stats().requests == asked
    (dump,) = tmp_path.glob("t/*")
    assert verify(dump) == []
    with KnowledgeLoader(Words(), 60, teachers={"t": str(dump)}) as offline:
        assert same(first, epoch(offline))


def test_a_break_keeps_what_came_until_then(server: Server, tmp_path: Path) -> None:
    with reading(server, tmp_path, shuffle=False, request_rows=BATCH) as loader:
        next(iter(loader))
        batch = next(iter(loader))
        stats = loader.stats().teachers["t"]
    assert batch.ids.tolist() == list(range(BATCH))
    assert stats.cached >= BATCH


def test_every_view_is_kept_by_itself(server: Server, tmp_path: Path) -> None:
    with reading(server, tmp_path, views=3) as loader:
        epochs = [epoch(loader) for _ in range(3)]
        asked = server.stats().requests
        assert loader.stats().teachers["t"].cached == 0
        assert same(epochs[0], epoch(loader))
    assert server.stats().requests == asked
    assert not same(epochs[0], epochs[1])


def test_knowledge_of_another_revision_is_not_used_and_that_is_said_once(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
    (old,) = tmp_path.glob("t/*")
    with serving(2.0) as changed, reading(changed, tmp_path) as loader:
        second = epoch(loader)
        epoch(loader)
        assert changed.stats().rows == SIZE
    said = [r.getMessage() for r in caplog.records if "is not used" in r.getMessage()]
    assert len(said) == 1
    assert str(old) in said[0]
    assert not same(first, second)
    assert second[7][0][0, 0] == 2 * 7 - 3
    asked = server.stats().requests
    with reading(server, tmp_path) as loader:
        assert same(first, epoch(loader))
    assert server.stats().requests == asked


def test_other_fields_are_kept_apart(server: Server, tmp_path: Path) -> None:
    with reading(server, tmp_path, fields={"t": ["dense"]}) as loader:
        few = [b.knowledge["dense"] for b in loader]
    rows = server.stats().rows
    with reading(server, tmp_path) as loader:
        whole = [b.knowledge["dense"] for b in loader]
    assert server.stats().rows == rows + SIZE
    assert all(map(torch.equal, few, whole))
    assert len(list(tmp_path.glob("t/*"))) == 2


def size_of(path: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(f.stat().st_size for f in path.rglob("*") if f.is_file())


def test_a_cache_keeps_to_its_bytes_and_what_is_in_it_is_used(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limit = 60_000
    with reading(server, tmp_path, cache_bytes=limit, request_rows=BATCH) as loader:
        first = epoch(loader)
        assert same(first, epoch(loader))
        stats = loader.stats().teachers["t"]
    assert stats.cache == "full"
    assert SIZE / 4 < stats.cached == stats.stored < SIZE
    assert limit / 2 < size_of(tmp_path) <= limit
    assert server.stats().rows == 2 * SIZE - stats.cached
    assert len([r for r in caplog.records if "is full" in r.getMessage()]) == 1


def test_of_a_request_only_what_is_not_kept_is_asked(server: Server, tmp_path: Path) -> None:
    with reading(server, tmp_path, ids=range(0, SIZE, 2)) as loader:
        assert sum(len(batch.ids) for batch in loader) == SIZE // 2
    with reading(server, tmp_path, seed=2) as loader:
        mixed = epoch(loader)
    stats = loader.stats()
    assert stats.teachers["t"].cached == stats.teachers["t"].stored == SIZE // 2
    assert server.stats().rows == SIZE
    assert stats.requeued == 0
    with reading(server, tmp_path / "other") as loader:
        assert same(mixed, epoch(loader))


def test_a_damaged_shard_is_asked_for_again(
    server: Server, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
    (shard,) = tmp_path.glob("t/*/shard-*.safetensors")
    data = bytearray(shard.read_bytes())
    data[-100] ^= 1
    shard.write_bytes(data)
    with reading(server, tmp_path) as loader:
        assert same(first, epoch(loader))
        asked = server.stats().requests
        assert same(first, epoch(loader))
    assert server.stats().requests == asked
    assert "was altered" in caplog.text
    assert verify(next(tmp_path.glob("t/*"))) == []


def test_a_disk_that_fails_turns_the_cache_off_and_training_goes_on(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with reading(server, tmp_path) as loader:
        batches = iter(loader)
        next(batches)
        monkeypatch.setattr(os, "link", full)
        assert len(list(batches)) == SIZE // BATCH - 1
        epoch(loader)
        assert loader.stats().teachers["t"].cache == "off"
    said = [r.getMessage() for r in caplog.records if "turned off" in r.getMessage()]
    assert len(said) == 1
    assert "no space left" in said[0]


def test_a_disk_that_hangs_while_it_is_read_is_not_waited_for(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with reading(server, tmp_path) as loader:
        first = epoch(loader)
    hangs = threading.Event()
    monkeypatch.setattr(KnowledgeCache, "read", lambda *_: hangs.wait(50) and None)
    try:
        with reading(server, tmp_path, lease=0.5) as loader:
            assert same(first, epoch(loader))
            assert loader.stats().teachers["t"].cached == 0
    finally:
        hangs.set()
    assert caplog.text.count("nothing came from the disk for 0.5 s") == 1


def test_a_disk_that_cannot_be_read_is_not_read_any_more(
    server: Server,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, "Input/output error")

    with reading(server, tmp_path) as loader:
        first = epoch(loader)
    with reading(server, tmp_path) as loader:
        monkeypatch.setattr(LocalFile, "read", fail)
        assert same(first, epoch(loader))
        assert loader.stats().teachers["t"].cached == 0
    assert "cannot be read and is not used any more" in caplog.text


def test_a_path_that_no_file_system_reads_is_refused_at_once() -> None:
    with pytest.raises(StoreError, match="no file system reads this path"):
        KnowledgeLoader(Words(), teachers={"t": "tcp://127.0.0.1:1"}, cache="nosuch://cache")


def test_a_path_that_is_no_folder_is_refused(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        reading(server, tmp_path / "file") as loader,
        pytest.raises(StoreError, match="is a file, or lies in one; give a folder"),
    ):
        iter(loader)


def test_what_the_student_does_to_its_batches_does_not_get_into_the_cache(
    server: Server, tmp_path: Path
) -> None:
    with reading(server, tmp_path) as loader:
        for batch in loader:
            batch.knowledge["dense"].zero_()
        assert epoch(loader)[5][0][0, 0] == 5 - 3
        assert loader.stats().teachers["t"].cached == SIZE


def test_a_teacher_that_takes_inputs_is_kept_by_the_students_ids(tmp_path: Path) -> None:
    teacher = Teacher(Many(1.0).eval(), schema=SCHEMA, example=torch.zeros(1, 1))
    with teacher.start("tcp://127.0.0.1:0") as server, reading(server, tmp_path) as loader:
        first = epoch(loader)
        asked = server.stats().requests
        assert same(first, epoch(loader))
        assert server.stats().requests == asked


def taking_inputs() -> Server:
    """A teacher without a dataset: it scores what the student sends."""
    teacher = Teacher(
        lambda x: 3 * x, schema={"y": "float32"}, revision="1", example=torch.ones(1, 1)
    )
    return teacher.start("tcp://127.0.0.1:0")


def sending(server: Server, cache: Path, **options: Any) -> KnowledgeLoader:
    """A student that sends its inputs."""
    address = {"t": server.addresses[0]}
    return KnowledgeLoader(Words(), BATCH, teachers=address, cache=cache, **options)


def doubled(items: list[Tensor]) -> Tensor:
    """Other inputs of the same samples."""
    return 2 * torch.stack(items)


def test_students_that_send_other_inputs_for_the_same_ids_share_nothing(tmp_path: Path) -> None:
    with taking_inputs() as server:
        for collate, factor in ((None, 3), (doubled, 6)):
            for kept in (0, SIZE):
                with sending(server, tmp_path, collate_fn=collate) as loader:
                    for batch in loader:
                        assert batch.knowledge["y"].flatten().tolist() == [
                            factor * i for i in batch.ids.tolist()
                        ]
                    assert loader.stats().teachers["t"].cached == kept
        assert server.stats().rows == 2 * SIZE
    assert len(list(tmp_path.glob("t/*"))) == 2


class OtherViews(Words):
    """The same samples, augmented otherwise."""

    def get(self, i: int, view: int) -> Tensor:
        return torch.tensor([float(i) - 1000 * view])


def test_students_that_send_other_views_of_the_same_samples_share_nothing(tmp_path: Path) -> None:
    with taking_inputs() as server:
        for data, sign in ((Words(), 1), (OtherViews(), -1)):
            teachers = {"t": server.addresses[0]}
            with KnowledgeLoader(data, BATCH, teachers=teachers, views=2, cache=tmp_path) as loader:
                batch = next(iter(loader))
                assert batch.knowledge["y"][1, 0] == 3 * (1 + sign * 1000)


def noisy(items: list[Tensor]) -> Tensor:
    """Inputs that are others each time."""
    return torch.stack(items) + torch.rand(len(items), 1)


def test_inputs_that_differ_each_time_are_not_kept_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with (
        taking_inputs() as server,
        sending(server, tmp_path, collate_fn=noisy) as loader,
    ):
        first, second = ([b.knowledge["y"] for b in loader] for _ in range(2))
        assert not any(map(torch.equal, first, second))
        assert loader.stats().teachers["t"].cache == ""
    assert caplog.text.count("differs each time it is read") == 1
    assert "augment in get(id, view), with views=" in caplog.text
    assert not list(tmp_path.iterdir())


def test_a_teacher_without_a_revision_is_not_kept_unless_one_is_stated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    named = Teacher(ids_teacher, Ids(SIZE), schema={"y": "float32"}, revision="1")
    with (
        named.start("tcp://127.0.0.1:0") as server,
        KnowledgeLoader(
            Ids(SIZE), BATCH, teachers={"t": server.addresses[0]}, cache=tmp_path
        ) as loader,
    ):
        assert len(list(loader)) == SIZE // BATCH
        assert loader.stats().teachers["t"].cache == ""
    assert "state it with dataset_fingerprint=" in caplog.text
    assert not list(tmp_path.iterdir())


def ids_teacher(ids: Tensor) -> Tensor:
    """What the programs in processes of their own expect."""
    return cacher.truth(ids)


@pytest.fixture
def plain() -> Iterator[str]:
    """The address of the teacher that those programs ask."""
    teacher = Teacher(
        ids_teacher,
        Ids(cacher.SIZE),
        schema={"y": "float32"},
        revision="1",
        dataset_fingerprint="ids",
    )
    with teacher.start("tcp://127.0.0.1:0") as server:
        yield server.addresses[0]


def students(address: str, cache: Path, **order: Any) -> list[dict[str, Any]]:
    """Run the program; its lines."""
    arguments = json.dumps({"address": address, "cache": str(cache)} | order)
    command = [sys.executable, "-m", "tests.integration.cacher", arguments]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=55)
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_a_student_killed_at_any_step_leaves_nothing_torn_or_wrong(
    plain: str, tmp_path: Path
) -> None:
    lines = students(plain, tmp_path, kill=True)
    *killed, last = lines
    assert len(killed) > 20
    assert all(k["status"] == -signal.SIGKILL for k in killed)
    assert last["status"] == 0
    for line in lines:
        assert line["torn"]["wrong"] == line["whole"]["wrong"] == []
        assert line["again"] == 0
        assert line["resumed"]["rows"] == cacher.SIZE
        assert line["resumed"]["cached"] == line["torn"]["rows"]
        assert line["whole"] == {"rows": cacher.SIZE, "wrong": [], "hidden": 0, "manifest": True}
    assert {k["torn"]["rows"] for k in killed} == {0, cacher.SIZE // 2, cacher.SIZE}


def test_two_students_at_once_share_a_cache(plain: str, tmp_path: Path) -> None:
    both = [{"shuffle": True, "seed": 1}, {"shuffle": True, "seed": 2}]
    assert [s["status"] for s in students(plain, tmp_path, students=both)] == [0, 0]
    (third,) = students(plain, tmp_path, students=[{"shuffle": True, "seed": 3}])
    assert third["cached"] == third["rows"] == cacher.SIZE
    assert verify(next(tmp_path.glob("t/*"))) == []


def test_ranks_read_what_the_others_have_kept(plain: str, tmp_path: Path) -> None:
    ranks = [{"shuffle": True, "rank": r, "world": 2} for r in range(2)]
    first = students(plain, tmp_path, students=ranks)
    assert [s["cached"] for s in first] == [0, 0]
    second = students(plain, tmp_path, students=[r | {"epoch": 1} for r in ranks])
    assert [s["cached"] for s in second] == [cacher.SIZE // 2] * 2


FULL = """
mount -t tmpfs -o size=32k pantheon-test "$1"
exec "$2" -m tests.integration.cacher "$3"
"""


def test_a_full_disk_turns_the_cache_off_and_training_goes_on(plain: str, tmp_path: Path) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    order = json.dumps({"address": plain, "cache": str(tmp_path / "cache"), "students": [{}]})
    command = [unshare, "-Urm", "sh", "-ec", FULL, "sh", str(tmp_path), sys.executable, order]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=50)
    assert done.returncode == 0, done.stderr
    line = json.loads(done.stdout)
    assert line["status"] == 0
    assert line["rows"] == cacher.SIZE
    assert line["cache"] == "off"
    assert line["stored"] == cacher.SIZE // 2
    assert "no space left while writing" in done.stderr
