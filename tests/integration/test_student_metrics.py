"""What those who run students see: metrics of a loader, health, and `pantheon distill --http`."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest
import torch
from prometheus_client.parser import text_string_to_metric_families

from pantheon.errors import TransportError
from student_client import KnowledgeLoader
from teacher_server import Server, Teacher

SIZE, BATCH = 400, 40
SAMPLES = torch.arange(SIZE * 3.0).reshape(SIZE, 3)
ROOT = Path(__file__).parents[2]


def start(address: str = "tcp://127.0.0.1:0") -> Server:
    return Teacher(torch.nn.Identity(), SAMPLES, {"y": "float32"}, "r1").start(address)


def read(address: str | None) -> dict[str, float]:
    """Every metric by name and the labels that are no model's: ``name{value,value}``."""
    with urlopen(f"{address}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    return {
        s.name + (f"{{{','.join(s.labels.values())}}}" if s.labels else ""): s.value
        for family in families
        for s in family.samples
    }


def status(address: str | None, page: str) -> tuple[int, str]:
    try:
        with urlopen(f"{address}/{page}", timeout=10) as answer:
            return answer.status, json.loads(answer.read())["state"]
    except HTTPError as error:
        with error:
            return error.code, json.loads(error.read())["state"]


def test_metrics_count_exactly_what_was_learned_from() -> None:
    with (
        start() as server,
        KnowledgeLoader(
            SAMPLES, BATCH, teachers={"t": server.addresses[0]}, request_rows=20, http="127.0.0.1:0"
        ) as loader,
    ):
        assert status(loader.http, "readyz") == (503, "has not heard of every teacher yet")
        assert status(loader.http, "healthz")[0] == 200
        for _ in range(2):
            list(loader)
        found = read(loader.http)
        assert status(loader.http, "readyz") == (200, "reading")
        served = server.stats()
    student, teacher = "pantheon_student_", "pantheon_student_teacher_"
    assert found[f"{student}samples_total"] == found[f"{teacher}samples_total{{t}}"] == 2 * SIZE
    assert found[f"{student}batches_total"] == 2 * SIZE / BATCH
    assert found[f"{teacher}requests_total{{t}}"] == served.requests == 2 * SIZE / 20
    assert found[f"{teacher}answers_total{{t}}"] == served.requests
    assert found[f"{student}bytes_total"] == served.bytes == 2 * SIZE * 3 * 4
    assert found[f"{student}requeued_total"] == found[f"{student}duplicates_total"] == 0
    assert found[f"{student}replica_up{{{server.addresses[0]},t}}"] == 1
    assert found[f"{teacher}replicas{{t}}"] == 1
    assert 0 < found[f"{student}wait_seconds_total"] <= found[f"{teacher}answer_seconds_total{{t}}"]


def test_a_lost_replica_is_seen_as_it_is_lost() -> None:
    first, second = start(), start()
    addresses = [*first.addresses, *second.addresses]
    with KnowledgeLoader(
        SAMPLES, BATCH, teachers={"t": addresses}, request_rows=BATCH, http="127.0.0.1:0"
    ) as loader:
        batches = iter(loader)
        next(batches)
        first.stop(0)
        assert len(list(batches)) == SIZE / BATCH - 1
        while read(loader.http)[f"pantheon_student_replica_up{{{addresses[0]},t}}"]:
            list(loader)  # Its end is noticed while something is waited for.
        found = read(loader.http)
        assert found[f"pantheon_student_replica_losses_total{{{addresses[0]},t}}"] == 1
        assert found["pantheon_student_teacher_losses_total{t}"] == 1
        assert found["pantheon_student_teacher_replicas{t}"] == 1
        assert found[f"pantheon_student_replica_up{{{addresses[1]},t}}"] == 1
    second.stop()


def test_a_cache_is_seen_to_fill_and_to_answer(tmp_path: Path) -> None:
    with start() as server:
        for turn in range(2):
            with KnowledgeLoader(
                SAMPLES,
                BATCH,
                teachers={"t": server.addresses[0]},
                cache=tmp_path,
                http="127.0.0.1:0",
            ) as loader:
                list(loader)
                found = read(loader.http)
            cached = found["pantheon_student_teacher_cached_samples_total{t}"]
            uncached = found["pantheon_student_teacher_uncached_samples_total{t}"]
            assert (cached, uncached) == ((0, SIZE), (SIZE, 0))[turn]
            assert found["pantheon_student_teacher_cache{on,t}"] == 1
            assert found["pantheon_student_teacher_cache{off,t}"] == 0


def test_a_loader_that_is_closed_or_collected_frees_its_address() -> None:
    teacher = Teacher(torch.nn.Identity(), SAMPLES, {"y": "float32"}, "r1")
    loader = KnowledgeLoader(SAMPLES, BATCH, teachers={"t": teacher}, http="127.0.0.1:0")
    where = str(loader.http)
    with pytest.raises(TransportError, match="cannot listen at"):
        KnowledgeLoader(SAMPLES, BATCH, teachers={"t": teacher}, http=where.removeprefix("http://"))
    list(loader)
    del loader
    again = KnowledgeLoader(
        SAMPLES, BATCH, teachers={"t": teacher}, http=where.removeprefix("http://")
    )
    assert read(again.http)["pantheon_student_samples_total"] == 0
    again.close()
    with pytest.raises(OSError, match="refused"):
        urlopen(where, timeout=5)


def test_distill_serves_its_numbers_while_it_runs(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(
        "import torch\n"
        "def net(): return torch.nn.Linear(3, 3)\n"
        f"def data(): return torch.arange({SIZE * 3}.0).reshape({SIZE}, 3)\n"
    )
    with start() as server:
        (tmp_path / "student.yaml").write_text(
            json.dumps(
                {
                    "model": "job:net",
                    "dataset": "job:data",
                    "teachers": {"t": server.addresses[0]},
                    "batch_size": BATCH,
                    "epochs": 100_000,
                    "losses": [{"loss": "mse", "field": "y"}],
                    "optimizer": {"name": "sgd", "lr": 1e-9},
                    "http": "127.0.0.1:0",
                }
            )
        )
        command = [sys.executable, "-m", "pantheon", "--log-format", "json", "--log-level", "info"]
        with subprocess.Popen(
            [*command, "distill", "student.yaml"],
            cwd=tmp_path,
            env={"PYTHONPATH": f"{ROOT}:{tmp_path}", "PATH": "/usr/bin:/bin"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stderr is not None
            try:
                said = (json.loads(line)["message"] for line in process.stderr)
                where = next(m.split(" at ")[1] for m in said if "metrics and health at" in m)
                while not (found := read(where))["pantheon_student_samples_total"]:
                    assert process.poll() is None
                    time.sleep(0.1)
                more = found["pantheon_student_samples_total"]
                while read(where)["pantheon_student_samples_total"] == more:
                    assert process.poll() is None
                    time.sleep(0.1)
                assert status(where, "readyz") == (200, "reading")
            finally:
                process.kill()
