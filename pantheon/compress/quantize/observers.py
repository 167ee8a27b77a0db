"""Where to clip a tensor before it is rounded, by what of it was seen."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from pantheon.compress.quantize.grid import Grid
from pantheon.compress.quantize.histogram import Histogram
from pantheon.errors import CompressionError, ConfigError

FRACTIONS = tuple(round(0.3 + 0.02 * i, 2) for i in range(36))
"""Of the largest value, the thresholds that are tried where an error is to be least."""


class Observer(Protocol):
    """Sees a tensor batch by batch, and answers where to clip it."""

    def see(self, values: Tensor) -> None:
        """Take a batch in: float, finite, its first dimension of samples."""

    def threshold(self, grid: Grid) -> float:
        """The largest absolute value that is not clipped; 0 if nothing but zeros was seen."""


class AbsMax:
    """The largest absolute value of all.

    Example:
        >>> observer = AbsMax()
        >>> observer.see(torch.tensor([1.0, -3.0])); observer.see(torch.tensor([2.0]))
        >>> observer.threshold(Grid())
        3.0
    """

    def __init__(self) -> None:
        self._largest = 0.0

    def see(self, values: Tensor) -> None:
        """Take a batch in."""
        self._largest = max(self._largest, _largest(values))

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        return self._largest


class Average:
    """The mean over samples of each one's largest absolute value.

    Batches count by their samples, so that a short last one weighs no more than its share.

    Example:
        >>> observer = Average()
        >>> observer.see(torch.tensor([[1.0, -3.0], [2.0, 0.0]])); observer.see(torch.ones(1, 2))
        >>> observer.threshold(Grid())
        2.0
    """

    def __init__(self) -> None:
        self._sum, self._samples = 0.0, 0

    def see(self, values: Tensor) -> None:
        """Take a batch in."""
        if values.numel():
            rows = values.detach().reshape(len(values) if values.ndim else 1, -1)
            self._sum += float(rows.abs().amax(1).double().sum())
            self._samples += len(rows)

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        return self._sum / self._samples if self._samples else 0.0


class MovingAverage:
    """An average of batches' largest absolute values in which older ones fade.

    ``state = rate * state + 1``, ``sum = rate * sum + max|x|``, and the threshold is ``sum /
    state``: the first batches count as much as they should, without a value to begin with.

    Args:
        rate: below 1; how much of the past is kept with each batch.

    Example:
        >>> observer = MovingAverage(rate=0.5)
        >>> observer.see(torch.tensor([4.0])); observer.see(torch.tensor([-1.0]))
        >>> observer.threshold(Grid())  # (0.5 * 4 + 1) / (0.5 * 1 + 1)
        2.0
    """

    def __init__(self, rate: float = 0.9) -> None:
        if not 0 <= rate < 1:
            raise ConfigError(f"rate is {rate}; expected from 0 to below 1")
        self.rate = rate
        self._sum, self._state = 0.0, 0.0

    def see(self, values: Tensor) -> None:
        """Take a batch in."""
        self._state = self.rate * self._state + 1
        self._sum = self.rate * self._sum + _largest(values)

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        return self._sum / self._state if self._state else 0.0


class RangeAbsMax:
    """The largest absolute value of the last batches.

    Args:
        window: how many.

    Example:
        >>> observer = RangeAbsMax(window=2)
        >>> for value in (5.0, 1.0, 2.0):
        ...     observer.see(torch.tensor([value]))
        >>> observer.threshold(Grid())
        2.0
    """

    def __init__(self, window: int = 10_000) -> None:
        if window < 1:
            raise ConfigError(f"window is {window}; expected at least 1")
        self._last: deque[float] = deque(maxlen=window)

    def see(self, values: Tensor) -> None:
        """Take a batch in."""
        self._last.append(_largest(values))

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        return max(self._last, default=0.0)


class _Counting:
    """Counts what it sees in a histogram."""

    def __init__(self, bins: int) -> None:
        self.histogram = Histogram(bins)

    def see(self, values: Tensor) -> None:
        """Take a batch in."""
        self.histogram.add(values)


class Percentile(_Counting):
    """What a fraction of the absolute values is not larger than, to half a bin.

    Args:
        fraction: above 0, at most 1.
        bins: see `Histogram`.

    Example:
        >>> observer = Percentile(fraction=0.75, bins=4)
        >>> observer.see(torch.tensor([0.5, 1.5, -2.5, 4.0]))
        >>> observer.threshold(Grid())  # three of four are in the first three bins of width 1
        2.5
    """

    def __init__(self, fraction: float = 0.9999, bins: int = 2048) -> None:
        if not 0 < fraction <= 1:
            raise ConfigError(f"fraction is {fraction}; expected above 0 and at most 1")
        super().__init__(bins)
        self.fraction = fraction

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        seen = self.histogram.sizes.cumsum(0)
        place = int((seen < self.fraction * seen[-1]).sum())
        return min(float(self.histogram.centres[place]), self.histogram.largest)


class Divergence(_Counting):
    """The threshold at which the distribution of sizes changes least when it is rounded.

    Migacz, "8-bit Inference with TensorRT", 2017. Of each half or more of the bins: P is the counts
    with all beyond added to the last; Q is the counts merged into as many levels as the grid has
    above zero, and each level's count shared out evenly among its bins that are not empty. The
    threshold is that of the least KL(P || Q).

    Args:
        bins: see `Histogram`.

    Example:
        >>> observer = Divergence(bins=8)
        >>> observer.see(torch.tensor([0.5, 0.5, 0.5, 0.5, 2.5, 2.5, -3.5, -3.5, 8.0]))
        >>> observer.threshold(Grid(2))  # KL is 0.04 for the first four bins and 0.11 for all
        4.5
    """

    def __init__(self, bins: int = 2048) -> None:
        super().__init__(bins)

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        histogram = self.histogram
        if not histogram.largest:
            return 0.0
        sizes, levels = histogram.sizes.double(), grid.highest
        first = max(histogram.bins // 2, min(levels, histogram.bins))
        found = [_divergence(sizes, stop, levels) for stop in range(first, histogram.bins + 1)]
        best = first + int(torch.stack(found).argmin())
        return min((best + 0.5) * histogram.width, histogram.largest)


def _divergence(sizes: Tensor, stop: int, levels: int) -> Tensor:
    """KL in nats between the sizes up to a bin and what is left of them by some levels."""
    inside = sizes[:stop]
    whole = inside.clone()
    whole[-1] += sizes[stop:].sum()
    level = torch.arange(stop) * levels // stop
    filled = (whole > 0).double()
    sums = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, inside)
    shared = torch.zeros(levels, dtype=torch.float64).index_add_(0, level, filled)
    merged = (sums / shared.clamp(min=1))[level] * filled
    p, q = whole / whole.sum(), merged / merged.sum().clamp(min=1e-300)
    # Where nothing is left of what was there, the divergence has no end.
    lost = (p > 0) & (q == 0)
    if lost.any():
        return torch.tensor(torch.inf, dtype=torch.float64)
    return torch.where(p > 0, p * (p / q).log(), 0.0).sum()


class LeastError(_Counting):
    """The fraction of the largest value at which rounding errs least, of those in `FRACTIONS`.

    All that was seen is judged by each threshold, through a histogram; so the largest value of a
    later batch does not undo what was found before.

    Args:
        error: called with values, rounded values (float64, ``[2 * bins]``) and how often each came.
        bins: see `Histogram`.

    Example:
        >>> observer = LeastError(squared, bins=1024)
        >>> observer.see(torch.cat([torch.linspace(-1, 1, 1001), torch.tensor([2.0])]))
        >>> observer.threshold(Grid(4))
        0.96
    """

    def __init__(self, error: Callable[[Tensor, Tensor, Tensor], Tensor], bins: int = 2048) -> None:
        super().__init__(bins)
        self.error = error

    def threshold(self, grid: Grid) -> float:
        """See `Observer`."""
        histogram = self.histogram
        if not histogram.largest:
            return 0.0
        values = torch.cat([-histogram.centres, histogram.centres])
        counts = histogram.counts.flatten().double()
        errors = []
        for fraction in FRACTIONS:
            scale = fraction * histogram.largest / grid.highest
            rounded = (values / scale).round().clamp(grid.lowest, grid.highest) * scale
            errors.append(self.error(values, rounded, counts))
        return FRACTIONS[int(torch.stack(errors).argmin())] * histogram.largest


def squared(values: Tensor, rounded: Tensor, counts: Tensor) -> Tensor:
    """The mean squared error."""
    return ((values - rounded).square() * counts).sum() / counts.sum()


def moved(values: Tensor, rounded: Tensor, counts: Tensor) -> Tensor:
    """How far mean and standard deviation are moved: PaddleSlim's measure of earth mover's kind."""
    mean, after = ((x * counts).sum() / counts.sum() for x in (values, rounded))
    spread, left = (
        (((x - m).square() * counts).sum() / counts.sum()).sqrt()
        for x, m in ((values, mean), (rounded, after))
    )
    return (mean - after).abs() + (spread - left).abs()


OBSERVERS: dict[str, Callable[[], Observer]] = {
    "abs_max": AbsMax,
    "average": Average,
    "moving_average": MovingAverage,
    "range_abs_max": RangeAbsMax,
    "percentile": Percentile,
    "kl": Divergence,
    "mse": lambda: LeastError(squared),
    "emd": lambda: LeastError(moved),
}
"""Observers by name."""


def observer(name: str) -> Observer:
    """An observer that has seen nothing.

    Raises:
        ConfigError: there is none of this name.
    """
    if name not in OBSERVERS:
        raise ConfigError(f"there is no observer {name!r}; there are {', '.join(OBSERVERS)}")
    return OBSERVERS[name]()


def require_values(values: Tensor, name: str) -> None:
    """Make sure that a tensor can be observed.

    Raises:
        CompressionError: it has values that are not finite.
    """
    if not bool(torch.isfinite(values).all()):
        nan = int(torch.isnan(values).sum())
        infinite = int(torch.isinf(values).sum())
        raise CompressionError(
            f"{name} has values that are not finite ({nan} NaN, {infinite} infinite, of "
            f"{values.numel()}): no scale can be found for it; see what the model is given, or "
            "keep that layer out"
        )


def _largest(values: Tensor) -> float:
    return float(values.detach().abs().max()) if values.numel() else 0.0
