"""Decoupled knowledge distillation: the target class and the others, each with its own weight."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from pantheon.errors import ConfigError, SchemaError
from pantheon.losses.coarse import divergence, log_distributions, log_sum_exp
from pantheon.losses.logits import LogitLoss, require_temperature
from pantheon.losses.rows import Reduction
from pantheon.ragged import Rows


class DKD(LogitLoss):
    """``T**2 * (alpha * TCKD + beta * NCKD)`` (Zhao et al., CVPR 2022).

    TCKD is the divergence of (target, not target), NCKD that of the other classes among themselves.
    ``alpha = 1`` and ``beta = 1 - p(target)`` would be `KLDivergence`. Against `TopKLogits` the
    classes not kept are one outcome among the others: TCKD is exact, NCKD at most the full one.

    Args:
        alpha, beta: weights of the two terms.
        temperature: T.
        mask: the target is the ``"label"`` or the ``"teacher"``'s most probable class.
        absent: with labels and top-k, a label that the teacher did not keep has no known
            probability: ``"raise"``, or ``"skip"``: such rows count with loss 0, and `skipped`
            counts them.

    Raises:
        SchemaError: when called: no labels for ``mask="label"``, labels that are no classes, or
            labels that the teacher's top-k lacks.

    Example:
        >>> logits = torch.tensor([[2.0, 1.0, 0.0]])
        >>> DKD(alpha=1.0, beta=8.0, temperature=4.0)(logits, logits, torch.tensor([0])).item()
        0.0
    """

    def __init__(
        self,
        alpha: float = 1.0,
        beta: float = 8.0,
        temperature: float = 4.0,
        mask: Literal["label", "teacher"] = "label",
        absent: Literal["raise", "skip"] = "raise",
        reduction: Reduction = "batchmean",
    ) -> None:
        super().__init__(reduction)
        if mask not in ("label", "teacher") or absent not in ("raise", "skip"):
            raise ConfigError(
                f"mask is {mask!r} and absent {absent!r}; expected 'label' or 'teacher', and "
                "'raise' or 'skip'"
            )
        self.alpha, self.beta, self.temperature = alpha, beta, require_temperature(temperature)
        self.mask, self.absent = mask, absent
        self.skipped = 0
        """Rows skipped so far because the teacher's top-k lacks their label."""

    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        log_p, log_q = log_distributions(student, teacher, self.temperature, self.temperature)
        if self.mask == "teacher":
            known = log_p if isinstance(teacher, Tensor) else log_p[:, :-1]
            return self._decoupled(log_p, log_q, known.argmax(-1))
        target, there = self._label_columns(teacher, labels, student.shape[-1])
        if bool(there.all()):
            return self._decoupled(log_p, log_q, target)
        if self.absent == "raise":
            row = int((~there).nonzero()[0])
            raise SchemaError(
                f"the label of row {row} is not among the teacher's top-k; keep more classes, or "
                "use DKD(mask='teacher') or DKD(absent='skip')"
            )
        self.skipped += int((~there).sum())
        losses = self._decoupled(log_p[there], log_q[there], target[there])
        return losses.new_zeros(len(there)).masked_scatter(there, losses)

    def _label_columns(
        self, teacher: Rows, labels: Tensor | None, classes: int
    ) -> tuple[Tensor, Tensor]:
        """Where each row's label stands among the outcomes, and whether it does."""
        if labels is None:
            raise SchemaError("DKD(mask='label') needs labels; pass them, or use mask='teacher'")
        if labels.numel() and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
            raise SchemaError(
                f"labels are from {int(labels.min())} to {int(labels.max())}; expected 0 to "
                f"{classes - 1}; mask the rows that have no label"
            )
        if isinstance(teacher, Tensor):
            return labels, torch.ones_like(labels, dtype=torch.bool)
        same = teacher.indices == labels.unsqueeze(-1)
        return same.int().argmax(-1), same.any(-1)

    def _decoupled(self, log_p: Tensor, log_q: Tensor, target: Tensor) -> Tensor:
        pair, others = zip(*(_decouple(x, target) for x in (log_p, log_q)), strict=True)
        loss = self.alpha * divergence(*pair) + self.beta * divergence(*others)
        return loss * self.temperature**2


def _decouple(logs: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Log-probabilities ``[r, 2]`` of target and not target, and ``[r, m]`` among the others."""
    column = target.unsqueeze(-1)
    others = logs.scatter(-1, column, -torch.inf)
    rest = log_sum_exp(others).unsqueeze(-1)
    # Where nothing is left beside the target, `others` stays -inf and its divergence is 0.
    inner = others - torch.where(rest > -torch.inf, rest, 0.0)
    return torch.cat([logs.gather(-1, column), rest], -1), inner
