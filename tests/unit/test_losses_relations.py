"""Relational losses give hand-computed values, and gradients that are right or 0, never NaN."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn

from pantheon.errors import SchemaError
from pantheon.losses import RKDAngle, RKDDistance
from tests.unit.values import logits

LINE = torch.tensor([[0.0], [1.0], [3.0]])
CORNER = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
both = pytest.mark.parametrize("loss", [RKDDistance(), RKDAngle()])


def test_distances_by_hand() -> None:
    # Student: 1, 3, 2 for the pairs (0,1), (0,2), (1,2): divided by 2, (1/2, 3/2, 1).
    # Teacher: 5, 0, 5; the mean of those that are not 0 is 5: (1, 0, 1).
    teacher = torch.tensor([[0.0, 0.0], [3.0, 4.0], [0.0, 0.0]])
    pairs = (1 / 2) ** 2 / 2 + (3 / 2 - 1 / 2) + 0
    # Each pair stands twice among the 9 places.
    assert RKDDistance()(LINE, teacher).item() == pytest.approx(2 * pairs / 9)
    assert 2 * pairs / 9 == 1 / 4


def test_angles_by_hand() -> None:
    # Student: a right angle at row 0, 45 degrees at the others. Teacher: rows 0, 1, 3 on a line,
    # so that cosines are 1 at row 0, -1 at row 1 between the two, and 1 at row 2.
    root = math.sqrt(1 / 2)
    angles = (1 - 1 / 2) + (root + 1 - 1 / 2) + (1 - root) ** 2 / 2
    # Each angle stands twice among the 27 places; the others are 0, or 1 for both.
    assert RKDAngle()(CORNER, LINE).item() == pytest.approx(2 * angles / 27)


@both
def test_size_place_and_dimension_do_not_matter(loss: nn.Module) -> None:
    student = logits(5, 3).double()
    moved = torch.cat([student, torch.zeros(5, 2, dtype=torch.float64)], 1) * 7 + 2
    assert loss(student, moved).item() == pytest.approx(0, abs=1e-12)


@both
def test_gradients_are_right(loss: nn.Module) -> None:
    teacher = logits(4, 2, seed=1).double()
    student = logits(4, 3, 2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


@both
def test_identical_rows_have_gradients_of_ordinary_size(loss: nn.Module) -> None:
    rows = torch.tensor([[1.0, 2.0], [1.0, 2.0], [3.0, 5.0], [0.0, 1.0]])
    student = rows.clone().requires_grad_()
    loss(student, logits(4, 3)).backward()
    assert student.grad is not None
    assert 0 < student.grad.abs().max() < 1
    # The teacher's identical rows are no trouble either.
    other = logits(4, 3).requires_grad_()
    loss(other, rows).backward()
    assert other.grad is not None
    assert 0 < other.grad.abs().max() < 1


def test_rows_that_are_all_identical_are_at_distance_zero() -> None:
    student = torch.ones(3, 2, requires_grad=True)
    loss = RKDDistance()(student, LINE)
    loss.backward()
    # Against the teacher's (1/2, 3/2, 1).
    expected = 2 * ((1 / 2) ** 2 / 2 + (3 / 2 - 1 / 2) + 1 / 2) / 9
    assert loss.item() == pytest.approx(expected)
    assert student.grad is not None
    assert not student.grad.any()


@pytest.mark.parametrize(
    ("loss", "rows"), [(RKDDistance(), 0), (RKDDistance(), 1), (RKDAngle(), 0), (RKDAngle(), 2)]
)
def test_too_few_rows_give_exactly_zero_in_the_graph(loss: nn.Module, rows: int) -> None:
    student = torch.full((rows, 2), math.nan, requires_grad=True)
    value = loss(student, torch.ones(rows, 3))
    value.backward()
    assert value.item() == 0
    assert student.grad is not None
    assert student.grad.tolist() == [[0.0, 0.0]] * rows


@both
def test_the_teacher_gets_no_gradient(loss: nn.Module) -> None:
    student, teacher = logits(4, 3).requires_grad_(), logits(4, 2, seed=1).requires_grad_()
    loss(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None


@both
def test_half_precision_is_computed_in_float32_under_autocast_too(loss: nn.Module) -> None:
    student, teacher = logits(4, 3).half(), logits(4, 2, seed=1).half()
    expected = loss(student.double(), teacher.double()).item()
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(student, teacher)
    assert value.dtype is torch.float32
    assert value.item() == pytest.approx(expected, rel=1e-5)


@both
def test_rows_that_do_not_fit_are_refused(loss: nn.Module) -> None:
    with pytest.raises(
        SchemaError, match=r"is \(4, 2\), the teacher's \(3, 2\).*equally many rows"
    ):
        loss(torch.zeros(4, 2), torch.zeros(3, 2))


@both
def test_scalars_per_row_are_embeddings_of_one_dimension(loss: nn.Module) -> None:
    teacher: Tensor = logits(3, 2)
    assert loss(LINE.squeeze(1), teacher).equal(loss(LINE, teacher))
