"""Whether two rows of the table differ, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from benchmarks.paired import Difference, compare


def test_a_difference_is_paired_and_its_interval_is_as_by_hand() -> None:
    base = np.array([[10.0, 50.0, 90.0], [12.0, 48.0, 93.0]])
    row = base + np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    found = compare(row, base)
    assert found.mean == 2.5
    # Seeds differ by 2 and 3, regions by 1.5, 2.5 and 3.5: variances 1/2 and 1, of their means
    # 1/4 with one degree of freedom and 1/3 with two.
    assert found.sd == pytest.approx(math.sqrt(0.5))
    freedom = (7 / 12) ** 2 / ((1 / 4) ** 2 / 1 + (1 / 3) ** 2 / 2)
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(7 / 12)
    assert found.low == pytest.approx(2.5 - margin, abs=1e-6)
    assert found.high == pytest.approx(2.5 + margin, abs=1e-6)


def test_a_verdict_is_only_given_where_the_interval_allows_it() -> None:
    assert Difference(2.0, 0.1, 1.1, 2.9, 3).verdict(1.06) == "met"
    assert Difference(2.0, 0.1, 1.0, 3.0, 3).verdict(1.06) == "not resolved"
    assert Difference(0.5, 0.1, 0.0, 1.0, 3).verdict(1.06) == "missed"


def test_regions_of_one_photograph_count_as_they_vary_together() -> None:
    base, gains = np.full((2, 4), 50.0), np.array([[1.0, 1.0, 3.0, 5.0], [2.0, 2.0, 4.0, 6.0]])
    found = compare(base + gains, base, [7, 7, 9, 9])
    # Off the mean of 3 the photographs are -1.5 - 1.5 and 0.5 + 2.5: the mean's variance is
    # (9 + 9) * 2 / (2 - 1) / 4 ** 2, with one degree of freedom as that of the seeds, 1/4.
    variances = (0.25, 18 * 2 / 16)
    freedom = sum(variances) ** 2 / sum(v**2 for v in variances)
    margin = stats.t.ppf(0.975, freedom) * math.sqrt(sum(variances))
    assert (found.mean, found.high) == (3.0, pytest.approx(3 + margin))
    with pytest.raises(ValueError, match="4 regions of 1 photographs"):
        compare(base + gains, base, [7, 7, 7, 7])


def test_nothing_is_said_of_one_seed() -> None:
    with pytest.raises(ValueError, match="at least two each"):
        compare(np.ones((1, 4)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="expected equal"):
        compare(np.ones((2, 4)), np.ones((2, 3)))


def test_noise_alone_is_rarely_called_a_difference() -> None:
    rng = np.random.default_rng(0)
    wrong, photographs = 0, np.arange(30) % 15
    for _ in range(400):
        seeds, regions = rng.normal(0, 0.5, (4, 1)), rng.normal(0, 2, (1, 30))
        regions = regions + rng.normal(0, 2, 15)[photographs]
        row = 50 + seeds + regions + rng.normal(0, 3, (4, 30))
        found = compare(row, np.full((4, 30), 50.0), photographs.tolist())
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 0.05 * 400 + 10
