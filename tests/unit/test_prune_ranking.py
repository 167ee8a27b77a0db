"""How a cut is shared out, and how a target is reached."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pantheon.compress.prune.ranking import (
    Counts,
    Ranking,
    chosen,
    energy,
    everywhere,
    rank,
    steps_between,
    uniform,
)
from pantheon.compress.prune.reaching import Reached, reach
from pantheon.errors import ConfigError


def ranked(*scores: float, align: int = 1, most: float = 1.0) -> Ranking:
    return rank(torch.tensor(scores, dtype=torch.float64), len(scores), align, most)


def test_the_lowest_go_first_and_of_equal_ones_the_first() -> None:
    assert ranked(3, 1, 2, 1).order == (1, 3, 2, 0)


def test_one_unit_always_stays() -> None:
    assert ranked(3, 1, 2).allowed(3) == 2
    assert ranked(*range(10), most=0.55).allowed(9) == 5


@pytest.mark.parametrize(("lost", "kept"), [(0, 10), (1, 8), (3, 8), (5, 4), (9, 4)])
def test_what_is_left_is_a_multiple(lost: int, kept: int) -> None:
    assert 10 - ranked(*range(10), align=4).allowed(lost) == kept


def test_alignment_does_not_go_beyond_what_may_go_at_most() -> None:
    assert ranked(*range(10), align=8, most=0.1).allowed(1) == 0
    assert ranked(*range(16), align=8, most=0.6).allowed(9) == 8


def test_scores_below_zero_are_compared_by_their_distance_from_the_lowest() -> None:
    rankings = {"a": ranked(-3, -2, -1, 0), "b": ranked(1, 2, 3, 4)}
    assert everywhere(rankings, across=False)(0.5) == {"a": 2, "b": 2}
    found = reach(everywhere(rankings, across=False), rankings, share(rankings), left=0.5)
    assert found.left == 0.5
    with pytest.raises(ConfigError, match="'a' has scores below 0"):
        energy(rankings)


def test_units_of_several_channels_are_aligned_by_channels() -> None:
    # Six heads of four channels: eight channels are two heads.
    ranking = rank(torch.arange(6.0), channels=24, align=8)
    assert ranking.step == 2
    assert 6 - ranking.allowed(3) in (2, 4)


def test_uniform_takes_the_same_fraction_of_each() -> None:
    level = uniform({"a": ranked(*range(10)), "b": ranked(*range(4))})
    assert level(0.5) == {"a": 5, "b": 2}
    assert level(0.0) == {"a": 0, "b": 0}
    assert level(1.0) == {"a": 9, "b": 3}


def test_global_takes_the_lowest_of_all() -> None:
    rankings = {"a": ranked(1, 2, 3, 4), "b": ranked(10, 20, 30, 40)}
    assert everywhere(rankings, across=True)(3 / 8) == {"a": 3, "b": 0}
    # Relative to the mean of their group both are the same.
    assert everywhere(rankings, across=False)(4 / 8) == {"a": 2, "b": 2}


def test_equal_scores_do_not_keep_global_pruning_from_reaching_its_target() -> None:
    rankings = {"a": ranked(1, 1, 1, 1), "b": ranked(1, 1, 1, 1)}
    found = reach(everywhere(rankings, across=True), rankings, share(rankings), left=0.5)
    assert found.left == 0.5


def test_energy_is_the_threshold_of_optslim() -> None:
    # Squares 1, 4, 9, 16 of 30: the sums are 1/30, 5/30, 14/30 and 1. The smallest index whose sum
    # is more than 0.3 is 2; the threshold is (2 + 3) / 2, below which two lie.
    rankings = {"a": ranked(1, 2, 3, 4)}
    assert energy(rankings)(0.3) == {"a": 2}
    # Index 0 at once: the threshold is 0, and nothing goes.
    assert energy(rankings)(0.01) == {"a": 0}
    assert energy({"a": ranked(0, 0)})(0.5) == {"a": 0}
    # What has no energy is not gone at once.
    assert energy({"a": ranked(0, 0, 1)})(0.0) == {"a": 0}


def share(rankings: Mapping[str, Ranking]) -> object:
    total = sum(r.units for r in rankings.values())
    return lambda lost: 1 - sum(lost.values()) / total


def test_single_steps_lead_from_fewer_to_more() -> None:
    rankings = {"a": ranked(1, 2, 3), "b": ranked(1, 1, 4)}
    steps = steps_between(rankings, {"a": 0, "b": 1}, {"a": 2, "b": 2})
    # Relative to the means of 2: 0.5 and 0.5 first, then 1.
    assert steps == [("a", 1), ("b", 2), ("a", 2)]


scores = st.lists(st.floats(-100, 100), min_size=2, max_size=12)


@settings(deadline=None, max_examples=300)
@given(
    st.lists(scores, min_size=1, max_size=5),
    st.floats(0.05, 0.95),
    st.sampled_from(["uniform", "global", "energy"]),
    st.sampled_from([1, 2, 4]),
    st.data(),
)
def test_the_nearest_is_at_most_one_step_away(
    every: list[list[float]], left: float, strategy: str, align: int, data: st.DataObject
) -> None:
    if strategy == "energy":
        every = [[abs(score) for score in found] for found in every]
    rankings = {str(i): ranked(*found, align=align) for i, found in enumerate(every)}
    weights = {name: data.draw(st.floats(0.1, 10)) for name in rankings}
    whole = sum(weights[n] * r.units for n, r in rankings.items())

    def cost(lost: Counts) -> float:
        return sum(weights[n] * (r.units - lost[n]) for n, r in rankings.items()) / whole

    made = {
        "uniform": uniform,
        "global": lambda given: everywhere(given, across=True),
        "energy": energy,
    }
    level = made[strategy](rankings)
    if cost(level(1.0)) > left:
        with pytest.raises(ConfigError, match="cannot be removed"):
            reach(level, rankings, cost, left)
        return
    found = reach(level, rankings, cost, left)
    step = max(weights[n] * max(align, 1) / whole for n in rankings)
    assert abs(found.left - left) <= step + 1e-9
    assert found.left == cost(found.counts)
    for name, ranking in rankings.items():
        assert ranking.allowed(found.counts[name]) == found.counts[name]


def test_a_target_that_cannot_be_reached_names_the_nearest() -> None:
    rankings = {"a": ranked(*range(10), most=0.5)}
    with pytest.raises(ConfigError, match=r"80.0% cannot be removed: .* 50.0% is left, .* 50.0%"):
        reach(uniform(rankings), rankings, share(rankings), left=0.2)


def test_the_bisection_runs() -> None:
    rankings = {"a": ranked(*range(1000)), "b": ranked(*range(1000))}
    found: Reached = reach(uniform(rankings), rankings, share(rankings), left=0.3)
    assert found.left == pytest.approx(0.3, abs=1e-3)
    assert 5 < found.tried < 40


def test_what_goes_is_named_by_its_number() -> None:
    rankings = {"a": ranked(3, 1, 2), "b": ranked(1, 2)}
    assert chosen(rankings, {"a": 2, "b": 0}) == {"a": [1, 2]}
