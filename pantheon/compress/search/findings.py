"""What a study has come to: the points that are worth having."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial

from pantheon.compress.search.trials import CHOSEN, COSTS, FOUND, Fate, fate_of


@dataclass(frozen=True, slots=True)
class Finding:
    """A point that was scored.

    Args:
        number: of its trial.
        chosen: values, by the choice's name.
        found: what it was scored.
        costs: what it costs.
    """

    number: int
    chosen: Mapping[str, Any]
    found: Mapping[str, float]
    costs: Mapping[str, float]

    @classmethod
    def of(cls, trial: FrozenTrial) -> Finding:
        """Of a trial that has a score."""
        told = trial.user_attrs
        return cls(trial.number, told[CHOSEN], told[FOUND], told[COSTS])


def best_of(study: Study) -> Sequence[Finding]:
    """The best point, the first of those that are alike, or with several objectives the Pareto
    front; none before any is scored.
    """
    if not any(fate_of(trial) is Fate.SCORED for trial in study.get_trials(deepcopy=False)):
        return ()
    best = sorted(study.best_trials, key=lambda trial: trial.number)
    found = tuple(Finding.of(trial) for trial in best if fate_of(trial) is Fate.SCORED)
    return found[:1] if len(study.directions) == 1 else found


def importance_of(study: Study, objective: int = 0) -> dict[str, float]:
    """How much of what tells good points from others each choice decides, the most first.

    PED-ANOVA (Watanabe et al., 2023): how unlike the values of a choice are among the best tenth of
    points and among all. It looks at what was tried, not at what was not.

    Args:
        objective: the place of the one that points are judged by.

    Returns:
        Fractions that add up to 1, of choices that had more than one value; nothing before there
        are `ENOUGH` points.
    """
    scored = [t for t in study.get_trials(deepcopy=False) if fate_of(t) is Fate.SCORED]
    if len(scored) < ENOUGH:
        return {}
    # What is low is what the evaluator takes for good, and says so.
    sign = -1 if study.directions[objective] == StudyDirection.MAXIMIZE else 1
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="PedAnova.* low `target`")
        found = get_param_importances(
            study,
            evaluator=PedAnovaImportanceEvaluator(),
            target=lambda trial: sign * trial.values[objective],
        )
    return {name: float(each) for name, each in found.items()}


ENOUGH = 10
"""Points that are scored before it is said which choices matter."""


def trials_of(study: Study) -> list[dict[str, Any]]:
    """All trials in the order of their numbers, as JSON: what a report shows of them.

    Returns:
        Of each its number, its fate, and what was ``chosen``, ``found`` and what it ``costs``; None
        where it did not come so far.
    """
    return [
        {
            "number": trial.number,
            "fate": fate_of(trial).value,
            **{name: trial.user_attrs.get(name) for name in (CHOSEN, FOUND, COSTS)},
        }
        for trial in study.get_trials(deepcopy=False)
    ]
