"""A loss between layers of different shapes: the student's is brought to the teacher's."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from pantheon.errors import ConfigError
from pantheon.losses.shape_align import AlignKind, ShapeAlign


class Aligned(nn.Module):
    """A loss after a learned alignment of the student's layers, as FitNets' regressor is.

    The alignment is made at the first call, when the shapes are known; call it once before the
    optimizer is made, so that it is trained too. Layers of equal shapes need none.

    Args:
        loss: called with the aligned student's layer (or tuple of layers) and the teacher's.
        kind: how to align, see `ShapeAlign`.

    Raises:
        SchemaError: when called: shapes that cannot be aligned.

    Example:
        >>> import torch
        >>> hint = Aligned(nn.MSELoss())
        >>> loss = hint(torch.ones(2, 3, 4, 4), torch.ones(2, 5, 4, 4))
        >>> [tuple(p.shape) for p in hint.parameters()][0]
        (5, 3, 1, 1)
    """

    def __init__(self, loss: Any, kind: AlignKind = "auto") -> None:
        super().__init__()
        self.loss, self.kind = loss, kind
        self.aligns = nn.ModuleList()

    def forward(
        self, student: Tensor | Sequence[Tensor], teacher: Tensor | Sequence[Tensor], *labels: Any
    ) -> Tensor:
        """The loss of the aligned layers."""
        ours = [student] if isinstance(student, Tensor) else list(student)
        theirs = [teacher] if isinstance(teacher, Tensor) else list(teacher)
        if not all(isinstance(value, Tensor) for value in theirs):
            raise ConfigError(
                "only dense knowledge can be aligned with a layer, not top-k or ragged values; "
                "serve the field as float32 or float16"
            )
        if not len(self.aligns):
            for a, b in zip(ours, theirs, strict=True):
                made = ShapeAlign(tuple(a.shape[1:]), tuple(b.shape[1:]), self.kind)
                self.aligns.append(made.to(a.device))
        made_like = [align(a) for align, a in zip(self.aligns, ours, strict=True)]
        single = isinstance(student, Tensor)
        loss: Tensor = self.loss(
            made_like[0] if single else tuple(made_like),
            theirs[0] if single else tuple(theirs),
            *labels,
        )
        return loss
