"""Losses between outputs of inner layers: their values, the flow between two, their attention.

Rows come first. Every loss answers a scalar, the mean over the rows, 0 if there are none; it is
computed in float64 for float64 students, else in float32, and the teacher gets no gradient.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional

from pantheon.errors import ConfigError, SchemaError
from pantheon.losses.dense import comparable, full_precision, mean


class FeatureMSE(nn.Module):
    """Mean squared difference of all values.

    Hints (FitNets, Romero et al., 2015) are this loss after a `ShapeAlign` of the student.

    Example:
        >>> import torch
        >>> FeatureMSE()(torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 4.0]]))
        tensor(2.)
        >>> from pantheon.losses import ShapeAlign
        >>> hint, align = FeatureMSE(), ShapeAlign((8, 4, 4), (16, 2, 2))
        >>> hint(align(torch.zeros(5, 8, 4, 4)), torch.zeros(5, 16, 2, 2)).shape
        torch.Size([])
    """

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss.

        Args:
            student: floating ``[n, ...]``.
            teacher: of the same shape.

        Raises:
            SchemaError: shapes that differ.
        """
        student, teacher = comparable(student, teacher)
        if student.shape != teacher.shape:
            raise SchemaError(
                f"the student's output is {tuple(student.shape)}, the teacher's "
                f"{tuple(teacher.shape)}; expected equal shapes; a ShapeAlign brings the student's "
                "output to the teacher's shape"
            )
        return mean((student - teacher).square())


class FSP(nn.Module):
    """Flow of the solution procedure: what two layers have in common (Yim et al., CVPR 2017).

    The flow from a map x ``[n, c, h, w]`` to a map y ``[n, e, h, w]`` is
    ``F[b, i, j] = sum over h, w of x[b, i] * y[b, j] / (h * w)``, and the loss
    ``mean((F_student - F_teacher)**2)``. If the two maps of a pair differ in size, the larger one
    is brought to the smaller one's by adaptive max pooling, after the paper's max pooling; height
    and width each count for themselves. The student's sizes may differ from the teacher's.

    Example:
        >>> import torch
        >>> one, two = torch.ones(1, 2, 4, 4), torch.ones(1, 3, 2, 2)
        >>> FSP()((one, two), (3 * one, two))
        tensor(4.)
    """

    def forward(self, student: Sequence[Tensor], teacher: Sequence[Tensor]) -> Tensor:
        """The loss.

        Args:
            student: floating maps ``[n, c, h, w]`` and ``[n, e, k, l]`` of two layers.
            teacher: a pair of maps of the same rows, with c and e channels.

        Raises:
            SchemaError: no pairs of maps, or channels or rows that differ.
        """
        (s_one, s_two), (t_one, t_two) = _pair(student, "student"), _pair(teacher, "teacher")
        first, second = comparable(s_one, t_one), comparable(s_two, t_two)
        _require_same_channels("first", *first)
        _require_same_channels("second", *second)
        if len(s_one) != len(s_two):
            raise SchemaError(
                f"the maps of a pair are {tuple(s_one.shape)} and {tuple(s_two.shape)}; expected "
                "equally many rows"
            )
        ours, theirs = (_flow(x, y) for x, y in zip(first, second, strict=True))
        return mean((ours - theirs).square())


class AttentionTransfer(nn.Module):
    """Where a layer attends: mean of ``|x|**power`` over channels (Zagoruyko & Komodakis, 2017).

    A row's attention ``[h * w]`` is divided by its Euclidean norm. The loss is the mean of the
    squared differences over rows *and* positions, as in the authors' published code, which weighs
    it by 1000; the paper's sum over positions would be ``h * w`` times as much. Channels may
    differ. If sizes do, the larger attention is averaged adaptively down to the smaller one, height
    and width each for themselves, before it is normalised.

    Args:
        power: at least 1; more of it looks at the strongest activations only.

    Raises:
        ConfigError: a power below 1 or not finite.

    Example:
        >>> import torch
        >>> student, teacher = torch.tensor([[[[1.0, 0.0]]]]), torch.tensor([[[[0.0, 1.0]]]])
        >>> AttentionTransfer()(student, teacher)
        tensor(1.)
    """

    def __init__(self, power: float = 2.0) -> None:
        super().__init__()
        if not 1 <= power < math.inf:
            raise ConfigError(f"power is {power}; expected a finite number of at least 1")
        self.power = float(power)

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        """The loss.

        Args:
            student: floating map ``[n, c, h, w]``.
            teacher: map ``[n, e, k, l]`` of the same rows.

        Raises:
            SchemaError: no maps, or rows that differ.
        """
        _require_map(student, "student's output")
        _require_map(teacher, "teacher's output")
        student, teacher = comparable(student, teacher)
        size = _smaller(student, teacher)
        return mean((self._attention(student, size) - self._attention(teacher, size)).square())

    def _attention(self, values: Tensor, size: tuple[int, int]) -> Tensor:
        strength = values.abs().pow(self.power).mean(1, keepdim=True)
        pooled = functional.adaptive_avg_pool2d(strength, size)
        # A row of zeros attends to nothing: its attention stays 0, and so does its gradient.
        return functional.normalize(pooled.flatten(1))


def _pair(maps: Sequence[Tensor], who: str) -> tuple[Tensor, Tensor]:
    if not isinstance(maps, tuple | list) or len(maps) != 2:
        found = f"{len(maps)}" if isinstance(maps, tuple | list) else f"a {type(maps).__name__}"
        raise SchemaError(f"FSP takes a pair of the {who}'s maps, (first, second); found {found}")
    for place, value in zip(("first", "second"), maps, strict=True):
        _require_map(value, f"{who}'s {place} map")
    return maps[0], maps[1]


def _require_map(value: Tensor, name: str) -> None:
    if not isinstance(value, Tensor) or value.ndim != 4:
        found = tuple(value.shape) if isinstance(value, Tensor) else f"a {type(value).__name__}"
        raise SchemaError(f"the {name} is {found}; expected a map [rows, channels, height, width]")


def _require_same_channels(place: str, student: Tensor, teacher: Tensor) -> None:
    if student.shape[1] != teacher.shape[1]:
        raise SchemaError(
            f"the student's {place} map is {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; expected equally many channels; put "
            f"ShapeAlign({tuple(student.shape[1:])}, {tuple(teacher.shape[1:])}) on the student's "
            f"{place} map"
        )


def _smaller(one: Tensor, two: Tensor) -> tuple[int, int]:
    """The smaller height and the smaller width of two maps."""
    return min(one.shape[2], two.shape[2]), min(one.shape[3], two.shape[3])


def _flow(one: Tensor, two: Tensor) -> Tensor:
    """``[n, c, e]`` from maps of c and e channels."""
    size = _smaller(one, two)
    one, two = (functional.adaptive_max_pool2d(x, size).flatten(2) for x in (one, two))
    with full_precision(one):
        return one @ two.transpose(1, 2) / math.prod(size)
