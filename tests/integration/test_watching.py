"""What those who run students see: one log from end to end, and numbers that faults move."""

from __future__ import annotations

import itertools
import json
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
import zmq

from pantheon.schema import FieldSpec, KnowledgeSchema
from pantheon.transport import Listener, listen
from pantheon.wire.messages import Hello, RawTensor, Score, Scored, Welcome
from student_client import KnowledgeLoader, LoaderStats, ReplicaStats
from teacher_server import Server, Teacher
from tests.integration import toy
from tests.integration.programs import running

SIZE = 1000
TEACHER = """\
name: line
model: mine:Line
dataset: mine:data
schema: {y: float32}
devices: 2
"""
STUDENT = """\
model: mine:Line
dataset: mine:data
batch_size: 100
request_rows: 50
epochs: 2
losses: [{loss: mse, field: y}]
"""
MINE = """\
import torch

class Line(torch.nn.Linear):
    def __init__(self):
        torch.manual_seed(0)
        super().__init__(1, 1)

def data():
    return torch.arange(1000.0).unsqueeze(1) / 1000
"""

Lines = list[dict[str, Any]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A user's folder, without the teachers' addresses."""
    (tmp_path / "teacher.yaml").write_text(TEACHER)
    (tmp_path / "mine.py").write_text(MINE)
    return tmp_path


@contextmanager
def commanded(folder: Path, *arguments: str, **more: str) -> Iterator[subprocess.Popen[str]]:
    """A command, its log in a file of its own name."""
    with (
        (folder / f"{arguments[0]}.log").open("w") as log,
        subprocess.Popen(
            [sys.executable, "-m", "pantheon", *arguments],
            cwd=folder,
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        ) as process,
    ):
        try:
            yield process
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait(20)


def logged(folder: Path, command: str) -> Lines:
    """The lines that a command logged, each a JSON object."""
    return [json.loads(line) for line in (folder / f"{command}.log").read_text().splitlines()]


def first_line(process: subprocess.Popen[str]) -> Any:
    """What a command says first on standard output, in JSON."""
    assert process.stdout is not None
    return json.loads(process.stdout.readline())


JSON = {"PANTHEON_LOG_FORMAT": "json", "PANTHEON_LOG_LEVEL": "debug"}


def steps(lines: Lines, name: str) -> dict[tuple[str, int], list[str]]:
    """The ends of the messages about each request."""
    found: dict[tuple[str, int], list[str]] = {}
    for line in lines:
        if line["logger"] == name and "request" in line:
            about = (line["session"], line["request"])
            found.setdefault(about, []).append(line["message"].rpartition(": ")[2])
    return found


def test_each_request_is_followed_by_one_name_from_the_student_to_the_worker(folder: Path) -> None:
    bind = ("--bind", "tcp://127.0.0.1:0", "--json")
    with commanded(folder, "serve", "teacher.yaml", *bind, **JSON) as serve:
        address = first_line(serve)["addresses"][0]
        (folder / "student.yaml").write_text(STUDENT + f"teachers: {{line: {address}}}\n")
        with commanded(folder, "distill", "student.yaml", "--json", **JSON) as distill:
            assert distill.wait(50) == 0
    student, teacher = logged(folder, "distill"), logged(folder, "serve")
    asked = steps(student, "student_client.trace")
    own = [line for line in teacher if "worker" not in line or "worker_request" in line]
    mine = steps(own, "teacher_server.trace")
    assert len(asked) == 2 * SIZE / 50
    assert all(found == ["sent", "answered"] for found in asked.values())
    assert mine == {about: ["accepted", "given to a worker process", "scored"] for about in asked}
    given = {
        (line["worker"], line["worker_request"]) for line in teacher if "worker_request" in line
    }
    inside = {
        (line["worker"], line["request"])
        for line in teacher
        if line["message"].endswith("scored") and "worker" in line
    }
    assert given == inside
    assert len(given) == len(asked)
    (session,) = {session for session, _ in asked}
    joined = [line for line in teacher if line["message"] == f"student {session} has joined"]
    assert [line["model"] for line in joined] == ["line"]
    assert {line["rows"] for line in student if "rows" in line} == {50}


def test_an_error_of_a_command_is_a_line_of_json_too_and_names_its_rank(folder: Path) -> None:
    rank = {"RANK": "1", "WORLD_SIZE": "2"}
    with commanded(folder, "distill", "absent.yaml", **JSON, **rank) as process:
        assert process.wait(20) == 2
    (line,) = logged(folder, "distill")
    assert line["rank"] == 1
    assert (line["level"], line["error"]) == ("error", "ConfigError")
    assert "absent.yaml" in line["message"]


@pytest.fixture
def server() -> Iterator[Server]:
    """A teacher in a thread here."""
    teacher = Teacher(torch.nn.Identity(), torch.ones(SIZE, 3), {"y": "float32"}, "r1")
    with teacher.start("tcp://127.0.0.1:0") as made:
        yield made


def reading(server: Server, **options: Any) -> KnowledgeLoader:
    """A student of it, in small requests."""
    settings: dict[str, Any] = {"request_rows": 50} | options
    return KnowledgeLoader(
        torch.ones(SIZE, 3), 100, teachers={"t": server.addresses[0]}, **settings
    )


def test_numbers_are_read_from_other_threads_while_the_loop_runs_and_never_go_back(
    server: Server,
) -> None:
    over = threading.Event()
    found: list[LoaderStats] = []

    def look(loader: KnowledgeLoader) -> None:
        while not over.is_set():
            found.append(loader.stats())
            over.wait(0.001)

    with reading(server, request_rows=10) as loader:
        looking = threading.Thread(target=look, args=(loader,))
        looking.start()
        for _ in range(6):
            for _, _ in zip(loader, range(4), strict=False):
                pass  # Each epoch is abandoned.
        over.set()
        looking.join()
    told = [(s.samples, s.batches, s.wait, s.requeued, s.bytes) for s in found]
    assert len(told) > 50
    for before, after in itertools.pairwise(told):
        assert all(a <= b for a, b in zip(before, after, strict=True))


def until(true: Callable[[], bool]) -> None:
    """Look again and again, at most for 20 seconds."""
    end = time.monotonic() + 20
    while not true():
        assert time.monotonic() < end
        time.sleep(0.005)


def test_what_a_killed_replica_cost_is_counted() -> None:
    with (
        running("tests.integration.toy", "tcp://127.0.0.1:0") as (first, [one]),
        running("tests.integration.toy", "tcp://127.0.0.1:0") as (second, [two]),
        KnowledgeLoader(
            toy.Numbers(),
            5,
            teachers={"t": [f"{one}/minus", f"{two}/minus"]},
            dataset_fingerprint="toy",
            request_rows=5,
            max_requests=2,
        ) as loader,
    ):
        seen: list[int] = []

        def learn() -> None:
            for batch in loader:
                seen.extend(batch.ids.tolist())
                if len(seen) == 10:  # Most of the epoch is still to be asked for.
                    first.send_signal(signal.SIGSTOP)
                    second.send_signal(signal.SIGSTOP)

        def replica() -> ReplicaStats:
            return loader.stats().teachers["t"].by_replica[f"{one}/minus"]

        learning = threading.Thread(target=learn)
        learning.start()
        until(lambda: loader.stats().waiting > 0.3)
        held = replica().in_flight
        first.kill()
        second.send_signal(signal.SIGCONT)
        learning.join(30)
        stats, now = loader.stats(), replica()
    assert seen == list(range(toy.SIZE))
    assert stats.samples == stats.teachers["t"].samples == toy.SIZE
    assert stats.requeued >= held > 0
    assert (now.up, now.losses) == (False, 1)
    assert (stats.teachers["t"].joins, stats.teachers["t"].losses) == (2, 1)


def stutter(listener: Listener, over: threading.Event) -> None:
    """A teacher that gives every answer twice."""
    poller = zmq.Poller()
    for pollable in listener.pollables:
        poller.register(pollable, zmq.POLLIN)
    schema = KnowledgeSchema((FieldSpec("y", "float32", ()),))
    while not over.is_set():
        poller.poll(50)
        while (received := listener.receive()) is not None:
            peer, message = received
            if isinstance(message, Hello):
                listener.send(peer, Welcome("m", "r1", schema, size=SIZE))
            if isinstance(message, Score) and message.ids is not None:
                rows = len(message.ids)
                part = RawTensor("float32", (rows,), bytes(4 * rows))
                for _ in range(2):
                    listener.send(peer, Scored(message.request, "r1", rows, (part,)))


def test_duplicates_are_counted_and_named_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    listener, over = listen("tcp://127.0.0.1:0"), threading.Event()
    teaching = threading.Thread(target=stutter, args=(listener, over))
    teaching.start()
    try:
        with (
            caplog.at_level(logging.DEBUG, "student_client.trace"),
            KnowledgeLoader(
                None, 10, teachers={"t": listener.address}, request_rows=10, patience=10
            ) as loader,
        ):
            assert sum(len(batch.ids) for batch in loader) == SIZE
            stats = loader.stats()
    finally:
        over.set()
        teaching.join()
        listener.close()
    dropped = [r for r in caplog.records if r.getMessage().endswith("a duplicate is dropped")]
    assert stats.duplicates == len(dropped) > 0
    answered = {vars(r)["request"] for r in caplog.records if r.getMessage().endswith("answered")}
    assert {vars(r)["request"] for r in dropped} <= answered
    assert len(answered) == stats.teachers["t"].requests == SIZE / 10
