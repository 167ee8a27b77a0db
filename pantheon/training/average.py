"""A moving average of a model's weights, which generalises better than the last of them."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pantheon.errors import ConfigError

STATISTICS = ("running_mean", "running_var")
"""The names of the buffers that belong to weights as batch norms' statistics do."""


class Average(AveragedModel):
    """An exponential moving average of a model (Polyak and Juditsky, 1992); a copy of it.

    The first update copies the weights, every later one moves the average towards them by
    ``1 - decay``. The statistics of batch norms are averaged too, because they are those of the
    weights; all other buffers are copied, because an average of counters, masks or indices is none
    of these.

    Args:
        model: what is averaged; it is copied.
        decay: between 0 and 1.

    Raises:
        ConfigError: a model that cannot be copied.

    Example:
        >>> model = nn.Linear(1, 1)
        >>> average = Average(model, decay=0.75)
        >>> for weight in (4.0, 8.0):
        ...     _ = nn.init.constant_(model.weight, weight)
        ...     average.update_parameters(model)
        >>> average.module.weight.item()
        5.0
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        try:
            # torch does not annotate it
            mean = get_ema_multi_avg_fn(decay)  # type: ignore[no-untyped-call]
            super().__init__(model, multi_avg_fn=mean)
        except Exception as error:  # a model of the user's may refuse in any way
            raise ConfigError(
                f"the model, a {type(model).__name__}, cannot be copied for the average of its "
                f"weights: {type(error).__name__}: {error}; leave ema out, or make copy.deepcopy "
                "work"
            ) from error
        self.decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's weights, as they are after a step, into the average."""
        first = int(self.n_averaged) == 0
        mine, theirs = statistics(self.module), statistics(model)
        before = [value.clone() for value in mine]
        super().update_parameters(model)
        if not first:
            for value, old, new in zip(mine, before, theirs, strict=True):
                value.copy_(old.lerp(new, 1 - self.decay))


def statistics(model: nn.Module) -> list[Tensor]:
    """The buffers of a model that are averaged.

    >>> len(statistics(nn.BatchNorm1d(2)))
    2
    """
    return [
        value
        for name, value in model.named_buffers()
        if name.rpartition(".")[2] in STATISTICS and value.is_floating_point()
    ]
