"""Strategies of our own: what to try next, from nothing but what was tried before.

Each of them works its state out anew from the study's history whenever it is asked, so that any
worker can go on, and a seed and a trial's number decide all that is left to chance.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Container, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, IntDistribution
from optuna.samplers import BaseSampler
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from pantheon.compress.search.space import Choice, Point
from pantheon.compress.search.trials import Told, counts, history, key_of
from pantheon.errors import ConfigError
from pantheon.sampling.order import permute


def distribution_of(choice: Choice) -> BaseDistribution:
    """What Optuna is told of a choice: places in an order, or places of which none is near another.

    Example:
        >>> distribution_of(Choice("width", (0.5, 0.75, 1.0))).high
        2
    """
    last = len(choice.values) - 1
    return IntDistribution(0, last) if choice.ordered else CategoricalDistribution(range(last + 1))


class Strategy(BaseSampler):
    """A sampler of whole points, whose only state is the study's history.

    Args:
        choices: of the space.
        seed: of all that is random.
    """

    def __init__(self, choices: Sequence[Choice], seed: int) -> None:
        self.choices, self.seed = tuple(choices), seed

    @abstractmethod
    def propose(self, before: Sequence[Told], number: int) -> Point:
        """The point to try next.

        Args:
            before: what has a score, in the order of numbers.
            number: of the trial that it is for.
        """

    def chance(self, number: int, use: int = 0) -> np.random.Generator:
        """Random numbers that belong to a trial; those of another use are others."""
        return np.random.default_rng([self.seed, number, use])

    def infer_relative_search_space(
        self, study: Study, trial: FrozenTrial
    ) -> dict[str, BaseDistribution]:
        """All choices, from the first trial on."""
        return {choice.name: distribution_of(choice) for choice in self.choices}

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """A whole point."""
        trials = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        maximise = study.direction == StudyDirection.MAXIMIZE
        point = self.propose(history(trials, maximise), trial.number)
        return {name: point[name] for name in search_space}

    def sample_independent(
        self,
        study: Study,
        trial: FrozenTrial,
        param_name: str,
        param_distribution: BaseDistribution,
    ) -> Any:
        """Refused: points are whole."""
        raise ConfigError(f"the space has no choice {param_name!r}")

    def anywhere(self, chance: np.random.Generator) -> Point:
        """A point by chance."""
        return {c.name: int(chance.integers(len(c.values))) for c in self.choices}

    def changed(self, point: Mapping[str, int], chance: np.random.Generator, changes: int) -> Point:
        """A point that differs from another one in so many choices, or in all that there are.

        Half of the changes of an ordered choice are to a neighbour.
        """
        free = [choice for choice in self.choices if len(choice.values) > 1]
        found = dict(point)
        for place in chance.permutation(len(free))[:changes]:
            choice, own = free[place], point[free[place].name]
            others = [v for v in range(len(choice.values)) if v != own]
            if choice.ordered and chance.random() < 0.5:
                others = [v for v in others if abs(v - own) == 1]
            found[choice.name] = int(others[chance.integers(len(others))])
        return found

    def unseen(
        self, point: Mapping[str, int], before: Sequence[Told], chance: np.random.Generator
    ) -> Point:
        """A point near another one that nobody has tried, if there is one within reach."""
        seen = {key_of(told.point) for told in before}
        for changes in range(1, len(self.choices) + 1):
            for _ in range(TRIES):
                found = self.changed(point, chance, changes)
                if key_of(found) not in seen:
                    return found
        return found


TRIES = 20
"""How often a change of so many choices is tried before one more is changed."""


class SimulatedAnnealing(Strategy):
    """From the point where it stands to one near by; accepted if better, or by chance if worse.

    A worse point is accepted with the probability exp(d / T), d being the difference of scores and
    T falling by a factor with each point that has a score (Kirkpatrick et al., 1983; PaddleSlim's
    controller). The first points are by chance. A point is near another if one choice differs, and
    is not tried twice.

    Args:
        startup: points by chance at first, of which the best is where it begins.
        temperature: of the beginning, in units of the score; by default the standard deviation of
            the scores of the first `warming` points.
        warming: how many these are; by default those of `startup`.
        cooling: what the temperature is multiplied by.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        seed: int,
        *,
        startup: int = 8,
        temperature: float | None = None,
        warming: int | None = None,
        cooling: float = 0.9,
    ) -> None:
        super().__init__(choices, seed)
        if startup < 1 or not 0 < cooling < 1 or not (temperature is None or temperature > 0):
            raise ConfigError(
                f"startup is {startup}, temperature {temperature} and cooling {cooling}; expected "
                "1 or more, more than 0, and between 0 and 1"
            )
        self.startup, self.temperature, self.cooling = startup, temperature, cooling
        self.warming = max(startup, warming or 0)

    def propose(self, before: Sequence[Told], number: int) -> Point:
        """Near where it stands, or by chance at first."""
        chance = self.chance(number)
        if len(before) < self.startup:
            return self.anywhere(chance)
        return self.unseen(self.stands(before).point, before, chance)

    def stands(self, before: Sequence[Told]) -> Told:
        """Where the walk is after all that was tried.

        Args:
            before: at least `startup` points.
        """
        first, rest = before[: self.startup], before[self.startup :]
        here = max(first, key=lambda told: told.score)
        warm = self.temperature or float(np.std([t.score for t in before[: self.warming]]))
        for step, told in enumerate(rest):
            worse = here.score - told.score
            allowed = max(warm * self.cooling**step, TINY)
            if worse <= 0 or self.chance(told.number, 1).random() < math.exp(-worse / allowed):
                here = told
        return here


TINY = 1e-300
"""A temperature that is never 0."""


class RegularizedEvolution(Strategy):
    """Changes the best of some by one choice; what was tried long ago dies, however good it was.

    Real et al., "Regularized Evolution for Image Classifier Architecture Search", 2019.

    Args:
        population: how many of the last points live.
        tournament: how many of these, by chance, the best is taken of; of all where fewer live.
        startup: points by chance at first; by default the whole population. With fewer it grows
            from them.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        seed: int,
        *,
        population: int = 16,
        tournament: int = 4,
        startup: int | None = None,
    ) -> None:
        super().__init__(choices, seed)
        if not 1 <= tournament <= population:
            raise ConfigError(
                f"population is {population} and tournament {tournament}; expected a tournament of "
                "1 or more, and at most the population"
            )
        if startup is not None and startup < 1:
            raise ConfigError(f"startup is {startup}; expected 1 or more")
        self.population, self.tournament = population, tournament
        self.startup = population if startup is None else startup

    def propose(self, before: Sequence[Told], number: int) -> Point:
        """A child of the tournament's best, or by chance at first."""
        chance = self.chance(number)
        if len(before) < self.startup:
            return self.anywhere(chance)
        living = before[-self.population :]
        drawn = chance.choice(len(living), min(self.tournament, len(living)), replace=False)
        best = max((living[i] for i in drawn), key=lambda told: told.score)
        return self.unseen(best.point, before, chance)


class Grid(Strategy):
    """Every point once, in an order by chance; of points that are all tried, any."""

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        """The first point of the order that nobody has tried or is at."""
        trials = study.get_trials(deepcopy=False)
        taken = {key_of(t.params) for t in trials if counts(t) and t.number != trial.number}
        return {**next(untried(self.choices, taken, self.seed), self.anywhere(self.chance(0)))}

    def propose(self, before: Sequence[Told], number: int) -> Point:
        """Not asked, as scores decide nothing."""
        raise NotImplementedError


def untried(
    choices: Sequence[Choice], taken: Container[tuple[tuple[str, int], ...]], seed: int
) -> Iterator[Point]:
    """The points that are not among some others, in an order by chance that a seed names.

    Example:
        >>> every = list(untried([Choice("a", (1, 2)), Choice("b", (1, 2))], set(), seed=0))
        >>> len(every), len({tuple(point.values()) for point in every})
        (4, 4)
    """
    sizes = [len(choice.values) for choice in choices]
    size = math.prod(sizes)
    for start in range(0, size, BLOCK):
        positions = np.arange(start, min(start + BLOCK, size))
        for place in permute(positions, size, seed, 0).tolist():
            point: Point = {}
            for choice, count in zip(choices, sizes, strict=True):
                place, point[choice.name] = divmod(place, count)
            if key_of(point) not in taken:
                yield point


BLOCK = 256
"""Points that are put in order at a time."""
