"""A student's inner outputs brought to the shape of the teacher's by a layer that is learned."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from torch import Tensor, nn
from torch.nn import functional

from pantheon.errors import ConfigError, SchemaError

AlignKind = Literal["auto", "conv1x1", "conv3x3", "conv1x1_bn", "conv3x3_bn", "linear"]
"""How `ShapeAlign` changes channels."""


class ShapeAlign(nn.Module):
    """From the student's shape of one sample to the teacher's (FitNets, Romero et al., 2015).

    Maps ``[c, h, w]`` go through a convolution, vectors ``[d]`` and tokens ``[t, d]`` through a
    linear layer over the last dimension. Both have a bias, since features need not have mean 0; a
    convolution before a batch norm has none. A height or width that is larger than the teacher's is
    averaged adaptively before the layer, a smaller one interpolated bilinearly after it, so that
    the layer sees the fewest positions. Parameters are drawn from torch's global generator, as
    torch's layers do, and must be given to the optimizer.

    Args:
        student_shape: ``[c, h, w]``, ``[t, d]`` or ``[d]``, without the rows; packed rows of ragged
            values have the shape ``[d]``.
        teacher_shape: as many dimensions, and as many tokens.
        kind: ``"auto"``, a 1x1 convolution or a linear layer where the channels (or d) differ, and
            no parameters where they agree; or the layer's name, which is then there in any case.

    Raises:
        SchemaError: shapes that this cannot bring together.
        ConfigError: an unknown kind, or one for outputs of another kind.

    Example:
        >>> import torch
        >>> ShapeAlign((8, 4, 4), (16, 2, 2))(torch.zeros(5, 8, 4, 4)).shape
        torch.Size([5, 16, 2, 2])
        >>> list(ShapeAlign((8, 4, 4), (8, 4, 4)).parameters())
        []
    """

    def __init__(
        self,
        student_shape: Sequence[int],
        teacher_shape: Sequence[int],
        kind: AlignKind = "auto",
    ) -> None:
        super().__init__()
        self.student_shape, self.teacher_shape = tuple(student_shape), tuple(teacher_shape)
        _require_alignable(self.student_shape, self.teacher_shape)
        self.layer = _layer(self.student_shape, self.teacher_shape, kind)

    def forward(self, student: Tensor) -> Tensor:
        """The student's output ``[n, *teacher_shape]``, in the dtype of the parameters, if any.

        Args:
            student: floating ``[n, *student_shape]``.

        Raises:
            SchemaError: an output of another shape.
        """
        if not isinstance(student, Tensor) or tuple(student.shape[1:]) != self.student_shape:
            found = tuple(student.shape) if isinstance(student, Tensor) else type(student).__name__
            raise SchemaError(
                f"the student's output is {found}; expected rows of {self.student_shape}, to be "
                f"aligned to {self.teacher_shape}; give ShapeAlign the shape that the student has"
            )
        weight = next(self.parameters(), None)
        student = student if weight is None else student.to(weight.dtype)
        if len(self.student_shape) < 3:
            aligned: Tensor = self.layer(student)
            return aligned
        return self._align_maps(student)

    def _align_maps(self, maps: Tensor) -> Tensor:
        (_, height, width), theirs = self.student_shape, self.teacher_shape[1:]
        least = min(height, theirs[0]), min(width, theirs[1])
        if least != (height, width):
            maps = functional.adaptive_avg_pool2d(maps, least)
        maps = self.layer(maps)
        if least == theirs:
            return maps
        return functional.interpolate(maps, theirs, mode="bilinear", align_corners=False)


def _require_alignable(student: tuple[int, ...], teacher: tuple[int, ...]) -> None:
    found = f"the student's output is {student}, the teacher's {teacher}, rows not counted"
    if len(student) != len(teacher):
        raise SchemaError(
            f"{found}; expected equally many dimensions; pool, flatten or reshape one of the two "
            "first, or compare other layers"
        )
    if not 1 <= len(student) <= 3 or min(student + teacher) < 1:
        raise SchemaError(
            f"{found}; expected positive [channels, height, width], [tokens, d] or [d]; flatten "
            "others first"
        )
    if len(student) == 2 and student[0] != teacher[0]:
        raise SchemaError(
            f"{found}; expected equally many tokens; cut both to the same tokens, or compare means "
            "over the tokens"
        )


def _layer(student: tuple[int, ...], teacher: tuple[int, ...], kind: AlignKind) -> nn.Module:
    """The layer that changes the channels, or nothing if none is needed."""
    if kind not in get_args(AlignKind):
        raise ConfigError(f"kind is {kind!r}; expected one of {', '.join(get_args(AlignKind))}")
    maps = len(student) == 3
    if kind != "auto" and kind.startswith("conv") != maps:
        expected = "a convolution for [channels, height, width]" if maps else "'linear'"
        raise ConfigError(
            f"kind is {kind!r} for a student's output {student} and a teacher's {teacher}; "
            f"expected {expected}, or 'auto'"
        )
    channel = 0 if maps else -1
    before, after = student[channel], teacher[channel]
    if kind == "auto" and before == after:
        return nn.Identity()
    return _convolution(before, after, kind) if maps else nn.Linear(before, after)


def _convolution(before: int, after: int, kind: str) -> nn.Module:
    size, norm = (3 if "3x3" in kind else 1), kind.endswith("_bn")
    convolution = nn.Conv2d(before, after, size, padding=size // 2, bias=not norm)
    return nn.Sequential(convolution, nn.BatchNorm2d(after)) if norm else convolution
