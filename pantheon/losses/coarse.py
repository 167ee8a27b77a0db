"""Two distributions over the same outcomes: every class, or the teacher's classes and the rest."""

from __future__ import annotations

import torch
from torch import Tensor

from pantheon.ragged import Rows
from pantheon.topk import TopKLogits, TopKMixture


def log_distributions(
    student: Tensor, teacher: Rows, student_temperature: float, teacher_temperature: float
) -> tuple[Tensor, Tensor]:
    """Log-probabilities of teacher and student over the same outcomes, each ``[r, m]``.

    Against dense knowledge the m outcomes are the classes. Against top-k they are the k kept
    classes and, last, all the others together; the student's share of the others is the log-sum-exp
    of its own, never one minus a sum. The mass that a mixture left is spread, see
    `TopKMixture.spread_at`: no outcome is possible for the teacher and impossible for the student.

    Args:
        student: logits ``[r, classes]``.
        teacher: logits ``[r, classes]``, or top-k of r rows.

    Raises:
        UndeclaredTemperature: top-k without this teacher temperature.
    """
    log_q = (student / student_temperature).log_softmax(-1)
    if isinstance(teacher, Tensor):
        return (teacher.to(student.dtype) / teacher_temperature).log_softmax(-1), log_q
    kept, left = _log_outcomes(teacher, teacher_temperature)
    log_p = torch.cat([kept, left.unsqueeze(-1)], -1).to(student.dtype)
    rest = log_sum_exp(log_q.masked_fill(_kept_mask(teacher), -torch.inf))
    mine = log_q.gather(-1, teacher.indices.long().clamp(min=0))
    mine = mine.masked_fill(teacher.indices < 0, -torch.inf)
    return log_p, torch.cat([mine, rest.unsqueeze(-1)], -1)


def _log_outcomes(teacher: TopKLogits | TopKMixture, temperature: float) -> tuple[Tensor, Tensor]:
    if isinstance(teacher, TopKLogits):
        return teacher.log_probs_at(temperature)
    kept, outside = teacher.spread_at(temperature)
    return kept.log(), outside.log()


def _kept_mask(teacher: TopKLogits | TopKMixture) -> Tensor:
    """bool ``[r, classes]``: classes kept. Padding (-1) falls into a column that is cut off."""
    indices = teacher.indices.long()
    columns = torch.where(indices < 0, teacher.classes, indices)
    mask = indices.new_zeros((len(indices), teacher.classes + 1), dtype=torch.bool)
    return mask.scatter_(-1, columns, True)[:, :-1]


def log_sum_exp(logs: Tensor) -> Tensor:
    """`torch.logsumexp` over the last dimension whose gradient is 0, not NaN, where all is -inf."""
    some = (logs != -torch.inf).any(-1)
    safe = torch.where(some.unsqueeze(-1), logs, 0.0)
    return torch.where(some, safe.logsumexp(-1), -torch.inf)


def divergence(log_p: Tensor, log_q: Tensor) -> Tensor:
    """KL divergence ``[r]`` of p from q; an outcome that p rules out contributes nothing.

    >>> half = torch.tensor([[0.5, 0.5, 0.0]]).log()
    >>> round(divergence(half, torch.tensor([[0.25, 0.5, 0.25]]).log()).item(), 6)
    0.346574
    """
    return torch.where(log_p != -torch.inf, log_p.exp() * (log_p - log_q), 0.0).sum(-1)
