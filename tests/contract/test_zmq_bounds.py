"""What one end of a ZeroMQ connection can make the other hold is bounded, before and after keys."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

import pytest
import zmq

from pantheon.testing import expect, expect_from, next_event
from pantheon.transport import Connected, Curve, Lost, connect, listen, parse_address
from pantheon.transport.keys import client_keys, generate
from pantheon.transport.zmq_listener import UNREAD
from pantheon.wire.framing import pack
from pantheon.wire.messages import Buffer, Cancel, Heartbeat, Hello, RawTensor, Score, Scored

MOST = (1 << 20) + 64
"""Bytes of the longest frame that a teacher takes."""


@pytest.mark.parametrize("mechanism", ["NULL", "CURVE"])
@pytest.mark.parametrize("kind", [0x02, 0x06])  # A message and a command.
def test_a_stranger_that_claims_a_long_frame_is_cut_off_at_once(
    tmp_path: Path, mechanism: str, kind: int
) -> None:
    generate(tmp_path)
    security = Curve(tmp_path) if mechanism == "CURVE" else None
    greeting = b"\xff" + bytes(8) + b"\x7f\x03\x00" + mechanism.encode().ljust(20, b"\0")
    with closing(listen("tcp://127.0.0.1:0", security=security)) as listener:
        where = parse_address(listener.address)
        # Less than the seconds a handshake may take.
        with socket.create_connection((where.host, where.port), timeout=2.0) as sock:
            sock.sendall(greeting + bytes(32))
            sock.recv(64, socket.MSG_WAITALL)
            sock.sendall(bytes([kind]) + (MOST + 1).to_bytes(8, "big"))
            with suppress(ConnectionResetError):
                while sock.recv(1024):
                    pass


def test_what_a_client_says_whose_key_was_taken_away_is_neither_read_nor_answered(
    tmp_path: Path,
) -> None:
    generate(tmp_path)
    keys = client_keys(Curve(tmp_path))
    with (
        closing(listen("tcp://127.0.0.1:0", security=Curve(tmp_path))) as listener,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.linger = 0
        dealer.curve_serverkey, dealer.curve_publickey, dealer.curve_secretkey = keys
        dealer.connect(listener.address)
        dealer.send_multipart(pack(Hello("ann")))
        peer = expect_from(listener, Hello)[0]
        (tmp_path / "clients" / "student.key").unlink()
        time.sleep(1.2)  # The list is looked at once a second.
        for _ in range(20):
            dealer.send_multipart([b"junk", b"more", b"of it"])
        assert expect_from(listener, Lost)[0] == peer
        assert next_event(listener, 0.5) is None
        assert listener.malformed == 0
        assert not dealer.poll(200)


NETWORK = 128
"""Messages of 128 KiB that may be in the buffers of the system."""


def test_of_a_flood_little_waits_for_a_busy_teacher_and_nothing_is_lost() -> None:
    part = RawTensor("uint8", (1 << 15,), bytes(1 << 15))
    inputs = dict.fromkeys("abcd", part)
    with (
        closing(listen("tcp://127.0.0.1:0")) as listener,
        zmq.Context() as context,
        context.socket(zmq.DEALER) as dealer,
    ):
        dealer.linger, dealer.sndhwm = 0, 1
        dealer.connect(listener.address)
        sent = flood(dealer, lambda number: pack(Score(number, inputs=inputs)))
        # Messages are counted, not their frames.
        assert UNREAD < sent < UNREAD + NETWORK
        assert [expect_from(listener, Score)[1].request for _ in range(sent)] == [*range(sent)]


def flood(sock: zmq.Socket[bytes], make: Callable[[int], list[Buffer]]) -> int:
    """Send until nothing is taken for half a second; how many messages were."""
    sent = 0
    while sent < 2000 and sock.poll(500, zmq.POLLOUT):
        sock.send_multipart(make(sent))
        sent += 1
    return sent


@pytest.fixture
def hurried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who gives no sign of life for half a second is given up."""
    monkeypatch.setattr("pantheon.transport.zmq_socket.HEARTBEAT_S", 0.1)
    monkeypatch.setattr("pantheon.transport.zmq_socket.DEAD_S", 0.5)


@pytest.mark.usefixtures("hurried")
def test_a_teacher_that_was_flooded_while_it_was_busy_goes_on() -> None:
    with (
        closing(listen("tcp://127.0.0.1:0")) as listener,
        closing(connect(listener.address)) as connection,
    ):
        expect(connection, Connected)
        for _ in range(2):
            assert all(connection.send(Cancel((i,))) for i in range(4 * UNREAD))
            # What it does not take from the network hides the student's signs of life from it.
            expect(connection, Lost)
            expect(connection, Connected)
            heard = [message for _, message in iter(lambda: next_event(listener, 0.3), None)]
            assert sum(isinstance(message, Cancel) for message in heard) >= UNREAD - 1
        assert connection.send(Hello("s"))
        assert expect_from(listener, Hello)[1] == Hello("s")


@pytest.mark.usefixtures("hurried")
def test_a_student_stopped_for_ten_minutes_keeps_its_connection_and_its_answers() -> None:
    part = RawTensor("uint8", (1 << 16,), bytes(1 << 16))
    with (
        closing(listen("tcp://127.0.0.1:0")) as listener,
        closing(connect(listener.address)) as connection,
    ):
        expect(connection, Connected)
        assert connection.send(Hello("s"))
        peer = expect_from(listener, Hello)[0]
        sent = [Heartbeat((1,))] * 600 + [Scored(i, "r", 1, (part,)) for i in range(64)]
        assert all(listener.send(peer, message) for message in sent)
        assert next_event(listener, 2.0) is None
        heard = [next_event(connection) for _ in sent]
        assert [type(event) for event in heard] == [type(message) for message in sent]
        assert connection.send(Cancel((1,)))
        assert expect_from(listener, Cancel)[0] == peer
