"""A student's output and a teacher's, dense and of the same rows, as losses compute with them."""

from __future__ import annotations

import torch
from torch import Tensor

from pantheon.errors import SchemaError


def comparable(student: Tensor, teacher: Tensor) -> tuple[Tensor, Tensor]:
    """Both in float64 for float64 students, else in float32; the teacher outside of the graph.

    Args:
        student: floating ``[n, ...]``.
        teacher: ``[n, ...]``; what follows the rows may differ.

    Raises:
        SchemaError: no dense tensors, a student that is not floating, or other numbers of rows.

    Example:
        >>> student, teacher = comparable(torch.zeros(2, 3).half(), torch.zeros(2, 5))
        >>> student.dtype, teacher.dtype
        (torch.float32, torch.float32)
    """
    for who, value in (("student", student), ("teacher", teacher)):
        if not isinstance(value, Tensor) or value.ndim == 0:
            raise SchemaError(
                f"the {who}'s output is {_named(value)}; expected a tensor [rows, ...]; of a "
                "ragged value, compare the packed rows in its .values"
            )
    if not student.is_floating_point():
        raise SchemaError(f"the student's output is {student.dtype}; expected a floating tensor")
    if len(student) != len(teacher):
        raise SchemaError(
            f"the student's output is {tuple(student.shape)}, the teacher's "
            f"{tuple(teacher.shape)}; expected equally many rows"
        )
    student = student if student.dtype is torch.float64 else student.float()
    return student, teacher.detach().to(student.dtype)


def _named(value: object) -> str:
    return "a scalar" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def mean(values: Tensor) -> Tensor:
    """The mean of all values; where there are none 0, in the graph, rather than NaN.

    >>> mean(torch.tensor([1.0, 2.0])).item(), mean(torch.zeros(0, 3)).item()
    (1.5, 0.0)
    """
    return values.sum() / max(1, values.numel())


def full_precision(value: Tensor) -> torch.autocast:
    """A context in which products of this tensor keep its dtype, under autocast as well.

    >>> x = torch.eye(2)
    >>> with torch.autocast("cpu", torch.bfloat16):
    ...     reduced = x @ x
    ...     with full_precision(x):
    ...         reduced.dtype, (x @ x).dtype
    (torch.bfloat16, torch.float32)
    """
    return torch.autocast(value.device.type, enabled=False)
