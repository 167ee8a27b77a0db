"""Losses between relations of samples: distances of two, angles of three (Park et al., CVPR 2019).

Relations have no dimension of the embedding, so the student's may differ from the teacher's. Both
losses are means over all n² pairs, or n³ triples, of rows, those that name a row twice included, as
in the authors' published code. Computed in float64 for float64 students, else in float32; the
teacher gets no gradient.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from pantheon.losses.dense import comparable, full_precision


class RelationLoss(nn.Module):
    """Smooth L1 between relations of the student's rows and of the teacher's."""

    least: ClassVar[int]
    """Rows that a relation needs."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss; exactly 0, in the graph, for fewer than `least` rows.

        Args:
            student: floating embeddings ``[n, ...]``, flattened to ``[n, d]``.
            teacher: embeddings ``[n, ...]`` of the same rows, of any dimension.

        Raises:
            SchemaError: other numbers of rows.
        """
        ours, theirs = (_flat(x) for x in comparable(student, teacher))
        if len(ours) < self.least:
            return _nothing(ours)
        return functional.smooth_l1_loss(self.relations(ours), self.relations(theirs))

    @abstractmethod
    def relations(self, rows: Tensor) -> Tensor:
        """The relations of rows ``[n, d]``."""


class RKDDistance(RelationLoss):
    """Smooth L1 between the pairwise distances of student and teacher, each relative to its mean.

    The mean is that of the distances that are not 0, so that neither the diagonal nor identical
    rows take part, as in the paper. PaddleSlim divides by the mean over the diagonal too, which
    makes its relative distances of n distinct rows ``n / (n - 1)`` times as large. Memory grows
    with n².

    Example:
        >>> student = torch.tensor([[0.0], [1.0], [3.0]])
        >>> RKDDistance()(student, 10 * student.repeat(1, 2))  # scale and dimension do not matter
        tensor(0.)
    """

    least = 2

    def relations(self, rows: Tensor) -> Tensor:
        """``[n, n]``: distances relative to their mean where they are not 0."""
        # Differences rather than products: exact for near rows, and the gradient at 0 is 0.
        apart = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist")
        mean = apart.sum() / (apart > 0).sum().clamp(min=1)
        return apart / torch.where(mean > 0, mean, 1.0)


class RKDAngle(RelationLoss):
    """Smooth L1 between the cosines of the angles that every three rows form.

    ``cos(i, j, k)`` is the product of the directions from row i to j and from row i to k. Identical
    rows have no direction: it counts as 0 and carries no gradient. Memory grows with n³ + n²d.

    Example:
        >>> corner = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
        >>> RKDAngle()(corner, 2 * corner + 5).item() < 1e-6  # moved and scaled: the same angles
        True
    """

    least = 3

    def relations(self, rows: Tensor) -> Tensor:
        """``[n, n, n]``: cosines at the row of the first dimension."""
        differences = rows.unsqueeze(0) - rows.unsqueeze(1)
        length: Tensor = torch.linalg.vector_norm(differences, dim=-1, keepdim=True)
        # Division by a clamped 0 would give finite directions but gradients of 1 / clamp.
        directions = differences / torch.where(length > 0, length, 1.0) * (length > 0)
        with full_precision(rows):
            return directions @ directions.transpose(1, 2)


def _flat(rows: Tensor) -> Tensor:
    return rows.flatten(1) if rows.ndim > 1 else rows.unsqueeze(1)


def _nothing(rows: Tensor) -> Tensor:
    """0 with gradient 0, whatever the rows hold."""
    return rows[:0].sum()
