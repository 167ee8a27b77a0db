"""A student that stops reading lets nobody's memory grow."""

from __future__ import annotations

import multiprocessing
import time
from multiprocessing.connection import Connection

import psutil
import pytest

from student_client import KnowledgeLoader
from tests.integration.heavy import BATCH
from tests.integration.programs import running

BATCH_BYTES = 50_000_000
READ = 4
WATCH = 3.0
STEP = 0.1


def study(address: str, pipe: Connection) -> None:
    """A student in a process of its own, so that what others left behind is not counted for it."""
    pipe.send("started")
    pipe.recv()
    with KnowledgeLoader(
        batch_size=BATCH, teachers={"t": address}, window_bytes=2 * BATCH_BYTES
    ) as loader:
        reading = iter(loader)
        pipe.send([len(next(reading)) for _ in range(READ)])
        pipe.recv()
        pipe.send(int(next(reading).knowledge["feature"][0, 0]))


def watch(processes: list[psutil.Process]) -> list[list[int]]:
    """Resident bytes of each process, sampled for a while."""
    samples = []
    end = time.monotonic() + WATCH
    while time.monotonic() < end:
        samples.append([p.memory_info().rss for p in processes])
        time.sleep(STEP)
    return [list(column) for column in zip(*samples, strict=True)]


@pytest.mark.parametrize("transport", [0, 1], ids=["zmq", "grpc"])
def test_memory_stays_flat_when_the_student_stops_reading(transport: int) -> None:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    with running("tests.integration.heavy") as (teacher, addresses):
        student = spawn.Process(target=study, args=(addresses[transport], theirs), daemon=True)
        student.start()
        assert (ours.poll(40), ours.recv()) == (True, "started")
        processes = [psutil.Process(student.pid), psutil.Process(teacher.pid)]
        before = [p.memory_info().rss for p in processes]
        ours.send("read")
        assert (ours.poll(40), ours.recv()) == (True, [BATCH] * READ)
        for process, start, samples in zip(processes, before, watch(processes), strict=True):
            settled = samples[len(samples) // 2 :]
            assert max(settled) - min(settled) < BATCH_BYTES / 2, process
            assert max(samples) - start < 8 * BATCH_BYTES, process
        ours.send("read on")
        assert (ours.poll(40), ours.recv()) == (True, READ * BATCH)
        student.join(20)
        assert student.exitcode == 0
