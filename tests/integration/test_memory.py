"""A student that stops reading lets nobody's memory grow."""

from __future__ import annotations

import time

import psutil
import pytest

from student_client import KnowledgeLoader
from tests.integration.heavy import BATCH
from tests.integration.programs import running

BATCH_BYTES = 50_000_000
READ = 4
WATCH = 3.0
STEP = 0.1


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
    with running("tests.integration.heavy") as (teacher, addresses):
        processes = [psutil.Process(), psutil.Process(teacher.pid)]
        before = [p.memory_info().rss for p in processes]
        with KnowledgeLoader(
            batch_size=BATCH, teachers={"t": addresses[transport]}, window_bytes=2 * BATCH_BYTES
        ) as loader:
            reading = iter(loader)
            for _ in range(READ):
                assert len(next(reading)) == BATCH
            watched = watch(processes)
            for process, start, samples in zip(processes, before, watched, strict=True):
                settled = samples[len(samples) // 2 :]
                assert max(settled) - min(settled) < BATCH_BYTES / 2, process
                assert max(samples) - start < 8 * BATCH_BYTES, process
            assert int(next(reading).knowledge["feature"][0, 0]) == READ * BATCH
