"""Whether two ways of training differ, from their accuracies by seed and region."""

from __future__ import annotations

from collections.abc import Sequence
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
        low, high: 95 % confidence over seeds and photographs.
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


def compare(
    row: Accuracies, baseline: Accuracies, photographs: Sequence[int] | None = None
) -> Difference:
    """How much better a row is than a baseline, paired by seed and region.

    Seeds and photographs are two crossed samples of what there could be, and regions of one
    photograph are alike. The variance of the mean is the sum of both samples' (the pigeonhole
    estimate of Owen, "The Pigeonhole Bootstrap", Annals of Applied Statistics 2007, which errs on
    the wide side), that of photographs from the sums of their regions. Student's t has the degrees
    of freedom of Satterthwaite, "An Approximate Distribution of Estimates of Variance Components",
    1946.

    Args:
        row, baseline: percent, ``[seeds, regions]``, of the same seeds in the same order.
        photographs: of which each region is; each of its own if left out.

    Raises:
        ValueError: shapes that differ, or fewer than two seeds or photographs.

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
    by_seed, mean = differences.mean(axis=1), float(differences.mean())
    _, where = np.unique(
        range(regions) if photographs is None else photographs, return_inverse=True
    )
    sums = np.bincount(where, differences.mean(axis=0) - mean)
    if len(where) != regions or len(sums) < 2:
        raise ValueError(
            f"{len(where)} regions of {len(sums)} photographs; expected {regions} of 2"
        )
    variances = np.array([by_seed.var(ddof=1) / seeds, sums.var(ddof=1) * len(sums) / regions**2])
    free = np.array([seeds - 1, len(sums) - 1])
    variance = variances.sum()
    margin = 0.0
    if variance > 0:
        freedom = variance**2 / (variances**2 / free).sum()
        margin = float(stats.t.ppf(0.975, freedom) * np.sqrt(variance))
    return Difference(mean, float(by_seed.std(ddof=1)), mean - margin, mean + margin, seeds)
