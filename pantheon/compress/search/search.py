"""From a search's configuration to a worker that is ready to run."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any

import torch
from optuna.trial import FrozenTrial

from pantheon.compress.artifact import Artifact
from pantheon.compress.inputs import rows as rows_of
from pantheon.compress.pipeline import STREAMS, Streams
from pantheon.compress.run_folder import result_of
from pantheon.compress.search.building import (
    factory_space,
    sampler_from,
    scored_by,
    space_around,
    worker_from,
)
from pantheon.compress.search.config import SearchConfig
from pantheon.compress.search.factory_space import FactorySpace
from pantheon.compress.search.latency_cost import predictor_from
from pantheon.compress.search.space import Space
from pantheon.compress.search.storage import storage_at
from pantheon.compress.search.worker import Worker
from pantheon.compress.stage import Metric, Work
from pantheon.compress.together import one_input
from pantheon.errors import ConfigError
from pantheon.ranks import Ranks
from pantheon.reference import resolve
from pantheon.stream import Parts


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
    # Faults of the file are told before anything is opened.
    made, metric = _made(config), resolve(config.metric, config.where("metric"))
    scored_by(config)
    predictor = predictor_from(config)
    if not isinstance(made, Artifact):
        sampler_from(config, made.choices, config.seed)
    config.folder.mkdir(parents=True, exist_ok=True)
    storage = storage_at(config.url, config.grace / 3, config.grace, config.patience)
    opened: Any = streams or resolve(STREAMS)
    with closing(storage), opened(config.stream, Ranks()) as parts, _threads(config):
        work = _work(config, parts, metric)
        yield worker_from(
            config,
            _space(config, made, work),
            storage,
            work,
            name=config.name,
            told=_told(config),
            whole=lambda: (made if isinstance(made, Artifact) else made.base()).model,
            predictor=predictor,
            grace=config.grace,
            said=said,
        )


@contextmanager
def _threads(config: SearchConfig) -> Iterator[None]:
    """A worker's threads of torch's meanwhile: as many as given, or its part of those there are."""
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(config.threads or max(1, before // config.workers))
        yield
    finally:
        torch.set_num_threads(before)


def space_and_inputs(
    config: SearchConfig, rows: int, streams: Streams | None = None
) -> tuple[Space, Any]:
    """A search's space, and inputs of its models, of as many samples.

    Args:
        streams: opens its streams; by default those of `student_client`.

    Raises:
        ConfigError: its batches have fewer samples.
    """
    opened: Any = streams or resolve(STREAMS)
    with opened(config.stream, Ranks()) as parts:
        work = _work(config, parts, resolve(config.metric, config.where("metric")))
        inputs = one_input(replace(work, device="cpu"), rows)
        space = _space(config, _made(config), work)
    if (rows_of(inputs) or 0) < rows:
        raise ConfigError(
            f"{config.stream.where('batch_size')}: batches have {rows_of(inputs)} samples, and "
            f"the table is to be of {rows}; ask for a smaller batch"
        )
    return space, inputs


def _made(config: SearchConfig) -> FactorySpace | Artifact:
    """The space, or the model that it is to be made around when the streams are open."""
    if config.space.artifact is None:
        return factory_space(config.space, config.seed)
    return Artifact.load(result_of(config.space.artifact))


def _space(config: SearchConfig, made: FactorySpace | Artifact, work: Work) -> Space:
    if not isinstance(made, Artifact):
        return made
    asked = config.space.prune or config.space.bits
    assert asked is not None  # The configuration has one of the two.
    return space_around(made, asked, replace(work, device="cpu"))


def _told(config: SearchConfig) -> dict[str, Any]:
    """What all workers of a study have to say alike, besides space and settings."""
    told = config.stream.model_dump(mode="json", by_alias=True)
    stream = {name: told[name] for name in ("dataset", "dataset_args", "parts", "merge")}
    return {"metric": config.metric, "stream": stream}


def _work(config: SearchConfig, parts: Parts, metric: Metric) -> Work:
    if parts.validation is None:
        raise ConfigError(
            f"{config.where('stream')}: a search needs parts with a validation part, which points "
            "are scored on"
        )
    return Work(
        folder=config.folder / "trials",
        parts=parts,
        metric=metric,
        seed=config.seed,
        device=config.device,
    )
