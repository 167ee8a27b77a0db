"""Finding how much has to go to reach a target."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from pantheon.compress.prune.ranking import Counts, Level, Ranking, steps_between
from pantheon.errors import ConfigError

Cost = Callable[[Counts], float]
"""What is left of a model's cost without some units, as a fraction of the whole."""

HALVINGS = 40
"""Of the level: enough to tell any two units apart."""


@dataclass(frozen=True, slots=True)
class Reached:
    """What came out of a search.

    Args:
        counts: how many units each group loses.
        left: of the cost, as a fraction.
        tried: how many choices were measured.
    """

    counts: Counts
    left: float
    tried: int


def reach(
    level: Level,
    rankings: Mapping[str, Ranking],
    cost: Cost,
    left: float,
    halvings: int = HALVINGS,
) -> Reached:
    """The choice whose cost is nearest to a target.

    The level is halved until nothing lies between two choices; from the larger of these units go
    one by one, as they are ranked, until the target is passed. So the nearest is at most one step
    of one group away.

    Args:
        level: how many units go at which level.
        rankings: of each group.
        cost: of a choice.
        left: the target: the fraction of the cost that is to be left.
        halvings: at most; fewer for a cost that is slow to measure.

    Raises:
        ConfigError: the target cannot be reached; names the nearest that can.

    Example:
        >>> import torch
        >>> from pantheon.compress.prune.ranking import rank, uniform
        >>> rankings = {"a": rank(torch.arange(8.0), 8), "b": rank(torch.arange(4.0), 4)}
        >>> cost = lambda lost: 1 - (lost["a"] / 8 + lost["b"] / 4) / 2
        >>> reach(uniform(rankings), rankings, cost, left=0.5).counts
        {'a': 4, 'b': 2}
    """
    known: dict[tuple[int, ...], float] = {}

    def measured(counts: Counts) -> float:
        key = tuple(counts.values())
        if key not in known:
            known[key] = cost(counts)
        return known[key]

    fewer, more = level(0.0), level(1.0)
    _require_reachable(measured(more), left)
    low, high = 0.0, 1.0
    for _ in range(halvings):
        if len(steps_between(rankings, fewer, more)) < 2:
            break
        middle = (low + high) / 2
        found = level(middle)
        if measured(found) > left:
            low, fewer = middle, found
        else:
            high, more = middle, found
    return _between(rankings, fewer, more, measured, left, known)


def _require_reachable(least: float, left: float) -> None:
    if least > left:
        raise ConfigError(
            f"{1 - left:.1%} cannot be removed: without all that may go {least:.1%} is left, so "
            f"that {1 - least:.1%} is the most; ask for less, or let more layers lose more "
            "channels"
        )


def _between(
    rankings: Mapping[str, Ranking],
    fewer: Counts,
    more: Counts,
    measured: Cost,
    left: float,
    known: Mapping[tuple[int, ...], float],
) -> Reached:
    """The nearest choice on the way from one to another, unit by unit."""
    steps = steps_between(rankings, fewer, more)

    def after(n: int) -> Counts:
        return fewer | dict(steps[:n])

    low, high = 0, len(steps)
    while high - low > 1:
        middle = (low + high) // 2
        if measured(after(middle)) > left:
            low = middle
        else:
            high = middle
    best = min((after(low), after(high)), key=lambda counts: abs(measured(counts) - left))
    return Reached(best, measured(best), len(known))
