"""When a cache is written, and what happens to it when the disk does not do as it should."""

from __future__ import annotations

import errno
import logging
import threading
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.store import DumpInfo
from pantheon.store.arranged import Answer
from pantheon.store.cache import KnowledgeCache
from student_client import cache_writer
from student_client.cache_writer import CacheWriter
from student_client.gathering import FLUSH_S, LIST_SHARE, Gathering

INFO = DumpInfo(KnowledgeSchema((FieldSpec("y", "float32", ()),)), "r1", "d", 1000)


def answer(start: int, rows: int = 10) -> Answer:
    ids = np.arange(start, start + rows)
    return Answer(ids, np.zeros(rows, np.int64), [torch.from_numpy(ids).float()])


SIZE = answer(0).nbytes


def soon() -> float:
    return time.monotonic() + 20


def test_answers_are_written_together_when_they_make_a_shard() -> None:
    gathering = Gathering(3 * SIZE)
    for n in range(2):
        gathering.add(answer(n), 0.0)
    assert gathering.due(1.0) is None
    for n in range(2, 5):
        gathering.add(answer(n), 1.0)
    assert gathering.due(1.0) == "write"
    assert [a.ids[0] for a in gathering.take()] == [0, 1, 2]
    assert gathering.due(1.0) is None
    assert gathering.nbytes == 2 * SIZE


def test_few_answers_are_written_after_a_while() -> None:
    gathering = Gathering(1 << 20)
    gathering.add(answer(0), 5.0)
    gathering.add(answer(1), 6.0)
    assert gathering.pause(6.0) == FLUSH_S - 1
    assert gathering.due(5.0 + FLUSH_S) == "write"
    assert len(gathering.take()) == 2
    assert gathering.pause(7.0) is None


def test_others_are_looked_for_after_a_miss_but_not_all_the_time() -> None:
    gathering = Gathering(1)
    assert gathering.due(0.0) is None
    gathering.missed = True
    assert gathering.due(0.0) == "list"
    gathering.listed(0.0, 3.0)
    assert gathering.due(100.0) is None
    gathering.missed = True
    assert gathering.due(3.0 + LIST_SHARE * 3 - 1) is None
    assert gathering.due(3.0 + LIST_SHARE * 3) == "list"


def test_everything_is_written_before_the_end() -> None:
    gathering = Gathering(SIZE)
    for n in range(3):
        gathering.add(answer(n), 0.0)
    gathering.closing, gathering.asked = True, 1
    for _ in range(3):
        assert gathering.due(0.0) == "write"
        gathering.take()
    assert gathering.due(0.0) == "finish"
    gathering.finished = 1
    assert gathering.due(0.0) == "end"


class Slow(KnowledgeCache):
    """A disk that takes nothing until it is let."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, "t", INFO)
        self.let = threading.Event()

    def write(self, answers: Sequence[Answer]) -> int:
        assert self.let.wait(20)
        return super().write(answers)


def test_a_slow_disk_makes_the_student_wait_and_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cache_writer, "SHARD_BYTES", SIZE)
    monkeypatch.setattr(cache_writer, "HELD_BYTES", 3 * SIZE)
    slow = Slow(tmp_path)
    writer = CacheWriter(slow)
    for n in range(3):
        writer.put(answer(10 * n))
    threading.Timer(0.2, slow.let.set).start()
    began = time.monotonic()
    writer.put(answer(30))
    assert time.monotonic() - began > 0.1
    writer.close(soon())
    assert (writer.state, writer.written) == ("on", 40)


def test_a_stuck_disk_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(cache_writer, "SHARD_BYTES", SIZE)
    monkeypatch.setattr(cache_writer, "HELD_BYTES", SIZE)
    monkeypatch.setattr(cache_writer, "STUCK_S", 0.1)
    slow = Slow(tmp_path)
    writer = CacheWriter(slow)
    for n in range(4):
        writer.put(answer(10 * n))
    assert writer.state == "off"
    assert writer.wait(soon())
    assert caplog.text.count("took nothing for 0.1 s") == 1
    slow.let.set()
    writer.close(soon())


def test_what_is_not_written_at_the_end_is_left_with_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    slow = Slow(tmp_path)
    writer = CacheWriter(slow)
    writer.put(answer(0))
    writer.close(time.monotonic() + 0.1)
    assert f"{SIZE} bytes could not be written in time" in caplog.text
    slow.let.set()


class Broken(KnowledgeCache):
    """A disk whose every write fails."""

    def write(self, answers: Sequence[Answer]) -> int:
        raise OSError(errno.EIO, "Input/output error")


def test_an_error_of_the_disk_turns_writing_off_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = CacheWriter(Broken(tmp_path, "t", INFO))
    writer.put(answer(0))
    writer.flush()
    assert writer.wait(soon())
    writer.put(answer(10))
    writer.close(soon())
    assert writer.state == "off"
    assert [r.levelno for r in caplog.records] == [logging.WARNING]
    assert "Input/output error" in caplog.text


def test_a_mistake_of_ours_is_raised_to_the_student(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> None:
        raise AssertionError("ours")

    monkeypatch.setattr(KnowledgeCache, "finish", fail)
    writer = CacheWriter(KnowledgeCache(tmp_path, "t", INFO))
    writer.flush()
    with pytest.raises(AssertionError, match="ours"):
        writer.wait(soon())
    writer.close(soon())
