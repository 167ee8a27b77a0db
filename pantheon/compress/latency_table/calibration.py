"""From the sum of operators' times to a net's latency, and how far that is from the truth."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pantheon.errors import CompressionError

KEPT = 0.9
"""The part of nets whose latency is within the error that a prediction carries."""

FEATURES: tuple[tuple[int, ...], ...] = ((0,), (0, 1), (0, 2), (0, 1, 2))
"""What a line may be made of: the sum of times, the number of operators, and 1."""

FEWEST = 4
"""Nets at least: each is predicted by what the others say."""


@dataclass(frozen=True, slots=True)
class Calibration:
    """A line from the sum of operators' times to a latency, fitted on whole nets.

    A runtime does something between operators, and its profiler takes some time in each of them:
    both are so much an operator.

    Args:
        slope: milliseconds for each of the sum.
        each: milliseconds for each operator.
        base: milliseconds for each run.
        error: the relative error that `kept` of nets stay within, from nets that were predicted by
            a line through the others (the conformal quantile of their errors).
        kept: part of nets; 0.9, or less where there are too few nets to tell.
        median: the median of these errors.
        lowest, highest: milliseconds of the nets; what is beyond is a guess.
        nets: how many there were.
    """

    slope: float
    each: float
    base: float
    error: float
    kept: float
    median: float
    lowest: float
    highest: float
    nets: int

    def latency(self, total: float, count: int) -> float:
        """Milliseconds of a net, by the sum of its operators' times and their number."""
        return self.slope * total + self.each * count + self.base


def calibrated(
    totals: Sequence[float], counts: Sequence[int], latencies: Sequence[float]
) -> Calibration:
    """Fit a line that is as close as can be, relatively.

    Of lines through 0 or not, with a time for each operator or none, the one that predicts nets
    best which it was not fitted on.

    Args:
        totals: the sum of the operators' times of each net, in milliseconds.
        counts: how many operators each has.
        latencies: what each takes, in milliseconds.

    Raises:
        CompressionError: fewer than `FEWEST` nets.

    Example:
        >>> found = calibrated([1.0, 2.0, 3.0, 4.0], [9, 9, 9, 9], [1.1, 2.2, 3.3, 4.4])
        >>> round(found.slope, 3), round(found.error, 3), found.kept
        (1.1, 0.0, 0.8)
    """
    nets = len(latencies)
    if nets < FEWEST:
        raise CompressionError(
            f"{nets} nets are too few to calibrate a table with; measure {FEWEST} or more"
        )
    known = np.array([totals, counts, np.ones(nets)], np.float64).T
    truth = np.array(latencies, np.float64)
    errors = {some: _left_out(known[:, some], truth) for some in FEATURES}
    # As good as another is not better: fewer parts are then the safer ones.
    best = min(FEATURES, key=lambda some: round(float(np.mean(errors[some] ** 2)) ** 0.5, 4))
    weights = np.zeros(3)
    weights[[*best]] = _fitted(known[:, best], truth)
    ordered = np.sort(errors[best])
    kept = min(KEPT, nets / (nets + 1))
    slope, each, base = map(float, weights)
    return Calibration(
        slope=slope,
        each=each,
        base=base,
        error=float(ordered[math.ceil(round(kept * (nets + 1), 9)) - 1]),
        kept=round(kept, 3),
        median=float(np.median(ordered)),
        lowest=float(truth.min()),
        highest=float(truth.max()),
        nets=nets,
    )


def _fitted(known: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Least squares of relative errors."""
    found = np.linalg.lstsq(known / truth[:, None], np.ones(len(truth)), rcond=None)[0]
    return np.asarray(found, np.float64)


def _left_out(known: NDArray[np.float64], truth: NDArray[np.float64]) -> NDArray[np.float64]:
    """Relative errors of nets by what is fitted on the others."""
    found = np.zeros(len(truth))
    for net in range(len(truth)):
        others = np.arange(len(truth)) != net
        guess = known[net] @ _fitted(known[others], truth[others])
        found[net] = abs(guess / truth[net] - 1)
    return found
