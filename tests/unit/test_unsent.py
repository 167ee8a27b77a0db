"""Bytes of unsent replies, and who may be answered beside them."""

from __future__ import annotations

from pantheon.messages import RawTensor, Scored
from teacher_server.unsent import COUNTED, STOP, Unsent


def reply() -> Scored:
    """An answer that is just large enough to be counted."""
    return Scored(1, "r", 1, (RawTensor("int8", (COUNTED,), memoryview(bytearray(COUNTED))),))


def test_many_sessions_that_do_not_read_hold_a_bounded_number_of_bytes() -> None:
    freed: list[int] = []
    unsent, held = Unsent(10 * COUNTED, lambda: freed.append(1)), []
    for session in range(1000):
        if unsent.ready((0, session)):
            held.append(reply())
            unsent.add((0, session), held[-1])
    assert len(held) == STOP * 10
    assert unsent.total == STOP * 10 * COUNTED
    held.pop()
    assert freed
    assert unsent.ready((0, "somebody new"))
