"""Every request chosen to be asked twice is counted, whatever becomes of the second question."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import torch

from pantheon.delivery.ledger import Assignment
from pantheon.wire.buffers import to_raw
from student_client.verifying import Verifier, Verify


class Silent:
    """A replica that takes everything and answers nothing."""

    supervised, teacher = True, "t"

    def __init__(self, address: str) -> None:
        self.address = address

    def send(self, message: object) -> bool:
        return True


def test_a_second_question_without_an_answer_is_counted_as_unverified() -> None:
    first, second = Silent("one"), Silent("two")
    fleet = SimpleNamespace(
        find=lambda teacher, address: first,
        up=lambda teacher: [first, second],
        trace=SimpleNamespace(asked_twice=lambda *_: None),
    )
    teacher: Any = SimpleNamespace(name="t", reader=None, verified=0, unverified=0)
    request: Any = SimpleNamespace(score=lambda *_: None, ids_for=lambda _: np.arange(8))
    verifier = Verifier(cast(Any, fleet), Verify(1.0), epoch=0)

    def ask(number: int) -> bool:
        assignment = Assignment("t", "one", number, number, 0, 8)
        return verifier.consider(assignment, request, teacher, (to_raw(torch.ones(1)),), number)

    assert ask(1)
    verifier.drop(cast(Any, second))
    assert teacher.unverified == 1, "it left"
    assert ask(2)
    verifier.drop(cast(Any, second), 2)
    assert teacher.unverified == 2, "it refused"
    assert ask(3)
    verifier.close()
    verifier.close()
    assert teacher.unverified == 3, "the epoch ended"
