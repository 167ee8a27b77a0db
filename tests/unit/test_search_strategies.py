"""Strategies of our own, against what their papers say."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest

from pantheon.compress.search.covariance import CovarianceAdaptation
from pantheon.compress.search.samplers import STRATEGIES, sampler_of
from pantheon.compress.search.space import Choice, Point
from pantheon.compress.search.strategies import (
    RegularizedEvolution,
    SimulatedAnnealing,
    Strategy,
    untried,
)
from pantheon.compress.search.trials import Told, key_of
from pantheon.errors import ConfigError

CHOICES = (
    Choice("a", (1, 2, 3, 4, 5)),
    Choice("b", (1, 2, 3, 4)),
    Choice("kind", ("x", "y", "z"), ordered=False),
    Choice("fixed", (7,)),
)


def told(scores: Sequence[float]) -> list[Told]:
    """Points of which no two are alike, by trials with these scores."""
    every = untried(CHOICES, set(), 0)
    return [Told(number, next(every), score) for number, score in enumerate(scores)]


def apart(one: Point, other: Point) -> int:
    return sum(one[name] != other[name] for name in one)


def test_annealing_goes_where_it_is_better_and_sometimes_where_it_is_worse() -> None:
    walk = SimulatedAnnealing(CHOICES, 0, startup=2, temperature=2.0, cooling=0.5)
    assert walk.stands(told([1, 3])).number == 1
    assert walk.stands(told([1, 3, 3.5])).number == 2
    # Worse by 1: exp(-1 / 2) at first, exp(-1 / 1) one point later.
    taken = np.zeros(2)
    for seed in range(2000):
        walk = SimulatedAnnealing(CHOICES, seed, startup=2, temperature=2.0, cooling=0.5)
        taken[0] += walk.stands(told([1, 3, 2])).number == 2
        taken[1] += walk.stands(told([1, 3, 3, 2])).number == 3
    assert taken / 2000 == pytest.approx([math.exp(-0.5), math.exp(-1)], abs=0.04)


def test_annealing_is_as_warm_as_its_first_scores_differ_and_never_divides_by_zero() -> None:
    found = {
        SimulatedAnnealing(CHOICES, seed, startup=2, cooling=0.5).stands(told([0, 2, 1])).number
        for seed in range(20)
    }
    assert found == {1, 2}
    scores = [1.0, *[2.0] * 3000, 2.0 - 1e-9]
    walk = SimulatedAnnealing(CHOICES, 0, startup=2, cooling=0.1)
    before = [Told(number, {"a": 0}, score) for number, score in enumerate(scores)]
    assert walk.stands(before).number == 3000


@pytest.mark.parametrize("made", [SimulatedAnnealing, RegularizedEvolution])
def test_points_are_near_the_one_they_come_from_and_new(made: type[Strategy]) -> None:
    strategy = made(CHOICES, 3, **({"startup": 2} if made is SimulatedAnnealing else
                                   {"population": 4, "tournament": 4}))  # fmt: skip
    before = told([0, 0, 0, 9])
    seen = set()
    for number in range(4, 40):
        point = strategy.propose(before, number)
        assert apart(point, before[-1].point) == 1
        assert point["fixed"] == 0
        assert point not in [each.point for each in before]
        assert strategy.propose(before, number) == point
        seen.add(key_of(point))
    assert len(seen) > 5


def test_a_neighbourhood_that_is_tried_out_is_left() -> None:
    strategy = SimulatedAnnealing(CHOICES, 0, startup=1, cooling=0.5)
    here = {"a": 0, "b": 0, "kind": 0, "fixed": 0}
    near = [point for point in untried(CHOICES, set(), 0) if apart(point, here) == 1]
    before = [Told(0, here, 9.0), *(Told(n, point, 0.0) for n, point in enumerate(near, 1))]
    assert apart(strategy.propose(before, 50), here) == 2


def test_evolution_forgets_the_oldest_however_good_it_was() -> None:
    strategy = RegularizedEvolution(CHOICES, 0, population=4, tournament=4)
    before = told([9, 1, 2, 3, 4])
    assert apart(strategy.propose(before, 5), before[4].point) == 1
    parents = set()
    loose = RegularizedEvolution(CHOICES, 0, population=4, tournament=1)
    for number in range(5, 60):
        point = loose.propose(before, number)
        parents |= {each.number for each in before if apart(point, each.point) == 1}
    assert {1, 2, 3, 4} <= parents


@pytest.mark.parametrize("strategy", ["annealing", "evolution"])
def test_a_study_that_begins_with_good_points_goes_on_from_them(strategy: str) -> None:
    before = told([1, 3])
    for number in range(2, 30):
        near = sampler_of(strategy, CHOICES, 0, 40, begun=True).propose(before, number)
        assert min(apart(near, each.point) for each in before) == 1
        own = sampler_of(strategy, CHOICES, 0, 40, {"startup": 2}).propose(before, number)
        assert own == near
    # Without such points, and where it is told to, it begins by chance.
    for sampler in (
        sampler_of(strategy, CHOICES, 0, 40),
        sampler_of(strategy, CHOICES, 0, 40, {"startup": 9}, begun=True),
    ):
        far = [sampler.propose(before, number) for number in range(2, 30)]
        assert max(min(apart(f, each.point) for each in before) for f in far) > 1


def test_cmaes_closes_in_on_the_best_of_ordered_choices() -> None:
    choices = [Choice(name, tuple(range(16))) for name in "abc"]
    best = {"a": 12, "b": 3, "c": 8}
    strategy = CovarianceAdaptation(choices, 1, population=8)
    before: list[Told] = []
    for number in range(160):
        point = strategy.propose(before, number)
        before.append(Told(number, point, -sum((point[n] - best[n]) ** 2 for n in best)))
    early, late = (np.mean([each.score for each in part]) for part in (before[:24], before[-24:]))
    assert late > -4 > early
    assert strategy.propose(before, 160) == CovarianceAdaptation(choices, 1, population=8).propose(
        before, 160
    )


def test_cmaes_leaves_choices_without_an_order_to_chance() -> None:
    strategy = CovarianceAdaptation(CHOICES, 0, population=4)
    kinds = [strategy.propose([], number)["kind"] for number in range(60)]
    assert min(kinds.count(kind) for kind in range(3)) > 8


def test_options_that_cannot_be() -> None:
    for strategy, options, said in (
        ("annealing", {"cooling": 1.0}, "cooling 1.0; expected"),
        ("annealing", {"startup": 0}, "startup is 0"),
        ("annealing", {"temperature": 0.0}, "temperature 0.0"),
        ("evolution", {"population": 2, "tournament": 3}, "tournament 3"),
        ("evolution", {"startup": 0}, "startup is 0"),
        ("evolution", {"people": 2}, "options of 'evolution' do not fit: .*people"),
        ("cmaes", {"sigma": 0.0}, "sigma is 0.0"),
        ("tpe", {"startup": 1}, "options of 'tpe' do not fit: .*startup"),
        ("anealing", {}, "no strategy 'anealing'; the nearest are 'annealing'"),
    ):
        with pytest.raises(ConfigError, match=said):
            sampler_of(strategy, CHOICES, 0, 40, options)
    with pytest.raises(ConfigError, match="cmaes needs two ordered choices, and the space has 1"):
        sampler_of("cmaes", CHOICES[1:], 0, 40)
    assert len(STRATEGIES) == 8


@pytest.mark.parametrize("strategy", ["annealing", "evolution"])
def test_a_search_that_begins_at_a_point_goes_on_from_it_at_once(strategy: str) -> None:
    sampler = sampler_of(strategy, CHOICES, 0, 40, begun=True)
    assert isinstance(sampler, SimulatedAnnealing | RegularizedEvolution)
    (before,) = told([85.0])
    assert apart(sampler.propose([before], 2), before.point) == 1


def test_a_temperature_is_of_more_points_than_a_search_begins_with() -> None:
    walk = sampler_of("annealing", CHOICES, 0, 40, begun=True)
    assert isinstance(walk, SimulatedAnnealing)
    places = [
        [
            walk.stands(told([unit * each for each in SCORES[:count]])).number
            for count in range(1, 9)
        ]
        for unit in (1.0, 0.01, 100.0)
    ]
    assert places[0] == places[1] == places[2]
    taken = {
        SimulatedAnnealing(CHOICES, seed, startup=1, warming=5, cooling=0.99)
        .stands(told([85.0, 80.0, 83.0, 81.0, 84.5]))
        .number
        for seed in range(20)
    }
    assert 0 in taken
    assert 4 in taken


SCORES = (85.0, 82.0, 84.0, 86.0, 83.0, 87.0, 84.0, 82.0)
