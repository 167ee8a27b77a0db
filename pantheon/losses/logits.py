"""Losses between a student's logits and a teacher's, dense or top-k, dense or ragged."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor, nn

from pantheon.errors import ConfigError, SchemaError
from pantheon.knowledge import Value
from pantheon.losses.coarse import divergence, log_distributions
from pantheon.losses.rows import Reduction, align
from pantheon.ragged import Ragged, Rows
from pantheon.topk import TopKMixture


def require_temperature(value: float) -> float:
    """A positive finite temperature; `ConfigError` otherwise."""
    if not 0 < value < math.inf:
        raise ConfigError(f"a temperature must be positive and finite, found {value}")
    return float(value)


class LogitLoss(nn.Module):
    """What losses on logits share. A row is one distribution: a sample, a token, a position.

    Computed in float64 for float64 students, else in float32. The teacher gets no gradient.

    Args:
        reduction: ``"batchmean"``, the mean over rows that are not masked, or ``"none"``, a loss
            for each row, 0 where masked.
    """

    def __init__(self, reduction: Reduction = "batchmean") -> None:
        super().__init__()
        if reduction not in ("batchmean", "none"):
            raise ConfigError(f"reduction is {reduction!r}; expected 'batchmean' or 'none'")
        self.reduction: Reduction = reduction

    def forward(
        self,
        student: Tensor | Ragged,
        teacher: Value,
        labels: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss.

        Args:
            student: logits ``[n, ..., classes]``; packed rows where the teacher is ragged.
            teacher: the teacher's logits of the same rows: a tensor, `TopKLogits`, `TopKMixture`,
                or `Ragged` of them.
            labels: int64 of the student's shape without classes; used by losses that say so.
            mask: bool ``[n]``, False for samples to leave out, such as padding and rows that no
                teacher answered; their gradient is exactly 0, whatever they hold.

        Raises:
            SchemaError: shapes that do not fit.
            UndeclaredTemperature: top-k knowledge without the temperature asked for.
        """
        rows = align(student, teacher, labels, mask)
        return rows.reduce(self.per_row(rows.student, rows.teacher, rows.labels), self.reduction)

    @abstractmethod
    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        """The loss ``[r]`` of rows ``[r, classes]``."""


class KLDivergence(LogitLoss):
    """``T**2 * KL(softmax(teacher / T) || softmax(student / T))`` (Hinton et al., 2015).

    T² keeps the gradient's size as the temperature changes. Against `TopKLogits` it is the
    divergence over the kept classes and one outcome for all the others: at most the full divergence
    (data processing inequality) and equal to it when every class is kept. Against a `TopKMixture`
    the mass left is spread as `TopKMixture.spread_at` says; its total variation bound holds.

    Example:
        >>> loss = KLDivergence(temperature=2.0)
        >>> round(loss(torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])).item(), 4)
        1.8485
    """

    def __init__(self, temperature: float = 1.0, reduction: Reduction = "batchmean") -> None:
        super().__init__(reduction)
        self.temperature = require_temperature(temperature)

    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        log_p, log_q = log_distributions(student, teacher, self.temperature, self.temperature)
        return divergence(log_p, log_q) * self.temperature**2


class SoftLabelCrossEntropy(LogitLoss):
    """``-sum softmax(teacher / Tt) * log softmax(student / Ts)``, without a T² factor.

    Against `TopKLogits` the classes not kept count as one outcome, which makes it at most the full
    cross-entropy.

    Example:
        >>> loss = SoftLabelCrossEntropy(student_temperature=1.0, teacher_temperature=2.0)
        >>> round(loss(torch.zeros(1, 4), torch.randn(1, 4)).item(), 4)  # log 4
        1.3863
    """

    def __init__(
        self,
        student_temperature: float = 1.0,
        teacher_temperature: float = 1.0,
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__(reduction)
        self.student_temperature = require_temperature(student_temperature)
        self.teacher_temperature = require_temperature(teacher_temperature)

    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        log_p, log_q = log_distributions(
            student, teacher, self.student_temperature, self.teacher_temperature
        )
        return -torch.where(log_p != -torch.inf, log_p.exp() * log_q, 0.0).sum(-1)


class LogitMSE(LogitLoss):
    """Mean squared difference of logits over the classes; over the kept classes for top-k.

    Raises:
        SchemaError: a `TopKMixture`, which has probabilities and no logits.

    Example:
        >>> LogitMSE()(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
        tensor(2.)
    """

    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        if isinstance(teacher, Tensor):
            return (student - teacher.to(student.dtype)).square().mean(-1)
        if isinstance(teacher, TopKMixture):
            raise SchemaError("a mixture of top-k has no logits; use KLDivergence")
        kept = student.gather(-1, teacher.indices.long())
        return (kept - teacher.values.to(student.dtype)).square().mean(-1)
