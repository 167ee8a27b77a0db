"""How close a model's answers are to its teacher's: their divergence, and their first choices."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pantheon.errors import ConfigError, NotFiniteError
from pantheon.knowledge import Value
from pantheon.losses import KLDivergence
from pantheon.losses.rows import AlignedRows, align
from pantheon.ragged import Ragged, Rows
from pantheon.topk import TopKLogits, TopKMixture


@dataclass(frozen=True)
class Agreed:
    """How far a student agrees with a teacher. A row is a sample, a token or a position.

    Args:
        kl: mean of KL(teacher || student) at temperature 1 over the rows, nats.
        agreement: share of rows whose most probable class is the same, 0 to 1.
        samples: how many rows were compared.
        exact: False where some knowledge was top-k, whose other classes count as one, so that `kl`
            is at most the divergence over all classes (or, of a mixture, an estimate).
    """

    kl: float
    agreement: float
    samples: int
    exact: bool


class Agreement:
    """Adds up, batch by batch, how far a student agrees with a teacher.

    Sums are kept in float64. Each row is computed in float64 for float64 students, else in float32,
    whose rounding may leave some 1e-7 nats, of either sign, where the two are equal.

    Example:
        >>> agreement = Agreement()
        >>> teacher = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
        >>> for student, row in zip(torch.tensor([[2.0, 0.0], [0.0, 0.0]]), teacher):
        ...     agreement.add(student[None], row[None])
        >>> found = agreement.result()
        >>> round(found.kl, 4), found.agreement, found.samples
        (0.0555, 0.5, 2)
    """

    def __init__(self) -> None:
        self._loss = KLDivergence(reduction="none")
        self._kl, self._same, self._samples, self._exact = 0.0, 0, 0, True

    @torch.no_grad()
    def add(self, student: Tensor | Ragged, teacher: Value, mask: Tensor | None = None) -> None:
        """Compare the rows of one batch.

        Args:
            student: logits ``[n, ..., classes]``; packed rows where the teacher is ragged.
            teacher: the teacher's logits of the same rows, on the same device: a tensor,
                `TopKLogits`, `TopKMixture`, or `Ragged` of them.
            mask: bool ``[n]``, or of the logits' shape without classes; False for rows to leave
                out, such as padding and rows that no teacher answered.

        Raises:
            SchemaError: shapes that do not fit.
            UndeclaredTemperature: top-k knowledge without temperature 1.
            NotFiniteError: a row whose divergence is infinite or no number; nothing is added.
        """
        rows = align(student, teacher, None, mask)
        losses = self._loss.per_row(rows.student, rows.teacher, None)
        _require_finite(losses, rows)
        same = rows.student.argmax(-1) == _first_choice(rows.teacher)
        # On the CPU, since not every device has float64.
        self._kl += losses.cpu().double().sum().item()
        self._same += int(same.sum())
        self._samples += len(losses)
        self._exact &= _whole(rows.teacher)

    @property
    def samples(self) -> int:
        """How many rows were compared so far."""
        return self._samples

    def result(self) -> Agreed:
        """Over all rows so far.

        Raises:
            ConfigError: there were none.
        """
        if not self._samples:
            raise ConfigError(
                "no row was compared, so that there is no mean; add a batch whose mask keeps some"
            )
        return Agreed(
            self._kl / self._samples, self._same / self._samples, self._samples, exact=self._exact
        )


def _first_choice(teacher: Rows) -> Tensor:
    """The most probable class ``[r]``, the lowest of several, as `torch.argmax` says."""
    if isinstance(teacher, Tensor):
        return teacher.argmax(-1)
    score = teacher.values if isinstance(teacher, TopKLogits) else teacher.spread_at(1.0)[0]
    best = (score == score.amax(-1, keepdim=True)) & (teacher.indices >= 0)
    return teacher.indices.long().masked_fill(~best, teacher.classes).amin(-1)


def _whole(teacher: Rows) -> bool:
    """Whether the teacher told every class's probability."""
    if isinstance(teacher, TopKMixture):
        return False
    return isinstance(teacher, Tensor) or teacher.k == teacher.classes


def _require_finite(losses: Tensor, rows: AlignedRows) -> None:
    bad = (~losses.isfinite()).nonzero()
    if len(bad):
        row = int(bad[0])
        where = row if rows.kept is None else int(rows.kept.nonzero()[row])
        raise NotFiniteError(
            f"the divergence of row {where} is {losses[row].item()}; expected finite logits of "
            "both: look for NaN or infinity in what the student and the teacher answered, or mask "
            "the row"
        )
