"""Whether two ways of training differ, from their accuracies by seed and region."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Accuracies = NDArray[np.float64]
"""Percent, ``[seeds, regions]``."""


@dataclass(frozen=True)
class Difference:
    """A mean difference in points.

    Args:
        mean: over seeds and regions.
        sd: of the seeds' means.
        low, high: 95 % confidence over seeds and regions.
        seeds: how many.
    """

    mean: float
    sd: float
    low: float
    high: float
    seeds: int

    def verdict(self, target: float) -> str:
        """``met`` if surely at least `target`, ``missed`` if surely less, else ``not resolved``.

        Example:
            >>> Difference(1.5, 0.1, 1.2, 1.8, 5).verdict(1.06)
            'met'
        """
        if self.low >= target:
            return "met"
        return "missed" if self.high < target else "not resolved"


def compare(row: Accuracies, baseline: Accuracies) -> Difference:
    """How much better a row is than a baseline, paired by seed and region.

    Seeds and regions are two crossed samples of what there could be. The variance of the mean is
    that of a two-way random-effects model without interaction bias (the pigeonhole estimate of
    Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007, which errs on the wide
    side), with Student's t for as many degrees of freedom as there are seeds but one.

    Args:
        row, baseline: percent, ``[seeds, regions]``, of the same seeds in the same order.

    Raises:
        ValueError: shapes that differ, or fewer than two seeds or regions.

    Example:
        >>> found = compare(np.array([[52.0, 61.0], [51.0, 60.0]]), np.array([[50.0, 60.0]] * 2))
        >>> found.mean, round(found.sd, 3)
        (1.0, 0.707)
    """
    if row.shape != baseline.shape or row.ndim != 2 or min(row.shape) < 2:
        raise ValueError(
            f"accuracies are {row.shape} and {baseline.shape}; expected equal [seeds, regions] of "
            "at least two each"
        )
    differences = row - baseline
    seeds, regions = differences.shape
    by_seed, by_region = differences.mean(axis=1), differences.mean(axis=0)
    variance = by_seed.var(ddof=1) / seeds + by_region.var(ddof=1) / regions
    margin = stats.t.ppf(0.975, seeds - 1) * np.sqrt(variance)
    mean = float(differences.mean())
    return Difference(
        mean, float(by_seed.std(ddof=1)), mean - float(margin), mean + float(margin), seeds
    )
