"""How often values of a tensor come, batch by batch, in bins that grow with them."""

from __future__ import annotations

import torch
from torch import Tensor

from pantheon.errors import ConfigError


class Histogram:
    """Counts of values by their size and sign, in memory that does not grow.

    Bins are equally wide from 0 on, on both sides, and have their upper ends. When a value is
    beyond the last one, all become twice as wide, pair by pair, so that no count has to be guessed.

    Args:
        bins: of each side; even.

    Attributes:
        counts: int64, ``[2, bins]``: of values below 0, and of the others, by distance from 0.
        width: of a bin; 0 before the first value that is not 0.
        largest: the largest absolute value so far.

    Raises:
        ConfigError: an odd number of bins.

    Example:
        >>> histogram = Histogram(bins=4)
        >>> histogram.add(torch.tensor([0.5, -1.0, 4.0]))
        >>> histogram.width, histogram.counts.tolist()
        (1.0, [[1, 0, 0, 0], [1, 0, 0, 1]])
        >>> histogram.add(torch.tensor([5.0]))
        >>> histogram.width, histogram.counts.tolist()
        (2.0, [[1, 0, 0, 0], [1, 1, 1, 0]])
    """

    def __init__(self, bins: int = 2048) -> None:
        if bins < 2 or bins % 2:
            raise ConfigError(f"bins is {bins}; expected an even number")
        self.counts = torch.zeros(2, bins, dtype=torch.int64)
        self.width, self.largest = 0.0, 0.0

    @property
    def bins(self) -> int:
        """How many each side has."""
        return self.counts.shape[1]

    @property
    def centres(self) -> Tensor:
        """The middle of each bin, by distance from 0: float64, ``[bins]``."""
        return (torch.arange(self.bins, dtype=torch.float64) + 0.5) * self.width

    @property
    def sizes(self) -> Tensor:
        """How many values are of a size, whatever their sign: int64, ``[bins]``."""
        return self.counts.sum(0)

    def add(self, values: Tensor) -> None:
        """Count the values of a tensor, which are finite."""
        values = values.detach().flatten().to("cpu", torch.float64)
        if not len(values):
            return
        sizes = values.abs()
        self.largest = max(self.largest, float(sizes.max()))
        if self.largest and not self.width:
            # What was counted before is 0, which is in the first bin of any width.
            self.width = self.largest / self.bins
        while self.largest > self.width * self.bins:
            self._widen()
        if self.width:
            places = (sizes / self.width).ceil().long().sub(1).clamp(0, self.bins - 1)
        else:
            places = torch.zeros(len(values), dtype=torch.int64)
        places += torch.where(values < 0, 0, self.bins)
        found = torch.bincount(places, minlength=2 * self.bins)
        self.counts += found.reshape(2, self.bins)

    def _widen(self) -> None:
        pairs = self.counts.reshape(2, self.bins // 2, 2).sum(2)
        self.counts = torch.cat([pairs, torch.zeros_like(pairs)], 1)
        self.width *= 2
