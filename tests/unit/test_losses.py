"""Losses on logits give hand-computed values, right gradients and stated bounds for top-k."""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from pantheon.codec import top_k
from pantheon.errors import ConfigError, SchemaError, UndeclaredTemperature
from pantheon.knowledge import Ragged, TopKLogits, TopKMixture, Value
from pantheon.losses import DKD, KLDivergence, LogitLoss, LogitMSE, SoftLabelCrossEntropy
from pantheon.merge.mixture import mix_topk
from tests.unit.values import logits, tensors_of

HEAT = (1.0, 2.0, 4.0)
LABELS = torch.tensor([0, 3, 1])
LOSSES: dict[str, Callable[..., LogitLoss]] = {
    "kl": lambda **k: KLDivergence(2.0, **k),
    "ce": lambda **k: SoftLabelCrossEntropy(1.0, 2.0, **k),
    "mse": LogitMSE,
    "dkd-label": lambda **k: DKD(1.0, 8.0, 4.0, absent="skip", **k),
    "dkd-teacher": lambda **k: DKD(1.0, 8.0, 4.0, mask="teacher", **k),
}
named = pytest.mark.parametrize("name", LOSSES)


def rows(*probabilities: float) -> Tensor:
    """Logits of one row with these probabilities."""
    return torch.tensor([probabilities], dtype=torch.float64).log()


# Teacher (1/2, 1/4, 1/4), student (1/4, 1/2, 1/4): every value below is worked out by hand.
TEACHER, STUDENT = rows(0.5, 0.25, 0.25), rows(0.25, 0.5, 0.25)


def test_kl_by_hand() -> None:
    # 1/2 log 2 + 1/4 log 1/2 + 0 = 1/4 log 2
    assert KLDivergence()(STUDENT, TEACHER).item() == pytest.approx(math.log(2) / 4)


def test_kl_at_a_temperature_is_scaled_by_its_square() -> None:
    # At T = 1/2 probabilities are squared: teacher (4, 1, 1) / 6, student (1, 4, 1) / 6.
    expected = (4 / 6 * math.log(4) + 1 / 6 * math.log(1 / 4)) / 4
    assert KLDivergence(0.5)(STUDENT, TEACHER).item() == pytest.approx(expected)


def test_soft_label_cross_entropy_by_hand() -> None:
    # 1/2 log 4 + 1/4 log 2 + 1/4 log 4 = 7/4 log 2
    one = SoftLabelCrossEntropy()(STUDENT, TEACHER)
    assert one.item() == pytest.approx(7 / 4 * math.log(2))
    # Teacher at 1/2: (4, 1, 1) / 6 against the student at 1: 4/6 log 4 + 1/6 log 2 + 1/6 log 4.
    two = SoftLabelCrossEntropy(student_temperature=1.0, teacher_temperature=0.5)(STUDENT, TEACHER)
    assert two.item() == pytest.approx(11 / 6 * math.log(2))


def test_mse_by_hand() -> None:
    student, teacher = (
        torch.tensor([[1.0, 2.0], [0.0, 0.0]]),
        torch.tensor([[2.0, 4.0], [0.0, 1.0]]),
    )
    assert LogitMSE()(student, teacher).item() == 1.5  # (1 + 4) / 2 and (0 + 1) / 2


def test_dkd_by_hand() -> None:
    # Target 0: teacher (1/2 | 1/2, 1/2), student (1/4 | 2/3, 1/3).
    target = 0.5 * math.log(0.5 / 0.25) + 0.5 * math.log(0.5 / 0.75)
    others = 0.5 * math.log(0.5 / (2 / 3)) + 0.5 * math.log(0.5 / (1 / 3))
    for alpha, beta in ((1.0, 0.0), (0.0, 1.0), (1.0, 8.0)):
        expected = alpha * target + beta * others
        for mask in ("label", "teacher"):
            loss = DKD(alpha, beta, temperature=1.0, mask=mask)
            labels = torch.tensor([0]) if mask == "label" else None
            assert loss(STUDENT, TEACHER, labels).item() == pytest.approx(expected)


def test_dkd_by_label_and_by_teacher_differ_where_the_teacher_errs() -> None:
    label = torch.tensor([2])
    by_label = DKD(1, 0, 1.0)(STUDENT, TEACHER, label)
    assert by_label.item() == pytest.approx(0.0)  # both give the label 1/4
    assert DKD(1, 0, 1.0, mask="teacher")(STUDENT, TEACHER, label).item() > 0.1


@given(st.integers(0, 1000), st.sampled_from([1.0, 2.0, 4.0]))
def test_dkd_weighted_by_the_teachers_doubt_is_kl(seed: int, temperature: float) -> None:
    # Equation 7 of the paper: KL = TCKD + (1 - p_target) NCKD.
    student, teacher = (logits(1, 6, seed=seed + i).double() for i in (0, 5000))
    label = torch.tensor([seed % 6])
    doubt = 1 - (teacher / temperature).softmax(1)[0, label].item()
    dkd = DKD(1.0, doubt, temperature)(student, teacher, label)
    assert dkd.item() == pytest.approx(KLDivergence(temperature)(student, teacher).item(), abs=1e-9)


def test_kl_agrees_with_torch() -> None:
    student, teacher = logits(5, 7), logits(5, 7, seed=1)
    expected = functional.kl_div(
        (student / 4).log_softmax(1), (teacher / 4).softmax(1), reduction="batchmean"
    )
    assert torch.allclose(KLDivergence(4.0)(student, teacher), expected * 16)


def topk_of(teacher: Tensor, k: int) -> TopKLogits:
    return top_k(teacher, k, HEAT)


def mixture_of(teacher: Tensor, k: int) -> TopKMixture:
    return mix_topk([(0.6, topk_of(teacher, k)), (0.4, topk_of(teacher.roll(1, -1), 2))], HEAT)


TEACHERS: dict[str, Callable[[Tensor], Value]] = {
    "dense": lambda t: t,
    "topk": lambda t: topk_of(t, 3),
    "topk of all": lambda t: topk_of(t, 9),
    "mixture": lambda t: mixture_of(t, 3),
    "mixture of all": lambda t: mixture_of(t, 9),
}


def paired(*kinds: str) -> pytest.MarkDecorator:
    """Every loss with every kind of teacher; a mixture has no logits to compare by MSE."""
    cases = [(n, k) for n in LOSSES for k in kinds if not (n == "mse" and "mixture" in k)]
    return pytest.mark.parametrize(("name", "kind"), cases)


@paired(*TEACHERS)
@pytest.mark.parametrize(("reduction", "masked"), [("batchmean", False), ("none", True)])
def test_gradients_are_right(name: str, kind: str, reduction: str, masked: bool) -> None:
    teacher = TEACHERS[kind](logits(3, 5, seed=1, scale=1.0))
    student = logits(3, 5, scale=1.0).double().requires_grad_()
    mask = torch.tensor([True, False, True]) if masked else None
    loss = LOSSES[name](reduction=reduction)
    assert torch.autograd.gradcheck(lambda s: loss(s, teacher, LABELS, mask), (student,))


@paired("dense", "topk", "mixture")
@pytest.mark.parametrize("filling", [math.nan, math.inf, -math.inf])
def test_masked_rows_reach_neither_loss_nor_gradient(name: str, kind: str, filling: float) -> None:
    mask = torch.tensor([True, False, True])
    clean, teacher = logits(3, 5), logits(3, 5, seed=1)
    spoilt, known = clean.clone(), TEACHERS[kind](teacher.clone())
    spoilt[1] = filling
    tensors_of(known)[0][1] = filling
    student = spoilt.requires_grad_()
    labels = torch.tensor([0, -100, 1])
    loss = LOSSES[name]()(student, known, labels, mask)
    loss.backward()
    fresh = TEACHERS[kind](teacher[mask])
    assert loss.item() == pytest.approx(LOSSES[name]()(clean[mask], fresh, labels[mask]).item())
    assert student.grad is not None
    assert student.grad[1].tolist() == [0.0] * 5
    assert bool(student.grad[0].abs().sum() > 0)
    each = LOSSES[name](reduction="none")(student, known, labels, mask)
    assert each.shape == (3,)
    assert each[1] == 0
    assert each.sum().item() == pytest.approx(2 * loss.item())


@named
def test_a_batch_without_real_rows_has_loss_and_gradient_zero(name: str) -> None:
    student = logits(3, 5).requires_grad_()
    loss = LOSSES[name]()(student, logits(3, 5, seed=1), LABELS, torch.zeros(3, dtype=torch.bool))
    loss.backward()
    assert loss.item() == 0
    assert student.grad is not None
    assert not student.grad.any()


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5000), st.integers(1, 8), st.sampled_from(HEAT), st.floats(0.1, 10))
def test_top_k_losses_are_at_most_the_full_ones(
    seed: int, k: int, temperature: float, scale: float
) -> None:
    student, teacher = logits(2, 8, seed=seed), logits(2, 8, seed=seed + 7000, scale=scale)
    topk = topk_of(teacher, k)
    for loss in (
        KLDivergence(temperature, reduction="none"),
        SoftLabelCrossEntropy(1.5, temperature, reduction="none"),
        DKD(1.0, 8.0, temperature, mask="teacher", reduction="none"),
    ):
        full, coarse = loss(student, teacher), loss(student, topk)
        assert bool((coarse >= -1e-4).all())
        assert bool((coarse <= full + 1e-4 * (1 + full.abs())).all())
        if k == 8:
            assert torch.allclose(coarse, full, rtol=1e-4, atol=1e-4)


def test_more_kept_classes_never_lower_the_divergence() -> None:
    student, teacher = logits(4, 20), logits(4, 20, seed=1)
    each = [KLDivergence()(student, topk_of(teacher, k)).item() for k in range(1, 21)]
    assert all(a <= b + 1e-5 for a, b in pairwise(each))
    assert each[-1] == pytest.approx(KLDivergence()(student, teacher).item(), rel=1e-5)


def test_the_students_tail_is_not_lost_to_cancellation() -> None:
    # The student's others have e**-50 together: 1 - p would be 0, its logarithm infinite.
    student, teacher = torch.tensor([[50.0, 0.0, -60.0]]), torch.tensor([[0.0, 0.0, -60.0]])
    loss = KLDivergence()(student, top_k(teacher, 1))
    assert loss.item() == pytest.approx(0.5 * math.log(0.5) + 0.5 * (math.log(0.5) + 50), rel=1e-5)


def test_a_mixture_that_keeps_all_is_the_mean_of_the_teachers() -> None:
    student, a, b = logits(3, 6), logits(3, 6, seed=1), logits(3, 6, seed=2)
    mixture = mix_topk([(0.25, topk_of(a, 6)), (0.75, topk_of(b, 6))], HEAT)
    dense = (0.25 * (a / 2).softmax(1) + 0.75 * (b / 2).softmax(1)).log() * 2
    for loss in (
        KLDivergence(2.0),
        SoftLabelCrossEntropy(1.0, 2.0),
        DKD(1, 8, 2.0, mask="teacher"),
    ):
        assert torch.allclose(loss(student, mixture), loss(student, dense), rtol=1e-4)


@paired(*TEACHERS)
def test_positions_count_as_rows(name: str, kind: str) -> None:
    student, teacher = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    labels = torch.arange(6) % 5
    deep = LOSSES[name](reduction="none")(student, TEACHERS[kind](teacher), labels.view(2, 3))
    flat = LOSSES[name](reduction="none")(
        student.view(6, 5), TEACHERS[kind](teacher.view(6, 5)), labels
    )
    assert deep.shape == (2, 3)
    assert torch.allclose(deep.view(-1), flat)


def test_a_mask_may_be_of_samples_or_of_positions() -> None:
    student, teacher = logits(2, 3, 5), logits(2, 3, 5, seed=1)
    each = KLDivergence(reduction="none")(student, teacher)
    one = KLDivergence()(student, teacher, mask=torch.tensor([False, True]))
    assert torch.allclose(one, each[1].mean())
    some = torch.tensor([[True, False, False], [False, True, True]])
    assert torch.allclose(KLDivergence()(student, teacher, mask=some), each[some].mean())


@paired("dense", "topk")
def test_ragged_knowledge_is_compared_row_by_row(name: str, kind: str) -> None:
    lengths = torch.tensor([2, 0, 3])
    student, known = logits(5, 5), TEACHERS[kind](logits(5, 5, seed=1))
    assert not isinstance(known, Ragged)
    labels = torch.arange(5)
    expected = LOSSES[name]()(student, known, labels)
    ragged = Ragged(known, lengths)
    assert LOSSES[name]()(student, ragged, labels).equal(expected)
    assert LOSSES[name]()(Ragged(student, lengths), ragged, labels).equal(expected)
    mask = torch.tensor([False, True, True])
    last = LOSSES[name]()(student[2:], known[2:], labels[2:])
    assert torch.allclose(LOSSES[name]()(student, ragged, labels, mask), last)


def test_half_precision_students_are_computed_in_float32() -> None:
    student = logits(3, 5).half().requires_grad_()
    loss = KLDivergence()(student, logits(3, 5, seed=1))
    assert loss.dtype is torch.float32
    loss.backward()
    assert student.grad is not None
    assert student.grad.dtype is torch.float16


def test_the_teacher_gets_no_gradient() -> None:
    teacher = logits(3, 5, seed=1).requires_grad_()
    KLDivergence()(logits(3, 5).requires_grad_(), teacher).backward()
    assert teacher.grad is None


def test_classes_that_the_teacher_rules_out_cost_nothing() -> None:
    teacher = torch.tensor([[0.0, 0.0, -math.inf]])
    student = torch.tensor([[0.0, 0.0, -math.inf]], requires_grad=True)
    for loss in (KLDivergence(), SoftLabelCrossEntropy(), DKD(mask="teacher")):
        value = loss(student, teacher)
        value.backward()
        assert math.isfinite(value.item())
        assert student.grad is not None
        assert bool(student.grad.isfinite().all())


def test_labels_outside_the_top_k_raise_or_are_skipped_and_counted() -> None:
    teacher = torch.tensor([[3.0, 2.0, 1.0, 0.0]] * 2)
    labels = torch.tensor([0, 3])
    with pytest.raises(SchemaError, match="label of row 1 is not among the teacher's top-k"):
        DKD()(logits(2, 4), top_k(teacher, 2, HEAT), labels)
    skipping = DKD(absent="skip", reduction="none")
    each = skipping(logits(2, 4), top_k(teacher, 2, HEAT), labels)
    assert each[0] > 0
    assert each[1] == 0
    assert skipping.skipped == 1


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (None, "needs labels"),
        (torch.tensor([0, 5]), "from 0 to 5; expected 0 to 3"),
        (torch.tensor([-100, 0]), "from -100 to 0"),
        (torch.tensor([0.0, 1.0]), "expected integers"),
        (torch.tensor([0]), r"of shape \(2,\)"),
    ],
)
def test_labels_that_cannot_be_are_refused(labels: Tensor | None, message: str) -> None:
    with pytest.raises(SchemaError, match=message):
        DKD()(logits(2, 4), logits(2, 4, seed=1), labels)


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SchemaError, match=r"\(2, 4\), the teacher's \(2, 5\)"):
        KLDivergence()(logits(2, 4), logits(2, 5))
    with pytest.raises(SchemaError, match=r"\(2, 4\), the teacher's \(3, 4\)"):
        KLDivergence()(logits(2, 4), top_k(logits(3, 4), 2))
    one, two = (Ragged(logits(3, 4), torch.tensor(s)) for s in ([1, 2], [2, 1]))
    with pytest.raises(SchemaError, match="other lengths"):
        KLDivergence()(one, two)
    with pytest.raises(SchemaError, match="floating tensor"):
        KLDivergence()(torch.zeros(4), torch.zeros(4))


@pytest.mark.parametrize(
    ("mask", "message"),
    [
        (torch.ones(2), "must be bool"),
        (torch.ones(3, dtype=torch.bool), r"\(3,\) does not fit rows \(2,\)"),
    ],
)
def test_masks_that_do_not_fit_are_refused(mask: Tensor, message: str) -> None:
    ragged = Ragged(logits(4, 4), torch.tensor([1, 3]))
    with pytest.raises(SchemaError, match=message):
        KLDivergence()(logits(2, 4), logits(2, 4), mask=mask)
    with pytest.raises(
        SchemaError, match=r"mask of 3 samples for ragged knowledge of 2|must be bool"
    ):
        KLDivergence()(logits(4, 4), ragged, mask=mask)


def test_undeclared_temperatures_raise() -> None:
    with pytest.raises(UndeclaredTemperature, match="1, 2, 4, not 3"):
        KLDivergence(3.0)(logits(2, 4), topk_of(logits(2, 4), 2))


def test_a_mixture_has_no_logits_to_compare() -> None:
    with pytest.raises(SchemaError, match="use KLDivergence"):
        LogitMSE()(logits(2, 4), mixture_of(logits(2, 4), 2))


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_temperatures_must_be_positive(temperature: float) -> None:
    for make in (KLDivergence, SoftLabelCrossEntropy, lambda t: DKD(temperature=t)):
        with pytest.raises(ConfigError, match="temperature"):
            make(temperature)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(ConfigError, match="'mean'; expected 'batchmean' or 'none'"):
        KLDivergence(reduction="mean")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="mask is 'top1'"):
        DKD(mask="top1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "loss", [KLDivergence(2.0), SoftLabelCrossEntropy(), LogitMSE(), DKD(mask="teacher")]
)
def test_knowledge_that_is_no_number_makes_no_loss_of_zero(loss: LogitLoss) -> None:
    teacher = torch.tensor([[1.0, torch.nan, 0.0]])
    assert loss(torch.zeros(1, 3), teacher).isnan()
    assert loss(torch.zeros(1, 3), torch.full((1, 3), torch.nan)).isnan()
