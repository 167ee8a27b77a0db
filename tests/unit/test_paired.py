"""Whether two rows of the table differ, by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest

from benchmarks.paired import Difference, compare


def test_a_difference_is_paired_and_its_interval_is_as_by_hand() -> None:
    base = np.array([[10.0, 50.0, 90.0], [12.0, 48.0, 93.0]])
    row = base + np.array([[1.0, 2.0, 3.0], [2.0, 3.0, 4.0]])
    found = compare(row, base)
    assert found.mean == 2.5
    # Seeds differ by 2 and 3, regions by 1.5, 2.5 and 3.5: variances 1/2 and 1.
    assert found.sd == pytest.approx(math.sqrt(0.5))
    margin = 12.7062047 * math.sqrt(0.5 / 2 + 1 / 3)
    assert found.low == pytest.approx(2.5 - margin, abs=1e-6)
    assert found.high == pytest.approx(2.5 + margin, abs=1e-6)


def test_a_verdict_is_only_given_where_the_interval_allows_it() -> None:
    assert Difference(2.0, 0.1, 1.1, 2.9, 3).verdict(1.06) == "met"
    assert Difference(2.0, 0.1, 1.0, 3.0, 3).verdict(1.06) == "not resolved"
    assert Difference(0.5, 0.1, 0.0, 1.0, 3).verdict(1.06) == "missed"


def test_nothing_is_said_of_one_seed() -> None:
    with pytest.raises(ValueError, match="at least two each"):
        compare(np.ones((1, 4)), np.ones((1, 4)))
    with pytest.raises(ValueError, match="expected equal"):
        compare(np.ones((2, 4)), np.ones((2, 3)))


def test_noise_alone_is_rarely_called_a_difference() -> None:
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(400):
        seeds, regions = rng.normal(0, 0.5, (4, 1)), rng.normal(0, 2, (1, 30))
        found = compare(50 + seeds + regions + rng.normal(0, 3, (4, 30)), np.full((4, 30), 50.0))
        wrong += not found.low <= 0 <= found.high
    assert wrong <= 0.05 * 400 + 10
