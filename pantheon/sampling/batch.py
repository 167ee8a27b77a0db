"""One step's worth: the student's own samples and what the teachers know of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from pantheon.knowledge import Knowledge


class Batch:
    """What a loader yields; n rows.

    Args:
        inputs: what the collate function made of the samples' inputs; None without a dataset.
        targets: what it made of their targets; None where there are none.
        knowledge: merged knowledge of the rows.
        mask: bool ``[n]``, False for rows that only pad the batch; None when all are real.

    Example:
        >>> ids = torch.tensor([4, 2])
        >>> batch = Batch(None, None, Knowledge(ids, {"logits": torch.zeros(2, 3)}))
        >>> len(batch), batch.ids.tolist(), batch.mask.tolist()
        (2, [4, 2], [True, True])
    """

    __slots__ = ("_mask", "inputs", "knowledge", "targets")

    def __init__(
        self, inputs: Any, targets: Any, knowledge: Knowledge, mask: Tensor | None = None
    ) -> None:
        self.inputs = inputs
        self.targets = targets
        self.knowledge = knowledge
        self._mask = mask

    @property
    def ids(self) -> Tensor:
        """Sample ids, int64 ``[n]``."""
        return self.knowledge.ids

    @property
    def mask(self) -> Tensor:
        """Which rows are real, bool ``[n]``; padding repeats the first row."""
        if self._mask is None:
            self._mask = torch.ones(len(self.knowledge.ids), dtype=torch.bool)
        return self._mask

    def __len__(self) -> int:
        return len(self.knowledge.ids)

    def to(self, device: torch.device | str) -> Batch:
        """The batch with all its tensors on another device; pinned memory is copied meanwhile."""
        return Batch(
            moved(self.inputs, device),
            moved(self.targets, device),
            self.knowledge.to(device),
            None if self._mask is None else self._mask.to(device, non_blocking=True),
        )


def moved(value: Any, device: torch.device | str) -> Any:
    """Samples on another device: tensors in mappings, lists and tuples are found."""
    if isinstance(value, Tensor):
        return value.to(device, non_blocking=True)
    if isinstance(value, Mapping):
        return {k: moved(v, device) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(moved(v, device) for v in value)
    return value
