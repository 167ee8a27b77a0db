"""Bytes of unsent replies, and who may be answered beside them."""

from __future__ import annotations

from pantheon.wire.messages import RawTensor, Scored
from teacher_server.jobs import PeerKey
from teacher_server.unsent import STOP, Unsent

SIZE = 1000


def reply() -> Scored:
    return Scored(1, "r", 1, (RawTensor("int8", (SIZE,), memoryview(bytearray(SIZE))),))


def answer(unsent: Unsent, keys: list[PeerKey]) -> list[Scored]:
    """What sessions get that take an answer whenever they may and read none."""
    held = []
    for key in keys:
        if unsent.ready(key):
            held.append(reply())
            unsent.add(key, held[-1], 1)
    return held


def test_many_sessions_that_do_not_read_hold_a_bounded_number_of_bytes() -> None:
    freed: list[int] = []
    unsent = Unsent(10 * SIZE, lambda: freed.append(1))
    held = answer(unsent, [(0, session) for session in range(1000)])
    assert len(held) == STOP * 10
    assert unsent.total == STOP * 10 * SIZE
    held.pop()
    assert freed
    assert unsent.ready((0, "somebody new"))


def test_one_client_of_many_sessions_that_do_not_read_stops_no_other() -> None:
    unsent = Unsent(10 * SIZE, lambda: None, client=lambda key: str(key[1])[0])
    held = answer(unsent, [(0, f"a{session}") for session in range(1000)])
    assert len(held) == STOP * 10 / 2
    held += answer(unsent, [(0, f"b{session}") for session in range(1000)])
    assert len(held) == STOP * 10
    assert not unsent.ready((0, "a new one of a"))
    assert unsent.ready((0, "c, who holds nothing"))
    held += answer(unsent, [(0, "c0"), (0, "c0"), (0, "c1")])
    assert len(held) == STOP * 10 + 1
    held.clear()
    assert unsent.ready((0, "a0"))
    assert unsent.total == 0
