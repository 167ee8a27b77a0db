"""How nets that a search found are judged beside others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks.winners import Result, correlation, judge, line_at
from benchmarks.winners_nets import BASE, Net


def result(
    name: str, kind: str, top1: float, milliseconds: float, score: float | None = None
) -> Result:
    score = top1 if score is None else score
    seeds = np.array([[top1 - 1, top1], [top1, top1 + 1]])
    return Result(Net(name, kind, {}, score), seeds, top1, milliseconds, milliseconds / 2)


WIDTHS = [result(BASE, "width", 80, 2), result("b", "width", 60, 1), result("c", "width", 40, 0.5)]


@pytest.mark.parametrize(("at", "top1"), [(1.5, 70), (0.75, 50), (1, 60), (0.1, 40), (9, 80)])
def test_the_line_is_straight_between_widths_and_ends_with_them(at: float, top1: float) -> None:
    assert line_at(WIDTHS, at).mean() == pytest.approx(top1)


def test_short_scores_that_order_nets_as_they_end_correlate() -> None:
    assert correlation(range(9), [n**2 for n in range(9)], 100)[0] == pytest.approx(1)
    assert correlation(range(9), range(9, 0, -1), 100) == pytest.approx((-1, -1, -1))


@pytest.mark.parametrize(
    ("winner", "chance", "good", "goal"),
    [(81, 70, True, "met"), (79, 70, True, "missed"), (79, 79.5, False, "missed"),
     (69, 60, False, "missed")],
)  # fmt: skip
def test_a_winner_is_above_the_line_and_better_than_chance(
    winner: float, chance: float, good: bool, goal: str, capsys: pytest.CaptureFixture[str]
) -> None:
    results = [*WIDTHS, result("w", "winner", winner, 1.5), result("x", "chance", chance, 1)]
    spec: Any = SimpleNamespace(spec={"goal": {"latency": -20, "points": 0}})
    assert judge(spec, results) is good
    assert f"at -25.0 % of the latency; goal +0 at -20 %: {goal}" in capsys.readouterr().out
