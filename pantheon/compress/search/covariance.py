"""CMA-ES on places of ordered choices, from the study's history alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from pantheon.compress.search.space import Choice, Point
from pantheon.compress.search.strategies import Strategy
from pantheon.compress.search.trials import Told
from pantheon.errors import ConfigError


class CovarianceAdaptation(Strategy):
    """A normal distribution over places, moved and shaped by the better half of each generation.

    CMA-ES with margin (Hamano et al., 2022), which keeps every discrete choice open, of the library
    ``cmaes``. Its state is not kept but worked out again from the history, generation by
    generation: Optuna's own sampler keeps it as a pickle in the storage, by which whoever writes
    there would run code in every worker. Choices without an order are left to chance.

    Args:
        sigma: standard deviation at first, of the way from the first value to the last.
        population: points of a generation; by default what the library takes for so many choices.

    Raises:
        ConfigError: fewer than two ordered choices of two values or more.
    """

    def __init__(
        self,
        choices: Sequence[Choice],
        seed: int,
        *,
        sigma: float = 0.3,
        population: int | None = None,
    ) -> None:
        super().__init__(choices, seed)
        self.ordered = [c for c in choices if c.ordered and len(c.values) > 1]
        if len(self.ordered) < 2:
            raise ConfigError(
                f"cmaes needs two ordered choices, and the space has {len(self.ordered)}; take tpe"
            )
        if not sigma > 0 or (population is not None and population < 2):
            raise ConfigError(
                f"sigma is {sigma} and population {population}; expected more than 0, and 2 or more"
            )
        self.sigma, self.population = sigma, population

    def propose(self, before: Sequence[Told], number: int) -> Point:
        """A point of the distribution that the whole generations so far have come to."""
        chance = self.chance(number)
        point = self.anywhere(chance)
        walk = self._walk(int(chance.integers(2**31)))
        size = walk.population_size
        for start in range(0, len(before) - size + 1, size):
            walk.tell([(self._place(t.point), -t.score) for t in before[start : start + size]])
        found, _ = walk.ask()
        for choice, place in zip(self.ordered, found, strict=True):
            point[choice.name] = round(float(place) * (len(choice.values) - 1))
        return point

    def _walk(self, seed: int) -> Any:
        from cmaes import CMAwM

        count = len(self.ordered)
        return CMAwM(
            mean=np.full(count, 0.5),
            sigma=self.sigma,
            bounds=np.tile([0.0, 1.0], (count, 1)),
            steps=np.array([1 / (len(choice.values) - 1) for choice in self.ordered]),
            seed=seed,
            population_size=self.population,
        )

    def _place(self, point: Point) -> NDArray[np.float64]:
        """A point's ordered places, from 0 to 1."""
        return np.array([point[c.name] / (len(c.values) - 1) for c in self.ordered])
