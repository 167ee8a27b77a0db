"""Losses between inner layers give hand-computed values and gradients that are right."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError, SchemaError
from pantheon.knowledge import Ragged
from pantheon.losses import FSP, AttentionTransfer, FeatureMSE, ShapeAlign
from tests.unit.values import logits

# One output each; FSP sees it as both maps of a pair.
LOSSES: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "mse": FeatureMSE(),
    "fsp": lambda s, t: FSP()((s, s), (t, t)),
    "attention": AttentionTransfer(),
}
named = pytest.mark.parametrize("name", LOSSES)


def test_feature_mse_by_hand() -> None:
    student = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
    teacher = torch.tensor([[1.0, 4.0], [3.0, 0.0]])
    assert FeatureMSE()(student, teacher).item() == (0 + 4 + 0 + 16) / 4


# Maps of one row, one row of pixels high.
ONE, OTHER = torch.tensor([[[[1.0, 2.0]]]]), torch.tensor([[[[2.0, 0.0]]]])
TWO = torch.tensor([[[[3.0, 4.0]], [[5.0, 6.0]]]])


def test_fsp_by_hand() -> None:
    # Student: (1*3 + 2*4) / 2 = 11/2 and (1*5 + 2*6) / 2 = 17/2. Teacher: 6/2 and 10/2.
    expected = ((11 / 2 - 3) ** 2 + (17 / 2 - 5) ** 2) / 2
    assert FSP()((ONE, TWO), (OTHER, TWO)).item() == expected == 37 / 4
    # A second row on which both agree halves the mean.
    student, teacher = torch.cat([ONE, ONE]), torch.cat([OTHER, ONE])
    two = torch.cat([TWO, TWO])
    assert FSP()([student, two], [teacher, two]).item() == 37 / 8


def test_fsp_max_pools_the_larger_map_of_a_pair() -> None:
    large, small = torch.tensor([[[[1.0, 2.0], [3.0, 4.0]]]]), torch.tensor([[[[5.0]]]])
    nothing = torch.zeros(1, 1, 3, 3)
    assert FSP()((large, small), (nothing, nothing)).item() == (4 * 5) ** 2
    assert FSP()((small, large), (nothing, nothing)).item() == (5 * 4) ** 2
    # One wider, the other higher: both meet at 1 x 1.
    wide, high = torch.tensor([[[[1.0, 3.0]]]]), torch.tensor([[[[2.0], [4.0]]]])
    assert FSP()((wide, high), (nothing, nothing)).item() == (3 * 4) ** 2


@pytest.mark.parametrize(
    ("power", "student", "teacher"),
    [
        (1.0, [[-3.0, 4.0]], [[5.0, -1.0], [-3.0, 5.0]]),
        (2.0, [[3**0.5, -2.0]], [[2.0, 1.0], [-2.0, 5**0.5]]),
    ],
)
def test_attention_transfer_by_hand(
    power: float, student: list[list[float]], teacher: list[list[float]]
) -> None:
    # Attention is (3, 4) / 5 and (4, 3) / 5 for both powers: the mean of 1/25 and 1/25.
    ours, theirs = (torch.tensor(x)[None, :, None] for x in (student, teacher))
    assert AttentionTransfer(power)(ours, theirs).item() == pytest.approx(1 / 25)
    # A second row on which both agree halves the mean.
    ours, theirs = torch.cat([ours, ours]), torch.cat([theirs, theirs.flip(-1)])
    assert AttentionTransfer(power)(ours, theirs).item() == pytest.approx(1 / 50)


def test_the_larger_attention_is_averaged_whatever_the_signs() -> None:
    # |x| is (1, 5, 4, 4), its averages (3, 4); averages of x itself would be (2, 0).
    large, small = torch.tensor([[[[-1.0, 5.0, 4.0, -4.0]]]]), torch.tensor([[[[4.0, -3.0]]]])
    for student, teacher in ((large, small), (small, large)):
        assert AttentionTransfer(1.0)(student, teacher).item() == pytest.approx(1 / 25)


@pytest.mark.parametrize("power", [1.0, 2.0])
def test_a_dead_map_has_no_attention_and_gradient_zero(power: float) -> None:
    student = torch.zeros(1, 2, 1, 2, requires_grad=True)
    loss = AttentionTransfer(power)(student, torch.tensor([[[[3.0, 4.0]]]]))
    loss.backward()
    assert loss.item() == pytest.approx(1 / 2)  # the squares of a vector of length 1, of two places
    assert student.grad is not None
    assert not student.grad.any()


def test_gradients_are_right() -> None:
    teacher = logits(2, 3, 4, 4, seed=1).double()
    student = logits(2, 3, 4, 4).double().requires_grad_()
    smaller = logits(2, 2, 2, 2, seed=2).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda s: FeatureMSE()(s, teacher), (student,))
    pair = (teacher, smaller.detach().flip(0))
    assert torch.autograd.gradcheck(lambda a, b: FSP()((a, b), pair), (student, smaller))
    for power in (1.0, 2.0, 4.0):
        loss = AttentionTransfer(power)
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s, teacher), (student,))
        assert torch.autograd.gradcheck(lambda s, f=loss: f(s, teacher), (smaller,))


@named
def test_the_teacher_gets_no_gradient(name: str) -> None:
    student, teacher = (logits(2, 3, 4, 4, seed=i).requires_grad_() for i in (0, 1))
    LOSSES[name](student, teacher).backward()
    assert teacher.grad is None
    assert student.grad is not None
    assert bool(student.grad.any())


@named
def test_half_precision_is_computed_in_float32_under_autocast_too(name: str) -> None:
    student, teacher = (logits(2, 3, 4, 4, seed=i).half() for i in (0, 1))
    expected = LOSSES[name](student.double(), teacher.double()).item()
    with torch.autocast("cpu", torch.bfloat16):
        loss = LOSSES[name](student.requires_grad_(), teacher)
    assert loss.dtype is torch.float32
    assert loss.item() == pytest.approx(expected, rel=1e-5)
    loss.backward()
    assert student.grad is not None
    assert student.grad.dtype is torch.float16


@named
def test_no_rows_give_loss_zero_in_the_graph(name: str) -> None:
    student = torch.zeros(0, 3, 4, 4, requires_grad=True)
    loss = LOSSES[name](student, torch.zeros(0, 3, 4, 4))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None


def test_a_hint_trains_the_student_and_its_alignment() -> None:
    align = ShapeAlign((2, 4, 4), (3, 2, 2))
    student = logits(2, 2, 4, 4).requires_grad_()
    FeatureMSE()(align(student), logits(2, 3, 2, 2, seed=1)).backward()
    for leaf in (student, *align.parameters()):
        assert leaf.grad is not None
        assert bool(leaf.grad.any())


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"is \(2, 3\), the teacher's \(2, 4\).*ShapeAlign"):
        FeatureMSE()(torch.zeros(2, 3), torch.zeros(2, 4))
    with pytest.raises(SchemaError, match=r"is \(2, 3, 4, 4\), the teacher's \(1, 3, 4, 4\)"):
        AttentionTransfer()(torch.zeros(2, 3, 4, 4), torch.zeros(1, 3, 4, 4))
    with pytest.raises(SchemaError, match=r"student's output is \(2, 3\); expected a map"):
        AttentionTransfer()(torch.zeros(2, 3), torch.zeros(2, 3, 4, 4))
    with pytest.raises(SchemaError, match=r"teacher's output is \(2, 3\); expected a map"):
        AttentionTransfer()(torch.zeros(2, 3, 4, 4), torch.zeros(2, 3))


def test_outputs_that_are_no_dense_floating_rows_are_refused() -> None:
    loss: nn.Module = FeatureMSE()
    with pytest.raises(SchemaError, match=r"teacher's output is a Ragged; .* \.values"):
        loss(torch.zeros(3, 2), Ragged(torch.zeros(3, 2), torch.tensor([1, 2])))
    with pytest.raises(SchemaError, match=r"student's output is torch\.int64"):
        loss(torch.zeros(3, 2, dtype=torch.int64), torch.zeros(3, 2))
    with pytest.raises(SchemaError, match="student's output is a scalar"):
        loss(torch.tensor(1.0), torch.zeros(3))


MAP = torch.zeros(2, 3, 4, 4)


@pytest.mark.parametrize(
    ("student", "teacher", "message"),
    [
        (MAP, (MAP, MAP), "pair of the student's maps.*found a Tensor"),
        ((MAP, MAP), (MAP, MAP, MAP), "pair of the teacher's maps.*found 3"),
        ((MAP, torch.zeros(2, 3)), (MAP, MAP), r"student's second map is \(2, 3\)"),
        ((MAP, MAP), (MAP, None), "teacher's second map is a NoneType"),
        ((MAP, MAP[:1]), (MAP, MAP[:1]), r"are \(2, 3, 4, 4\) and \(1, 3, 4, 4\)"),
        (
            (MAP, MAP),
            (MAP[:, :2], MAP),
            r"first map is \(2, 3, 4, 4\), the teacher's \(2, 2, 4, 4\).*"
            r"ShapeAlign\(\(3, 4, 4\), \(2, 4, 4\)\) on the student's first map",
        ),
        ((MAP, MAP[:, :1]), (MAP, MAP), r"second map is \(2, 1, 4, 4\), the teacher's \(2, 3, 4"),
    ],
)
def test_pairs_that_do_not_fit_are_refused(student: object, teacher: object, message: str) -> None:
    loss: nn.Module = FSP()
    with pytest.raises(SchemaError, match=message):
        loss(student, teacher)


@pytest.mark.parametrize("power", [0.5, 0.0, -1.0, math.inf, math.nan])
def test_powers_are_at_least_one(power: float) -> None:
    with pytest.raises(ConfigError, match=r"power is .* at least 1"):
        AttentionTransfer(power)
