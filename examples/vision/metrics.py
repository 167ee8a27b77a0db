"""How often a classifier is right."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import torch
from torch import Tensor

from pantheon.errors import ConfigError
from pantheon.stream import Batch
from pantheon.training.objective import IGNORE


def accuracy(model: Callable[[Tensor], Tensor], stream: Iterable[Batch]) -> dict[str, float]:
    """Top-1 and top-5 accuracy over one epoch of a stream, in percent.

    Rows that only pad a batch, and rows without a label, do not count.

    Args:
        model: from inputs to logits ``[n, classes]``; a module is in evaluation mode already.
        stream: batches with targets, int64 ``[n]``. They are moved to where the model is.

    Returns:
        ``top1`` and ``top5``, the share of samples whose class is the first, or among the first
        five. Equal logits count in the order of `torch.topk`.

    Raises:
        ConfigError: no row with a label.

    Example:
        >>> from types import SimpleNamespace
        >>> inputs, targets = torch.eye(6), torch.tensor([0, 1, 5, 5, 4, 4])
        >>> batch = SimpleNamespace(inputs=inputs, targets=targets, mask=torch.arange(6) < 4)
        >>> accuracy(lambda inputs: inputs * 2 - torch.arange(6) / 10, [batch])
        {'top1': 50.0, 'top5': 50.0}
    """
    rows, right = 0, torch.zeros(2, dtype=torch.int64)
    for logits, targets in _answers(model, stream):
        right += hits(logits, targets)
        rows += len(targets)
    top1, top5 = (100 * right.double() / rows).tolist()
    return {"top1": top1, "top5": top5}


def by_region(model: Callable[[Tensor], Tensor], stream: Iterable[Batch]) -> dict[str, float]:
    """Top-1 accuracy of each class, in percent, as ``region_0`` and so on, and of all as ``top1``.

    Raises:
        ConfigError: no row with a label.
    """
    right, rows = torch.zeros(0, dtype=torch.int64), torch.zeros(0, dtype=torch.int64)
    for logits, targets in _answers(model, stream):
        if not len(rows):
            rows = right = torch.zeros(logits.shape[1], dtype=torch.int64)
        same = targets[logits.argmax(1) == targets]
        right = right + same.bincount(minlength=len(rows))
        rows = rows + targets.bincount(minlength=len(rows))
    pairs = zip(right.tolist(), rows.tolist(), strict=True)
    each = {f"region_{i}": 100 * r / n for i, (r, n) in enumerate(pairs) if n}
    return {"top1": 100 * int(right.sum()) / int(rows.sum())} | each


def hits(logits: Tensor, targets: Tensor) -> Tensor:
    """How many targets are first, and among the first five; int64 ``[2]``.

    Example:
        >>> hits(torch.tensor([[0.0, 2.0, 1.0], [0.0, 2.0, 1.0]]), torch.tensor([1, 2]))
        tensor([1, 2])
    """
    order = logits.topk(min(5, logits.shape[1]), dim=1).indices
    found = order == targets[:, None]
    return torch.stack([found[:, :1].sum(), found.sum()])


def _answers(
    model: Callable[[Tensor], Tensor], stream: Iterable[Batch]
) -> Iterator[tuple[Tensor, Tensor]]:
    """Logits and targets of the rows that count, batch by batch.

    Raises:
        ConfigError: there were none.
    """
    device, rows = _device(model), 0
    for batch in stream:
        if batch.targets is None:
            continue
        with torch.inference_mode():
            logits = model(batch.inputs.to(device)).cpu()
        targets = batch.targets.cpu()
        counts = batch.mask.cpu() & (targets != IGNORE)
        rows += int(counts.sum())
        yield logits[counts], targets[counts]
    if not rows:
        raise ConfigError("accuracy needs samples with labels, and the stream has none")


def _device(model: object) -> torch.device:
    """Where a module's weights are."""
    if isinstance(model, torch.nn.Module):
        for weights in model.parameters():
            return weights.device
    return torch.device("cpu")
