"""What a search is about: a space, costs and limits, how a point is scored, what is wanted."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
from optuna.study import StudyDirection

from pantheon.compress.search.space import Point, Space, check_choices, values_of
from pantheon.errors import ConfigError, DivergedError

Direction = Literal["maximise", "minimise"]


class Report(Protocol):
    """Told how a training comes on, so that it can be given up early."""

    def __call__(self, step: int, value: float) -> None:
        """Note a score at a step; may raise to end the training."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a search is about.

    Args:
        space: what is searched through.
        objectives: what is wanted, by the names of costs and of what `score` answers. With several
            of them the best are a Pareto front.
        costs: what a point's model costs, by name, found without training.
        limits: the largest allowed costs.
        score: trains and measures a point's model; answers numbers by name.

    Raises:
        ConfigError: an empty space, no objective, or a limit that is no positive number.
    """

    space: Space
    objectives: Mapping[str, Direction]
    score: Callable[[Point, Report], Mapping[str, float]]
    costs: Callable[[Point], Mapping[str, float]] = field(default=lambda point: {})
    limits: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        check_choices(self.space.choices)
        if not self.objectives:
            raise ConfigError("the search wants nothing; name at least one objective")
        for name, limit in self.limits.items():
            if not 0 < limit < math.inf:
                raise ConfigError(f"the limit of {name} is {limit}; expected a number above 0")


def excess(costs: Mapping[str, float], limits: Mapping[str, float]) -> dict[str, float]:
    """By how much each limit is broken, as a fraction of it; negative where it is kept.

    Raises:
        ConfigError: a limit of something that has no cost.

    Example:
        >>> excess({"macs": 3e6}, {"macs": 2e6})
        {'macs': 0.5}
    """
    if unknown := sorted(set(limits) - set(costs)):
        raise ConfigError(
            f"there is a limit of {unknown[0]}, and no cost of that name; expected one of "
            f"{', '.join(sorted(costs)) or 'none'}"
        )
    return {name: costs[name] / limit - 1 for name, limit in limits.items()}


def keeps(broken: Mapping[str, float]) -> bool:
    """Whether all limits are kept."""
    return all(each <= 0 for each in broken.values())


def repaired(task: Task, point: Point, chance: np.random.Generator) -> Point | None:
    """A point within the limits, made of one beyond them by smaller values of ordered choices.

    On a way by chance to the smallest values of all, one place of one choice at a time, it is the
    first point that keeps the limits. None if the last one does not.
    """
    ordered = [choice.name for choice in task.space.choices if choice.ordered]
    steps = [name for name in ordered for _ in range(point[name])]
    steps = [steps[place] for place in chance.permutation(len(steps))]

    def after(count: int) -> Point:
        lower = Counter(steps[:count])
        return {name: place - lower[name] for name, place in point.items()}

    def kept(count: int) -> bool:
        return keeps(excess(task.costs(after(count)), task.limits))

    low, high = 0, len(steps)
    if not steps or not kept(high):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if kept(middle) else (middle, high)
    return after(high)


def first_points(task: Task) -> list[Point]:
    """The points that a search begins with: its space's start, or what is within the limits of it.

    Those are the largest point that has all ordered choices at the same part of the start's height,
    and one with choices a little higher, as many as there is room for. None where none is within,
    or the space has no start.
    """
    top = task.space.start
    if top is None:
        return []
    ordered = {choice.name for choice in task.space.choices if choice.ordered}
    steps = max(len(choice.values) for choice in task.space.choices) - 1

    def at(step: int) -> Point:
        return {n: round(step / steps * p) if n in ordered else p for n, p in top.items()}

    def kept(point: Point) -> bool:
        return keeps(excess(task.costs(point), task.limits))

    low, high = -1, steps + 1
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if kept(at(middle)) else (low, middle)
    if low < 0:
        return []
    even = filled = at(low)
    for name, place in at(min(high, steps)).items():
        higher = filled | {name: place}
        filled = higher if kept(higher) else filled
    return [even] if filled == even else [even, filled]


SAMPLED = 32
"""Points that are looked at before limits are said to be kept by none."""


def check_limits(task: Task, seed: int) -> None:
    """Make sure that some point keeps the limits.

    Raises:
        ConfigError: none of those looked at does, the least one among them; names the closest.
    """
    if not task.limits:
        return
    chance = np.random.default_rng(seed)
    closest: tuple[float, Point] | None = None
    for number in range(SAMPLED):
        point = {
            # The first one has the smallest values throughout.
            c.name: int(chance.integers(len(c.values))) if number and not c.ordered else 0
            for c in task.space.choices
        }
        if number > SAMPLED // 2:
            point = {c.name: int(chance.integers(len(c.values))) for c in task.space.choices}
        broken = excess(task.costs(point), task.limits)
        if keeps(broken):
            return
        if closest is None or max(broken.values()) < closest[0]:
            closest = max(broken.values()), point
    assert closest is not None
    costs = task.costs(closest[1])
    told = ", ".join(f"{n} {costs[n]:g} (at most {limit:g})" for n, limit in task.limits.items())
    raise ConfigError(
        f"no point keeps the limits: of {SAMPLED} that were looked at, "
        f"{values_of(task.space, closest[1])} is the closest, with {told}; allow more, or add "
        "smaller values to the space"
    )


def numbers_of(task: Task, found: Mapping[str, float], costs: Mapping[str, float]) -> list[float]:
    """A point's objectives, in order.

    Raises:
        ConfigError: neither a cost nor a score has an objective's name.
        DivergedError: one is no finite number.
    """
    known = {**costs, **found}
    if unknown := [name for name in task.objectives if name not in known]:
        raise ConfigError(
            f"the objective {unknown[0]} is neither scored nor a cost; expected one of "
            f"{', '.join(sorted(known)) or 'none'}"
        )
    numbers = [float(known[name]) for name in task.objectives]
    if wrong := [n for n, v in zip(task.objectives, numbers, strict=True) if not math.isfinite(v)]:
        raise DivergedError(f"{wrong[0]} is {known[wrong[0]]}")
    return numbers


def directions(objectives: Mapping[str, Direction]) -> list[StudyDirection]:
    """The objectives' directions, in Optuna's words."""
    up = {"maximise": StudyDirection.MAXIMIZE, "minimise": StudyDirection.MINIMIZE}
    return [up[direction] for direction in objectives.values()]
