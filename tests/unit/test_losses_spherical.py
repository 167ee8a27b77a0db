"""Spherical distillation compares directions of logits and is right where they have none."""

from __future__ import annotations

import math

import pytest
import torch

from pantheon.codec import top_k
from pantheon.errors import ConfigError, SchemaError
from pantheon.knowledge import Ragged
from pantheon.losses import SphericalKD
from pantheon.merge.mixture import mix_topk
from tests.unit.values import logits

# Two logits are normalised to (1, -1) or (-1, 1). The teacher's deviation is log(3) / 2, so that
# its probabilities are (3/4, 1/4); the student points the other way: (1/4, 3/4).
TEACHER, STUDENT = torch.tensor([[math.log(3), 0.0]]), torch.tensor([[1.0, 5.0]])
CROSS = 3 / 4 * math.log(4) + 1 / 4 * math.log(4 / 3)


def test_the_teachers_deviation_is_the_multiplier_by_default() -> None:
    assert SphericalKD()(STUDENT, TEACHER).item() == pytest.approx(CROSS, rel=1e-6)


def test_a_multiplier_is_the_size_of_both() -> None:
    # Odds of exp(2 * log(3) / 2) = 3, whatever the sizes of the logits were.
    loss = SphericalKD(math.log(3) / 2)
    assert loss(STUDENT, 10 * TEACHER).item() == pytest.approx(CROSS, rel=1e-6)
    assert loss(0.1 * STUDENT + 7, TEACHER).item() == pytest.approx(CROSS, rel=1e-5)


def test_every_row_has_its_own_deviation() -> None:
    # The second teacher's deviation is log 3: (9/10, 1/10) against (1/10, 9/10).
    each = SphericalKD(reduction="none")(STUDENT.repeat(2, 1), torch.cat([TEACHER, 2 * TEACHER]))
    second = 9 / 10 * math.log(10) + 1 / 10 * math.log(10 / 9)
    assert each.tolist() == pytest.approx([CROSS, second], rel=1e-6)
    masked = SphericalKD()(
        STUDENT.repeat(2, 1),
        torch.cat([TEACHER, 2 * TEACHER]),
        mask=torch.tensor([False, True]),
    )
    assert masked.item() == pytest.approx(second, rel=1e-6)


def test_equal_logits_are_the_uniform_distribution() -> None:
    student = torch.full((1, 3), 2.0, requires_grad=True)
    loss = SphericalKD(multiplier=1.0)(student, torch.tensor([[4.0, 0.0, 0.0]]))
    loss.backward()
    assert loss.item() == pytest.approx(math.log(3))
    assert student.grad is not None
    assert bool(student.grad.isfinite().all())
    # A teacher without deviation asks for nothing.
    flat = SphericalKD()(logits(1, 3), torch.full((1, 3), 5.0))
    assert flat.item() == pytest.approx(math.log(3))


@pytest.mark.parametrize("multiplier", [None, 2.0])
def test_gradients_are_right(multiplier: float | None) -> None:
    teacher, student = logits(3, 5, seed=1), logits(3, 5).double().requires_grad_()
    loss = SphericalKD(multiplier)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher), (student,))


def test_the_teacher_gets_no_gradient() -> None:
    student, teacher = logits(3, 5).requires_grad_(), logits(3, 5, seed=1).requires_grad_()
    SphericalKD()(student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.any())


def test_ragged_rows_are_compared_row_by_row() -> None:
    student, teacher = logits(3, 5), logits(3, 5, seed=1)
    ragged = Ragged(teacher, torch.tensor([1, 2]))
    assert SphericalKD()(student, ragged).equal(SphericalKD()(student, teacher))


def test_knowledge_without_every_logit_is_refused() -> None:
    topk = top_k(logits(2, 4, seed=1), 2)
    with pytest.raises(SchemaError, match=r"every logit, found TopKLogits.*dense codec"):
        SphericalKD()(logits(2, 4), topk)
    with pytest.raises(SchemaError, match="found TopKMixture"):
        SphericalKD()(logits(2, 4), mix_topk([(0.5, topk), (0.5, topk)], (1.0,)))


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"\(2, 4\), the teacher's \(2, 5\)"):
        SphericalKD()(logits(2, 4), logits(2, 5))


@pytest.mark.parametrize("multiplier", [0.0, -1.0, math.inf, math.nan])
def test_multipliers_must_be_positive(multiplier: float) -> None:
    with pytest.raises(ConfigError, match="multiplier must be positive and finite"):
        SphericalKD(multiplier)
