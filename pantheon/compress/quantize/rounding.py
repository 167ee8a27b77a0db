"""Modules that round what passes them to the integers of a grid, as real numbers again."""

from __future__ import annotations

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
        >>> rounder.threshold.fill_(14.0)
        tensor(14.)
        >>> rounder(torch.tensor([2.9, 15.0]))
        tensor([ 2., 14.])
    """

    threshold: Tensor

    def __init__(self, grid: Grid) -> None:
        super().__init__()
        self.grid = grid
        self.register_buffer("threshold", torch.tensor(1.0))

    @property
    def scale(self) -> Tensor:
        """What one step stands for."""
        return self.grid.scale(self.threshold.clamp(min=LEAST))

    def forward(self, values: Tensor) -> Tensor:
        """Round float values of any shape."""
        return self.grid.rounded(values, self.scale)


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

    def scale(self, weight: Tensor) -> Tensor:
        """What one step stands for: one number, or ``[channels]``."""
        sizes = weight.detach().abs()
        if self.channel_dim is None:
            largest = sizes.max()
        else:
            largest = sizes.movedim(self.channel_dim, 0).flatten(1).amax(1)
        return self.grid.scale(largest.clamp(min=LEAST))

    def forward(self, weight: Tensor) -> Tensor:
        """Round a float weight."""
        return self.grid.rounded(weight, self.scale(weight), self.channel_dim)
