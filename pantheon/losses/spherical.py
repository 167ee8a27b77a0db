"""Spherical distillation: logits compared on a sphere, so that confidence does not matter."""

from __future__ import annotations

import math

from torch import Tensor
from torch.nn import functional

from pantheon.errors import ConfigError, SchemaError
from pantheon.losses.logits import LogitLoss
from pantheon.losses.rows import Reduction
from pantheon.ragged import Rows

EPSILON = 1e-7
"""Added to a row's variance, which keeps rows of equal logits at 0."""


class SphericalKD(LogitLoss):
    """Cross-entropy of normalised logits, ``-sum softmax(teacher') * log softmax(student')``.

    A row of logits z becomes ``z' = (z - mean) / sqrt(variance + 1e-7) * multiplier`` (Guo et al.,
    2020), the variance being the biased one, as in a layer norm. The student learns the direction
    of the teacher's logits and not their size. Logits must be finite.

    Args:
        multiplier: size of the normalised logits; by default, row by row, the biased standard
            deviation of the teacher's logits, which leaves the teacher's distribution as it is.

    Raises:
        ConfigError: a multiplier that is not positive and finite.
        SchemaError: when called, knowledge other than dense: the mean of all logits is not known.

    Example:
        >>> import torch
        >>> teacher = torch.tensor([[3.0, 1.0]])
        >>> a, b = (SphericalKD()(teacher * scale, teacher).item() for scale in (1, 10))
        >>> round(a, 4) == round(b, 4) == 0.3653
        True
    """

    def __init__(self, multiplier: float | None = None, reduction: Reduction = "batchmean") -> None:
        super().__init__(reduction)
        if multiplier is not None and not 0 < multiplier < math.inf:
            raise ConfigError(f"a multiplier must be positive and finite, found {multiplier}")
        self.multiplier = multiplier

    def per_row(self, student: Tensor, teacher: Rows, labels: Tensor | None) -> Tensor:
        if not isinstance(teacher, Tensor):
            raise SchemaError(
                f"SphericalKD needs every logit, found {type(teacher).__name__}; let the teacher "
                "answer with a dense codec such as float16, or use KLDivergence"
            )
        teacher = teacher.to(student.dtype)
        size: Tensor | float = (
            teacher.std(-1, correction=0, keepdim=True)
            if self.multiplier is None
            else self.multiplier
        )
        probs = (_normalised(teacher) * size).softmax(-1)
        return -(probs * (_normalised(student) * size).log_softmax(-1)).sum(-1)


def _normalised(logits: Tensor) -> Tensor:
    return functional.layer_norm(logits, logits.shape[-1:], eps=EPSILON)
