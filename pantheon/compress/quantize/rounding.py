"""Modules that round activations to the integers of a grid, as real numbers again."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pantheon.compress.quantize.grid import Grid

LEAST = 2.0**-100
"""The smallest threshold, so that a channel of zeros has a scale."""


class Rounder(nn.Module):
    """Rounds a tensor of activations, by a threshold that was found before.

    Args:
        grid: the integers.

    Attributes:
        threshold: float32, one number; the largest value that is not clipped.

    Example:
        >>> rounder = Rounder(Grid(4))
        >>> rounder.start(14.0)
        >>> rounder(torch.tensor([2.9, 15.0]))
        tensor([ 2., 14.])
    """

    threshold: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("threshold", torch.tensor(1.0))

    @torch.no_grad()
    def start(self, threshold: float) -> None:
        """Begin with what calibration found."""
        self.threshold.fill_(threshold)

    @property
    def scale(self) -> Tensor:
        """What one step stands for."""
        return self.grid.scale(self.threshold.clamp(min=LEAST))

    def forward(self, values: Tensor) -> Tensor:
        """Round float values of any shape."""
        return self.grid.rounded(values, self.scale)


class MovingRounder(Rounder):
    """Follows the tensor while it is trained: an average of batches in which older ones fade.

    ``state = rate * state + 1``, ``sum = rate * sum + max|x|``, and the threshold is ``sum /
    state``. What calibration found counts as the first batch. In evaluation it stays.

    Args:
        grid: the integers.
        rate: how much of the past is kept with each batch.

    Example:
        >>> rounder = MovingRounder(Grid(8), rate=0.5)
        >>> rounder.start(4.0)
        >>> _ = rounder(torch.tensor([-1.0]))
        >>> rounder.threshold  # (0.5 * 4 + 1) / (0.5 * 1 + 1)
        tensor(2.)
    """

    state: Tensor
    sum: Tensor

    def __init__(self, grid: Grid, rate: float = 0.9) -> None:
        super().__init__(grid)
        self.rate = rate
        self.register_buffer("state", torch.tensor(1.0))
        self.register_buffer("sum", torch.tensor(1.0))

    def start(self, threshold: float) -> None:
        """Begin with what calibration found."""
        super().start(threshold)
        self.state.fill_(1.0)
        self.sum.fill_(threshold)

    @torch.no_grad()
    def follow(self, values: Tensor) -> None:
        """In training, go on with what this batch says."""
        if self.training and values.numel():
            self.state.mul_(self.rate).add_(1)
            self.sum.mul_(self.rate).add_(values.abs().max())
            self.threshold.copy_(self.sum / self.state)

    def forward(self, values: Tensor) -> Tensor:
        """Round; in training, by what this batch says too."""
        self.follow(values)
        return super().forward(values)


class DynamicRounder(MovingRounder):
    """Rounds each tensor by its own extremes, in evaluation too: abs-max at run time.

    Of a tensor without negative values these are 0 and its largest; else integers are spread from
    its least value to its largest, as ONNX's DynamicQuantizeLinear does it. Answers depend on the
    whole batch. The threshold of `MovingRounder` is followed, for a model that is frozen later.

    Example:
        >>> rounder = DynamicRounder(Grid(2))
        >>> rounder(torch.tensor([0.9, 1.1, 3.0])), rounder(torch.tensor([0.1, 0.3]))
        (tensor([1., 1., 3.]), tensor([0.1000, 0.3000]))
    """

    def forward(self, values: Tensor) -> Tensor:
        """Round."""
        self.follow(values)
        if not values.numel():
            return values
        least, most = values.detach().aminmax()
        return self.grid.spread(values, least.clamp(max=0), most.clamp(min=0))


class RangeRounder(Rounder):
    """Follows the tensor while it is trained: the largest value of the last batches.

    Args:
        grid: the integers.
        window: how many batches.

    Example:
        >>> rounder = RangeRounder(Grid(8), window=2)
        >>> rounder.start(4.0)
        >>> for value in (1.0, 2.0):
        ...     _ = rounder(torch.tensor([value]))
        >>> rounder.threshold
        tensor(2.)
    """

    last: Tensor
    place: Tensor

    def __init__(self, grid: Grid, window: int = 1000) -> None:
        super().__init__(grid)
        self.register_buffer("last", torch.zeros(window))
        self.register_buffer("place", torch.tensor(0))

    def start(self, threshold: float) -> None:
        """Begin with what calibration found, as if the last batch had had it."""
        super().start(threshold)
        self.last.zero_()
        self.last[-1] = threshold
        self.place.zero_()

    def forward(self, values: Tensor) -> Tensor:
        """Round; in training, by what this batch says too."""
        if self.training and values.numel():
            with torch.no_grad():
                # The place that was written longest ago, which calibration's is in the end.
                self.last[self.place] = values.abs().max()
                self.place.copy_((self.place + 1) % len(self.last))
                self.threshold.copy_(self.last.max())
        return super().forward(values)


class ClippingRounder(Rounder):
    """Learns where to clip: PACT (Choi et al., 2018), for signed tensors as PaddleSlim does it.

    ``y = x - relu(x - a) + relu(-a - x)`` and then rounded: the threshold's gradient is the sum of
    those of the values that it clips, by their sign.

    Example:
        >>> rounder = ClippingRounder(Grid(8))
        >>> rounder.start(1.0)
        >>> rounder(torch.tensor([0.5, 3.0, -3.0, 2.0])).sum().backward()
        >>> rounder.threshold.grad
        tensor(1.)
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        del self.threshold
        self.threshold = nn.Parameter(torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Clip and round."""
        most = self.threshold.clamp(min=LEAST)
        least = -most if self.grid.signed else torch.zeros_like(most)
        clipped = torch.minimum(torch.maximum(values, least), most)
        rounded = self.grid.rounded(clipped, self.scale.detach())
        # Rounding itself passes all gradients on, those at the ends too.
        return clipped + (rounded - clipped).detach()


class StepRounder(Rounder):
    """Learns what one step stands for: LSQ (Esser et al., "Learned Step Size Quantization", 2020).

    With ``v = x / s``: the gradient of ``s`` is ``round(v) - v`` inside the grid, its ends outside,
    times ``1 / sqrt(n * highest)`` of the ``n`` values of a sample.

    Example:
        >>> rounder = StepRounder(Grid(2))
        >>> rounder.start(1.0)
        >>> rounder(torch.tensor([[0.4, 5.0]])).sum().backward()
        >>> rounder.threshold.grad  # (0 - 0.4 + 1) / sqrt(2 * 1), by a step of threshold / 1
        tensor(0.4243)
    """

    def __init__(self, grid: Grid) -> None:
        super().__init__(grid)
        del self.threshold
        self.threshold = nn.Parameter(torch.tensor(1.0))

    def forward(self, values: Tensor) -> Tensor:
        """Round."""
        size = values[0].numel() if values.ndim > 1 else values.numel()
        return stepped(values, self.scale, self.grid, size)


def stepped(values: Tensor, scale: Tensor, grid: Grid, size: int) -> Tensor:
    """Values rounded to a step that learns.

    Args:
        values: float.
        scale: one number, or of a shape that fits the values'.
        size: how many values one step is for; its gradient is divided by ``sqrt(size * highest)``.
    """
    factor = 1 / math.sqrt(max(1, size) * grid.highest)
    step = scale * factor + (scale - scale * factor).detach()
    places = (values / step).clamp(grid.lowest, grid.highest)
    return (places + (places.round() - places).detach()) * step


ROUNDERS: dict[str, Callable[[Grid], Rounder]] = {
    "fixed": Rounder,
    "moving_average": MovingRounder,
    "dynamic": DynamicRounder,
    "range_abs_max": RangeRounder,
    "pact": ClippingRounder,
    "lsq": StepRounder,
}
"""What becomes of a threshold in training, by name."""
