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
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum
from functools import lru_cache
from itertools import groupby
from typing import Any

from optuna.distributions import (
    BaseDistribution,
    check_distribution_compatibility,
    distribution_to_json,
    json_to_distribution,
)
from optuna.exceptions import UpdateFinishedTrialError
from optuna.storages._rdb.models import (
    TrialIntermediateValueModel,
    TrialValueModel,
)
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy import Connection, TextClause, text

from pantheon.compress.search.patient import PatientStorage, T


class Kind(IntEnum):
    """What a row that is read is about: a trial itself, or something that belongs to it."""

    TRIAL = 0
    PARAM = 1
    VALUE = 2
    USER = 3
    SYSTEM = 4
    STEP = 5


WHOLE = """
WITH chosen AS (SELECT * FROM trials WHERE {which})
SELECT {TRIAL}, trial_id, number, CAST(state AS VARCHAR), CAST('' AS VARCHAR),
 CAST(extract(epoch FROM datetime_start) AS FLOAT),
 CAST(extract(epoch FROM datetime_complete) AS FLOAT) FROM chosen
UNION ALL SELECT {PARAM}, trial_id, param_id, param_name, distribution_json, param_value, NULL
 FROM trial_params WHERE trial_id IN (SELECT trial_id FROM chosen)
UNION ALL SELECT {VALUE}, trial_id, objective, CAST(value_type AS VARCHAR), NULL, value, NULL
 FROM trial_values WHERE trial_id IN (SELECT trial_id FROM chosen)
UNION ALL SELECT {USER}, trial_id, 0, key, value_json, NULL, NULL
 FROM trial_user_attributes WHERE trial_id IN (SELECT trial_id FROM chosen)
UNION ALL SELECT {SYSTEM}, trial_id, 0, key, value_json, NULL, NULL
 FROM trial_system_attributes WHERE trial_id IN (SELECT trial_id FROM chosen)
UNION ALL SELECT {STEP}, trial_id, step, CAST(intermediate_value_type AS VARCHAR), NULL,
 intermediate_value, NULL
 FROM trial_intermediate_values WHERE trial_id IN (SELECT trial_id FROM chosen)
ORDER BY 2, 1, 3
"""
"""Trials and all that belongs to them: what, whose, in which order, name, JSON, two numbers."""


def _whole(which: str) -> TextClause:
    return text(WHOLE.format(which=which, **{kind.name: kind.value for kind in Kind}))


ONE = _whole("trial_id = :trial")
NEWS = _whole("study_id = :study AND (trial_id > :after OR trial_id = ANY(:open))")
STATE = "SELECT CAST(state AS VARCHAR) FROM trials WHERE trial_id = :trial"
NOW = text(STATE)
LOCKED_NOW = text(f"{STATE} FOR UPDATE")
TURN = text("SELECT study_id FROM studies WHERE study_id = :study FOR UPDATE")
MADE = text(
    "INSERT INTO trials (study_id, number, state, datetime_start)"
    " SELECT :study, count(*), 'RUNNING', :now FROM trials WHERE study_id = :study"
    " RETURNING trial_id, number"
)

ALIVE = text(
    """
    INSERT INTO trial_heartbeats (trial_id, heartbeat) VALUES (:trial, CURRENT_TIMESTAMP)
    ON CONFLICT (trial_id) DO UPDATE SET heartbeat = CURRENT_TIMESTAMP
    """
)

PARAMS = (
    "INSERT INTO trial_params (trial_id, param_name, param_value, distribution_json) VALUES",
    "ON CONFLICT DO NOTHING",
)
ATTRIBUTES = (
    "INSERT INTO trial_user_attributes (trial_id, key, value_json) VALUES",
    "ON CONFLICT (trial_id, key) DO UPDATE SET value_json = excluded.value_json",
)

VALUED = {
    sort.name: text(
        "INSERT INTO trial_values (trial_id, objective, value, value_type)"
        f" VALUES (:trial, :objective, :value, '{sort.name}')"
    )
    for sort in TrialValueModel.TrialValueType
}
ENDED = {
    state: text(
        f"UPDATE trials SET state = '{state.name}', datetime_complete = :now"
        " WHERE trial_id = :trial"
    )
    for state in TrialState
}

AT_ONCE = 0.05
"""Seconds between two readings without a question in between, of which the second has no news."""

Row = tuple[int, int, int, str, str | None, float | None, float | None]


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
        self._local.read = (None, -math.inf)
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
        found = self.asked(lambda: self._read(ONE, trial=trial_id))
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
        with self.engine.begin() as connection:
            if connection.execute(TURN, {"study": study_id}).scalar() is None:
                raise KeyError(f"there is no study {study_id}")
            at = time.time()
            now = datetime.fromtimestamp(at, UTC).replace(tzinfo=None)
            told = connection.execute(MADE, {"study": study_id, "now": now}).one()
        row = (Kind.TRIAL, told.trial_id, told.number, TrialState.RUNNING.name, None, at, None)
        return _frozen([row])

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
        with self.engine.begin() as connection:
            self._noted(connection, NOW, draft)

    def _noted(self, connection: Connection, state: TextClause, draft: Draft) -> None:
        found = connection.execute(state, {"trial": draft.trial}).scalar()
        if found is None:
            raise KeyError(f"there is no trial {draft.trial}")
        self.check_trial_is_updatable(draft.trial, TrialState[found])
        params = [(name, *told) for name, told in draft.params.items()]
        _insert(connection, draft.trial, PARAMS, params)
        _insert(connection, draft.trial, ATTRIBUTES, list(draft.attributes.items()))

    def _ended(self, draft: Draft, state: TrialState, values: Sequence[float]) -> None:
        """End a trial; all of it, or nothing."""
        now = datetime.now(UTC).replace(tzinfo=None)
        with self.engine.begin() as connection:
            self._noted(connection, LOCKED_NOW, draft)
            for objective, value in enumerate(values):
                number, sort = TrialValueModel.value_to_stored_repr(value)
                told = {"trial": draft.trial, "objective": objective, "value": number}
                connection.execute(VALUED[sort.name], told)
            connection.execute(ENDED[state], {"trial": draft.trial, "now": now})

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
        reader, at = self._local.read
        if reader is included_trial_ids and time.monotonic() - at < AT_ONCE:
            return []  # To the same cache of Optuna's, which keeps what it knows in this set.
        older = [each for each in included_trial_ids if each <= trial_id_greater_than]
        told = {"study": study_id, "after": trial_id_greater_than, "open": older or [-1]}
        # What this thread noted is its own affair so far.
        found = super().asked(lambda: self._read(NEWS, **told))
        self._local.read = (included_trial_ids, time.monotonic())
        return found if states is None else [trial for trial in found if trial.state in states]

    def _read(self, which: TextClause, **told: Any) -> list[FrozenTrial]:
        """Some trials, in their order."""
        with self.engine.connect() as connection:
            rows: list[Any] = list(connection.execute(which, told))
        return [_frozen(own) for _, own in groupby(rows, lambda row: row[1])]


class _Own(threading.local):
    """What a thread is at: its trial, what is noted on it, who read when."""

    own: FrozenTrial | None = None
    draft: Draft | None = None
    read: tuple[set[int] | None, float] = (None, -math.inf)


def _insert(
    connection: Connection, trial: int, how: tuple[str, str], rows: Sequence[tuple[Any, ...]]
) -> None:
    """Insert rows that belong to a trial, by one statement."""
    if not rows:
        return
    names = [[f":x{i}y{j}" for j in range(len(row))] for i, row in enumerate(rows)]
    marks = ", ".join(f"(:trial, {', '.join(each)})" for each in names)
    given = {f"x{i}y{j}": value for i, row in enumerate(rows) for j, value in enumerate(row)}
    connection.execute(text(f"{how[0]} {marks} {how[1]}"), {"trial": trial, **given})


@lru_cache(1024)
def _distribution(told: str) -> BaseDistribution:
    return json_to_distribution(told)


def _when(seconds: float | None) -> datetime | None:
    """A time as Optuna has it: of this machine's clock, without its zone."""
    return None if seconds is None else datetime.fromtimestamp(seconds)


def _frozen(rows: Iterable[Row]) -> FrozenTrial:
    """A trial as Optuna has it, from its row and those of all that belongs to it."""
    (_, trial_id, place, name, _, begun, ended), *rest = rows
    made = FrozenTrial(
        number=place,
        state=TrialState[name],
        value=None,
        datetime_start=_when(begun),
        datetime_complete=_when(ended),
        params={},
        distributions={},
        user_attrs={},
        system_attrs={},
        intermediate_values={},
        trial_id=trial_id,
    )
    values: list[float] = []
    for kind, _, place, name, told, number, _ in rest:
        match kind:
            case Kind.PARAM:
                made.distributions[name] = distribution = _distribution(str(told))
                made.params[name] = distribution.to_external_repr(number)  # type: ignore[arg-type]
            case Kind.VALUE:
                sort = TrialValueModel.TrialValueType[name]
                values.append(TrialValueModel.stored_repr_to_value(number, sort))
            case Kind.USER | Kind.SYSTEM:
                attributes = made.user_attrs if kind == Kind.USER else made.system_attrs
                attributes[name] = json.loads(str(told))
            case Kind.STEP:
                step = TrialIntermediateValueModel.TrialIntermediateValueType[name]
                value = TrialIntermediateValueModel.stored_repr_to_intermediate_value(number, step)
                made.intermediate_values[place] = value
    if values:
        made.values = values
    return made
