"""Dumps by real processes: shared, killed, interrupted, out of space."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from pantheon.dataset import Ids
from pantheon.store import KnowledgeReader, rebuild, verify
from pantheon.store.folder import Folder
from pantheon.store.writer import survey
from teacher_server import Teacher
from tests.integration.dumper import SHARD_ROWS, SIZE, Slow
from tests.integration.programs import ROOT, running, torchrun

MODULE = "tests.integration.dumper"


def content(path: Path) -> dict[str, bytes]:
    """All files of a folder."""
    return {f.name: f.read_bytes() for f in sorted(path.iterdir())}


def right(path: Path) -> bool:
    """Whether a dump is whole, in its bytes and in what it says."""
    with KnowledgeReader(path) as reader:
        (found,) = reader.read(np.arange(SIZE))
    (wanted,) = Slow(0).score(np.arange(SIZE))
    return verify(path) == [] and torch.equal(found, wanted)


def shards(path: Path) -> list[Path]:
    """The shards that are published."""
    return sorted(path.glob("shard-*.safetensors"))


def wait_for_shards(path: Path, count: int) -> None:
    """Return as soon as a dump has published so many shards."""
    deadline = time.monotonic() + 30
    while len(shards(path)) < count:
        assert time.monotonic() < deadline, f"only {len(shards(path))} shards"
        time.sleep(0.01)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one worker writes."""
    path = tmp_path_factory.mktemp("alone")
    with running(MODULE, str(path)) as (process, _):
        assert process.wait(30) == 0
    assert right(path)
    return content(path)


def test_processes_that_know_nothing_of_each_other_share_a_dump(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    with (
        running(MODULE, str(tmp_path), "0.5") as (slow, _),
        running(MODULE, str(tmp_path), "0.02") as (quick, _),
    ):
        reports = [json.loads(p.communicate(timeout=50)[0]) for p in (slow, quick)]
    assert content(tmp_path) == alone
    assert sum(r["written"] for r in reports) == SIZE // SHARD_ROWS
    assert all(r["written"] for r in reports)


def test_torchrun_shares_a_dump(tmp_path: Path, alone: dict[str, bytes]) -> None:
    torchrun(2, MODULE, str(tmp_path), "0.01")
    assert content(tmp_path) == alone


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_dump_that_is_stopped_goes_on_and_is_the_same(
    tmp_path: Path, alone: dict[str, bytes], how: signal.Signals
) -> None:
    with running(MODULE, str(tmp_path), "0.05") as (process, _):
        wait_for_shards(tmp_path, 2)
        process.send_signal(how)
        start = time.monotonic()
        assert process.wait(10) != 0
        assert time.monotonic() - start < 2
    before = {f: f.stat().st_mtime_ns for f in shards(tmp_path)}
    assert 2 <= len(before) < SIZE // SHARD_ROWS
    rebuild(tmp_path)
    assert verify(tmp_path) == []
    with running(MODULE, str(tmp_path)) as (process, _):
        report = json.loads(process.communicate(timeout=30)[0])
    assert report["skipped"] == len(before)
    assert {f: f.stat().st_mtime_ns for f in before} == before
    assert content(tmp_path) == alone


def test_the_work_of_a_killed_worker_is_done_by_another(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    with running(MODULE, str(tmp_path), "0.05") as (one, _):
        wait_for_shards(tmp_path, 1)
        with running(MODULE, str(tmp_path), "0.01") as (other, _):
            wait_for_shards(tmp_path, 4)
            one.kill()
            assert other.wait(50) == 0
    assert content(tmp_path) == alone


FULL = """
set -e
mount -t tmpfs -o size=400k pantheon-test "$1"
status=0
"$2" -m tests.integration.dumper "$1/dump" 2> "$3/error" || status=$?
mkdir "$3/dump"
cp -a "$1/dump/." "$3/dump/"
exit $status
"""


def test_a_full_disk_leaves_whole_shards_and_a_message(
    tmp_path: Path, alone: dict[str, bytes]
) -> None:
    unshare = shutil.which("unshare")
    if unshare is None or subprocess.run([unshare, "-Urm", "true"], check=False).returncode:
        pytest.skip("mounting a small file system is not permitted here")
    small, kept = tmp_path / "small", tmp_path / "kept"
    small.mkdir()
    kept.mkdir()
    command = [unshare, "-Urm", "sh", "-c", FULL, "sh", str(small), sys.executable, str(kept)]
    done = subprocess.run(command, cwd=ROOT, check=False, timeout=50, capture_output=True)
    error = (kept / "error").read_text()
    assert done.returncode != 0
    assert "DiskFullError" in error
    assert "bytes needed" in error
    assert str(small / "dump" / "shard-") in error
    dump = kept / "dump"
    assert 0 < len(shards(dump)) < SIZE // SHARD_ROWS
    assert not [f for f in dump.iterdir() if f.name.startswith(".")]
    found = survey(Folder(dump))
    assert not found.damaged
    with running(MODULE, str(dump)) as (process, _):
        assert process.wait(30) == 0
    assert content(dump) == alone


class Line(torch.nn.Module):
    """Twice the number."""

    def forward(self, x: Tensor) -> Tensor:
        return 2 * x


class Numbers:
    """Sample i is the number i."""

    def __len__(self) -> int:
        return 100

    def __getitem__(self, i: int) -> Tensor:
        return torch.tensor([float(i)])


def test_a_teacher_dumps_what_it_would_serve(tmp_path: Path) -> None:
    teacher = Teacher(Line(), Numbers(), schema={"y": "float16"})
    teacher.dump(str(tmp_path / "d"), shard_rows=30)
    with KnowledgeReader(tmp_path / "d") as reader:
        ids = np.arange(100)[::-1].copy()
        assert all(map(torch.equal, reader.read(ids), teacher.scorer.score(ids)))
        assert reader.revision == teacher.scorer.revision
        assert reader.dataset == teacher.scorer.dataset_fingerprint
        assert reader.size == 100


def test_a_forked_reader_reads_on(tmp_path: Path, alone: dict[str, bytes]) -> None:
    for name, data in alone.items():
        (tmp_path / name).write_bytes(data)
    with KnowledgeReader(tmp_path) as reader:
        reader.read(np.arange(10))
        child = os.fork()
        if not child:
            good = torch.equal(reader.read(np.arange(590, 600))[0][:, 0], torch.arange(590.0, 600))
            os._exit(0 if good else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert reader.read(np.array([599]))[0][0, 0] == 599


def test_a_dump_without_inputs_is_dumped_by_ids(tmp_path: Path) -> None:
    teacher = Teacher(
        lambda ids: ids.float()[:, None], Ids(50), schema={"y": "float32"}, revision="1"
    )
    teacher.dump(str(tmp_path / "d"))
    with KnowledgeReader(tmp_path / "d") as reader:
        assert reader.read(np.array([49, 3]))[0].tolist() == [[49], [3]]
