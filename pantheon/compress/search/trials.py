"""What became of a study's trials, and how many of the budget are left."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from optuna.trial import FrozenTrial, TrialState

from pantheon.compress.search.space import Point


class Fate(StrEnum):
    """What became of a trial.

    Attributes:
        SCORED: trained and measured.
        STOPPED: trained, and given up early, as others were better at that time.
        DIVERGED: trained, and came to no number.
        REPEATED: the same model was scored before; it has that score, and nothing was trained.
        INFEASIBLE: breaks a limit; nothing was trained.
        SURPLUS: asked for when others were filling the budget, or were at the same model; nothing
            was trained.
        LOST: its worker died; somebody else makes up for it.
        RUNNING: a worker is at it.
        WAITING: to be taken by the next worker that is free.
    """

    SCORED = "scored"
    STOPPED = "stopped"
    DIVERGED = "diverged"
    REPEATED = "repeated"
    INFEASIBLE = "infeasible"
    SURPLUS = "surplus"
    LOST = "lost"
    RUNNING = "running"
    WAITING = "waiting"


TOLD = (Fate.SCORED, Fate.STOPPED, Fate.DIVERGED)
"""What counts against the budget."""

PENDING = (Fate.RUNNING, Fate.WAITING)
"""What may yet."""

FATE = "pantheon.fate"
"""The attribute of a trial that says what became of it, where its state does not."""


CHOSEN, COSTS, FOUND, WHY = "chosen", "costs", "found", "why"
"""Attributes of a trial: values, costs, scores, and why it came to nothing."""


def fate_of(trial: FrozenTrial) -> Fate:
    """What became of a trial.

    Example:
        >>> from optuna.trial import create_trial
        >>> fate_of(create_trial(state=TrialState.COMPLETE, value=0.5)).value
        'scored'
    """
    match trial.state:
        case TrialState.RUNNING:
            return Fate.RUNNING
        case TrialState.WAITING:
            return Fate.WAITING
        case TrialState.FAIL:
            return Fate(trial.user_attrs.get(FATE, Fate.LOST))
        case TrialState.PRUNED:
            return Fate(trial.user_attrs.get(FATE, Fate.STOPPED))
        case TrialState.COMPLETE:
            return Fate(trial.user_attrs.get(FATE, Fate.SCORED))


def counts(trial: FrozenTrial) -> bool:
    """Whether a trial's point was tried, or is being tried, or found to be out of the question."""
    return fate_of(trial) not in (Fate.SURPLUS, Fate.LOST)


@dataclass(frozen=True, slots=True)
class Tally:
    """How many trials met with which fate.

    Args:
        fates: number of trials, by fate.
    """

    fates: Mapping[Fate, int]

    @classmethod
    def of(cls, trials: Iterable[FrozenTrial]) -> Tally:
        """Of some trials."""
        return cls(Counter(map(fate_of, trials)))

    def __getitem__(self, fate: Fate) -> int:
        return self.fates.get(fate, 0)

    @property
    def told(self) -> int:
        """How many count against the budget."""
        return sum(self[fate] for fate in TOLD)


def is_surplus(number: int, trials: Sequence[FrozenTrial], budget: int) -> bool:
    """Whether a trial has no place in the budget.

    The places go to trials in the order of their numbers, which a storage gives away one by one.
    A trial before this one either counts, may yet, or never will: so workers that ask at the same
    time never fill more places than there are, and none needs to lock anything.

    Args:
        number: of the trial.
        trials: all of the study, those with lower numbers at least.
        budget: how many places there are.

    Example:
        >>> from optuna.trial import create_trial
        >>> trials = [create_trial(state=TrialState.RUNNING) for _ in range(2)]
        >>> for number, trial in enumerate(trials):
        ...     trial.number = number
        >>> is_surplus(1, trials, budget=2), is_surplus(1, trials, budget=1)
        (False, True)
    """
    before = Counter(fate_of(trial) for trial in trials if trial.number < number)
    return sum(before[fate] for fate in (*TOLD, *PENDING)) >= budget


@dataclass(frozen=True, slots=True)
class Told:
    """A point and what it came to.

    Args:
        number: of its trial.
        point: what was chosen.
        score: more is better.
    """

    number: int
    point: Point
    score: float


def history(trials: Iterable[FrozenTrial], maximise: bool) -> list[Told]:
    """The points that have a score, in the order of their trials' numbers.

    That order is the same for every worker, whenever it looks and whoever was ready first.
    """
    found = [trial for trial in trials if trial.state == TrialState.COMPLETE and trial.values]
    sign = 1 if maximise else -1
    return [
        Told(trial.number, dict(trial.params), sign * trial.values[0])
        for trial in sorted(found, key=lambda trial: trial.number)
    ]


def key_of(point: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """What tells a point from others, for sets."""
    return tuple(sorted(point.items()))
