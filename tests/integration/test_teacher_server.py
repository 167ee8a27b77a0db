"""A server and the students that ask it, over real sockets."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zmq
from torch import Tensor

from pantheon.dataset import Ids
from pantheon.errors import ConfigError, DatasetError, ModelError, TransportError
from pantheon.probes import Health
from pantheon.transport import Listener, Lost, listen
from pantheon.transport.base import Peer
from pantheon.transport.wake import Wake
from pantheon.wire.buffers import digest
from pantheon.wire.framing import pack, unpack
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    Limits,
    Message,
    Refused,
    Score,
    Scored,
    Welcome,
)
from teacher_server import Server, Teacher, start, workers
from teacher_server.engine import Engine
from tests.integration.asking import Asking
from tests.integration.models import SIZE, WIDTH, Augmented, Slow, Vectors, net
from tests.integration.programs import ROOT

ADDRESSES = ("tcp://127.0.0.1:0", "ipc://{folder}/t.sock", "inproc://teacher-server-tests")


def echo(**options: Any) -> Teacher:
    """A teacher that answers its inputs."""
    return Teacher(torch.nn.Identity(), Vectors(), {"x": "float32"}, **options)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Server]:
    """Two models at three addresses."""
    codecs = {"y": "float16", "mid": "int8"}
    network = Teacher(net(), Vectors(), codecs, features={"mid": "1"})
    teachers = {"echo": echo(), "net": network}
    addresses = [a.format(folder=tmp_path) for a in ADDRESSES]
    with start(teachers, *addresses) as running:
        yield running


def model(server: Server, number: int, name: str) -> str:
    """A model's address."""
    return f"{server.addresses[number]}{'#' if number == 1 else '/'}{name}"


@pytest.mark.parametrize("number", range(len(ADDRESSES)))
def test_ids_are_answered_at_every_address(server: Server, number: int) -> None:
    with Asking(model(server, number, "echo")) as student:
        assert (student.welcome.size, student.welcome.model) == (SIZE, "echo")
        assert torch.equal(student.answer([5, 3, 5])["x"], Vectors().rows[[5, 3, 5]])


def test_several_models_and_students_at_once(server: Server) -> None:
    with Asking(model(server, 0, "echo")) as one, Asking(model(server, 1, "net")) as two:
        for request in range(40):
            one.ask(request, [request])
            two.ask(request, [request, request + 1])
        for student, rows in ((one, 1), (two, 2)):
            found = [student.wait(Scored) for _ in range(40)]
            assert sorted(f.request for f in found) == list(range(40))
            assert {f.rows for f in found} == {rows}
            assert {f.revision for f in found} == {student.welcome.revision}
    assert server.stats().requests == 80
    assert server.stats().rows == 120


def test_only_the_fields_wanted_come(server: Server) -> None:
    with Asking(model(server, 0, "net"), {"fields": ("mid",)}) as student:
        assert student.welcome.schema.names == ("mid",)
        assert set(student.answer([1])) == {"mid"}


def test_a_digest_comes_when_it_is_asked_for(server: Server) -> None:
    with Asking(model(server, 0, "echo"), {"integrity": True}) as student:
        student.ask(1, [4, 5])
        scored = student.wait(Scored)
        assert scored.digest == digest(p.data for p in scored.parts)


HELLOS: list[tuple[dict[str, Any], str, list[str]]] = [
    ({"model": "none"}, "model", ["'none'", "'echo', 'net'"]),
    ({"model": ""}, "model", ["no model was named", "'echo', 'net'"]),
    ({"dataset": "other"}, "dataset", ["'other'", str(SIZE)]),
    ({"fields": ("what",)}, "schema", ["'what'", "x"]),
    ({"protocol": (7, 9)}, "version", ["7 to 9", "1"]),
]


@pytest.mark.parametrize(("hello", "code", "words"), HELLOS, ids=lambda v: str(v)[:20])
def test_a_hello_that_does_not_fit_is_refused_with_both_sides_named(
    server: Server, hello: dict[str, Any], code: str, words: list[str]
) -> None:
    with Asking(server.addresses[0], greet=False) as student:
        student.connection.send(Hello(**({"session": "s", "model": "echo"} | hello)))
        refused = student.wait(Refused)
        assert (refused.request, refused.code) == (None, code)
        assert all(w in refused.message for w in words), refused.message


def test_a_score_without_hello_is_refused(server: Server) -> None:
    with Asking(server.addresses[0], greet=False) as student:
        assert student.refusal([1]).code == "hello"


def test_an_id_out_of_range_is_named(server: Server) -> None:
    with Asking(model(server, 0, "echo")) as student:
        refused = student.refusal([3, SIZE + 1, -4])
        assert refused.code == "range"
        assert f"id {SIZE + 1} " in refused.message
        assert f"0 to {SIZE - 1}" in refused.message
        assert student.refusal([]).code == "inputs"
        assert "get(id, view)" in student.refusal([1], views=[3]).message
        assert len(student.answer([1])["x"]) == 1


def test_limits_are_kept() -> None:
    limits = Limits(max_rows=8, max_reply_bytes=5 * WIDTH * 4, max_in_flight=3)
    slow = Teacher(Slow(0.1), Vectors(), {"x": "float32"}, batch_rows=1)
    with slow.start("tcp://127.0.0.1:0", limits=limits) as server:
        with Asking(server.addresses[0]) as student:
            assert "at most 8" in student.refusal(range(9)).message
            assert "at most 5 rows" in student.refusal(range(6)).message
            for request in range(5):
                student.ask(request, [request])
            answers = [student.hear() for _ in range(5)]
            assert [a.code for a in answers if isinstance(a, Refused)] == ["busy", "busy"]
        assert server.stats().refusals == {"limits": 2, "busy": 2}


def test_inputs_are_answered_as_ids_are() -> None:
    teacher = Teacher(net(), Vectors(), {"y": "float32"}, deterministic=True)
    with teacher.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        by_id = student.answer([7, 8])["y"]
        student.ask_inputs(2, x=Vectors().rows[7:9])
        assert torch.equal(student.decoded(student.wait(Scored))["y"], by_id)
        student.ask_inputs(3, x=torch.zeros(2, 3))
        refused = student.wait(Refused)
        assert refused.code == "error"
        assert "mat1 and mat2" in refused.message


def test_a_teacher_without_a_dataset_answers_inputs_only() -> None:
    teacher = Teacher(net(), schema={"y": "float32"}, example=torch.zeros(1, WIDTH))
    with teacher.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        assert (student.welcome.accepts_ids, student.welcome.size) == (False, None)
        assert student.refusal([1]).code == "inputs"
        student.ask_inputs(2, x=Vectors().rows[:3])
        assert student.wait(Scored).rows == 3


def test_views_reach_the_dataset() -> None:
    teacher = Teacher(torch.nn.Identity(), Augmented(), {"x": "float32"}, views=3)
    with teacher.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        assert student.welcome.views == 3
        rows = Vectors().rows
        found = student.answer([1, 2], views=[2, 0])["x"]
        assert torch.equal(found, torch.stack([rows[1] + 2, rows[2]]))


def moody(ids: Tensor) -> Tensor:
    """Raises at 13, is not a number at 14 and of another shape with 15."""
    if bool((ids == 13).any()):
        raise ValueError("unlucky")
    y = torch.where(ids == 14, torch.nan, ids.float())
    return y.unsqueeze(1) if bool((ids == 15).any()) else y


def unlucky(ids: Tensor) -> Tensor:
    """Always raises."""
    raise ValueError("unlucky")


@pytest.mark.parametrize(
    ("bad", "code", "word"), [(13, "error", "unlucky"), (14, "finite", "14"), (15, "wrong", "(1,)")]
)
def test_a_failing_request_harms_no_other_that_shares_its_forward(
    bad: int, code: str, word: str
) -> None:
    teacher = Teacher(moody, Ids(100), {"y": "float32"}, revision="1")
    with teacher.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        for request in range(20):
            student.ask(request, [50 + request if request else bad, 20])
        answers = [student.hear() for _ in range(20)]
        refused = [a for a in answers if isinstance(a, Refused)]
        assert [(r.request, r.code) for r in refused] == [(0, code)]
        assert word in refused[0].message
        assert "Traceback" not in refused[0].message
        assert len([a for a in answers if isinstance(a, Scored)]) == 19


class Panic(BaseException):
    """What a panic of a library in Rust is in Python: no `Exception`."""


class Panicking(Vectors):
    """Sample 13 cannot be read."""

    def __getitem__(self, id: int) -> Any:
        if id == 13:
            raise Panic("called `Option::unwrap()` on a `None` value")
        return super().__getitem__(id)


def test_a_panic_of_a_library_is_refused_and_harms_no_other_request() -> None:
    teacher = Teacher(torch.nn.Identity(), Panicking(), {"x": "float32"}, dataset_fingerprint="d")
    with teacher.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        for request in range(20):
            student.ask(request, [50 + request if request else 13, 20])
        answers = [student.hear() for _ in range(20)]
        (refused,) = [a for a in answers if isinstance(a, Refused)]
        assert (refused.request, refused.code) == (0, "error")
        assert refused.message.startswith("the teacher failed: Panic;")
        assert len(student.answer([1])["x"]) == 1
        assert server.health().ready


def test_a_teacher_whose_thread_has_died_says_so_and_keeps_nobody_waiting(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def die(*_: object) -> Any:
        raise Panic("not even a refusal")

    with echo().start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        with monkeypatch.context() as patch:
            patch.setattr(workers, "answer", die)
            student.ask(1, [1])
            student.ask(2, [2])
            said = [student.hear() for _ in range(2)]
        assert {(a.request, a.code) for a in said if isinstance(a, Refused)} == {
            (1, "busy"),
            (2, "busy"),
        }
        assert student.refusal([3]).code == "busy"
        assert server.health() == Health(True, False, {"state": "no worker for "})
        assert server.stats().models[""].stalled
    assert "not even a refusal" in caplog.text


def test_a_model_put_back_into_training_mode_is_refused_until_it_is_not() -> None:
    network = net()
    with (
        Teacher(network, Vectors(), {"y": "float32"}).start("tcp://127.0.0.1:0") as server,
        Asking(server.addresses[0]) as student,
    ):
        network.train()
        assert "training mode" in student.refusal([1]).message
        network.eval()
        assert student.answer([1])["y"].shape == (1, 10)


def test_deterministic_answers_do_not_depend_on_how_students_ask() -> None:
    teacher = Teacher(net(), Vectors(), {"y": "float32"}, deterministic=True)
    whole = teacher.scorer.knowledge(np.arange(SIZE))["y"]
    with (
        teacher.start("tcp://127.0.0.1:0") as server,
        Asking(server.addresses[0]) as one,
        Asking(server.addresses[0]) as two,
    ):
        asked = [(one, 4), (two, 50)]
        for student, step in asked:
            for at in range(0, SIZE, step):
                student.ask(at, range(at, min(at + step, SIZE)))
        for student, step in asked:
            for _ in range(0, SIZE, step):
                scored = student.wait(Scored)
                rows = whole[scored.request : scored.request + step]
                assert torch.equal(student.decoded(scored)["y"], rows)


def test_heartbeats_name_the_requests_in_flight() -> None:
    slow = Teacher(Slow(1.6), Vectors(), {"x": "float32"}, batch_rows=1)
    with slow.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        student.ask(7, [1])
        student.ask(9, [1])
        student.wait(Scored)
        assert student.heartbeats
        assert set(student.heartbeats[0].requests) == {7, 9}
        student.cancel(9)


def test_a_cancelled_request_is_never_answered_and_costs_nothing() -> None:
    slow = Teacher(Slow(0.3), Vectors(), {"x": "float32"}, batch_rows=1)
    with slow.start("tcp://127.0.0.1:0") as server, Asking(server.addresses[0]) as student:
        for request in range(8):
            student.ask(request, [request])
        student.cancel(*range(8))
        student.ask(8, [8])
        assert student.wait(Scored).request == 8
        assert server.stats().cancelled == 8
        assert server.stats().requests == 1


def test_a_student_that_leaves_or_greets_again_is_owed_nothing() -> None:
    slow = Teacher(Slow(0.2), Vectors(), {"x": "float32"}, batch_rows=1)
    with slow.start("tcp://127.0.0.1:0") as server:
        with Asking(server.addresses[0]) as gone:
            for request in range(10):
                gone.ask(request, [request])
        with Asking(server.addresses[0]) as student:
            student.ask(1, [1])
            student.connection.send(Hello("again"))
            student.hear()
            student.ask(2, [2])
            assert student.wait(Scored).request == 2
            assert server.stats().sessions == 1
            assert server.stats().queued == 0


class Flood(Listener):
    """Always has one more message."""

    address = "inproc://flood"

    def __init__(self, pollable: int) -> None:
        self._pollable = pollable

    @property
    def pollables(self) -> tuple[Any, ...]:
        return (self._pollable,)

    def receive(self) -> tuple[Peer, Message | Lost]:
        return "somebody", Cancel((1,))

    def send(self, peer: Peer, message: Message) -> bool:
        return True

    def close(self) -> None:
        return


def test_a_flood_of_messages_does_not_keep_a_server_from_stopping() -> None:
    wake, flood = Wake(), Wake()
    flood.set()
    engine = Engine({}, [Flood(flood.fd)], wake, 1)
    loop = threading.Thread(target=engine.run, daemon=True)
    loop.start()
    engine.drain(0.1)
    loop.join(5)
    assert not loop.is_alive()
    wake.close()
    flood.close()


def test_a_flood_of_junk_is_passed_over_in_turns_and_hides_no_student() -> None:
    listener = listen("tcp://127.0.0.1:0")
    with deaf_student(listener.address) as student:
        for _ in range(500):
            student.send(b"junk")
        student.send_multipart(pack(Hello("late")))
        poller, turns, found = zmq.Poller(), 0, None
        for pollable in listener.pollables:
            poller.register(pollable, zmq.POLLIN)
        while found is None and poller.poll(5000):
            found, turns = listener.receive(), turns + 1
        assert found is not None
        assert found[1] == Hello("late")
        assert turns > 5
    listener.close()


def test_answers_to_a_student_that_does_not_read_do_not_pile_up() -> None:
    listener = listen("tcp://127.0.0.1:0")
    with deaf_student(listener.address) as deaf:
        deaf.send_multipart(pack(Hello("deaf")))
        while (found := listener.receive()) is None:
            time.sleep(0.01)
        refused = Refused(None, "busy", "x" * 20_000)
        assert not all(listener.send(found[0], refused) for _ in range(5000))
    listener.close()


@contextmanager
def deaf_student(address: str) -> Iterator[zmq.Socket[bytes]]:
    """A bare socket that takes nothing from the wire until it is read."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as deaf:
        deaf.setsockopt(zmq.RCVHWM, 1)
        deaf.setsockopt(zmq.LINGER, 0)
        deaf.connect(address)
        yield deaf


def test_a_student_that_does_not_read_stops_no_other_and_fills_no_memory() -> None:
    cap = 64 << 20
    with (
        start({"": heavy()}, "tcp://127.0.0.1:0", cap=cap) as server,
        deaf_student(server.addresses[0]) as deaf,
        Asking(server.addresses[0]) as awake,
    ):
        deaf.send_multipart(pack(Hello("deaf")))
        for request in range(60):
            deaf.send_multipart(pack(Score(request, np.arange(4))))
        for _ in range(20):
            assert awake.answer(range(4))["x"].shape == (4, 1 << 18)
        stats = server.stats()
        assert cap // 4 < stats.unsent < cap
        assert stats.queued > 20
        heard = (type(unpack(deaf.recv_multipart())) for _ in itertools.count())
        kinds = list(itertools.islice((k for k in heard if k is not Heartbeat), 61))
        assert kinds == [Welcome] + [Scored] * 60


def test_requests_are_joined_into_one_forward() -> None:
    sizes = []

    def model(ids: Tensor) -> Tensor:
        sizes.append(len(ids))
        time.sleep(0.1)
        return ids.float()

    teacher = Teacher(model, Ids(500), {"x": "float32"}, revision="1", batch_rows=64)
    with teacher.start("tcp://127.0.0.1:0") as server:
        students = [Asking(server.addresses[0]) for _ in range(3)]
        for request in range(12):
            for number, student in enumerate(students):
                student.ask(request, [request * 10 + number] * 2)
        for number, student in enumerate(students):
            for _ in range(12):
                scored = student.wait(Scored)
                expected = [float(scored.request * 10 + number)] * 2
                assert student.decoded(scored)["x"].tolist() == expected
            student.connection.close()
    assert len(sizes) <= 6
    assert max(sizes) > 20


def test_one_teacher_in_two_servers() -> None:
    teacher = echo()
    with teacher.start("tcp://127.0.0.1:0") as a, teacher.start("tcp://127.0.0.1:0") as b:
        for server in (a, b):
            with Asking(server.addresses[0]) as student:
                assert len(student.answer([1])["x"]) == 1


def test_draining_finishes_what_was_accepted_and_says_goodbye() -> None:
    slow = Teacher(Slow(0.4), Vectors(), {"x": "float32"}, batch_rows=1)
    server = slow.start("tcp://127.0.0.1:0")
    with Asking(server.addresses[0]) as student:
        student.ask(1, [1])
        student.ask(2, [2])
        while server.stats().scoring < 2:
            time.sleep(0.01)
        server.request_stop(10)
        time.sleep(0.1)
        student.ask(3, [3])
        said = [student.hear() for _ in range(3)]
        assert [(a.request, a.code) for a in said if isinstance(a, Refused)] == [(3, "draining")]
        assert [a.request for a in said if isinstance(a, Scored)] == [1, 2]
        assert "stops" in student.ended()
    server.stop()


def heavy() -> Teacher:
    """A MiB a sample."""
    rows = torch.zeros(64, 1 << 18)
    return Teacher(
        lambda ids: rows[: len(ids)] + 0, Ids(64), {"x": "float32"}, revision="1", batch_rows=4
    )


def test_draining_waits_until_a_slow_student_has_taken_its_answers() -> None:
    server = heavy().start("tcp://127.0.0.1:0")
    with deaf_student(server.addresses[0]) as slow:
        slow.send_multipart(pack(Hello("slow")))
        for request in range(8):
            slow.send_multipart(pack(Score(request, np.arange(4))))
        while server.stats().requests < 8:
            time.sleep(0.01)
        assert server.stats().unsent > 16 << 20
        before = time.monotonic()
        server.request_stop(20)
        time.sleep(2)
        slow.setsockopt(zmq.RCVTIMEO, 10_000)
        heard = (type(unpack(slow.recv_multipart())) for _ in itertools.count())
        kinds = list(itertools.islice((k for k in heard if k is not Heartbeat), 10))
        assert kinds == [Welcome] + [Scored] * 8 + [Goodbye]
    server.wait()
    assert time.monotonic() - before < 15, "it ends as soon as all is sent"


def test_draining_waits_no_longer_for_a_student_that_takes_nothing() -> None:
    server = heavy().start("tcp://127.0.0.1:0")
    with deaf_student(server.addresses[0]) as deaf:
        deaf.send_multipart(pack(Hello("deaf")))
        for request in range(8):
            deaf.send_multipart(pack(Score(request, np.arange(4))))
        while server.stats().requests < 8:
            time.sleep(0.01)
        before = time.monotonic()
        server.stop(1)
        assert 1 <= time.monotonic() - before < 5


def test_stopping_does_not_wait_for_a_long_forward() -> None:
    release = threading.Event()

    def stuck(ids: Tensor) -> Tensor:
        if int(ids[0]):
            release.wait(30)
        return ids

    running = Teacher(stuck, Ids(9), {"x": "raw"}, revision="1").start("tcp://127.0.0.1:0")
    with Asking(running.addresses[0]) as student:
        student.ask(1, [1])
        while not running.stats().scoring:
            time.sleep(0.01)
        before = time.monotonic()
        running.stop(drain=0.2)
        assert time.monotonic() - before < 1.5
    release.set()


def test_what_is_wrong_with_a_model_is_raised_at_the_start() -> None:
    with pytest.raises(ModelError, match="unlucky"):
        Teacher(unlucky, Ids(9), {"y": "raw"}, revision="1").start("inproc://x")


MISTAKES: list[tuple[list[str], type[Exception], str]] = [
    ([], ConfigError, "at least one address"),
    (["tcp://0.0.0.0:0"], ConfigError, "insecure=True"),
    (["tcp://[::]:0"], ConfigError, "insecure=True"),
    (["tcp://127.0.0.1:0/model"], ConfigError, "has no model"),
    (["inproc://twice", "inproc://twice"], TransportError, "in use"),
]


@pytest.mark.parametrize(("addresses", "error", "message"), MISTAKES, ids=lambda v: str(v)[:25])
def test_addresses_that_cannot_be_served_are_named(
    addresses: list[str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        echo().start(*addresses)


def test_a_port_in_use_is_named_and_nothing_is_left_behind() -> None:
    with echo().start("tcp://127.0.0.1:0") as server:
        before = threading.active_count()
        with pytest.raises(TransportError, match=server.addresses[0]):
            echo().start("inproc://left-behind", server.addresses[0])
        assert threading.active_count() <= before + 1
    with echo().start("inproc://left-behind"):
        pass


def test_a_server_for_everybody_is_possible_on_purpose() -> None:
    with echo().start("tcp://0.0.0.0:0", insecure=True) as server:
        port = server.addresses[0].rpartition(":")[2]
        with Asking(f"tcp://127.0.0.1:{port}") as student:
            assert len(student.answer([1])["x"]) == 1


def test_arguments_that_cannot_be_are_named() -> None:
    with pytest.raises(ConfigError, match=r"no argument 'batchrows'.*batch_rows"):
        echo(batchrows=3)
    with pytest.raises(ConfigError, match="devices='all'"):
        echo(devices="all")
    with pytest.raises(ConfigError, match="GPU"):
        echo(devices=["cuda:99"])
    with pytest.raises(DatasetError, match="map-style"):
        Teacher(net(), iter([1]), {"y": "raw"})


PROGRAM = """
import sys, time
import torch
from pantheon.dataset import Ids
from teacher_server import Teacher

def long(ids):
    if int(ids[0]):
        print("scoring", flush=True)
        getattr(sys.modules[__name__], sys.argv[1])()
    return ids

def sleep():
    time.sleep(30)

def compute():
    x = torch.randn(1000, 1000)
    while True:
        x = (x @ x).tanh()

Teacher(long, Ids(9), {"x": "raw"}, revision="1").serve(
    "tcp://127.0.0.1:0", ready=lambda addresses: print(addresses[0], flush=True))
print("served", flush=True)
"""


@pytest.mark.parametrize("work", ["sleep", "compute"])
@pytest.mark.parametrize("signals", [(signal.SIGINT,), (signal.SIGTERM, signal.SIGTERM)])
def test_a_signal_ends_a_server_in_time_even_in_a_forward(
    tmp_path: Path, signals: tuple[signal.Signals, ...], work: str
) -> None:
    program = tmp_path / "serve.py"
    program.write_text(PROGRAM)
    command = [sys.executable, str(program), work]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment) as process:
        assert process.stdout is not None
        with Asking(process.stdout.readline().strip()) as student:
            student.ask(1, [3])
            assert process.stdout.readline() == "scoring\n"
            before = time.monotonic()
            for number in signals:
                process.send_signal(number)
                time.sleep(0.1)
            assert process.stdout.readline() == "served\n"
            assert process.wait(10) == 0
            assert time.monotonic() - before < 2
            assert "stops" in student.ended()
