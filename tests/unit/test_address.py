"""Addresses are taken apart, and what is wrong with one is said."""

from __future__ import annotations

import pytest

from pantheon.errors import ConfigError, UnsupportedScheme
from pantheon.transport import Address, connect, listen, parse_address


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("tcp://teacher:5557", Address("tcp", "teacher", 5557)),
        ("tcp://teacher:5557/bert", Address("tcp", "teacher", 5557, model="bert")),
        ("grpc://10.0.0.1:8001/a/b", Address("grpc", "10.0.0.1", 8001, model="a/b")),
        ("tcp://[::1]:0", Address("tcp", "::1", 0)),
        ("tcp://*:5557", Address("tcp", "0.0.0.0", 5557)),
        ("ipc:///run/teacher.sock", Address("ipc", path="/run/teacher.sock")),
        ("ipc:///run/teacher.sock#bert", Address("ipc", path="/run/teacher.sock", model="bert")),
        ("inproc://name/bert", Address("inproc", "name", model="bert")),
    ],
)
def test_an_address_is_taken_apart(text: str, address: Address) -> None:
    assert parse_address(text) == address
    assert parse_address(str(address)) == address


def test_a_relative_socket_path_is_made_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir("/tmp")
    assert parse_address("ipc://sock").path == "/tmp/sock"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("teacher:5557", "no scheme"),
        ("tcp://teacher", "needs a host and a port"),
        ("tcp://:5557", "needs a host and a port"),
        ("tcp://teacher:http", "needs a host and a port"),
        ("tcp://teacher:99999", "beyond 65535"),
        ("tcp://::1:5557", "in brackets"),
        ("tcp://me@teacher:5557", "not a host name"),
        ("ipc://", "has no path"),
        ("ipc:///" + "x" * 200, "the system allows"),
        ("inproc://", "has no name"),
    ],
)
def test_what_is_wrong_with_an_address_is_named(text: str, says: str) -> None:
    for use in (parse_address, connect, listen):
        with pytest.raises(ConfigError, match=says):
            use(text)


@pytest.mark.parametrize("text", ["shm://name"])
def test_a_scheme_that_is_not_built_yet_says_so(text: str) -> None:
    for use in (connect, listen):
        with pytest.raises(UnsupportedScheme, match="not built yet"):
            use(text)


@pytest.mark.parametrize(("scheme", "speaks"), [("dns", "tcp"), ("dns+grpc", "grpc")])
def test_a_name_with_many_addresses_is_for_students_alone(scheme: str, speaks: str) -> None:
    address = parse_address(f"{scheme}://teachers:5557/bert")
    assert (address.many, address.speaks, address.model) == (True, speaks, "bert")
    assert str(address) == f"{scheme}://teachers:5557/bert"
    for use in (connect, listen):
        with pytest.raises(ConfigError, match=f"{speaks}://teachers:5557"):
            use(str(address))


def test_an_unknown_scheme_names_the_known_ones() -> None:
    with pytest.raises(UnsupportedScheme, match="tcp://, ipc://, grpc://, inproc://"):
        connect("http://teacher:80")


@pytest.mark.parametrize(
    ("text", "loopback"),
    [
        ("tcp://127.0.0.1:1", True),
        ("tcp://[::1]:1", True),
        ("tcp://localhost:1", True),
        ("ipc:///tmp/x", True),
        ("inproc://x", True),
        ("tcp://0.0.0.0:1", False),
        ("tcp://*:1", False),
        ("grpc://10.0.0.1:1", False),
        ("tcp://teacher:1", False),
    ],
)
def test_what_other_machines_can_reach_is_told_from_loopback(text: str, loopback: bool) -> None:
    assert parse_address(text).loopback is loopback
