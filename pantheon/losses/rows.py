"""A student's logits and a teacher's knowledge brought to the same rows, masked ones left out."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from pantheon.errors import SchemaError
from pantheon.knowledge import Value
from pantheon.ragged import Ragged, map_rows
from pantheon.ragged import Rows as TeacherRows

Reduction = Literal["batchmean", "none"]


@dataclass(slots=True)
class AlignedRows:
    """The rows a loss is computed on.

    Args:
        student: ``[r, classes]``, float64 or float32, in the graph.
        teacher: dense ``[r, classes]`` or top-k of r rows, outside of it.
        labels: int64 ``[r]`` or None.
        shape: the leading shape of the student's logits.
        kept: bool, of that shape flattened, the rows that are here; None for all.
    """

    student: Tensor
    teacher: TeacherRows
    labels: Tensor | None
    shape: tuple[int, ...]
    kept: Tensor | None

    def reduce(self, losses: Tensor, reduction: Reduction) -> Tensor:
        """The mean over the rows here (0 if there are none), or all rows with 0 where masked."""
        if reduction == "batchmean":
            return losses.sum() / max(1, len(losses))
        if self.kept is None:
            return losses.reshape(self.shape)
        full = losses.new_zeros(len(self.kept))
        return full.masked_scatter(self.kept, losses).reshape(self.shape)


def align(
    student: Tensor | Ragged, teacher: Value, labels: Tensor | None, mask: Tensor | None
) -> AlignedRows:
    """Flatten leading dimensions, check that rows and classes agree, leave masked rows out.

    Rows are left out by selection, not by multiplying with zero: NaN in a padded row reaches
    neither the loss nor the gradient.

    Args:
        student: logits ``[n, ..., classes]``; for a ragged teacher packed ``[rows, classes]``.
        teacher: knowledge of the same rows.
        labels: integers of the student's leading shape, or None.
        mask: bool ``[n]`` (samples), or of the student's leading shape.

    Raises:
        SchemaError: rows, classes, labels or a mask that do not fit.
    """
    mask = _row_mask(teacher, mask)
    _require_lengths(student, teacher)
    logits, target = _unwrap(student), teacher.values if isinstance(teacher, Ragged) else teacher
    shape = tuple(logits.shape[:-1])
    _require_fit(logits, target)
    flat = logits.reshape(-1, logits.shape[-1])
    flat = flat if flat.dtype is torch.float64 else flat.float()
    rows = map_rows(target, lambda t: t.detach().flatten(0, len(shape) - 1))
    labels = _flat_labels(labels, shape, logits.shape[-1], logits.device)
    if mask is None:
        return AlignedRows(flat, rows, labels, shape, None)
    kept = _spread(mask.to(logits.device), shape)
    chosen = None if labels is None else labels[kept]
    return AlignedRows(flat[kept], rows[kept], chosen, shape, kept)


def _unwrap(student: Tensor | Ragged) -> Tensor:
    logits = student.values if isinstance(student, Ragged) else student
    if not isinstance(logits, Tensor) or logits.ndim < 2 or not logits.is_floating_point():
        raise SchemaError("the student's logits must be a floating tensor [rows, ..., classes]")
    return logits


def _require_lengths(student: Tensor | Ragged, teacher: Value) -> None:
    if not isinstance(student, Ragged) or not isinstance(teacher, Ragged):
        return
    ours, theirs = student.lengths.to(teacher.device), teacher.lengths
    if not torch.equal(ours, theirs):
        raise SchemaError("the student's samples have other lengths than the teacher's")


def _require_fit(logits: Tensor, teacher: TeacherRows) -> None:
    if isinstance(teacher, Tensor):
        found = tuple(teacher.shape)
    else:
        kept = teacher.indices.shape[:-1]
        found = (*kept, teacher.classes)
    if found != tuple(logits.shape):
        raise SchemaError(
            f"the student's logits are {tuple(logits.shape)}, the teacher's {found}; expected "
            "equal shapes, classes last (packed rows where the teacher is ragged)"
        )


def _row_mask(teacher: Value, mask: Tensor | None) -> Tensor | None:
    """The mask per packed row, for a ragged teacher and a mask of samples."""
    if mask is None:
        return None
    if mask.dtype is not torch.bool:
        raise SchemaError(f"a mask must be bool, found {mask.dtype}")
    if not isinstance(teacher, Ragged):
        return mask
    if len(mask) != len(teacher):
        raise SchemaError(f"a mask of {len(mask)} samples for ragged knowledge of {len(teacher)}")
    return mask.to(teacher.device).repeat_interleave(teacher.lengths)


def _spread(mask: Tensor, shape: tuple[int, ...]) -> Tensor:
    """The mask of each row, flat, from one of samples or of rows."""
    if tuple(mask.shape) != shape[: mask.ndim]:
        raise SchemaError(f"a mask of shape {tuple(mask.shape)} does not fit rows {shape}")
    return mask.view(*mask.shape, *[1] * (len(shape) - mask.ndim)).expand(shape).reshape(-1)


def _flat_labels(
    labels: Tensor | None, shape: tuple[int, ...], classes: int, device: torch.device
) -> Tensor | None:
    if labels is None:
        return None
    if tuple(labels.shape) != shape or labels.is_floating_point():
        raise SchemaError(
            f"labels are {labels.dtype} {tuple(labels.shape)}; expected integers of shape {shape}"
        )
    return labels.to(device, torch.int64).reshape(-1)
