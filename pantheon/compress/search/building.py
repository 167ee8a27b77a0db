"""From the settings of a search to its space, its task, what chooses points, and a worker."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage
from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.distil import Distil
from pantheon.compress.latency_table.prediction import Predictor
from pantheon.compress.prune.building import losses_from, ranked_from
from pantheon.compress.prune.preparing import prepare
from pantheon.compress.quantize.stage import Quantize
from pantheon.compress.search.bits_space import BitsSpace
from pantheon.compress.search.config import SpaceConfig
from pantheon.compress.search.costs import STATIC, costs_of, static_costs
from pantheon.compress.search.factory_space import FactorySpace, ready_made
from pantheon.compress.search.latency_cost import latency_by
from pantheon.compress.search.pruning_space import PruningSpace
from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.scoring import ShortTraining
from pantheon.compress.search.settings import (
    BitsSpaceConfig,
    ChoiceConfig,
    PruningSpaceConfig,
    ScoreConfig,
    SearchSettings,
)
from pantheon.compress.search.space import (
    Choice,
    Point,
    Space,
    digest_of,
    highest,
    point_at,
    values_of,
)
from pantheon.compress.search.storage import LIMITS, study_in
from pantheon.compress.search.task import Task, check_limits, directions, first_points
from pantheon.compress.search.worker import Worker
from pantheon.compress.stage import Work
from pantheon.compress.together import SEED, one_input
from pantheon.errors import ConfigError
from pantheon.stream import Parts


def factory_space(config: SpaceConfig, seed: int) -> FactorySpace:
    """The space of a factory's models.

    Raises:
        ConfigError: an empty space, no such ready-made one, or choices that cannot be.
    """
    where = config.where("net" if config.model is None else "model")
    own = {name: _choice(name, values, config) for name, values in config.choices.items()}
    if config.net is not None:
        ready = ready_made(config.net, config.model_args, seed, where)
        own = {choice.name: choice for choice in ready.choices} | own
        factory, start = ready.factory, _near(ready, list(own.values()))
    else:
        assert config.model is not None  # The configuration has one of the two.
        factory, start = config.model, None
    try:
        space = FactorySpace(factory, config.model_args, tuple(own.values()), seed, where, start)
    except ConfigError as error:
        raise ConfigError(f"{config.where('choices')}: {error}") from error
    if config.start is None:
        return space
    try:
        return replace(space, start=point_at(space, config.start))
    except ConfigError as error:
        raise ConfigError(f"{config.where('start')}: {error}") from error


def _near(ready: FactorySpace, choices: Sequence[Choice]) -> Point:
    """The start of a ready-made space; of choices without what it has there, what costs most."""
    usual = values_of(ready, ready.start or {})
    kept = [c for c in choices if c.name in usual and usual[c.name] in c.values]
    return highest(choices) | {c.name: c.values.index(usual[c.name]) for c in kept}


def _choice(name: str, given: Any, config: SpaceConfig) -> Choice:
    values, ordered = given, True
    if isinstance(given, ChoiceConfig):
        values, ordered = given.values, given.ordered
    try:
        return Choice(name, tuple(values), ordered)
    except ConfigError as error:
        raise ConfigError(f"{config.where('choices', name)}: {error}") from error


def space_around(
    artifact: Artifact, asked: PruningSpaceConfig | BitsSpaceConfig, work: Work
) -> Space:
    """The space of what can be made of a model.

    Args:
        artifact: the model, which stays as it is.
        asked: whether it is pruned or rounded.
        work: the stream that channels are ranked by, or activations looked at, and the device.

    Raises:
        ConfigError: names the setting at fault.
    """
    try:
        if isinstance(asked, PruningSpaceConfig):
            ranked = ranked_from(asked)
            losses = losses_from(asked, ranked)
            ready = prepare(artifact.model, ranked, losses, asked.samples, work)
            return PruningSpace(artifact, ready.structure, ready.rankings, asked.left)
        stage = Quantize.from_rounding(asked, max(asked.values))
        return BitsSpace.of(artifact, stage, asked.values, asked.of == "both", work)
    except ConfigError as error:
        raise ConfigError(f"{asked.where()}: {error}") from error


def task_from(
    settings: SearchSettings,
    space: Space,
    work: Work,
    whole: Callable[[], nn.Module],
    predictor: Predictor | None = None,
) -> Task:
    """What a search is about.

    Args:
        settings: of the search.
        space: of its points.
        work: streams that are open, the metric, the seed and the device.
        whole: makes the model that limits in percent are of, on the CPU.
        predictor: of latencies, if there is a table.

    Raises:
        ConfigError: objectives or limits that cannot be.
    """
    by, score, parts = scored_by(settings), settings.score, _excerpts(settings.score, work.parts)
    inputs = one_input(replace(work, device="cpu"))
    rows = 1 if predictor is None else predictor.table.conditions.batch
    latency = latency_by(predictor, one_input(replace(work, device="cpu"), rows))
    scorer = ShortTraining(
        space=space,
        stage=Distil.from_learning(score) if score.epochs else None,
        work=replace(work, parts=parts),
        by=by,
        start=parts.train.state_dict(),
        recalibrating=_recalibrating(score, work.parts),
    )
    limits = _limits(settings, lambda: costs_of(whole(), inputs, latency))
    costs = static_costs(space, inputs, latency)
    return Task(space, settings.objectives, scorer, costs, limits)


def _excerpts(score: ScoreConfig, parts: Parts) -> Parts:
    """The samples that points are trained on and measured by."""
    assert parts.validation is not None  # Whoever opened them has looked.
    train = parts.train.excerpt(score.samples, SEED) if score.samples else parts.train
    held = parts.validation
    held = held.excerpt(score.validation, SEED) if score.validation else held
    return Parts(train, held)


def _recalibrating(score: ScoreConfig, parts: Parts) -> Any:
    return parts.train.excerpt(score.recalibrate, SEED).samples() if score.recalibrate else None


def _limits(settings: SearchSettings, costs: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """The largest allowed costs; `costs` tells what those in percent are of."""
    found: dict[str, float] = {}
    whole: Mapping[str, float] = {}
    for name, limit in settings.limits.items():
        if not isinstance(limit, str):
            found[name] = limit
            continue
        whole = whole or _whole_costs(settings, name, costs)
        if name not in whole:
            raise ConfigError(
                f"{settings.where('limits', name)}: there is no cost {name!r}; expected one of "
                f"{', '.join(whole)}"
            )
        found[name] = whole[name] * float(limit.rstrip(" %")) / 100
    return found


def _whole_costs(
    settings: SearchSettings, name: str, costs: Callable[[], Mapping[str, float]]
) -> Mapping[str, float]:
    try:
        return costs()
    except ConfigError as error:
        raise ConfigError(
            f"{settings.where('limits', name)}: in percent of what costs nothing can be told of: "
            f"{error}; give a number, or the factory defaults for what is chosen"
        ) from error


def scored_by(settings: SearchSettings) -> str:
    """The objective by which a training is told to be good: the first that is no cost.

    Raises:
        ConfigError: there is none, or trainings are to be given up by several.
    """
    named = [name for name in settings.objectives if name not in STATIC]
    if not named:
        raise ConfigError(
            f"{settings.where('objectives')}: all objectives are costs; name one that the metric "
            "answers"
        )
    if settings.score.stop and len(settings.objectives) > 1:
        raise ConfigError(
            f"{settings.score.where('stop')}: trainings are only given up early where there is one "
            "objective; leave stop out, or put the costs into limits"
        )
    return named[0]


def sampler_from(
    settings: SearchSettings, choices: Sequence[Choice], seed: int, begun: bool = False
) -> BaseSampler:
    """What chooses points; of a study that has some from the beginning, if it is `begun`.

    Raises:
        ConfigError: no such strategy, or options that it does not have.
    """
    try:
        return sampler_of(
            settings.strategy,
            choices,
            seed,
            settings.trials,
            settings.options,
            len(settings.objectives),
            begun,
        )
    except ConfigError as error:
        raise ConfigError(f"{settings.where('strategy')}: {error}") from error


def pruner_from(settings: SearchSettings) -> BasePruner:
    """What gives trainings up early."""
    match settings.score.stop:
        case "median":
            return MedianPruner(n_startup_trials=max(4, settings.trials // 8))
        case "halving":
            return SuccessiveHalvingPruner()
        case None:
            return NopPruner()


TOLD = ("score", "objectives", "limits", "repair", "strategy", "options")
"""Settings that all workers of a study have to say alike."""


def about(
    settings: SearchSettings, space: Space, seed: int, predictor: Predictor | None
) -> Mapping[str, Any]:
    """What a study is about, as far as its space, settings and table of latencies say it."""
    told = settings.model_dump(mode="json", by_alias=True)
    table = {} if predictor is None else {"latency": predictor.table.digest}
    points = {"space": digest_of(space), "start": space.start, "seed": seed}
    return {**points, **{name: told[name] for name in TOLD}, **table}


def worker_from(
    settings: SearchSettings,
    space: Space,
    storage: BaseStorage,
    work: Work,
    *,
    name: str,
    told: Mapping[str, Any],
    whole: Callable[[], nn.Module],
    predictor: Predictor | None = None,
    **more: Any,
) -> Worker:
    """A worker that is ready to run.

    Args:
        settings: of the search.
        space: of its points.
        storage: what the study is kept in.
        work: see `task_from`.
        name: of the study.
        told: what its workers have to say alike, besides space and settings.
        whole: makes the model that limits in percent are of.
        predictor: of latencies, if there is a table.
        more: other arguments of `Worker`.

    Raises:
        ConfigError: objectives or limits that cannot be, or that no point keeps.
        MismatchError: the study is of another search.
    """
    task = task_from(settings, space, work, whole, predictor)
    check_limits(task, work.seed)
    starts = first_points(task)
    study = study_in(
        storage,
        name,
        {**about(settings, space, work.seed, predictor), **told},
        directions(settings.objectives),
        sampler_from(settings, space.choices, work.seed, bool(starts)),
        pruner_from(settings),
    )
    if LIMITS not in study.user_attrs:
        study.set_user_attr(LIMITS, dict(task.limits))
    return Worker(
        study=study,
        task=task,
        trials=settings.trials,
        seed=work.seed,
        # A grid has the points within the limits anyway.
        repair=settings.repair and settings.strategy != "grid",
        starts=starts,
        **more,
    )
