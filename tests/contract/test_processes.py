"""Transports between real processes: killed, forked, restarted."""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import stat
from collections.abc import Iterator
from multiprocessing.connection import Connection as Pipe
from pathlib import Path
from typing import Any

import pytest

from pantheon.errors import ConfigError, TransportError
from pantheon.testing import expect, expect_from, next_event
from pantheon.transport import Connected, Lost, connect, listen
from pantheon.wire.messages import Goodbye, Heartbeat, Hello

SPAWN = multiprocessing.get_context("spawn")


def echo(address: str, pipe: Pipe) -> None:
    """A listener that answers Hello with Heartbeat for ever."""
    listener = listen(address)
    pipe.send(listener.address)
    while True:
        if (event := next_event(listener, 1.0)) is not None and isinstance(event[1], Hello):
            listener.send(event[0], Heartbeat((os.getpid(),)))


def greet(address: str, pipe: Pipe) -> None:
    """A connection that says Hello and then nothing."""
    connection = connect(address)
    expect(connection, Connected)
    connection.send(Hello("a student"))
    pipe.recv()


@pytest.fixture
def start() -> Iterator[Any]:
    """Start a function in a process of its own; killed after the test."""
    started = []

    def make(target: Any, address: str) -> tuple[Any, Pipe]:
        ours, theirs = SPAWN.Pipe()
        process = SPAWN.Process(target=target, args=(address, theirs), daemon=True)
        process.start()
        theirs.close()
        started.append((process, ours))
        return process, ours

    yield make
    for process, pipe in started:
        process.kill()
        process.join()
        process.close()
        pipe.close()


@pytest.fixture(params=["tcp://127.0.0.1:0", "ipc", "grpc://127.0.0.1:0"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An address to listen on."""
    return f"ipc://{tmp_path}/s" if request.param == "ipc" else str(request.param)


def test_a_killed_teacher_is_lost_at_once_and_its_successor_found(address: str, start: Any) -> None:
    process, pipe = start(echo, address)
    bound = pipe.recv()
    connection = connect(bound)
    for _ in range(2):
        expect(connection, Connected)
        assert connection.send(Hello("s"))
        assert expect(connection, Heartbeat) == Heartbeat((process.pid,))
        os.kill(process.pid, signal.SIGKILL)
        assert not expect(connection, Lost, 5.0).fatal
        process, pipe = start(echo, bound)
        assert pipe.recv() == bound
    expect(connection, Connected)
    connection.close()


def test_a_killed_student_is_lost_at_once(address: str, start: Any) -> None:
    listener = listen(address)
    process, _ = start(greet, listener.address)
    peer, _ = expect_from(listener, Hello)
    os.kill(process.pid, signal.SIGKILL)
    assert expect_from(listener, Lost, 5.0)[0] == peer
    assert listener.send(peer, Heartbeat()) is False
    listener.close()


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_a_forked_child_can_connect_and_the_parent_goes_on() -> None:
    listener = listen("tcp://127.0.0.1:0")
    parent = connect(listener.address)
    expect(parent, Connected)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            child = connect(listener.address)
            expect(child, Connected)
            child.send(Hello("child"))
            expect(child, Goodbye)
            child.close()
            status = 0
        finally:
            os._exit(status)
    peer, hello = expect_from(listener, Hello)
    assert hello.session == "child"
    assert listener.send(peer, Goodbye("bye"))
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
    assert parent.send(Hello("parent"))
    while isinstance(event := next_event(listener), tuple) and event[0] == peer:
        continue
    assert event is not None
    assert event[1] == Hello("parent")
    parent.close()
    listener.close()


def test_a_dead_listeners_socket_file_is_taken_over(tmp_path: Path) -> None:
    path = tmp_path / "stale"
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))
    assert stat.S_ISSOCK(path.stat().st_mode)
    listener = listen(f"ipc://{path}")
    connection = connect(f"ipc://{path}#model")
    expect(connection, Connected)
    connection.close()
    listener.close()
    assert not path.exists()


def test_a_file_that_is_no_socket_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "notes"
    path.write_text("precious")
    with pytest.raises(ConfigError, match="is no socket"):
        listen(f"ipc://{path}")
    assert path.read_text() == "precious"


def test_a_live_listeners_socket_file_is_left_alone(tmp_path: Path) -> None:
    listener = listen(f"ipc://{tmp_path}/live")
    with pytest.raises(TransportError, match="another process listens"):
        listen(f"ipc://{tmp_path}/live")
    connection = connect(listener.address)
    expect(connection, Connected)
    connection.close()
    listener.close()


def test_an_address_that_is_not_this_machines_is_said_so() -> None:
    for scheme in ("tcp", "grpc"):
        with pytest.raises(TransportError, match=r"cannot listen at .*192\.0\.2\.1"):
            listen(f"{scheme}://192.0.2.1:5557")
