"""One student that floods a server, and how the others fare."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import zmq

from pantheon.transport import Listener, Lost, listen
from pantheon.transport.base import Peer
from pantheon.transport.strikes import MOST, MOST_BYTES, PERIOD_S, Strikes
from pantheon.transport.wake import Wake
from pantheon.wire.framing import MAGIC, MAX_HEADER, pack
from pantheon.wire.messages import Cancel, Hello, Message
from teacher_server import Teacher, start
from teacher_server.engine import Engine
from tests.integration.asking import Asking
from tests.integration.models import Vectors

LIST = b"\xdc\x0f\xff" + b"\x90" * 4095
LISTS = (
    MAGIC + b"\x01\x81\xa4kind\xdc" + (MAX_HEADER // 4100).to_bytes(2) + LIST * (MAX_HEADER // 4100)
)
"""A header of as many lists as there is room for."""


@contextmanager
def bare(address: str) -> Iterator[zmq.Socket[bytes]]:
    """A socket that says what it likes."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.connect(address)
        yield sock


class Always(Listener):
    """Has a message whenever it is asked, after some seconds."""

    address = "inproc://always"

    def __init__(self, pollable: int, seconds: float) -> None:
        self._pollable, self._seconds, self.asked = pollable, seconds, 0

    @property
    def pollables(self) -> tuple[Any, ...]:
        return (self._pollable,)

    def receive(self) -> tuple[Peer, Message | Lost]:
        time.sleep(self._seconds)
        self.asked += 1
        return "somebody", Cancel((1,))

    def send(self, peer: Peer, message: Message) -> bool:
        return True

    def close(self) -> None:
        return


def test_messages_that_take_long_to_read_do_not_keep_others_waiting() -> None:
    wake, one, other = Wake(), Wake(), Wake()
    one.set()
    other.set()
    slow, quick = Always(one.fd, 0.01), Always(other.fd, 0.0)
    engine = Engine({}, [slow, quick], wake, 1)
    loop = threading.Thread(target=engine.run, daemon=True)
    loop.start()
    time.sleep(1)
    engine.drain(0)
    loop.join(10)
    assert not loop.is_alive()
    # A hundred of these would be heard in a turn, and the other listener once.
    assert quick.asked > 1000
    for each in (wake, one, other):
        each.close()


def test_a_student_is_served_beside_one_that_sends_headers_of_countless_lists() -> None:
    teacher = Teacher(torch.nn.Identity(), Vectors(), {"x": "float32"})
    with (
        start({"": teacher}, "tcp://127.0.0.1:0") as server,
        bare(server.addresses[0]) as evil,
        Asking(server.addresses[0]) as student,
    ):
        for _ in range(200):
            evil.send(LISTS)
        while server.stats().malformed < MOST_BYTES // MAX_HEADER:
            time.sleep(0.01)
        begin = time.monotonic()
        for _ in range(20):
            student.answer([1])
        assert time.monotonic() - begin < 5
        assert server.stats().malformed <= MOST_BYTES // len(LISTS) + 1


def test_the_log_has_a_line_of_a_flood_and_not_one_of_each_message(
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = listen("tcp://127.0.0.1:0")
    with bare(listener.address) as junk, caplog.at_level(logging.WARNING):
        for _ in range(MOST // 2):
            junk.send(b"junk")
        until = time.monotonic() + 20
        while listener.malformed < MOST // 2 and time.monotonic() < until:
            listener.receive()
    assert listener.malformed == MOST // 2
    listener.close()
    assert [r.getMessage() for r in caplog.records if "malformed" in r.getMessage()] == [
        f"{listener.address}: refused a malformed message: not a Pantheon message: it begins with "
        "b'junk', expected b'PNTN' (1 of this peer)"
    ]


def test_a_peer_that_was_not_read_is_read_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    now, dropped = [0.0], [0]

    class Counted(Strikes):
        def shut(self, peer: Peer) -> bool:
            dropped[0] += (found := super().shut(peer))
            return found

    # However long the reading takes, it is within one period.
    monkeypatch.setattr(
        "pantheon.transport.strikes.time", SimpleNamespace(monotonic=lambda: now[0])
    )
    monkeypatch.setattr("pantheon.transport.zmq_listener.Strikes", Counted)
    listener = listen("tcp://127.0.0.1:0")
    with bare(listener.address) as peer:
        for _ in range(MOST_BYTES // len(LISTS) + 1):
            peer.send(LISTS)
        peer.send_multipart(pack(Hello("unread")))
        until = time.monotonic() + 20
        while not dropped[0] and time.monotonic() < until:
            assert listener.receive() is None
        assert dropped[0] == 1
        now[0] += PERIOD_S
        peer.send_multipart(pack(Hello("again")))
        heard = None
        while heard is None and time.monotonic() < until:
            heard = listener.receive()
    listener.close()
    assert heard is not None
    assert heard[1] == Hello("again")


def test_damage_by_the_network_shuts_nobody_out() -> None:
    strikes = Strikes()
    said = [strikes.add("far", 0) for _ in range(3 * MOST)]
    assert not strikes.shut("far")
    assert [line for line in said if line] == ["1 of this peer"]
