"""Batch norms that see again what they normalise, after channels before them are gone."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from pantheon.stream import BatchStream
from pantheon.training.evaluating import evaluating
from pantheon.training.objective import call_student


def recalibrate(model: nn.Module, stream: BatchStream, device: str = "cpu") -> int:
    """Measure the means and variances of all batch norms anew.

    They become the plain averages over the stream's batches. Everything else is in evaluation mode
    meanwhile, and all modules are in their modes afterwards.

    Args:
        stream: is read once, for its inputs.

    Returns:
        How many samples were read; 0 for a model that keeps no such statistics.

    Example:
        >>> from types import SimpleNamespace
        >>> class Batch(SimpleNamespace):
        ...     def to(self, device): return self
        >>> norm = nn.BatchNorm1d(1)
        >>> inputs = torch.tensor([[1.0], [3.0]])
        >>> recalibrate(norm, [Batch(inputs=inputs, mask=torch.ones(2))])
        2
        >>> norm.running_mean
        tensor([2.])
    """
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    norms = [norm for norm in norms if norm.track_running_stats]
    if not norms:
        return 0
    before = [(norm, norm.momentum, type(norm)) for norm in norms]
    samples = 0
    try:
        with evaluating(model):
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum, norm.training = None, True
                if isinstance(norm, nn.SyncBatchNorm):  # One process does this alone.
                    norm.__class__ = _Alone  # type: ignore[assignment]  # it has the same fields
            for batch in stream:
                call_student(model, batch.to(torch.device(device)).inputs)
                samples += int(batch.mask.sum())
    finally:
        for norm, momentum, kind in before:
            norm.momentum, norm.__class__ = momentum, kind
    return samples


class _Alone(nn.modules.batchnorm._BatchNorm):
    """A batch norm of any inputs that asks no other process."""

    def _check_input_dim(self, input: Tensor) -> None:
        """Any number of dimensions will do."""
