"""Which units go first, and how many of each group, as one number grows from 0 to 1."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from math import gcd

import torch
from torch import Tensor

from pantheon.errors import ConfigError

Counts = dict[str, int]
"""How many units each group loses."""

Level = Callable[[float], Counts]
"""More is lost at a higher level; nothing at 0, as much as may be at 1."""


@dataclass(frozen=True, slots=True)
class Ranking:
    """A group's units in the order in which they go.

    Args:
        order: ``[units]``, the one that goes first first.
        scores: float64 ``[units]``, rising, of the units in that order.
        step: units that are kept are a multiple of it.
        most: how many may go.
    """

    order: tuple[int, ...]
    scores: Tensor = field(repr=False)
    step: int = 1
    most: int = 0

    @property
    def units(self) -> int:
        """How many there are."""
        return len(self.order)

    @property
    def relative(self) -> Tensor:
        """Scores from 0 on, divided by their mean, to be compared with other groups'."""
        scores = self.scores - self.scores.min().clamp_max(0)
        mean = scores.mean()
        return scores / mean if mean > 0 else scores

    def allowed(self, lost: float, most: int | None = None) -> int:
        """The nearest number of units that may go.

        Args:
            lost: how many are to go.
            most: how many may; by default `Ranking.most`.

        Example:
            >>> rank(torch.arange(10.0), channels=10, align=4).allowed(3)
            2
        """
        least = self.units - (self.most if most is None else most)
        kept = max(self.units - max(round(lost), 0), least)
        if self.step > 1 and kept < self.units:
            kept = max(round(kept / self.step), 1) * self.step
            kept += self.step if kept < least else 0
        return self.units - min(kept, self.units)


def rank(scores: Tensor, channels: int, align: int = 1, most: float = 1.0) -> Ranking:
    """The order of a group's units.

    Args:
        scores: float64 ``[units]``; the lowest go first, of equal ones the first.
        channels: how many a layer of the group has.
        align: the number of channels that are left is to be a multiple of it.
        most: the largest fraction of units that may go; one always stays.
    """
    units = len(scores)
    ordered, order = scores.sort(stable=True)
    step = align // gcd(align, channels // units)
    limit = min(int(most * units + 1e-9), units - 1)
    return Ranking(tuple(order.tolist()), ordered, step, limit)


def digest(rankings: Mapping[str, Ranking]) -> str:
    """sha256 of what goes in which order and steps, in hexadecimal.

    Example:
        >>> one, other = rank(torch.tensor([1.0, 2.0]), 2), rank(torch.tensor([2.0, 1.0]), 2)
        >>> digest({"a": one}) == digest({"a": one}), digest({"a": one}) == digest({"a": other})
        (True, False)
    """
    told = {name: [r.order, r.step, r.most] for name, r in rankings.items()}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def uniform(rankings: Mapping[str, Ranking]) -> Level:
    """The same fraction of every group."""
    return lambda level: {name: r.allowed(level * r.units) for name, r in rankings.items()}


def everywhere(rankings: Mapping[str, Ranking], across: bool) -> Level:
    """The lowest scores of all groups together.

    Args:
        across: whether scores of groups can be compared; where not, they are divided by their mean.
    """
    relative = {name: r.scores if across else r.relative for name, r in rankings.items()}
    every = torch.cat(list(relative.values())).sort().values

    def at(level: float) -> Counts:
        count = round(level * len(every))
        if not count:
            return dict.fromkeys(rankings, 0)
        bound = every[count - 1]
        lost = {name: int((scores <= bound).sum()) for name, scores in relative.items()}
        return {name: r.allowed(lost[name]) for name, r in rankings.items()}

    return at


def energy(rankings: Mapping[str, Ranking]) -> Level:
    """Of every group, what holds a fraction of its sum of squared scores.

    PaddleSlim's `optimal_threshold` (OptSlim): with the smallest i for which the squares of the i
    lowest scores and one more are more than the fraction, those go that are below the mean of the
    scores before and at i.

    Raises:
        ConfigError: scores below 0, which have no such sum.
    """
    for name, ranking in rankings.items():
        if ranking.scores[0] < 0:
            raise ConfigError(
                f"the strategy energy goes by squares, and {name!r} has scores below 0; choose "
                "another strategy, or a criterion that answers none"
            )

    def lost(r: Ranking, level: float) -> int:
        squares = r.scores.square()
        total = squares.sum()
        if total <= 0 or not level:
            return 0
        beyond = (squares.cumsum(0) / total > level).nonzero()
        first = int(beyond[0]) if len(beyond) else r.units
        if first in (0, r.units):
            return 0 if first == 0 else r.units
        bound = (r.scores[first - 1] + r.scores[first]) / 2
        return int((r.scores < bound).sum())

    return lambda level: {name: r.allowed(lost(r, level)) for name, r in rankings.items()}


def chosen(rankings: Mapping[str, Ranking], counts: Mapping[str, int]) -> dict[str, list[int]]:
    """The units that go, by group; groups that lose none are left out."""
    return {name: sorted(rankings[name].order[:n]) for name, n in counts.items() if n}


def steps_between(
    rankings: Mapping[str, Ranking], fewer: Mapping[str, int], more: Mapping[str, int]
) -> list[tuple[str, int]]:
    """Single steps from fewer units to more: the group, and how many it has lost after the step.

    What has the lower score relative to its group goes first, of equal scores what leaves more of
    its group.
    """
    found: list[tuple[float, float, str, int]] = []
    for name, r in rankings.items():
        relative, lost = r.relative, fewer[name]
        while lost < more[name]:
            after = next((n for n in range(lost + 1, more[name]) if r.allowed(n) == n), more[name])
            found.append((float(relative[after - 1]), after / r.units, name, after))
            lost = after
    return [(name, after) for _, _, name, after in sorted(found)]
