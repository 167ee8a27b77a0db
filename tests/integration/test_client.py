"""A client's queries are answered whatever happens to the teacher meanwhile."""

from __future__ import annotations

import gc
import threading
import time
from collections.abc import Iterator
from concurrent.futures import CancelledError, wait
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from pantheon import errors
from pantheon.transport import listen
from pantheon.wire.messages import Hello, Limits, Refused, Score
from student_client import TeacherClient
from teacher_server import Server, Teacher
from teacher_server.host import describe


class Twice(torch.nn.Module):
    """2x, after a while; a negative input is a bug."""

    def __init__(self, seconds: float = 0.0) -> None:
        super().__init__()
        self.seconds = seconds

    def forward(self, x: Tensor) -> Tensor:
        time.sleep(self.seconds)
        if (x < 0).any():
            raise RuntimeError("no square root of a negative number")
        return 2 * x


def teacher(seconds: float = 0.0, **options: Any) -> Teacher:
    return Teacher(
        Twice(seconds), torch.arange(10.0).reshape(10, 1), schema={"y": "float32"}, **options
    )


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    with teacher().start("tcp://127.0.0.1:0", "grpc://127.0.0.1:0") as running:
        yield running


@pytest.fixture(params=[0, 1], ids=["tcp", "grpc"])
def client(request: pytest.FixtureRequest, server: Server) -> Iterator[TeacherClient]:
    with TeacherClient(server.addresses[request.param], patience=10) as asking:
        yield asking


@pytest.mark.parametrize(
    "inputs",
    [
        torch.tensor([[1.0], [4.0]]),
        np.array([[1.0], [4.0]], np.float32),
        [[1.0], [4.0]],
    ],
)
def test_any_inputs_are_answered_at_once(client: TeacherClient, inputs: Any) -> None:
    answer = client.query(inputs).result(10)
    assert answer["y"].tolist() == [[2.0], [8.0]]
    assert answer.ids.tolist() == [0, 1]


def test_many_queries_are_each_given_their_own_answer(client: TeacherClient) -> None:
    futures = [client.query(torch.full((3, 1), float(i))) for i in range(200)]
    for i, future in enumerate(futures):
        assert future.result(20)["y"].flatten().tolist() == [2.0 * i] * 3


def test_samples_of_the_teachers_dataset_are_asked_by_id(client: TeacherClient) -> None:
    answer = client.query_ids([7, 2]).result(10)
    assert answer["y"].flatten().tolist() == [14.0, 4.0]
    assert answer.ids.tolist() == [7, 2]
    assert client.describe(10).names == ("y",)


def test_inputs_may_be_changed_after_they_were_queried() -> None:
    with (
        teacher(seconds=0.3).start("inproc://changed") as running,
        TeacherClient(running.addresses[0]) as asking,
    ):
        asking.query(torch.ones(1, 1))
        inputs = torch.ones(1, 1)
        future = asking.query(inputs)
        inputs.fill_(5)
        assert future.result(10)["y"].tolist() == [[2.0]]


def test_one_bad_query_fails_alone_and_names_why(client: TeacherClient) -> None:
    bad = client.query(torch.tensor([[-1.0]]))
    out = client.query_ids([3, 10])
    good = client.query(torch.tensor([[1.0]]))
    with pytest.raises(errors.TeacherError, match="square root"):
        bad.result(10)
    with pytest.raises(errors.IdOutOfRange, match="10"):
        out.result(10)
    assert good.result(10)["y"].tolist() == [[2.0]]


def test_inputs_that_cannot_be_are_refused_before_they_are_sent(client: TeacherClient) -> None:
    with pytest.raises(errors.DatasetError, match="same number of rows"):
        client.query({"a": torch.zeros(2, 1), "b": torch.zeros(3, 1)})
    with pytest.raises(errors.DatasetError, match="same number of rows"):
        client.query(torch.tensor(1.0))
    with pytest.raises(errors.DatasetError, match="str"):
        client.query("text")


def test_a_query_is_asked_again_when_its_teacher_dies() -> None:
    with teacher(seconds=0.05).start("tcp://127.0.0.1:0") as stays:
        dies = teacher(seconds=0.05).start("tcp://127.0.0.1:0")
        with TeacherClient([stays.addresses[0], dies.addresses[0]], patience=10) as asking:
            asking.describe(10)
            futures = [asking.query(torch.full((1, 1), float(i))) for i in range(20)]
            dies.stop(drain=0)
            assert [float(f.result(20)["y"]) for f in futures] == [2.0 * i for i in range(20)]


@contextmanager
def saying(address: str, code: str | None) -> Iterator[list[int]]:
    """A replica that refuses everything with one code, or is silent; what it was asked."""
    listener, asked, over = listen(address), list[int](), threading.Event()
    welcome = replace(describe("", teacher().scorer, Limits()), instance="another")

    def run() -> None:
        while not over.wait(0.002):
            while (received := listener.receive()) is not None:
                peer, message = received
                if isinstance(message, Hello):
                    listener.send(peer, welcome)
                elif isinstance(message, Score):
                    asked.append(message.request)
                    if code is not None:
                        listener.send(peer, Refused(message.request, code, "out of memory"))

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield asked
    finally:
        over.set()
        thread.join()
        listener.close()


def both_up(asking: TeacherClient, at_least: int) -> None:
    """Wait until so many replicas may be asked."""
    deadline = time.monotonic() + 10
    while len(asking._desk._fleet.up("teacher")) < at_least:
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize("code", ["error", "busy", None])
def test_a_query_one_replica_fails_is_answered_by_another(code: str | None) -> None:
    with (
        teacher().start("inproc://well") as well,
        saying("inproc://ill", code) as asked,
        TeacherClient(["inproc://ill", well.addresses[0]], lease=0.5, patience=10) as asking,
    ):
        both_up(asking, 2)
        assert asking.query(torch.ones(1, 1)).result(10)["y"].tolist() == [[2.0]]
        assert len(asked) == 1


@pytest.mark.parametrize("code", ["busy", None])
def test_a_query_nobody_takes_ends_with_the_patience(code: str | None) -> None:
    with (
        saying("inproc://alone", code) as asked,
        TeacherClient("inproc://alone", lease=0.4, patience=1.5) as asking,
    ):
        before = time.monotonic()
        with pytest.raises(errors.TeacherUnavailable, match="patience="):
            asking.query(torch.ones(1, 1)).result(20)
        assert 1.5 <= time.monotonic() - before < 8
        assert 2 <= len(asked) <= 8


def test_what_two_replicas_fail_is_given_up() -> None:
    with (
        saying("inproc://ill-1", "error") as one,
        saying("inproc://ill-2", "error") as two,
        TeacherClient(["inproc://ill-1", "inproc://ill-2"], patience=10) as asking,
    ):
        both_up(asking, 2)
        with pytest.raises(errors.PoisonError, match="failed 3 times"):
            asking.query(torch.ones(1, 1)).result(10)
        assert {len(one), len(two)} == {1, 2}


def test_nobody_there_fails_the_query_and_a_later_one_finds_the_teacher(tmp_path: Any) -> None:
    address = f"ipc://{tmp_path}/late.sock"
    with TeacherClient(address, patience=0.5) as asking:
        with pytest.raises(errors.TeacherUnavailable, match=r"late\.sock"):
            asking.query(torch.ones(1, 1)).result(10)
        with teacher().start(address):
            deadline = time.monotonic() + 20
            while time.monotonic() < deadline:
                if asking.query(torch.ones(1, 1)).exception(10) is None:
                    return
    pytest.fail("the teacher was never found")


def test_a_mismatch_fails_every_query(server: Server) -> None:
    with TeacherClient(server.addresses[0], revision="another") as asking:
        for _ in range(2):
            with pytest.raises(errors.RevisionMismatch, match="another"):
                asking.query(torch.ones(1, 1)).result(10)


def test_closing_fails_what_is_not_answered_and_leaves_no_thread() -> None:
    before = set(threading.enumerate())
    with teacher(seconds=1.0).start("inproc://slow") as running:
        asking = TeacherClient(running.addresses[0])
        future = asking.query(torch.ones(1, 1))
        start = time.monotonic()
        asking.close()
        assert time.monotonic() - start < 0.5
        wait([future], 1)
        with pytest.raises((errors.TransportError, CancelledError)):
            future.result(0)
        with pytest.raises(errors.TransportError, match="closed"):
            asking.query(torch.ones(1, 1))
    left = set(threading.enumerate()) - before
    for each in left:
        each.join(10)
    assert not any(each.is_alive() for each in left)


def test_a_client_nobody_holds_is_closed(server: Server) -> None:
    asking = TeacherClient(server.addresses[0])
    asking.query(torch.ones(1, 1)).result(10)
    thread = asking._thread
    del asking
    gc.collect()
    thread.join(5)
    assert not thread.is_alive()


def test_a_dump_is_no_server_to_ask() -> None:
    with pytest.raises(errors.ConfigError, match="KnowledgeReader"):
        TeacherClient("dumps/bert")
