"""Mutual learning: students that are trained together and learn from each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from pantheon.errors import SchemaError
from pantheon.losses.logits import KLDivergence


class MutualLearning(nn.Module):
    """What each of N students learns from the others (DML, Zhang et al., CVPR 2018).

    Student i's loss is the mean over the others j of
    ``T**2 * KL(softmax(z_j / T) || softmax(z_i / T))``. The others are detached: a loss moves its
    own student only, so the losses may be added up. Cross-entropy with labels is added by the
    caller.

    Args:
        temperature: T; the paper has 1.

    Raises:
        ConfigError: a temperature that is not positive and finite.

    Example:
        >>> one, two = torch.tensor([[2.0, 0.0]]), torch.tensor([[0.0, 2.0]])
        >>> [round(loss.item(), 4) for loss in MutualLearning()([one, two])]
        [1.5232, 1.5232]
    """

    def __init__(self, temperature: float = 1.0) -> None:
        super().__init__()
        self.divergence = KLDivergence(temperature)

    def forward(self, logits: Sequence[Tensor], mask: Tensor | None = None) -> list[Tensor]:
        """The losses of all students, in their order.

        Args:
            logits: of each student, ``[n, classes]`` (or ``[n, ..., classes]``), floating.
            mask: bool ``[n]``, False for samples to leave out; their gradient is exactly 0.

        Raises:
            SchemaError: fewer than two students, or shapes that differ.
        """
        _require_peers(logits)
        return [self._loss(i, logits, mask) for i in range(len(logits))]

    def _loss(self, i: int, logits: Sequence[Tensor], mask: Tensor | None) -> Tensor:
        others = [other for j, other in enumerate(logits) if j != i]
        return torch.stack([self.divergence(logits[i], z, mask=mask) for z in others]).mean()


def _require_peers(logits: Sequence[Tensor]) -> None:
    if not isinstance(logits, tuple | list) or len(logits) < 2:
        found = f"{len(logits)}" if isinstance(logits, tuple | list) else type(logits).__name__
        raise SchemaError(
            f"mutual learning needs a list of the logits of at least two students; found {found}"
        )
    for i, other in enumerate(logits):
        if not isinstance(other, Tensor):
            raise SchemaError(
                f"student {i}'s logits are a {type(other).__name__}; expected a tensor"
            )
        if other.shape != logits[0].shape:
            raise SchemaError(
                f"student 0's logits are {tuple(logits[0].shape)}, student {i}'s "
                f"{tuple(other.shape)}; expected equal shapes: the same samples and classes"
            )
