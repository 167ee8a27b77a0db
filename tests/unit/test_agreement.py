"""How far a student agrees with a teacher: values by hand, streams, masks and top-k knowledge."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from math import log

import pytest
import torch
from torch import Tensor

from pantheon.compress.measure import Agreement
from pantheon.errors import ConfigError, NotFiniteError, SchemaError, UndeclaredTemperature
from pantheon.topk import TopKLogits, TopKMixture


def logits(*rows: list[float]) -> Tensor:
    """The logarithms of probabilities."""
    return torch.tensor(rows).log()


STUDENT = logits([0.5, 0.25, 0.25], [0.25, 0.5, 0.25])
TEACHER = logits([0.25, 0.5, 0.25], [0.25, 0.5, 0.25])
FIRST_KL = 0.25 * log(0.25 / 0.5) + 0.5 * log(0.5 / 0.25)


def top(rows: list[int], tail: list[float]) -> TopKLogits:
    """The one class of each row that has probability 0.5."""
    values = torch.full((len(rows), 1), 0.5).log()
    indices = torch.tensor(rows, dtype=torch.int32)[:, None]
    return TopKLogits(values, indices, torch.tensor(tail).log()[:, None], (1.0,), 3)


def test_the_divergence_is_of_the_student_from_the_teacher_and_choices_are_counted() -> None:
    agreement = Agreement()
    agreement.add(STUDENT, TEACHER)
    found = agreement.result()
    assert found.kl == pytest.approx(FIRST_KL / 2, abs=1e-6)
    assert (found.agreement, found.samples, found.exact) == (0.5, 2, True)


def test_the_divergence_is_not_symmetric_and_the_teacher_weighs() -> None:
    agreement = Agreement()
    agreement.add(logits([0.5, 0.5]), logits([0.9, 0.1]))
    assert agreement.result().kl == pytest.approx(0.9 * log(1.8) + 0.1 * log(0.2), abs=1e-6)


def test_batches_of_unequal_length_weigh_by_their_rows() -> None:
    agreement = Agreement()
    agreement.add(STUDENT[:1], TEACHER[:1])
    for _ in range(3):
        agreement.add(STUDENT[1:].repeat(2, 1), TEACHER[1:].repeat(2, 1))
    found = agreement.result()
    assert found.kl == pytest.approx(FIRST_KL / 7, abs=1e-6)
    assert found.agreement == pytest.approx(6 / 7)
    assert agreement.samples == found.samples == 7


def test_masked_rows_do_not_count_whatever_they_hold() -> None:
    student = torch.cat([STUDENT, torch.full((1, 3), torch.nan)])
    teacher = torch.cat([TEACHER, torch.full((1, 3), torch.inf)])
    agreement = Agreement()
    agreement.add(student, teacher, torch.tensor([True, False, False]))
    found = agreement.result()
    assert found.kl == pytest.approx(FIRST_KL, abs=1e-6)
    assert (found.agreement, found.samples) == (0.0, 1)


def test_each_token_is_a_row_and_a_mask_may_be_of_tokens() -> None:
    agreement = Agreement()
    agreement.add(STUDENT[None], TEACHER[None], torch.tensor([[False, True]]))
    found = agreement.result()
    assert found.kl == pytest.approx(0.0, abs=1e-6)
    assert (found.agreement, found.samples) == (1.0, 1)


def test_top_k_knowledge_counts_the_other_classes_as_one() -> None:
    agreement = Agreement()
    agreement.add(STUDENT, top([1, 1], [0.5, 0.5]))
    found = agreement.result()
    first = 0.5 * log(0.5 / 0.25) + 0.5 * log(0.5 / 0.75)
    assert found.kl == pytest.approx(first / 2, abs=1e-6)
    assert (found.agreement, found.samples, found.exact) == (0.5, 2, False)


def test_one_top_k_batch_makes_a_stream_inexact() -> None:
    agreement = Agreement()
    agreement.add(STUDENT, top([1, 1], [0.5, 0.5]))
    agreement.add(STUDENT, TEACHER)
    assert not agreement.result().exact


def test_a_mixture_chooses_the_class_with_its_share_of_the_rest() -> None:
    mixture = TopKMixture(
        torch.tensor([[[0.25, 0.5]], [[0.75, 0.0]]]),
        torch.tensor([[0, 1], [1, -1]], dtype=torch.int32),
        torch.tensor([[0.25], [0.25]]),
        torch.zeros(2, 1, 2),
        (1.0,),
        3,
    )
    agreement = Agreement()
    agreement.add(STUDENT, mixture)
    found = agreement.result()
    second = 0.75 * log(0.75 / 0.5) + 0.25 * log(0.25 / 0.5)
    assert found.kl == pytest.approx((FIRST_KL + second) / 2, abs=1e-6)
    assert (found.agreement, found.exact) == (0.5, False)


def test_of_equal_classes_the_first_is_chosen_in_top_k_as_in_dense() -> None:
    tied = TopKLogits(
        torch.zeros(1, 2), torch.tensor([[2, 0]], dtype=torch.int32), torch.zeros(1, 1), (1.0,), 3
    )
    agreement = Agreement()
    agreement.add(torch.zeros(1, 3), tied)
    agreement.add(torch.zeros(1, 3), torch.zeros(1, 3))
    assert agreement.result().agreement == 1.0


def test_a_batch_that_cannot_be_compared_adds_nothing() -> None:
    agreement = Agreement()
    agreement.add(STUDENT, TEACHER)
    with pytest.raises(NotFiniteError, match="row 1 is nan"):
        agreement.add(torch.stack([STUDENT[0], torch.full((3,), torch.nan)]), TEACHER)
    with pytest.raises(SchemaError, match="expected"):
        agreement.add(STUDENT[:, :2], TEACHER)
    lacking = replace(top([1], [0.5]), temperatures=(2.0,))
    with pytest.raises(UndeclaredTemperature):
        agreement.add(STUDENT[:1], lacking)
    assert agreement.samples == 2
    assert agreement.result().kl == pytest.approx(FIRST_KL / 2, abs=1e-6)


def test_no_rows_have_no_mean() -> None:
    agreement = Agreement()
    agreement.add(STUDENT, TEACHER, torch.tensor([False, False]))
    assert agreement.samples == 0
    with pytest.raises(ConfigError, match="no row was compared"):
        agreement.result()


def test_gradients_are_neither_needed_nor_kept_and_json_holds_the_result() -> None:
    agreement = Agreement()
    agreement.add(STUDENT.clone().requires_grad_(), TEACHER)
    told = json.loads(json.dumps(asdict(agreement.result())))
    assert set(told) == {"kl", "agreement", "samples", "exact"}
