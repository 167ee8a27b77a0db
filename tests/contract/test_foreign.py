"""What is not a teacher of ours at the other end is told from one that is merely not there yet."""

from __future__ import annotations

import http.server
import socket
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import numpy as np
import pytest
import zmq

from pantheon.errors import ProtocolError, UnknownHost, VersionMismatch
from pantheon.testing import expect, expect_from, next_event
from pantheon.transport import Connected, Lost, connect, listen
from pantheon.wire.framing import MAGIC, pack, unpack
from pantheon.wire.messages import Hello, Limits, RawTensor, Refused, Score, Scored

Handler = Callable[[socket.socket], None]


@contextmanager
def serving(handler: Handler) -> Iterator[int]:
    """A TCP server that hands every connection to `handler`; its port."""

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True

    class Request(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            handler(self.request)

    with Server(("127.0.0.1", 0), Request) as server:
        server.daemon_threads = True
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield server.server_address[1]
        server.shutdown()
        thread.join()


def web(sock: socket.socket) -> None:
    sock.recv(100)
    sock.sendall(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n")


def web_that_keeps_the_connection(sock: socket.socket) -> None:
    web(sock)
    sock.recv(1 << 16)
    time.sleep(0.1)


def banner(sock: socket.socket) -> None:
    sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
    sock.recv(100)


def fatal(address: str) -> Lost:
    """The fatal loss a connection to `address` reports, after at most one that is not."""
    connection = connect(address)
    try:
        lost = expect(connection, Lost)
        if not lost.fatal:
            lost = expect(connection, Lost)
        assert connection.send(Hello("s")) is False
        assert next_event(connection, 0.3) is None
        return lost
    finally:
        connection.close()


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
@pytest.mark.parametrize(
    ("handler", "says"),
    [
        (web, b"HTTP/1.1 400"),
        (web_that_keeps_the_connection, b"HTTP/1.1 400"),
        (banner, b"SSH-2.0"),
    ],
)
def test_another_protocol_on_the_port_is_named(scheme: str, handler: Handler, says: bytes) -> None:
    with serving(handler) as port:
        lost = fatal(f"{scheme}://127.0.0.1:{port}")
    assert isinstance(lost.error, ProtocolError)
    assert f"127.0.0.1:{port}" in lost.reason
    assert says.decode() in lost.reason or "does not speak" in lost.reason


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_web_server_on_the_port_is_a_protocol_error(scheme: str) -> None:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: object) -> None:
            return

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        lost = fatal(f"{scheme}://127.0.0.1:{server.server_address[1]}")
        server.shutdown()
        thread.join()
    assert isinstance(lost.error, ProtocolError)


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_port_that_stays_silent_is_a_protocol_error(scheme: str) -> None:
    with ExitStack() as stack:
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        lost = fatal(f"{scheme}://127.0.0.1:{listening.getsockname()[1]}")
    assert isinstance(lost.error, ProtocolError)
    assert "silent" in lost.reason


@pytest.mark.parametrize(("served", "asked"), [("tcp", "grpc"), ("grpc", "tcp")])
def test_the_wrong_scheme_for_a_teacher_is_a_protocol_error(served: str, asked: str) -> None:
    listener = listen(f"{served}://127.0.0.1:0")
    try:
        lost = fatal(listener.address.replace(served, asked))
    finally:
        listener.close()
    assert isinstance(lost.error, ProtocolError)
    assert "scheme" in lost.reason


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_proxy_whose_teacher_is_not_up_yet_is_waited_for(scheme: str) -> None:
    with serving(lambda sock: None) as port:
        connection = connect(f"{scheme}://127.0.0.1:{port}")
        assert not expect(connection, Lost).fatal
        assert next_event(connection, 1.0) is None
    listener = listen(f"{scheme}://127.0.0.1:{port}")
    expect(connection, Connected)
    connection.close()
    listener.close()


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_an_unknown_host_is_named(scheme: str) -> None:
    lost = fatal(f"{scheme}://no-such-host.invalid:5557")
    assert isinstance(lost.error, UnknownHost)
    assert "no-such-host.invalid" in lost.reason


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_connecting_does_not_wait_for_the_name(scheme: str) -> None:
    began = time.monotonic()
    connection = connect(f"{scheme}://no-such-host.invalid:5557")
    assert time.monotonic() - began < 0.2
    connection.close()


@pytest.mark.parametrize("scheme", ["tcp", "grpc"])
def test_a_name_is_resolved(scheme: str) -> None:
    listener = listen(f"{scheme}://127.0.0.1:0")
    connection = connect(listener.address.replace("127.0.0.1", "localhost"))
    expect(connection, Connected)
    connection.close()
    listener.close()


@pytest.fixture
def dealer() -> Iterator[zmq.Socket[bytes]]:
    """A bare ZeroMQ socket, which can say anything to a listener."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.rcvtimeo = 10_000
        yield socket


def test_malformed_messages_are_answered_and_the_other_students_served(
    dealer: zmq.Socket[bytes],
) -> None:
    listener = listen("tcp://127.0.0.1:0")
    student = connect(listener.address)
    expect(student, Connected)
    dealer.connect(listener.address)
    for frames in ([b"junk"], [b""] * 2000, [MAGIC + b"\x01\x80"], [b"", b""]):
        dealer.send_multipart(frames)
        student.send(Hello("well-bred"))
        assert expect_from(listener, Hello)[1].session == "well-bred"
        while (answer := next_event(listener, 0.2)) is not None:
            raise AssertionError(f"a malformed message was passed on: {answer}")
        refused = unpack(dealer.recv_multipart())
        assert isinstance(refused, Refused)
        assert refused.code == "protocol"
    assert listener.malformed == 4  # type: ignore[attr-defined]
    student.close()
    listener.close()


def test_a_student_of_another_version_is_told_so(dealer: zmq.Socket[bytes]) -> None:
    listener = listen("tcp://127.0.0.1:0")
    dealer.connect(listener.address)
    dealer.send_multipart([MAGIC + b"\x09..."])
    assert next_event(listener, 0.3) is None
    refused = unpack(dealer.recv_multipart())
    assert isinstance(refused, Refused)
    assert refused.code == "version"
    listener.close()


@pytest.mark.parametrize(
    ("frames", "error"),
    [([b"hello"], ProtocolError), ([MAGIC + b"\x09..."], VersionMismatch)],
)
def test_a_teacher_that_speaks_otherwise_is_a_fatal_loss(
    frames: list[bytes], error: type[Exception]
) -> None:
    with zmq.Context() as context, context.socket(zmq.ROUTER) as router:
        router.linger = 0
        port = router.bind_to_random_port("tcp://127.0.0.1")
        connection = connect(f"tcp://127.0.0.1:{port}")
        expect(connection, Connected)
        connection.send(Hello("s"))
        peer, *_ = router.recv_multipart()
        router.send_multipart([peer, *frames])
        assert isinstance(expect(connection, Lost).error, error)
        assert connection.send(Hello("s")) is False
        connection.close()


def test_a_request_beyond_the_limits_is_not_read() -> None:
    listener = listen("tcp://127.0.0.1:0", limits=Limits(max_request_bytes=4096))
    connection = connect(listener.address)
    expect(connection, Connected)
    assert connection.send(Score(1, np.arange(100)))
    expect_from(listener, Score)
    assert connection.send(Score(1, np.arange(1000)))
    assert not expect(connection, Lost).fatal
    assert isinstance(next_event(listener), tuple)
    expect(connection, Connected)
    connection.close()
    listener.close()


def test_a_reply_beyond_the_limits_breaks_the_connection() -> None:
    listener = listen("tcp://127.0.0.1:0")
    connection = connect(listener.address, limits=Limits(max_reply_bytes=4096))
    expect(connection, Connected)
    assert connection.send(Hello("s"))
    peer, _ = expect_from(listener, Hello)
    part = RawTensor("int8", (3000,), bytes(3000))
    assert listener.send(peer, Scored(1, "r", 1, (part, part)))
    lost = expect(connection, Lost)
    assert isinstance(lost.error, ProtocolError)
    assert "at most 4096" in lost.reason
    connection.close()
    listener.close()


def test_a_frame_beyond_the_limits_is_a_loss_and_the_connection_made_again() -> None:
    listener = listen("tcp://127.0.0.1:0")
    connection = connect(listener.address, limits=Limits(max_reply_bytes=4096))
    expect(connection, Connected)
    assert connection.send(Hello("s"))
    peer, _ = expect_from(listener, Hello)
    assert listener.send(peer, Scored(1, "r", 1, (RawTensor("int8", (9000,), bytes(9000)),)))
    assert not expect(connection, Lost).fatal
    expect(connection, Connected)
    connection.close()
    listener.close()


def test_what_pack_writes_is_what_the_socket_carries(dealer: zmq.Socket[bytes]) -> None:
    listener = listen("tcp://127.0.0.1:0")
    dealer.connect(listener.address)
    dealer.send_multipart(pack(Hello("bare")))
    assert expect_from(listener, Hello)[1] == Hello("bare")
    listener.close()
