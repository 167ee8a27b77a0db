"""From a search's configuration to a worker, and from its trials to what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial

from pantheon.compress.distil import Distil
from pantheon.compress.pipeline import STREAMS, Streams
from pantheon.compress.search.config import ChoiceConfig, SearchConfig, SpaceConfig
from pantheon.compress.search.costs import static_costs
from pantheon.compress.search.factory_space import FactorySpace, ready_made
from pantheon.compress.search.samplers import sampler_of
from pantheon.compress.search.scoring import ShortTraining
from pantheon.compress.search.space import Choice, digest_of
from pantheon.compress.search.storage import storage_at, study_in
from pantheon.compress.search.task import Task, check_limits, directions
from pantheon.compress.search.worker import Worker
from pantheon.compress.stage import Metric
from pantheon.errors import ConfigError
from pantheon.ranks import Ranks
from pantheon.reference import resolve
from pantheon.sampling.reading import slice_rows
from pantheon.stream import Parts
from pantheon.training.rehearsal import first_batch

STATIC = ("macs", "parameters", "bytes")
"""Costs that every space has."""


@contextmanager
def searching(
    config: SearchConfig,
    *,
    streams: Streams | None = None,
    said: Callable[[FrozenTrial], None] = lambda trial: None,
) -> Iterator[Worker]:
    """A worker of the search that a configuration describes.

    Its database is reached, its streams are opened and its limits looked at before anything is
    trained.

    Args:
        streams: opens its streams; by default those of `student_client`.
        said: told of each trial that ended here.

    Raises:
        ConfigError: names the file's line at fault; or no point keeps the limits.
        StoreError: the database cannot be reached.
        MismatchError: its study is of another search.
    """
    space, metric = space_from(config), resolve(config.metric, config.where("metric"))
    _scored(config)  # Faults of the file are told before anything is opened.
    sampler, about = _sampler(config, space), _about(config, space)
    config.folder.mkdir(parents=True, exist_ok=True)
    storage = storage_at(config.url, config.grace / 3, config.grace)
    opened: Any = streams or resolve(STREAMS)
    threads = torch.get_num_threads()
    with opened(config.stream, Ranks()) as parts:
        try:
            if config.threads:
                torch.set_num_threads(config.threads)
            task = _task(config, space, _checked(parts, config), metric)
            check_limits(task, config.seed)
            wanted = directions(config.objectives)
            study = study_in(storage, config.name, about, wanted, sampler, _pruner(config))
            yield Worker(
                study=study,
                task=task,
                trials=config.trials,
                seed=config.seed,
                repair=config.repair and config.strategy != "grid",
                grace=config.grace,
                said=said,
            )
        finally:
            torch.set_num_threads(threads)


def _task(config: SearchConfig, space: FactorySpace, parts: Parts, metric: Metric) -> Task:
    """What the search is about, on streams that are open."""
    scorer = ShortTraining(
        space=space,
        stage=Distil.from_learning(config.score),
        parts=parts,
        metric=metric,
        by=_scored(config),
        folder=config.folder / "trials",
        start=parts.train.state_dict(),
        seed=config.seed,
        device=config.device,
        recalibrated=config.score.recalibrate,
    )
    return Task(space, config.objectives, scorer, _costs(space, parts), config.limits)


def space_from(config: SearchConfig) -> FactorySpace:
    """The space that a configuration describes.

    Raises:
        ConfigError: an empty space, no such ready-made one, or choices that cannot be.
    """
    asked = config.space
    where = asked.where("net" if asked.model is None else "model")
    own = {name: _choice(name, values, asked) for name, values in asked.choices.items()}
    if asked.net is not None:
        ready = ready_made(asked.net, asked.model_args, config.seed, where)
        own = {choice.name: choice for choice in ready.choices} | own
        factory = ready.factory
    else:
        assert asked.model is not None  # The configuration has one of the two.
        factory = asked.model
    try:
        return FactorySpace(factory, asked.model_args, tuple(own.values()), config.seed, where)
    except ConfigError as error:
        raise ConfigError(f"{asked.where('choices')}: {error}") from error


def _choice(name: str, given: Any, config: SpaceConfig) -> Choice:
    values, ordered = given, True
    if isinstance(given, ChoiceConfig):
        values, ordered = given.values, given.ordered
    try:
        return Choice(name, tuple(values), ordered)
    except ConfigError as error:
        raise ConfigError(f"{config.where('choices', name)}: {error}") from error


def _scored(config: SearchConfig) -> str:
    """The objective by which a training is told to be good: the first that is no cost."""
    named = [name for name in config.objectives if name not in STATIC]
    where = config.where("objectives")
    if not named:
        raise ConfigError(
            f"{where}: all objectives are costs; name one that the metric {config.metric} answers"
        )
    if config.score.stop and len(config.objectives) > 1:
        raise ConfigError(
            f"{config.score.where('stop')}: trainings are only given up early where there is one "
            "objective; leave stop out, or put the costs into limits"
        )
    return named[0]


def _sampler(config: SearchConfig, space: FactorySpace) -> BaseSampler:
    try:
        return sampler_of(
            config.strategy,
            space.choices,
            config.seed,
            config.trials,
            config.options,
            len(config.objectives),
        )
    except ConfigError as error:
        raise ConfigError(f"{config.where('strategy')}: {error}") from error


def _pruner(config: SearchConfig) -> BasePruner:
    match config.score.stop:
        case "median":
            return MedianPruner(n_startup_trials=max(4, config.trials // 8))
        case "halving":
            return SuccessiveHalvingPruner()
        case None:
            return NopPruner()


def _about(config: SearchConfig, space: FactorySpace) -> dict[str, Any]:
    """What all workers of a study have to say alike."""
    told = config.model_dump(mode="json", by_alias=True)
    same = ("metric", "score", "objectives", "limits", "repair", "strategy", "options", "seed")
    stream = {name: told["stream"][name] for name in ("dataset", "dataset_args", "parts", "merge")}
    return {"space": digest_of(space), **{name: told[name] for name in same}, "stream": stream}


def _checked(parts: Parts, config: SearchConfig) -> Parts:
    if parts.validation is None:
        raise ConfigError(
            f"{config.where('stream')}: a search needs parts with a validation part, which points "
            "are scored on"
        )
    return parts


def _costs(space: FactorySpace, parts: Parts) -> Any:
    assert parts.validation is not None
    inputs = first_batch(parts.validation.samples()).to(torch.device("cpu")).inputs
    return static_costs(space, slice_rows(inputs, 0, 1))
