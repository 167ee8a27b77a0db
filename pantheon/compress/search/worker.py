"""A worker: takes points of a study one by one until the budget is spent."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from optuna.exceptions import TrialPruned, UpdateFinishedTrialError
from optuna.storages import fail_stale_trials
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from pantheon.compress.search.patient import behind
from pantheon.compress.search.space import Point, size_of, values_of
from pantheon.compress.search.storage import known_experimental
from pantheon.compress.search.strategies import untried
from pantheon.compress.search.task import Task, excess, keeps, numbers_of, repaired
from pantheon.compress.search.trials import (
    CHOSEN,
    COSTS,
    FATE,
    FOUND,
    WHY,
    Fate,
    Tally,
    counts,
    fate_of,
    is_surplus,
    key_of,
)
from pantheon.errors import CompressionError, DivergedError, StoreError

BEGUN = "pantheon.begun"
"""The attribute of a trial whose worker has given its first sign of life."""

AS = "pantheon.as"
"""The attribute of a repeated trial: the number of the one that has the same model."""

IN_VAIN = 8
"""Points in a row that were scored before, after which one is given that was not."""

HOPELESS = 10_000
"""Points in a row that break the limits, after which a worker gives up."""


class Surplus(Exception):
    """Others fill the budget."""


@dataclass(slots=True, kw_only=True)
class Worker:
    """Takes points of a study one by one until the budget is spent.

    Any number of workers may share a study, on any machines, and join or die at any time. A point
    that breaks a limit is never trained and does not count; with `repair` one within the limits
    that is made of it comes next. A point that is scored already is not trained again, and does not
    count. The budget is filled to the last place and not beyond, see `is_surplus`.

    Args:
        study: in its storage.
        task: what the search is about.
        trials: the budget: how many points are trained.
        seed: of repairs.
        repair: whether points beyond the limits are brought back.
        starts: points that a study without trials begins with.
        grace: seconds without a sign of life after which a worker is taken for dead.
        poll: seconds between looks at the study while others fill the budget.
        said: told of each trial that ended here.
    """

    study: Study
    task: Task
    trials: int
    seed: int = 0
    repair: bool = True
    starts: Sequence[Point] = ()
    grace: float = 60.0
    poll: float = 0.5
    said: Callable[[FrozenTrial], None] = lambda trial: None

    _known: dict[Any, Mapping[str, float]] = field(default_factory=dict, init=False)
    _silent: dict[int, float] = field(default_factory=dict, init=False)
    _in_vain: int = field(default=0, init=False)
    _beyond: int = field(default=0, init=False)
    _number: int = field(default=-1, init=False)
    _raised: Exception | None = field(default=None, init=False)

    def run(self) -> Tally:
        """Work until the budget is spent or every point was tried, and nobody is at one.

        Raises:
            CompressionError: no point within the limits is found.
            StoreError: the storage is away for longer than it may be.
        """
        if not self.study.get_trials(deepcopy=False):
            for point in self.starts:
                # Where several workers do, it is repeated, and costs nothing.
                self.study.enqueue_trial(point)
        while True:
            trials = self.study.get_trials(deepcopy=False)
            self._tell(trials)
            tally = Tally.of(trials)
            left = self.trials - tally.told
            if left > tally[Fate.RUNNING] and not self._exhausted(trials):
                self._next(trials)
            elif tally[Fate.WAITING] and left <= 0:
                self._next(trials)  # Nobody needs it: it ends as surplus.
            elif tally[Fate.RUNNING]:
                self._reap(trials)
                time.sleep(self.poll)
            else:
                return tally

    def _exhausted(self, trials: list[FrozenTrial]) -> bool:
        """Whether there is no point left to try."""
        if any(fate_of(trial) is Fate.WAITING for trial in trials):
            return False
        size = size_of(self.task.space)
        if size > len(trials):
            return False
        return len({key_of(trial.params) for trial in trials if counts(trial)}) >= size

    def _next(self, trials: list[FrozenTrial]) -> None:
        """Take one point, whatever becomes of it."""
        if self._in_vain >= IN_VAIN:
            self._in_vain = 0
            taken = {key_of(trial.params) for trial in trials if counts(trial)}
            for point in untried(self.task.space.choices, taken, self.seed):
                self.study.enqueue_trial(point)
                break
        self._number, self._raised = -1, None
        try:
            self.study.optimize(self._try, n_trials=1, catch=(Surplus, DivergedError))
        except ValueError as error:
            # Somebody may have taken this worker for dead and given the point to another.
            own = error is self._raised
            if own or self._number < 0 or fate_of(self._own()) is not Fate.LOST:
                raise
        except Exception as error:
            lost = None if error is self._raised else behind(error, StoreError)
            if lost is not None and lost is not error:
                raise lost from error
            if not self._is_settled(error):
                raise

    def _is_settled(self, error: Exception) -> bool:
        """Whether an error says that the trial is over: told without an answer, or given up."""
        over = behind(error, UpdateFinishedTrialError)
        return over is not None and (over is error or error is not self._raised)

    def _tell(self, trials: list[FrozenTrial]) -> None:
        """Say what became of the last trial, if there was one."""
        if self._number >= 0:
            number, self._number = self._number, -1
            self.said(trials[number])

    def _own(self) -> FrozenTrial:
        return self.study.get_trials(deepcopy=False)[self._number]

    def _try(self, trial: Trial) -> list[float]:
        """Score a trial's point, and keep what it raised."""
        self._number = trial.number
        try:
            return self._scored(trial)
        except Exception as error:
            self._raised = error
            raise

    def _scored(self, trial: Trial) -> list[float]:
        """Score a trial's point, if it has a place and is within the limits."""
        self._begin(trial)
        point = self._point(trial)
        costs = self._costs(point)
        trial.set_user_attr(COSTS, dict(costs))
        self._alive(trial)  # Whoever takes over has to know the point, and others that it is taken.
        trials = self.study.get_trials(deepcopy=False)
        if is_surplus(trial.number, trials, self.trials):
            trial.set_user_attr(FATE, str(Fate.SURPLUS))
            raise Surplus
        self._within_limits(trial, trials, point, costs)
        same = self._same(point, trials)
        if same is not None:
            self._in_vain += 1
            trial.set_user_attr(FATE, str(Fate.REPEATED))
            trial.set_user_attr(AS, same.number)
            return list(same.values)
        if self._is_taken(trial.number, point, trials):
            self._in_vain += 1
            trial.set_user_attr(FATE, str(Fate.SURPLUS))
            raise Surplus
        self._in_vain = 0
        try:
            found = self.task.score(point, _Reports(trial, len(self.task.objectives) == 1))
            trial.set_user_attr(FOUND, {k: float(v) for k, v in found.items()})
            return numbers_of(self.task, found, costs)
        except DivergedError as error:
            trial.set_user_attr(FATE, str(Fate.DIVERGED))
            trial.set_user_attr(WHY, str(error))
            raise

    def _begin(self, trial: Trial) -> None:
        """Give a sign of life before anything else, and note that there was one."""
        self._alive(trial)
        trial.set_user_attr(BEGUN, True)

    def _alive(self, trial: Trial) -> None:
        """Give a sign of life, which writes down what was noted on the trial."""
        if isinstance(trial.storage, BaseHeartbeat):
            trial.storage.record_heartbeat(trial._trial_id)

    def _point(self, trial: Trial) -> Point:
        point: Point = {}
        for choice in self.task.space.choices:
            last = len(choice.values) - 1
            point[choice.name] = (
                trial.suggest_int(choice.name, 0, last)
                if choice.ordered
                else trial.suggest_categorical(choice.name, range(last + 1))
            )
        trial.set_user_attr(CHOSEN, values_of(self.task.space, point))
        return point

    def _costs(self, point: Point) -> Mapping[str, float]:
        key = key_of(self.task.space.canonical(point))
        if key not in self._known:
            self._known[key] = self.task.costs(point)
        return self._known[key]

    def _within_limits(
        self, trial: Trial, trials: list[FrozenTrial], point: Point, costs: Mapping[str, float]
    ) -> None:
        """Go on with a point that keeps the limits only; of another one, maybe have one made."""
        broken = excess(costs, self.task.limits)
        for name, by in broken.items():
            trial.set_constraint(name, by)
        if keeps(broken):
            self._beyond = 0
            return
        self._beyond += 1
        trial.set_user_attr(FATE, str(Fate.INFEASIBLE))
        if self.repair:
            chance = np.random.default_rng([self.seed, trial.number, 2])
            made = repaired(self.task, point, chance)
            taken = {key_of(other.params) for other in trials if counts(other)}
            if made is not None and key_of(made) not in taken:
                self.study.enqueue_trial(made)
        if self._beyond >= HOPELESS:
            raise CompressionError(
                f"{HOPELESS} points in a row break the limits; allow more, or let points be "
                "repaired"
            )
        raise TrialPruned

    def _same(self, point: Point, trials: list[FrozenTrial]) -> FrozenTrial | None:
        """A scored trial with the same model."""
        names = {choice.name for choice in self.task.space.choices}
        canonical = self.task.space.canonical
        key = key_of(canonical(point))
        scored = (trial for trial in trials if fate_of(trial) is Fate.SCORED)
        whole = (trial for trial in scored if set(trial.params) == names)
        return next((t for t in whole if key_of(canonical(dict(t.params))) == key), None)

    def _is_taken(self, number: int, point: Point, trials: list[FrozenTrial]) -> bool:
        """Whether another worker, who began before, is at the same model."""
        key = key_of(self.task.space.canonical(point))
        names = set(point)
        return any(
            fate_of(other) is Fate.RUNNING
            and other.number < number
            and set(other.params) == names
            and key_of(self.task.space.canonical(dict(other.params))) == key
            for other in trials
        )

    def _reap(self, trials: list[FrozenTrial]) -> None:
        """Give up trials whose workers died, those that died before a first sign of life too."""
        with known_experimental():
            fail_stale_trials(self.study)
        now = time.monotonic()
        silent = {
            t.number
            for t in trials
            if t.state == TrialState.RUNNING and not t.user_attrs.get(BEGUN)
        }
        self._silent = {number: self._silent.get(number, now) for number in silent}
        for number, since in self._silent.items():
            if now - since > self.grace:
                with contextlib.suppress(ValueError, UpdateFinishedTrialError):
                    self.study.tell(number, state=TrialState.FAIL)


@dataclass(frozen=True, slots=True)
class _Reports:
    """Passes on how a training comes on, and ends one that others were better than."""

    trial: Trial
    single: bool

    def __call__(self, step: int, value: float) -> None:
        if not self.single:
            return
        self.trial.report(value, step)
        if self.trial.should_prune():
            raise TrialPruned
