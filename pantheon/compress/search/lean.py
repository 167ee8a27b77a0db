"""The same tables with fewer questions: a worker's time goes into its trainings.

Optuna asks a database about a hundred times for a trial. Here what belongs to a trial is read at
once, and what a worker notes on it is written at once, before anything that depends on it.
"""

from __future__ import annotations

import copy
import json
import math
import threading
import time
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb.models import (
    StudyModel,
    TrialIntermediateValueModel,
    TrialModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import bindparam, func, or_, text
from sqlalchemy.orm import Session

from pantheon.compress.search.patient import PatientStorage, T

PARAMS, VALUES, USER, SYSTEM, STEPS = range(5)
"""What belongs to a trial."""

PARTS = text(
    f"""
    SELECT {PARAMS}, trial_id, param_id, param_name, param_value, distribution_json
    FROM trial_params WHERE trial_id IN :ids
    UNION ALL SELECT {VALUES}, trial_id, objective, CAST(value_type AS VARCHAR), value, NULL
    FROM trial_values WHERE trial_id IN :ids
    UNION ALL SELECT {USER}, trial_id, 0, key, NULL, value_json
    FROM trial_user_attributes WHERE trial_id IN :ids
    UNION ALL SELECT {SYSTEM}, trial_id, 0, key, NULL, value_json
    FROM trial_system_attributes WHERE trial_id IN :ids
    UNION ALL SELECT {STEPS}, trial_id, step, CAST(intermediate_value_type AS VARCHAR),
        intermediate_value, NULL
    FROM trial_intermediate_values WHERE trial_id IN :ids
    ORDER BY 1, 3
    """
).bindparams(bindparam("ids", expanding=True))
"""All of it, of some trials: what, whose, in which order, name, number, JSON."""

ALIVE = text(
    """
    INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, CURRENT_TIMESTAMP)
    ON CONFLICT (trial_id) DO UPDATE SET heartbeat = CURRENT_TIMESTAMP
    """
)

PARAM = (
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES",
    "ON CONFLICT DO NOTHING",
)
ATTRIBUTE = (
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES",
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json",
)

AT_ONCE = 0.05
"""Seconds between two readings without a question in between, of which the second has no news."""

Row = tuple[int, int, int, str, float | None, str | None]


@dataclass(slots=True)
class Draft:
    """What is noted on a trial and not written yet.

    Args:
        params: number and distribution as JSON, by name.
        attributes: JSON, by name.
    """

    trial: int
    params: dict[str, tuple[float, str]] = field(default_factory=dict)
    attributes: dict[str, str] = field(default_factory=dict)


class LeanStorage(PatientStorage):
    """PostgreSQL that is asked seldom.

    What `set_trial_param` and `set_trial_user_attr` note is written by the next question of the
    same thread, but for reading a study; that the trial is over is told then, too. The trial that
    a thread is at is known without asking, until it is told.
    """

    def __init__(self, url: str, patience: float, **more: Any) -> None:
        self._local = _Own()
        super().__init__(url, patience, **more)

    def asked(self, ask: Callable[[], T]) -> T:
        """An answer, after what was noted is written."""
        self._written()
        self._local.read = (-1, -math.inf)
        return super().asked(ask)

    def record_heartbeat(self, trial_id: int) -> None:
        """Give a sign of life, after what was noted is written."""
        self._written()
        super().record_heartbeat(trial_id)

    def set_trial_user_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Note an attribute."""
        told = json.dumps(value)
        self._draft(trial_id).attributes[key] = told
        if (own := self._own(trial_id)) is not None:
            own.user_attrs[key] = json.loads(told)

    def set_trial_system_attr(self, trial_id: int, key: str, value: Any) -> None:
        """Write an attribute of Optuna's."""
        super().set_trial_system_attr(trial_id, key, value)
        if (own := self._own(trial_id)) is not None:
            own.system_attrs[key] = json.loads(json.dumps(value))

    def set_trial_intermediate_value(
        self, trial_id: int, step: int, intermediate_value: float
    ) -> None:
        """Write how a training comes on."""
        super().set_trial_intermediate_value(trial_id, step, intermediate_value)
        if (own := self._own(trial_id)) is not None:
            own.intermediate_values[step] = intermediate_value

    def set_trial_state_values(
        self, trial_id: int, state: TrialState, values: Sequence[float] | None = None
    ) -> bool:
        """Begin with a trial, or end one together with what was noted on it."""
        if self._own(trial_id) is None or not state.is_finished():
            done = super().set_trial_state_values(trial_id, state, values)
            if done and state is TrialState.RUNNING:
                self._local.own = self.get_trial(trial_id)
            return done
        draft, self._local.draft, self._local.own = self._draft(trial_id), None, None
        self.asked(lambda: self._ended(draft, state, values or ()))
        return True

    def get_trial(self, trial_id: int) -> FrozenTrial:
        """A trial as it is now."""
        if (own := self._own(trial_id)) is not None:
            return copy.deepcopy(own)
        found = self.asked(lambda: self._read(TrialModel.trial_id == trial_id))
        if not found:
            raise KeyError(f"there is no trial {trial_id}")
        return found[0]

    def _own(self, trial_id: int) -> FrozenTrial | None:
        own = self._local.own
        return own if own is not None and own._trial_id == trial_id else None

    def _create_new_trial(
        self, study_id: int, template_trial: FrozenTrial | None = None
    ) -> FrozenTrial:
        if template_trial is not None:
            return super()._create_new_trial(study_id, template_trial)
        self._local.own = made = self.asked(lambda: self._made(study_id))
        return copy.deepcopy(made)

    def _made(self, study_id: int) -> FrozenTrial:
        """A new trial. The lock of its study gives numbers away one by one."""
        with Session(self.engine) as session, session.begin():
            StudyModel.find_or_raise_by_id(study_id, session, for_update=True)
            ids = session.query(func.count(TrialModel.trial_id))
            trial = TrialModel(
                study_id=study_id,
                number=ids.filter(TrialModel.study_id == study_id).scalar(),
                state=TrialState.RUNNING,
                datetime_start=datetime.now(),
            )
            session.add(trial)
            session.flush()
            return _frozen(trial, ())

    def _set_trial_param(
        self,
        trial_id: int,
        param_name: str,
        param_value_internal: float,
        distribution: BaseDistribution,
        previous_distribution: BaseDistribution | None,
    ) -> None:
        if previous_distribution is None:
            super()._set_trial_param(
                trial_id, param_name, param_value_internal, distribution, previous_distribution
            )
        else:
            check_distribution_compatibility(previous_distribution, distribution)
            told = float(param_value_internal), distribution_to_json(distribution)
            self._draft(trial_id).params[param_name] = told
        if (own := self._own(trial_id)) is not None:
            own.distributions[param_name] = distribution
            own.params[param_name] = distribution.to_external_repr(param_value_internal)

    def _draft(self, trial_id: int) -> Draft:
        draft = self._local.draft
        if draft is None or draft.trial != trial_id:
            self._written()
            draft = self._local.draft = Draft(trial_id)
        return draft

    def _written(self) -> None:
        draft, self._local.draft = self._local.draft, None
        if draft is not None:
            try:
                super().asked(lambda: self._write(draft))
            except UpdateFinishedTrialError:
                self._local.own = None
                raise

    def _write(self, draft: Draft) -> None:
        """Write what was noted; again, if need be: it comes to the same.

        Raises:
            UpdateFinishedTrialError: the trial is over.
        """
        with Session(self.engine) as session, session.begin():
            self._noted(session, TrialModel.find_or_raise_by_id(draft.trial, session), draft)

    def _noted(self, session: Session, trial: TrialModel, draft: Draft) -> None:
        self.check_trial_is_updatable(draft.trial, _state(trial))
        params = [(name, *told) for name, told in draft.params.items()]
        _insert(session, draft.trial, PARAM, params)
        _insert(session, draft.trial, ATTRIBUTE, list(draft.attributes.items()))

    def _ended(self, draft: Draft, state: TrialState, values: Sequence[float]) -> None:
        """End a trial; all of it, or nothing."""
        with Session(self.engine) as session, session.begin():
            trial = TrialModel.find_or_raise_by_id(draft.trial, session, for_update=True)
            self._noted(session, trial, draft)
            for objective, value in enumerate(values):
                number, sort = TrialValueModel.value_to_stored_repr(value)
                told = {"trial_id": draft.trial, "objective": objective}
                session.add(TrialValueModel(**told, value=number, value_type=sort))
            trial.state, trial.datetime_complete = state, datetime.now()

    def _beat(self, trial_id: int) -> None:
        with self.engine.begin() as connection:
            connection.execute(ALIVE, {"trial": trial_id})

    def _get_trials(
        self,
        study_id: int,
        states: Container[TrialState] | None,
        included_trial_ids: set[int],
        trial_id_greater_than: int,
    ) -> list[FrozenTrial]:
        study, at = self._local.read
        if study == study_id and time.monotonic() - at < AT_ONCE and trial_id_greater_than >= 0:
            return []
        newer = TrialModel.trial_id > trial_id_greater_than
        older = [each for each in included_trial_ids if each <= trial_id_greater_than]
        which = or_(newer, TrialModel.trial_id.in_(older)) if older else newer
        # What this thread noted is its own affair so far.
        found = super().asked(lambda: self._read(TrialModel.study_id == study_id, which))
        self._local.read = (study_id, time.monotonic())
        return found if states is None else [trial for trial in found if trial.state in states]

    def _read(self, *which: Any) -> list[FrozenTrial]:
        """Some trials, in their order."""
        with Session(self.engine) as session:
            trials = session.query(TrialModel).filter(*which).order_by(TrialModel.trial_id).all()
            rows: dict[Any, list[Row]] = {trial.trial_id: [] for trial in trials}
            if rows:
                for row in session.execute(PARTS, {"ids": list(rows)}):
                    rows[row[1]].append(tuple(row))
            return [_frozen(trial, own) for trial, own in zip(trials, rows.values(), strict=True)]


class _Own(threading.local):
    """What a thread is at: its trial, what is noted on it, when it read which study."""

    own: FrozenTrial | None = None
    draft: Draft | None = None
    read: tuple[int, float] = (-1, -math.inf)


def _insert(
    session: Session, trial: int, how: tuple[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows that belong to a trial, by one statement."""
    if not rows:
        return
    names = [[f":x{i}y{j}" for j in range(len(row))] for i, row in enumerate(rows)]
    marks = ", ".join(f"(:trial, {', '.join(each)})" for each in names)
    given = {f"x{i}y{j}": value for i, row in enumerate(rows) for j, value in enumerate(row)}
    session.execute(text(f"{how[0]} {marks} {how[1]}"), {"trial": trial, **given})


@lru_cache(1024)
def _distribution(told: str) -> BaseDistribution:
    return json_to_distribution(told)


def _state(trial: Any) -> TrialState:
    state: TrialState = trial.state
    return state


def _frozen(trial: Any, rows: Iterable[Row]) -> FrozenTrial:
    """A trial as Optuna has it, from its row and all that belongs to it."""
    params: dict[str, Any] = {}
    distributions: dict[str, BaseDistribution] = {}
    values: list[float] = []
    attributes: Mapping[int, dict[str, Any]] = {USER: {}, SYSTEM: {}}
    steps: dict[int, float] = {}
    for kind, _, place, name, number, told in rows:
        if kind == PARAMS:
            distributions[name] = distribution = _distribution(str(told))
            params[name] = distribution.to_external_repr(number)  # type: ignore[arg-type]
        elif kind == VALUES:
            sort = TrialValueModel.TrialValueType[name]
            values.append(TrialValueModel.stored_repr_to_value(number, sort))
        elif kind == STEPS:
            step = TrialIntermediateValueModel.TrialIntermediateValueType[name]
            steps[place] = TrialIntermediateValueModel.stored_repr_to_intermediate_value(
                number, step
            )
        else:
            attributes[kind][name] = json.loads(str(told))
    return FrozenTrial(
        number=trial.number,
        state=trial.state,
        value=None,
        values=values or None,
        datetime_start=trial.datetime_start,
        datetime_complete=trial.datetime_complete,
        params=params,
        distributions=distributions,
        user_attrs=attributes[USER],
        system_attrs=attributes[SYSTEM],
        intermediate_values=steps,
        trial_id=trial.trial_id,
    )
