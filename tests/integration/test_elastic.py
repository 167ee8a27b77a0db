"""Replicas that come, go, fall silent or stop, and teachers that are gone on without."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon import errors
from pantheon.dataset import Ids
from pantheon.merge import Mask, Quorum
from pantheon.transport import listen
from pantheon.wire.messages import Hello, Limits
from student_client import KnowledgeLoader
from student_client.client import TeacherClient
from teacher_server import Server, Teacher
from teacher_server.host import describe

SIZE = 400
BATCH = 4


class Slow(torch.nn.Module):
    """Twice the id, after a while, and counts the rows it was asked for."""

    def __init__(self, seconds: float = 0.01) -> None:
        super().__init__()
        self.seconds, self.rows = seconds, 0

    def forward(self, ids: Tensor) -> Tensor:
        self.rows += len(ids)
        time.sleep(self.seconds)
        return 2.0 * ids.unsqueeze(1).float()


def teacher(model: torch.nn.Module | None = None) -> Teacher:
    return Teacher(model or Slow(), Ids(SIZE), {"y": "float32"}, revision="1")


def loader(teachers: Any, **options: Any) -> KnowledgeLoader:
    """Requests of one batch, so that there are many to give away."""
    options = {"request_rows": BATCH, "dataset_fingerprint": "x"} | options
    return KnowledgeLoader(Ids(SIZE), BATCH, teachers=teachers, **options)


def right(batch: Any, field: str = "y") -> None:
    assert torch.equal(batch.knowledge[field].flatten(), 2.0 * batch.ids)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> dict[str, list[str]]:
    """The addresses that names resolve to; a name that is not there does not resolve."""
    known: dict[str, list[str]] = {}
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *args: Any, **more: Any) -> Any:
        if not str(host).endswith(".test"):
            return ask(host, port, *args, **more)
        if host not in known:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in known[host]]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr("student_client.discovery.RESOLVE_S", 0.1)
    return known


@pytest.mark.parametrize(("scheme", "dns"), [("tcp", "dns"), ("grpc", "dns+grpc")])
def test_replicas_behind_a_name_join_and_leave_within_an_epoch(
    names: dict[str, list[str]], scheme: str, dns: str
) -> None:
    first, second = Slow(), Slow()
    with contextlib.ExitStack() as stack:
        one = stack.enter_context(teacher(first).start(f"{scheme}://127.0.0.2:0"))
        port = one.addresses[0].rpartition(":")[2]
        names["teachers.test"] = ["127.0.0.2"]
        student = stack.enter_context(loader({"t": f"{dns}://teachers.test:{port}"}))
        seen = []
        for step, batch in enumerate(student):
            right(batch)
            seen += batch.ids.tolist()
            if step == 10:
                stack.enter_context(teacher(second).start(f"{scheme}://127.0.0.3:{port}"))
                names["teachers.test"] = ["127.0.0.2", "127.0.0.3"]
            if step == 60:
                assert second.rows > 0, "a replica that joined is given work"
                one.stop(1.0)
                names["teachers.test"] = ["127.0.0.3"]
        assert seen == list(range(SIZE))
        assert student.stats().teachers["t"].replicas == 1


def test_a_name_that_is_not_known_yet_is_waited_for(names: dict[str, list[str]]) -> None:
    with teacher().start("tcp://127.0.0.2:0") as server:
        port = server.addresses[0].rpartition(":")[2]
        timer = threading.Timer(0.5, lambda: names.update({"later.test": ["127.0.0.2"]}))
        timer.start()
        with loader({"t": f"dns://later.test:{port}"}) as student:
            right(next(iter(student)))
        timer.join()


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_stated_replica_whose_name_is_not_known_yet_joins_when_it_is(
    scheme: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    known, ask = threading.Event(), socket.getaddrinfo

    def answer(host: Any, *args: Any, **more: Any) -> Any:
        if host == "localhost" and not known.is_set():
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return ask(host, *args, **more)

    # A name that gRPC's own resolver knows too.
    monkeypatch.setattr(socket, "getaddrinfo", answer)
    with (
        teacher().start(f"{scheme}://127.0.0.1:0") as first,
        teacher().start(f"{scheme}://127.0.0.1:0") as second,
    ):
        port = second.addresses[0].rpartition(":")[2]
        late = f"{scheme}://localhost:{port}"
        with loader({"t": [first.addresses[0], late]}, patience=10) as batches:
            for batch in batches:
                right(batch)
                if late in caplog.text:
                    break
            assert f"{late} cannot be reached: host 'localhost'" in caplog.text
            known.set()
            until = time.monotonic() + 20
            while not batches.stats().teachers["t"].by_replica[late].requests:
                assert time.monotonic() < until
                for batch in batches:
                    right(batch)


def test_names_of_which_none_is_known_end_the_wait_at_once(names: dict[str, list[str]]) -> None:
    began = time.monotonic()
    with (
        loader({"t": ["tcp://a.test:1", "grpc://b.test:1"]}, patience=30) as batches,
        pytest.raises(errors.UnknownHost, match=r"\.test"),
    ):
        next(iter(batches))
    assert time.monotonic() - began < 10


def test_a_name_that_never_resolves_is_named(names: dict[str, list[str]]) -> None:
    with (
        loader({"t": "dns://nobody.test:5557"}, patience=0.5) as student,
        pytest.raises(errors.TeacherUnavailable, match=r"dns://nobody.test:5557 does not resolve"),
    ):
        next(iter(student))


def test_a_client_asks_whoever_is_behind_a_name(names: dict[str, list[str]]) -> None:
    with teacher().start("tcp://127.0.0.2:0") as server:
        names["one.test"] = ["127.0.0.2"]
        port = server.addresses[0].rpartition(":")[2]
        with TeacherClient(f"dns://one.test:{port}") as client:
            assert client.query_ids([3]).result(20)["y"].tolist() == [[6.0]]


def test_a_replica_that_stops_finishes_what_it_was_given() -> None:
    models = Slow(0.02), Slow(0.02)
    with contextlib.ExitStack() as stack:
        servers = [stack.enter_context(teacher(m).start("tcp://127.0.0.1:0")) for m in models]
        student = stack.enter_context(loader({"t": [s.addresses[0] for s in servers]}))
        for step, batch in enumerate(student):
            right(batch)
            if step == 20:
                servers[0].request_stop(5.0)
        assert sum(m.rows for m in models) == SIZE + 2, "no sample was scored twice"
        assert student.stats().duplicates == 0


@contextlib.contextmanager
def mute() -> Iterator[str]:
    """A replica that welcomes everybody and then says nothing, ever."""
    model = teacher()
    listener = listen("tcp://127.0.0.1:0")
    own = describe("", model.scorer, Limits())
    over = threading.Event()

    def run() -> None:
        while not over.wait(0.01):
            while (received := listener.receive()) is not None:
                if isinstance(received[1], Hello):
                    listener.send(received[0], own)
        listener.close()

    thread = threading.Thread(target=run)
    thread.start()
    try:
        yield listener.address
    finally:
        over.set()
        thread.join()


def test_the_work_of_a_silent_replica_is_done_by_others_long_before_its_lease_ends() -> None:
    with (
        mute() as silent,
        teacher(Slow(0.001)).start("tcp://127.0.0.1:0") as server,
        loader({"t": [silent, server.addresses[0]]}, lease=600.0) as student,
    ):
        begin = time.monotonic()
        for batch in student:
            right(batch)
        assert student.stats().requeued > 0
        assert time.monotonic() - begin < 30


class Stuck(Slow):
    """Answers for a while, then never again, until it is let go."""

    def __init__(self) -> None:
        super().__init__(0.02)
        self.let_go = threading.Event()

    def forward(self, ids: Tensor) -> Tensor:
        if self.rows > 10 * BATCH:
            self.let_go.wait()
        return super().forward(ids)


def test_a_forward_that_never_ends_holds_nobody_up_where_another_replica_is() -> None:
    stuck = Stuck()
    with (
        teacher(stuck).start("tcp://127.0.0.1:0") as one,
        teacher(Slow(0.02)).start("tcp://127.0.0.1:0") as other,
        loader({"t": [one.addresses[0], other.addresses[0]]}, lease=600.0) as student,
    ):
        for batch in student:
            right(batch)
        assert stuck.rows > 10 * BATCH, "it got that far"
        stuck.let_go.set()
        assert student.stats().suspected > 0


def test_a_wait_for_a_forward_that_never_ends_is_told(caplog: pytest.LogCaptureFixture) -> None:
    stuck = Stuck()
    caplog.set_level("WARNING", "student_client.trace")
    with (
        teacher(stuck).start("tcp://127.0.0.1:0") as server,
        loader({"t": server.addresses[0]}, patience=0.4) as student,
    ):
        threading.Timer(2.0, stuck.let_go.set).start()
        for batch in student:
            right(batch)
    said = [r for r in caplog.records if "see whether a forward of it hangs" in r.getMessage()]
    assert 1 <= len(said) <= 3


@pytest.fixture
def two() -> Iterator[list[Server]]:
    servers = [teacher().start("tcp://127.0.0.1:0") for _ in range(2)]
    yield servers
    for server in servers:
        server.stop(0)


def gone_on(servers: list[Server], merge: Any) -> tuple[list[int], list[int], Any]:
    """Lose the second teacher in the middle, start it again, and read on."""
    whole, part = [], []
    teachers = {"a": servers[0].addresses[0], "b": servers[1].addresses[0]}
    with loader(teachers, merge={"y": merge}, patience=0.3, window_bytes=64) as student:
        for step, batch in enumerate(student):
            answered = batch.knowledge.mask["y"]
            values = batch.knowledge["y"].flatten()
            assert torch.equal(values[answered], 2.0 * batch.ids[answered])
            assert values[~answered].isnan().all()
            (whole if answered.all() else part).append(step)
            if step == 20:
                servers[1].stop(0)
            if step == 60:
                servers[1] = teacher().start(servers[1].addresses[0])
                time.sleep(0.5)
            if step > 60:
                time.sleep(0.02)
        return whole, part, student.stats()


def test_a_quorum_goes_on_without_a_teacher_and_takes_it_back(two: list[Server]) -> None:
    whole, part, stats = gone_on(two, Quorum("mean", least=1))
    assert (len(whole), part) == (SIZE // BATCH, [])
    assert 0 < stats.teachers["b"].missed < SIZE
    assert stats.teachers["b"].replicas == 1


def test_rows_that_a_lost_teacher_did_not_answer_are_masked(two: list[Server]) -> None:
    whole, part, stats = gone_on(two, Mask("mean"))
    assert stats.teachers["b"].missed == len(part) * BATCH > 0
    assert max(whole) > max(part) > 20, "it is asked again once it is back"


def test_too_few_teachers_end_the_training(two: list[Server]) -> None:
    with pytest.raises(errors.TeacherUnavailable, match="'b'"):
        gone_on(two, Quorum("mean", least=2))


def test_without_a_policy_a_lost_teacher_ends_the_training(two: list[Server]) -> None:
    with pytest.raises(errors.TeacherUnavailable, match="'b'"):
        gone_on(two, "mean")


class Off(Slow):
    """Wrong by a little."""

    def __init__(self, by: float) -> None:
        super().__init__(0.001)
        self.by = by

    def forward(self, ids: Tensor) -> Tensor:
        return super().forward(ids) + self.by


def verified(by: float, **options: Any) -> Any:
    """Read an epoch from two replicas that say they are the same; answers the numbers of it."""
    with (
        teacher(Slow(0.001)).start("tcp://127.0.0.1:0") as one,
        teacher(Off(by)).start("tcp://127.0.0.1:0") as other,
        loader({"t": [one.addresses[0], other.addresses[0]]}, **options) as student,
    ):
        for batch in student:
            assert (batch.knowledge["y"].flatten() - 2.0 * batch.ids).abs().max() <= by
        return student.stats().teachers["t"]


def test_replicas_that_agree_are_seen_to_agree() -> None:
    stats = verified(0.0, verify=1.0)
    assert stats.verified > 0
    assert stats.verified + stats.unverified >= SIZE // BATCH - 1
    assert (stats.disagreements, stats.disagreement) == (0, 0.0)


def test_replicas_that_disagree_are_found_and_the_difference_is_told() -> None:
    stats = verified(0.25, verify=0.3, tolerance=0.5)
    assert stats.disagreements == stats.verified > 0
    assert stats.disagreement == pytest.approx(0.25, rel=1e-3)


def test_replicas_that_disagree_too_much_end_the_training() -> None:
    with pytest.raises(errors.ReplicaDisagreement, match=r"(?s)differ by 0.25.*'y'.*ids"):
        verified(0.25, verify=1.0, tolerance=0.1)


def test_replicas_are_not_asked_twice_unless_that_was_asked_for() -> None:
    assert verified(0.0).verified == 0
