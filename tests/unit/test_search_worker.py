"""Workers on a space that costs nothing: budgets, limits, repeats, divergence."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.pruners import MedianPruner
from optuna.samplers import RandomSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState, create_trial

from pantheon.compress.search.findings import importance_of
from pantheon.compress.search.samplers import STRATEGIES, sampler_of
from pantheon.compress.search.space import Choice, Point
from pantheon.compress.search.storage import storage_at, study_in
from pantheon.compress.search.task import Report, Task, check_limits, directions
from pantheon.compress.search.trials import Fate, Tally, fate_of
from pantheon.compress.search.worker import Worker
from pantheon.errors import ConfigError, DivergedError, MismatchError, StoreError

TRIALS = 24


class Toy:
    """Three ordered choices and one without an order; the last values of the first are alike."""

    def __init__(self, wide: int = 5) -> None:
        self.choices = (
            Choice("a", tuple(range(wide))),
            Choice("b", (1, 2, 4, 8)),
            Choice("c", (0.25, 0.5, 1.0)),
            Choice("kind", ("relu", "swish"), ordered=False),
        )
        self.told: Mapping[str, Any] = {"toy": 1}
        self.start: Point | None = None

    def canonical(self, point: Point) -> Point:
        return point | {"a": min(point["a"], 3)}

    def artifact(self, point: Point) -> Any:
        raise NotImplementedError


def task(space: Toy, scored: list[Point], limits: Mapping[str, float] | None = None) -> Task:
    """The sum of places, of which the cost is nearly the same."""

    def score(point: Point, report: Report) -> dict[str, float]:
        scored.append(dict(point))
        return {"top1": sum(space.canonical(point).values())}

    return Task(
        space,
        {"top1": "maximise"},
        score,
        lambda point: {"macs": 1.0 + sum(space.canonical(point).values())},
        limits or {},
    )


def study(made: Task, strategy: str = "random", seed: int = 0, trials: int = TRIALS) -> Study:
    sampler = sampler_of(
        strategy, made.space.choices, seed, trials, objectives=len(made.objectives)
    )
    return study_in(InMemoryStorage(), "toy", {}, directions(made.objectives), sampler)


def tried(study: Study) -> list[tuple[str, Mapping[str, Any], Any]]:
    return [(fate_of(t).value, t.params, t.values) for t in study.get_trials(deepcopy=False)]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_the_budget_is_kept_and_limits_too(strategy: str) -> None:
    scored: list[Point] = []
    made = task(Toy(), scored, {"macs": 6.0})
    tally = Worker(study=(held := study(made, strategy)), task=made, trials=TRIALS).run()
    assert tally.told == len(scored) == TRIALS
    assert all(made.costs(point)["macs"] <= 6 for point in scored)
    assert len({tuple(made.space.canonical(p).values()) for p in scored}) == TRIALS
    assert tally[Fate.INFEASIBLE] > 0
    assert tally[Fate.RUNNING] == tally[Fate.WAITING] == tally[Fate.LOST] == 0
    assert Tally.of(held.get_trials()) == tally


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_one_worker_with_the_same_seed_repeats_exactly(strategy: str) -> None:
    found = []
    for seed, budgets in ((0, [12]), (0, [5, 12]), (1, [12])):
        made = task(Toy(), [], {"macs": 7.0})
        held = study(made, strategy, seed)
        for budget in budgets:  # Stopped, and gone on with.
            held.sampler = sampler_of(strategy, made.space.choices, seed, TRIALS)
            Worker(study=held, task=made, trials=budget, seed=seed).run()
        found.append(tried(held))
    assert found[0] == found[1]
    assert found[0] != found[2]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_space_that_is_tried_out_ends_the_search(strategy: str) -> None:
    scored: list[Point] = []
    made = task(Toy(wide=2), scored)
    tally = Worker(study=study(made, strategy), task=made, trials=1000).run()
    assert tally.told == len(scored) == 2 * 4 * 3 * 2


def test_trainings_that_come_to_nothing_count_and_the_search_goes_on() -> None:
    scored: list[Point] = []
    made = task(Toy(), scored)

    def score(point: Point, report: Report) -> dict[str, float]:
        found = made.score(point, report)
        if point["kind"]:
            raise DivergedError("the loss is infinite")
        return found if point["c"] else {"top1": math.nan}

    bad = replace(made, score=score)
    tally = Worker(study=(held := study(bad)), task=bad, trials=TRIALS).run()
    assert tally.told == len(scored) == TRIALS
    diverged = [t for t in held.get_trials() if fate_of(t) is Fate.DIVERGED]
    assert {t.user_attrs["why"] for t in diverged} == {"the loss is infinite", "top1 is nan"}
    assert all(t.params["kind"] or not t.params["c"] for t in diverged)
    assert tally[Fate.SCORED] + len(diverged) == TRIALS


def test_what_is_scored_already_is_not_trained_again() -> None:
    scored: list[Point] = []
    made = task(Toy(), scored)
    held = study(made)
    same = [{"a": 3, "b": 0, "c": 0, "kind": 0}, {"a": 4, "b": 0, "c": 0, "kind": 0}]
    for point in same:
        held.enqueue_trial(point)
    tally = Worker(study=held, task=made, trials=2).run()
    assert tally.told == 2
    assert tried(held)[1] == ("repeated", same[1], [3.0])
    assert held.get_trials()[1].user_attrs["pantheon.as"] == 0
    assert same[1] not in scored


def test_without_repair_points_beyond_the_limits_are_only_counted() -> None:
    scored: list[Point] = []
    made = task(Toy(), scored, {"macs": 4.0})
    worker = Worker(study=(held := study(made)), task=made, trials=6, repair=False)
    tally = worker.run()
    assert tally.told == len(scored) == 6
    assert tally[Fate.INFEASIBLE] > 6
    broken = [t for t in held.get_trials() if fate_of(t) is Fate.INFEASIBLE]
    assert all(t.constraints["macs"] == t.user_attrs["costs"]["macs"] / 4 - 1 > 0 for t in broken)
    assert not any("fixed_params" in t.system_attrs for t in held.get_trials())


def test_a_user_error_ends_the_worker_and_takes_no_place() -> None:
    made = task(Toy(), [])

    def score(point: Point, report: Report) -> dict[str, float]:
        raise KeyError("mine")

    held = study(made)
    with pytest.raises(KeyError, match="mine"):
        Worker(study=held, task=replace(made, score=score), trials=3).run()
    assert tried(held)[0][0] == "lost"
    assert Worker(study=held, task=made, trials=3).run().told == 3


def test_several_objectives_make_a_front() -> None:
    scored: list[Point] = []
    made = replace(task(Toy(), scored), objectives={"top1": "maximise", "macs": "minimise"})
    for strategy in ("nsga2", "nsga3", "tpe", "random", "grid"):
        scored.clear()
        held = study(made, strategy)
        assert Worker(study=held, task=made, trials=12).run().told == len(scored) == 12
        assert all(trial.values[0] == trial.values[1] - 1 for trial in held.best_trials)
    for strategy in ("annealing", "evolution", "cmaes"):
        with pytest.raises(ConfigError, match=r"one objective, and the search 2; take tpe, nsga2"):
            study(made, strategy)


def test_a_training_is_given_up_where_others_were_better() -> None:
    steps: list[int] = []

    def score(point: Point, report: Report) -> dict[str, float]:
        for step in range(4):
            steps.append(step)
            report(step, float(point["a"]))
        return {"top1": float(point["a"])}

    made = replace(task(Toy(), []), score=score)
    sampler = sampler_of("random", made.space.choices, 0, TRIALS)
    pruner = MedianPruner(n_startup_trials=3, n_warmup_steps=1)
    held = study_in(InMemoryStorage(), "toy", {}, directions(made.objectives), sampler, pruner)
    tally = Worker(study=held, task=made, trials=TRIALS).run()
    assert tally.told == TRIALS
    assert tally[Fate.STOPPED] > 3
    assert len(steps) == 4 * TRIALS - 2 * tally[Fate.STOPPED]


def test_limits_that_nothing_keeps_are_told_with_the_closest_point() -> None:
    with pytest.raises(ConfigError, match=r"'a': 0, 'b': 1.*closest, with macs 1 \(at most 0.5\)"):
        check_limits(task(Toy(), [], {"macs": 0.5}), seed=0)
    check_limits(task(Toy(), [], {"macs": 1.0}), seed=0)
    with pytest.raises(ConfigError, match=r"limit of latency, and no cost .* expected one of macs"):
        check_limits(task(Toy(), [], {"latency": 1.0}), seed=0)


def test_tasks_that_cannot_be() -> None:
    made = task(Toy(), [])
    with pytest.raises(ConfigError, match="wants nothing"):
        replace(made, objectives={})
    with pytest.raises(ConfigError, match=r"the limit of macs is 0.*above 0"):
        replace(made, limits={"macs": 0})
    empty = Toy()
    empty.choices = (Choice("a", (1,)),)
    with pytest.raises(ConfigError, match="the space is empty"):
        replace(made, space=empty)
    wrong = replace(made, objectives={"speed": "maximise"})
    with pytest.raises(ConfigError, match=r"objective speed is neither .* one of macs, top1"):
        Worker(study=study(wrong), task=wrong, trials=1).run()


def test_a_study_of_another_search_is_refused(tmp_path: Path) -> None:
    made = task(Toy(), [])
    sampler = sampler_of("random", made.space.choices, 0, TRIALS)
    storage = storage_at(f"sqlite:///{tmp_path}/search.db", 1, 2)
    study_in(storage, "toy", {"space": "one"}, [StudyDirection.MAXIMIZE], sampler)
    again = storage_at(f"sqlite:///{tmp_path}/search.db", 1, 2)
    study_in(again, "toy", {"space": "one"}, [StudyDirection.MAXIMIZE], sampler)
    with pytest.raises(MismatchError, match=r"'toy' has space 'one', and this search 'two'"):
        study_in(again, "toy", {"space": "two"}, [StudyDirection.MAXIMIZE], sampler)
    with pytest.raises(MismatchError, match="is to maximize, and this search to minimize"):
        study_in(again, "toy", {"space": "one"}, [StudyDirection.MINIMIZE], sampler)
    optuna.create_study(storage=again, study_name="foreign").add_trial(
        create_trial(state=TrialState.COMPLETE, value=1.0)
    )
    with pytest.raises(MismatchError, match="not made by this command"):
        study_in(again, "foreign", {"space": "one"}, [StudyDirection.MINIMIZE], sampler)


def test_storages_that_cannot_be_reached_are_told_without_their_password(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"sqlite:////.*/no/search.db cannot be opened"):
        storage_at(f"sqlite:///{tmp_path}/no/search.db", 1, 2)
    (tmp_path / "search.db").write_bytes(b"no database at all" * 100)
    with pytest.raises(StoreError, match="is it a file that SQLite made") as told:
        storage_at(f"sqlite:///{tmp_path}/search.db", 1, 2)
    assert "server" not in str(told.value)
    for url in ("postgresql+nodriver://me:secret@localhost/db", "elsewhere://me:secret@host/db"):
        with pytest.raises((ConfigError, StoreError), match=r"me:\*\*\*@") as told:
            storage_at(url, 1, 2)
        assert "secret" not in str(told.value)


def test_a_point_that_another_worker_is_at_is_left_to_it() -> None:
    scored: list[Point] = []
    made = task(toy := Toy(2), scored)
    held = study(made, "grid")
    taken = {choice.name: 1 for choice in toy.choices}
    held.enqueue_trial(taken)
    other = Worker(study=held, task=made, trials=TRIALS)
    assert other._point(held.ask()) == taken  # Another one has begun, and is at it.
    for _ in range(3):
        held.enqueue_trial(taken)
    worker = Worker(study=held, task=made, trials=TRIALS)
    for _ in range(10):
        worker._next(held.get_trials(deepcopy=False))
    fates = [fate_of(trial) for trial in held.get_trials(deepcopy=False)]
    assert fates == [Fate.RUNNING, *[Fate.SURPLUS] * 3, *[Fate.SCORED] * 7]
    assert taken not in scored
    # When it has died, the point is anybody's.
    held.tell(0, state=TrialState.FAIL)
    held.enqueue_trial(taken)
    worker._next(held.get_trials(deepcopy=False))
    assert scored[-1] == taken


@pytest.mark.parametrize("direction", ["maximise", "minimise"])
def test_the_choice_that_decides_matters_most(direction: str) -> None:
    study = study_in(
        InMemoryStorage(), "s", {}, directions({"x": direction}), RandomSampler(seed=1)
    )
    sign = 1 if direction == "maximise" else -1

    def score(trial: optuna.Trial) -> float:
        a, b = trial.suggest_int("a", 0, 9), trial.suggest_int("b", 0, 9)
        return sign * (10 * a + b)

    study.optimize(score, n_trials=9)
    assert importance_of(study) == {}
    study.optimize(score, n_trials=191)
    found = importance_of(study)
    assert list(found) == ["a", "b"]
    assert sum(found.values()) == pytest.approx(1)
    assert found["a"] > 0.8
