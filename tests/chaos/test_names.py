"""A name whose addresses change while a student trains, and replicas that disagree."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pantheon.errors import ReplicaDisagreement
from tests.chaos.lessons import Lesson, learn
from tests.chaos.processes import Crew, Nursery, Replica, free_ports
from tests.chaos.script import at
from tests.chaos.test_replicas import PACE_S, same


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The addresses that ``teachers.test`` resolves to, looked up every tenth of a second."""
    addresses: list[str] = []
    ask = socket.getaddrinfo

    def answer(host: Any, port: Any, *rest: Any, **more: Any) -> Any:
        if host != "teachers.test":
            return ask(host, port, *rest, **more)
        if not addresses:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (a, port)) for a in addresses]

    monkeypatch.setattr(socket, "getaddrinfo", answer)
    monkeypatch.setattr("student_client.discovery.RESOLVE_S", 0.1)
    return addresses


@pytest.fixture
def hosts(nursery: Nursery) -> Iterator[list[Replica]]:
    """Replicas at one port of four addresses of this machine; none runs yet."""
    (port,) = free_ports(1)
    made = [Replica(nursery, f"tcp://127.0.0.{n}:{port}", pace=PACE_S) for n in range(2, 6)]
    with ExitStack() as stack:
        for replica in made:
            stack.callback(replica.kill)
        yield made


def test_a_name_whose_addresses_change_changes_nothing(
    named: list[str], hosts: list[Replica], calm: Lesson
) -> None:
    def move(*to: int) -> None:
        """Have other replicas run, and the name say so; those that are not named are killed."""
        for n, replica in enumerate(hosts):
            if n in to and replica.process is None:
                replica.start()
        named[:] = [f"127.0.0.{n + 2}" for n in to]
        for n, replica in enumerate(hosts):
            if n not in to:
                replica.kill()

    move(0)
    acts = {
        20: lambda: move(0, 1, 2, 3),
        80: lambda: move(2, 3),
        110: lambda: move(1),
        160: lambda: move(0, 2),
        200: lambda: move(3),
    }
    port = hosts[0].address.rpartition(":")[2]
    lesson = learn(f"dns://teachers.test:{port}", 2, at(acts))
    same(lesson, calm)
    assert lesson.stats["teachers"]["expert"]["losses"] == 7


def test_replicas_asked_twice_agree_and_change_nothing(nursery: Nursery, calm: Lesson) -> None:
    with Crew(nursery, 3, pace=PACE_S) as crew:
        crew.start()
        acts = {40: crew.replicas[0].kill, 60: crew.replicas[0].start}
        lesson = learn(crew.addresses, 2, at(acts), verify=0.5)
    same(lesson, calm)
    stats = lesson.stats["teachers"]["expert"]
    assert stats["verified"] > 10
    assert stats["disagreements"] == 0


def test_replicas_that_disagree_are_found_and_named(nursery: Nursery) -> None:
    with Crew(nursery, 2, pace=PACE_S) as crew:
        crew.replicas[0].start(revision="same")
        crew.replicas[1].start(revision="same", weights=1)
        with pytest.raises(ReplicaDisagreement) as found:
            learn(crew.addresses, 1, verify=0.5)
    for address in crew.addresses:
        assert address in str(found.value)
