"""What every transport must do: a suite to subclass, run by pytest.

::

    class TestMine(TransportContract):
        def listen_address(self) -> str:
            return "mine://127.0.0.1:0"

Override `listen` and `connect` for a transport that `pantheon.transport` does not know.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pantheon.errors import TransportError
from pantheon.schema import DTYPES, FieldSpec, KnowledgeSchema
from pantheon.testing.events import expect, expect_from, next_event
from pantheon.transport import Address, connect, listen, parse_address
from pantheon.transport.base import Connected, Connection, Listener, Lost
from pantheon.wire.messages import (
    Cancel,
    Goodbye,
    Heartbeat,
    Hello,
    RawTensor,
    Refused,
    Score,
    Scored,
    Welcome,
)

HELLO = Hello("contract", rank=3, dataset="d", fields=("logits",), integrity=True)
WELCOME = Welcome(
    "model",
    "revision",
    KnowledgeSchema((FieldSpec("logits", "float32", (10,)),)),
    size=100,
    views=2,
)


def raw(array: Any, dtype: str | None = None) -> RawTensor:
    """A NumPy array as `RawTensor` that shares its memory.

    >>> raw(np.zeros((2, 3), np.float32)).shape
    (2, 3)
    """
    array = np.ascontiguousarray(array)
    return RawTensor(dtype or str(array.dtype), array.shape, array.reshape(-1).view(np.uint8).data)


def same(a: RawTensor, b: RawTensor) -> bool:
    """Whether two tensors are equal, byte by byte."""
    return (a.dtype, a.shape) == (b.dtype, b.shape) and bytes(a.data) == bytes(b.data)


class TransportContract:
    """The promises of a transport, one test each; see the module."""

    def listen_address(self) -> str:
        """An address on which `listen` can bind; the port may be 0."""
        raise NotImplementedError

    def listen(self, address: str) -> Listener:
        """Make a listener."""
        return listen(address)

    def connect(self, address: str) -> Connection:
        """Make a connection."""
        return connect(address)

    def setup_method(self) -> None:
        """Note what must be gone again afterwards."""
        self.folder = Path(tempfile.mkdtemp(prefix="pantheon-"))
        self._ends: list[Connection | Listener] = []

    def teardown_method(self) -> None:
        """Close every end."""
        for end in self._ends:
            end.close()
        shutil.rmtree(self.folder)

    def listening(self, address: str | None = None) -> Listener:
        """A listener that is closed after the test."""
        listener = self.listen(address or self.listen_address())
        self._ends.append(listener)
        return listener

    def connecting(self, address: str) -> Connection:
        """A connection that is closed after the test."""
        connection = self.connect(address)
        self._ends.append(connection)
        return connection

    def pair(self) -> tuple[Listener, Connection, Any]:
        """A listener, a connection to it that has said Hello and been welcomed, and its peer."""
        listener = self.listening()
        connection = self.connecting(listener.address)
        return listener, connection, self.greet(listener, connection)

    def greet(self, listener: Listener, connection: Connection, welcome: Welcome = WELCOME) -> Any:
        """Say Hello and be welcomed; the peer."""
        expect(connection, Connected)
        assert connection.send(HELLO)
        peer, hello = expect_from(listener, Hello)
        assert hello == HELLO
        assert listener.send(peer, welcome)
        assert expect(connection, Welcome) == welcome
        return peer

    def test_every_student_message_arrives_as_it_was_sent(self) -> None:
        listener, connection, peer = self.pair()
        for message in (Heartbeat((1, 2)), Cancel((3,)), Goodbye("done")):
            assert connection.send(message)
            assert expect_from(listener, type(message)) == (peer, message)

    def test_every_teacher_message_arrives_as_it_was_sent(self) -> None:
        listener, connection, peer = self.pair()
        for message in (
            Heartbeat((1, 2)),
            Refused(7, "range", "id 9"),
            Refused(None, "model", "ü"),
        ):
            assert listener.send(peer, message)
            assert expect(connection, type(message)) == message

    @pytest.mark.parametrize("n", [0, 1, 7, 100_000])
    def test_ids_and_views_arrive(self, n: int) -> None:
        listener, connection, _ = self.pair()
        ids = np.arange(n, dtype=np.int64) * -3
        assert connection.send(Score(5, ids, ids + 1))
        score = expect_from(listener, Score)[1]
        assert score.request == 5
        assert score.ids is not None
        assert score.views is not None
        np.testing.assert_array_equal(score.ids, ids)
        np.testing.assert_array_equal(score.views, ids + 1)

    def test_inputs_arrive_by_name(self) -> None:
        listener, connection, _ = self.pair()
        inputs = {"": raw(np.eye(3, dtype=np.float32)), "tokens": raw(np.arange(6).reshape(3, 2))}
        assert connection.send(Score(6, inputs=inputs))
        score = expect_from(listener, Score)[1]
        assert score.ids is None
        assert list(score.inputs) == list(inputs)
        assert all(same(score.inputs[name], inputs[name]) for name in inputs)

    @pytest.mark.parametrize("rows", [1 << 13, (1 << 13) + 1, (5 << 13) - 1])
    def test_inputs_of_many_bytes_arrive_whole(self, rows: int) -> None:
        listener, connection, _ = self.pair()
        inputs = {"a": raw(np.arange(rows * 32).reshape(rows, 32)), "b": raw(np.arange(rows))}
        assert connection.send(Score(6, inputs=inputs))
        score = expect_from(listener, Score)[1]
        assert list(score.inputs) == list(inputs)
        assert all(same(score.inputs[name], inputs[name]) for name in inputs)

    @pytest.mark.parametrize("shape", [(4, 3), (1,), (0, 5), (3, 0)])
    def test_every_dtype_comes_back_to_the_bit(self, shape: tuple[int, ...]) -> None:
        listener = self.listening()
        connection = self.connecting(listener.address)
        fields = tuple(FieldSpec(name, name, shape[1:], "raw") for name in sorted(DTYPES))
        peer = self.greet(listener, connection, Welcome("m", "r", KnowledgeSchema(fields)))
        random = np.random.default_rng(0)
        parts = []
        for name in sorted(DTYPES):
            data = random.integers(0, 2, (int(np.prod(shape)) * DTYPES[name],), np.uint8)
            parts.append(RawTensor(name, shape, data.data))
        digest = (1 << 64) - 1
        assert listener.send(peer, Scored(8, "r", shape[0], tuple(parts), digest))
        scored = expect(connection, Scored)
        assert (scored.request, scored.revision, scored.rows) == (8, "r", shape[0])
        assert scored.digest == digest
        assert len(scored.parts) == len(parts)
        assert all(same(a, b) for a, b in zip(scored.parts, parts, strict=True))

    def test_fifty_megabytes_arrive_whole(self) -> None:
        listener, connection, peer = self.pair()
        logits = np.random.default_rng(0).standard_normal((1250, 10_000), np.float32)
        assert listener.send(peer, Scored(9, "r", len(logits), (raw(logits),)))
        part = expect(connection, Scored).parts[0]
        found = np.frombuffer(part.data, np.float32).reshape(part.shape)
        np.testing.assert_array_equal(found, logits)

    def test_messages_keep_their_order(self) -> None:
        listener, connection, peer = self.pair()
        for i in range(200):
            assert connection.send(Score(i, np.arange(i)))
            assert listener.send(peer, Scored(i, "r", 1, (raw(np.zeros(i * 200, np.float32)),)))
        asked = [expect_from(listener, Score)[1].request for _ in range(200)]
        answered = [expect(connection, Scored).request for _ in range(200)]
        assert asked == answered == list(range(200))

    def test_several_students_each_hear_their_own(self) -> None:
        listener = self.listening()
        students = [self.connecting(listener.address) for _ in range(4)]
        peers = [self.greet(listener, student) for student in students]
        assert len(set(peers)) == 4
        for i, peer in enumerate(peers):
            assert listener.send(peer, Scored(i, "r", 1, (raw(np.full(1, i, np.float32)),)))
        assert [expect(student, Scored).request for student in students] == [0, 1, 2, 3]

    def test_nobody_listening_is_reported_once_and_not_fatal(self) -> None:
        listener = self.listening()
        listener.close()
        connection = self.connecting(listener.address)
        lost = expect(connection, Lost)
        assert not lost.fatal
        assert "refused" in lost.reason
        assert connection.send(HELLO) is False
        assert next_event(connection, 0.5) is None

    def test_a_listener_that_comes_later_is_found(self) -> None:
        listener = self.listening()
        listener.close()
        connection = self.connecting(listener.address)
        expect(connection, Lost)
        self.greet(self.listening(listener.address), connection)

    def test_a_vanished_listener_is_lost_and_a_returning_one_connected(self) -> None:
        listener, connection, peer = self.pair()
        for _ in range(2):
            listener.close()
            assert not expect(connection, Lost).fatal
            assert connection.send(Score(1, np.arange(3))) is False
            listener = self.listening(listener.address)
            gone, peer = peer, self.greet(listener, connection)
            assert listener.send(gone, Goodbye("not for you")) is False
            assert next_event(connection, 0.05) is None

    def test_what_came_before_a_loss_is_heard_before_it(self) -> None:
        listener, connection, peer = self.pair()
        for i in range(20):
            assert listener.send(peer, Scored(i, "r", 1, (raw(np.zeros(1000, np.float32)),)))
        assert listener.send(peer, Goodbye("drained"))
        listener.close()
        heard = [expect(connection, Scored).request for _ in range(20)]
        assert heard == list(range(20))
        assert expect(connection, Goodbye).reason == "drained"
        expect(connection, Lost)

    def test_a_vanished_student_is_lost_and_not_sent_to(self) -> None:
        listener, connection, peer = self.pair()
        connection.close()
        while not isinstance((event := next_event(listener)), tuple) or event[1] == Goodbye(
            "closed"
        ):
            assert event is not None
        assert event[0] == peer
        assert isinstance(event[1], Lost)
        assert listener.send(peer, Heartbeat()) is False

    def test_an_unknown_peer_is_not_sent_to(self) -> None:
        listener = self.listening()
        assert listener.send(b"nobody", Heartbeat()) is False
        assert listener.send(12345, Heartbeat()) is False

    def test_closing_twice_is_safe_and_leaves_no_thread(self) -> None:
        before = set(threading.enumerate())
        listener, connection, peer = self.pair()
        for end in (connection, listener, connection, listener):
            end.close()
        assert connection.send(HELLO) is False
        assert listener.send(peer, WELCOME) is False
        assert connection.receive() is None
        assert listener.receive() is None
        deadline = time.monotonic() + 5
        while _threads_since(before) and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _threads_since(before) == []

    @pytest.mark.skipif(
        not Path("/proc/self/fd").exists(), reason="descriptors are counted on Linux"
    )
    def test_ends_that_come_and_go_leave_no_descriptor(self) -> None:
        counts = []
        for _ in range(6):
            listener, connection, _ = self.pair()
            connection.close()
            listener.close()
            counts.append(_descriptors())
        deadline = time.monotonic() + 5
        while _descriptors() > counts[0] and time.monotonic() < deadline:
            time.sleep(0.01)
        assert _descriptors() <= counts[0]

    def test_sending_never_waits_for_a_reader(self) -> None:
        listener, connection, peer = self.pair()
        part = raw(np.zeros(1 << 18, np.float32))
        began = time.monotonic()
        for i in range(50):
            assert listener.send(peer, Scored(i, "r", 1, (part,)))
            assert connection.send(Score(i, inputs={"x": part}))
        assert time.monotonic() - began < 5
        for i in range(50):
            assert expect(connection, Scored).request == i
            assert expect_from(listener, Score)[1].request == i

    def test_closing_while_nobody_listens_is_quick(self) -> None:
        listener = self.listening()
        listener.close()
        connection = self.connecting(listener.address)
        began = time.monotonic()
        connection.close()
        assert time.monotonic() - began < 1.5

    def test_bytes_of_another_protocol_do_not_disturb_the_others(self) -> None:
        listener, connection, peer = self.pair()
        where = parse_address(listener.address)
        if where.scheme == "inproc":
            pytest.skip("no bytes travel in a process")
        for junk in (b"GET / HTTP/1.1\r\n\r\n", bytes(range(256)) * 20, b"\xff" + bytes(63), b""):
            with _dial(where) as sock, contextlib.suppress(OSError):
                sock.sendall(junk)
                sock.shutdown(socket.SHUT_WR)
            assert connection.send(Cancel((1,)))
            assert expect_from(listener, Cancel) == (peer, Cancel((1,)))
            assert listener.send(peer, Heartbeat())
            expect(connection, Heartbeat)

    def test_an_address_in_use_is_said_so(self) -> None:
        listener = self.listening()
        with pytest.raises(TransportError, match="cannot listen at"):
            self.listening(listener.address)
        self.greet(listener, self.connecting(listener.address))


def _dial(where: Address) -> socket.socket:
    if not where.path:
        return socket.create_connection((where.host, where.port), timeout=5)
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(where.path)
    return sock


def _descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def _threads_since(before: set[threading.Thread]) -> list[str]:
    """Threads of ours or of a transport; pyzmq keeps one for messages until the process ends."""
    new = set(threading.enumerate()) - before
    return [t.name for t in new if "Garbage" not in type(t).__name__]
