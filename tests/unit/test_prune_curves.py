"""Tables of sensitivity: the ratios that follow, and how workers share them."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from pantheon.compress.prune.curves import (
    RATIOS,
    Sensitivity,
    by_sensitivity,
    points_to_measure,
)
from pantheon.compress.prune.ranking import rank
from pantheon.errors import ConfigError, ResumeMismatch


def table(**points: list[tuple[float, float]]) -> Sensitivity:
    return Sensitivity("digest", "top1", "l1", "order", 100, 80.0, points)


def test_a_ratio_lies_linearly_between_its_points() -> None:
    found = table(conv=[(0.1, 0.01), (0.2, 0.03), (0.3, 0.05)])
    assert found.ratio("conv", 0.02) == pytest.approx(0.15)
    assert found.ratio("conv", 0.03) == pytest.approx(0.2)
    assert found.ratio("conv", 1.0) == 0.3


def test_a_ratio_below_the_first_point_is_not_silently_nothing() -> None:
    assert table(conv=[(0.1, 0.5)]).ratio("conv", 0.25) == pytest.approx(0.05)
    assert table(conv=[(0.1, 0.5)]).ratio("conv", 0.0) == 0.0


def test_a_loss_that_falls_again_does_not_confuse() -> None:
    found = table(conv=[(0.1, 0.04), (0.2, 0.02), (0.3, 0.06)])
    assert found.curve("conv") == [(0.0, 0.0), (0.1, 0.04), (0.2, 0.04), (0.3, 0.06)]
    assert found.ratio("conv", 0.03) == pytest.approx(0.075)
    assert found.ratio("conv", 0.04) == pytest.approx(0.2)


def test_a_model_that_gets_better_without_channels_loses_nothing() -> None:
    assert table(conv=[(0.1, -0.5), (0.2, 0.0)]).ratio("conv", 0.0) == 0.2


def test_the_area_is_that_of_trapezoids() -> None:
    assert table(conv=[(0.5, 0.2), (1.0 - 1e-9, 0.4)]).area("conv") == pytest.approx(
        0.5 * 0.1 + 0.5 * 0.3
    )


def test_groups_lose_what_costs_the_same_loss() -> None:
    found = table(easy=[(0.5, 0.1), (0.9, 0.2)], hard=[(0.5, 0.4), (0.9, 0.8)])
    rankings = {name: rank(torch.arange(100.0), 100) for name in ("easy", "hard")}
    level = by_sensitivity(rankings, found)
    assert level(0.0) == {"easy": 0, "hard": 0}
    assert level(1.0) == {"easy": 90, "hard": 90}
    assert level(0.25) == {"easy": 90, "hard": 25}  # a loss of 0.2


def test_numbers_that_are_no_decimals_are_found_again() -> None:
    found = table(conv=[(0.1 + 0.2, 0.5)])
    assert found.has("conv", 0.3)
    again = Sensitivity.from_json(json.loads(json.dumps(found.to_json())))
    assert again == found
    assert "0.30000000000000004" not in [str(key) for key in found.to_json()["points"]]


def test_workers_measure_each_point_once() -> None:
    groups = ["a", "b", "c"]
    first, second = (points_to_measure(table(), groups, RATIOS, (i, 2)) for i in (0, 1))
    assert len(first) + len(second) == len({*first, *second}) == 3 * len(RATIOS)
    assert points_to_measure(table(a=[(0.1, 0.0)]), ["a"], (0.1, 0.2), (0, 1)) == [("a", 0.2)]


def test_tables_of_two_workers_are_one() -> None:
    one, other = table(a=[(0.1, 0.0)]), table(b=[(0.1, 0.5)], a=[(0.2, 0.1)])
    one.merge(other)
    assert one.points == {"a": [(0.1, 0.0), (0.2, 0.1)], "b": [(0.1, 0.5)]}


@pytest.mark.parametrize(
    ("field", "said"),
    [
        ("model", "model: 'digest' there"),
        ("by", "by: 'top1' there"),
        ("samples", "samples: 100"),
        ("order", "order: 'order' there"),
    ],
)
def test_tables_of_different_measurements_are_not_merged(field: str, said: str) -> None:
    values = table().to_json() | {field: 7 if field == "samples" else "other"}
    with pytest.raises(ResumeMismatch, match=said):
        table().merge(Sensitivity.from_json(values))
    other = Sensitivity.from_json(table().to_json() | {"base": 79.0})
    with pytest.raises(ResumeMismatch, match=r"the base 80.0 and 79.0"):
        table().merge(other)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"version": 2}, "version 2; expected 1"),
        ({"base": True}, "base is True"),
        ({"base": float("nan")}, "base is nan"),
        ({"points": {"a": [[0.1]]}}, "ratio, loss. pairs"),
        ({"points": {"a": [[0.0, 1.0]]}}, "not between 0 and 1"),
        ({"points": {"a": [["0.1", 1.0]]}}, "a ratio is '0.1'"),
        ({"points": []}, "points is"),
        ({"extra": 1}, "unknown key 'extra'"),
    ],
)
def test_a_table_that_was_altered_is_refused(change: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Sensitivity.from_json(table().to_json() | change)
