"""What a search came to, as values that JSON can hold: for stages' reports and for pages."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from optuna.study import Study

from pantheon.compress.search.building import scored_by
from pantheon.compress.search.findings import best_of, importance_of, trials_of
from pantheon.compress.search.settings import SearchSettings
from pantheon.compress.search.storage import LIMITS


def told_of(settings: SearchSettings, study: Study) -> dict[str, Any]:
    """What was asked, what was tried, what is best, and what it is due to.

    Args:
        settings: of the search.
        study: its trials so far.
    """
    names = list(settings.objectives)
    return {
        "objectives": dict(settings.objectives),
        "limits": study.user_attrs.get(LIMITS, {}),
        "strategy": settings.strategy,
        "budget": settings.trials,
        "best": [asdict(each) for each in best_of(study)],
        "importance": importance_of(study, names.index(scored_by(settings))),
        "trials": trials_of(study),
    }
