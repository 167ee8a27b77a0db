"""Students that learn from each other: each loss is right and moves its own student only."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pantheon.errors import ConfigError, SchemaError
from pantheon.losses import MutualLearning
from tests.unit.values import logits


def rows(*probabilities: float) -> Tensor:
    """Logits of one row with these probabilities."""
    return torch.tensor([probabilities], dtype=torch.float64).log()


EVEN, LOW, HIGH = rows(1 / 2, 1 / 2), rows(1 / 4, 3 / 4), rows(3 / 4, 1 / 4)


def test_three_students_by_hand() -> None:
    to_even = 1 / 4 * math.log(1 / 2) + 3 / 4 * math.log(3 / 2)  # from LOW, and from HIGH
    from_even = 1 / 2 * math.log(2) + 1 / 2 * math.log(2 / 3)  # to LOW, and to HIGH
    across = 3 / 4 * math.log(3) + 1 / 4 * math.log(1 / 3)  # between LOW and HIGH
    expected = [to_even, (from_even + across) / 2, (from_even + across) / 2]
    losses = MutualLearning()([EVEN, LOW, HIGH])
    assert [loss.item() for loss in losses] == pytest.approx(expected)


def test_a_temperature_softens_both_and_scales_by_its_square() -> None:
    # At T = 1/2 probabilities are squared: (1, 9) / 10 against (1, 1) / 2.
    to_even = 1 / 10 * math.log(1 / 5) + 9 / 10 * math.log(9 / 5)
    from_even = 1 / 2 * math.log(5) + 1 / 2 * math.log(5 / 9)
    losses = MutualLearning(temperature=0.5)((EVEN, LOW))
    assert [loss.item() for loss in losses] == pytest.approx([to_even / 4, from_even / 4])


def test_a_loss_moves_its_own_student_only() -> None:
    students = [logits(3, 4, seed=i).requires_grad_() for i in range(3)]
    for i, loss in enumerate(MutualLearning()(students)):
        reached = torch.autograd.grad(loss, students, allow_unused=True)
        assert [g is not None and bool(g.any()) for g in reached] == [j == i for j in range(3)]


def test_gradients_are_right() -> None:
    others = [logits(3, 4, seed=i).double() for i in (1, 2)]
    student = logits(3, 4).double().requires_grad_()
    for place in range(3):
        peers = [*others[:place], student, *others[place:]]

        def loss(value: Tensor, place: int = place, peers: list[Tensor] = peers) -> Tensor:
            return MutualLearning(2.0)([*peers[:place], value, *peers[place + 1 :]])[place]

        assert torch.autograd.gradcheck(loss, (student,))


def test_masked_rows_reach_neither_loss_nor_gradient() -> None:
    mask = torch.tensor([True, False])
    spoilt = [torch.cat([z, torch.full((1, 2), math.nan)]).requires_grad_() for z in (EVEN, LOW)]
    losses = MutualLearning()(spoilt, mask)
    expected = [loss.item() for loss in MutualLearning()([EVEN, LOW])]
    assert [loss.item() for loss in losses] == pytest.approx(expected)
    torch.stack(losses).sum().backward()
    for student in spoilt:
        assert student.grad is not None
        assert bool(student.grad[0].any())
        assert student.grad[1].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("students", "message"),
    [
        ([EVEN], "at least two students; found 1"),
        (torch.zeros(2, 3, 4), "at least two students; found Tensor"),
        ([EVEN, None], "student 1's logits are a NoneType"),
        ([EVEN, LOW, torch.zeros(2, 2)], r"0's logits are \(1, 2\), student 2's \(2, 2\)"),
    ],
)
def test_students_that_do_not_fit_are_refused(students: Any, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        MutualLearning()(students)


def test_masks_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"\(2,\) does not fit rows \(1,\)"):
        MutualLearning()([EVEN, LOW], torch.tensor([True, False]))


def test_temperatures_must_be_positive() -> None:
    with pytest.raises(ConfigError, match="temperature"):
        MutualLearning(temperature=0.0)
