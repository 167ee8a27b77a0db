"""Modules that round what passes them to the integers of a grid, as real numbers again."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.observers import FRACTIONS
from pantheon.compress.quantize.taps import unseen

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


class WeightRounder(nn.Module):
    """Rounds a layer's weight, by the largest absolute value that it has at the time.

    A parametrization of the weight: see `torch.nn.utils.parametrize`.

    Args:
        grid: the integers; signed.
        channel_dim: the dimension of output channels, where each has a scale of its own.

    Example:
        >>> layer = nn.Linear(2, 2)
        >>> rounder = WeightRounder(Grid(2), channel_dim=0)
        >>> rounder(torch.tensor([[4.0, 1.0], [1.0, 1.0]]))
        tensor([[4., 0.],
                [1., 1.]])
    """

    def __init__(self, grid: Grid, channel_dim: int | None) -> None:
        super().__init__()
        self.grid, self.channel_dim = grid, channel_dim

    def start(self, weight: Tensor) -> None:
        """Begin with the weight that is to be rounded."""

    def scale(self, weight: Tensor) -> Tensor:
        """What one step stands for: one number, or ``[channels]``."""
        sizes = self._by_channel(weight.detach().abs())
        return self.grid.scale(sizes.amax(1).clamp(min=LEAST).reshape(self._shape(weight)))

    def fitting(self, weight: Tensor) -> Tensor:
        """The same, of a shape that a weight can be divided by."""
        scale = self.scale(weight)
        if self.channel_dim is None:
            return scale
        return scale.reshape([-1 if d == self.channel_dim else 1 for d in range(weight.ndim)])

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight."""
        with unseen():
            return self.grid.rounded(weight, self.scale(weight), self.channel_dim)

    def _by_channel(self, weight: Tensor) -> Tensor:
        """``[channels, others]``; one channel where all have one scale."""
        if self.channel_dim is None:
            return weight.reshape(1, -1)
        return weight.movedim(self.channel_dim, 0).flatten(1)

    def _shape(self, weight: Tensor) -> tuple[int, ...]:
        """Of the scale."""
        return () if self.channel_dim is None else (weight.shape[self.channel_dim],)


class LeastErrorWeightRounder(WeightRounder):
    """Rounds a weight by the thresholds at which that errs least, which stay in training.

    Of each channel those fractions of its largest absolute value are tried that observers of
    activations try; what is above is clipped.

    Args:
        grid: the integers; signed.
        channel_dim: see `WeightRounder`.
        shape: of the weight.

    Attributes:
        threshold: float32, one number or ``[channels]``.

    Example:
        >>> weight = torch.tensor([[1.0, 0.49, 0.49, -0.49]])
        >>> rounder = LeastErrorWeightRounder(Grid(2), 0, weight.shape)
        >>> rounder.start(weight)
        >>> rounder.threshold
        tensor([0.6200])
    """

    threshold: Tensor

    def __init__(self, grid: Grid, channel_dim: int | None, shape: Sequence[int]) -> None:
        super().__init__(grid, channel_dim)
        self.register_buffer("threshold", torch.ones(self._shape(torch.empty(*shape))))

    @torch.no_grad()
    def start(self, weight: Tensor) -> None:
        """Find the thresholds of this weight."""
        rows = self._by_channel(weight.float())
        largest = rows.abs().amax(1).clamp(min=LEAST)
        tried = torch.stack([fraction * largest for fraction in FRACTIONS])
        errors = [
            (rows - self.grid.rounded(rows, self.grid.scale(each), 0)).square().sum(1)
            for each in tried
        ]
        best = torch.stack(errors).argmin(0)
        self.threshold.copy_(tried.gather(0, best[None])[0].reshape(self.threshold.shape))

    def scale(self, weight: Tensor) -> Tensor:
        """What one step stands for: one number, or ``[channels]``."""
        return self.grid.scale(self.threshold.clamp(min=LEAST))


class StepWeightRounder(LeastErrorWeightRounder):
    """Learns what one step of a weight stands for, by LSQ: see `StepRounder`.

    It begins with the thresholds of the least error, as those of LSQ's paper are for weights of a
    normal distribution only.
    """

    def __init__(self, grid: Grid, channel_dim: int | None, shape: Sequence[int]) -> None:
        super().__init__(grid, channel_dim, shape)
        started = self.threshold
        del self.threshold
        self.threshold = nn.Parameter(started)

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight."""
        with unseen():
            scale = self.fitting(weight)
            return stepped(weight, scale, self.grid, weight.numel() // scale.numel())


def weight_rounder(by: str, grid: Grid, channel_dim: int | None, weight: Tensor) -> WeightRounder:
    """A rounder of a weight, by one of `WEIGHT_ROUNDERS`."""
    if by == "abs_max":
        return WeightRounder(grid, channel_dim)
    kind = StepWeightRounder if by == "lsq" else LeastErrorWeightRounder
    return kind(grid, channel_dim, weight.shape)


WEIGHT_ROUNDERS = ("abs_max", "mse", "lsq")
"""What a weight may be rounded by."""
