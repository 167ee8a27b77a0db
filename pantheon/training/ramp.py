"""How much an addend of a loss weighs as a training goes on."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from pantheon.errors import ConfigError


@dataclass(frozen=True, slots=True)
class Ramp:
    """A weight that goes from one value to another.

    Args:
        start, end: the weight before and after.
        begin, until: between which epochs it changes; fractions count the steps within an epoch.
        shape: a straight line, or half a cosine wave, which begins and ends level.

    Raises:
        ConfigError: numbers that are not finite, or epochs in the wrong order.

    Example:
        >>> fade = Ramp(1.0, 0.0, begin=2, until=6)
        >>> [fade.at(epoch) for epoch in (0, 2, 3, 4, 6, 9)]
        [1.0, 1.0, 0.75, 0.5, 0.0, 0.0]
    """

    start: float
    end: float
    begin: float = 0.0
    until: float = 1.0
    shape: Literal["linear", "cosine"] = "linear"

    def __post_init__(self) -> None:
        numbers = (self.start, self.end, self.begin, self.until)
        if not all(map(math.isfinite, numbers)) or not 0 <= self.begin <= self.until:
            raise ConfigError(
                f"a ramp from {self.start} at epoch {self.begin} to {self.end} at epoch "
                f"{self.until} cannot be; expected finite numbers, and epochs 0 <= begin <= until"
            )
        if self.shape not in ("linear", "cosine"):
            raise ConfigError(f"a ramp's shape is {self.shape!r}; expected 'linear' or 'cosine'")

    def at(self, epoch: float) -> float:
        """The weight at an epoch, from 0."""
        if epoch >= self.until:
            return self.end
        if epoch <= self.begin:
            return self.start
        done = (epoch - self.begin) / (self.until - self.begin)
        if self.shape == "cosine":
            done = (1.0 - math.cos(math.pi * done)) / 2.0
        return self.start + (self.end - self.start) * done
