"""From a pipeline's configuration to the pipeline."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path
from typing import Any

import torch

from pantheon import checkpoint
from pantheon.compress.artifact import Artifact
from pantheon.compress.config import (
    DistilConfig,
    ExportConfig,
    PartedStreamConfig,
    PipelineConfig,
    RunConfig,
    resolved,
)
from pantheon.compress.custom import Custom
from pantheon.compress.distil import Distil
from pantheon.compress.export import Export
from pantheon.compress.figures import Measuring
from pantheon.compress.pipeline import Pipeline, check_stages
from pantheon.compress.run_folder import RunFolder, result_of
from pantheon.compress.stage import Stage
from pantheon.compress.watcher import Watcher
from pantheon.config import load
from pantheon.errors import ConfigError
from pantheon.ranks import Ranks
from pantheon.reference import resolve
from pantheon.stream import Parts

Streams = Callable[[PartedStreamConfig, Ranks], AbstractContextManager[Parts]]
"""Opens the streams that a configuration describes, and closes them."""

STREAMS = "pantheon.cli.streams:opened"
"""The default, named and not imported: what reaches teachers is no part of the core."""


def pipeline_from_file(
    path: str | os.PathLike[str],
    *,
    streams: Streams | None = None,
    ranks: Ranks | None = None,
    watcher: Watcher | None = None,
) -> Pipeline:
    """The pipeline that a YAML file describes, its streams open.

    Args:
        streams: opens its streams; by default those of `student_client`, with the teachers that
            the file says to bring about.
        ranks: the processes that run it together.
        watcher: told how far it is.

    Raises:
        ConfigError: names the file's line at fault.
    """
    return pipeline_from(load(path, PipelineConfig), streams, ranks, watcher)


def pipeline_from(
    config: PipelineConfig,
    streams: Streams | None = None,
    ranks: Ranks | None = None,
    watcher: Watcher | None = None,
) -> Pipeline:
    """The pipeline of a configuration that was read, its streams open."""
    ranks = ranks or Ranks()
    if config.threads:
        torch.set_num_threads(config.threads)
    stages = stages_from(config)
    metric, tested = (
        None if name is None else resolve(name, config.where(key))
        for key, name in (("metric", config.metric), ("test_metric", config.test_metric))
    )
    artifact = artifact_from(config)
    check_stages(stages, artifact.model)  # Before teachers are brought about for it.
    opened: Any = streams or resolve(STREAMS)
    stack = ExitStack()
    parts = stack.enter_context(opened(config.stream, ranks))
    return Pipeline(
        folder=config.folder,
        artifact=artifact,
        stages=stages,
        parts=parts,
        metric=metric,
        test_metric=metric if tested is None else tested,
        agreement=config.agreement,
        seed=config.seed,
        device=config.device,
        measuring=Measuring(
            threads=config.latency.threads,
            batch=config.latency.batch,
            seconds=config.latency.seconds,
        ),
        asked=resolved(config),
        ranks=ranks,
        watcher=watcher or Watcher(),
        closing=stack.close,
    )


def stages_from(config: PipelineConfig) -> list[Stage]:
    """The stages, in order."""
    return [_stage(stage) for stage in config.stages]


def _stage(config: DistilConfig | ExportConfig | RunConfig) -> Stage:
    match config:
        case DistilConfig():
            return Distil.from_config(config)
        case ExportConfig():
            return Export.from_config(config)
        case RunConfig():
            return Custom.from_config(config)


def artifact_from(config: PipelineConfig) -> Artifact:
    """The model that goes in."""
    if config.artifact is not None:
        return Artifact.load(result_of(config.artifact))
    assert config.model is not None  # The configuration has one of the two.
    torch.manual_seed(config.seed)
    artifact = Artifact.make(config.model, config.model_args, config.where("model"))
    if config.weights is not None:
        checkpoint.fill(artifact.model, config.weights, config.where("weights"))
    return artifact


def finished(config: PipelineConfig) -> bool:
    """Whether its folder holds a run that came to its end."""
    return RunFolder(config.folder, []).summary.exists()


def needed(path: Path, above: tuple[Path, ...] = ()) -> list[tuple[Path, PipelineConfig]]:
    """The pipelines that must be run before this one and are not finished, in order.

    Raises:
        ConfigError: two that need each other.
    """
    path = path.resolve()
    if path in above:
        chain = " -> ".join(p.name for p in (*above[above.index(path) :], path))
        raise ConfigError(f"pipelines need each other: {chain}; take one of the needs out")
    found: dict[Path, PipelineConfig] = {}
    for need in load(path, PipelineConfig).needs:
        for each, config in (*needed(need, (*above, path)), (need, load(need, PipelineConfig))):
            if not finished(config):
                found.setdefault(each, config)
    return list(found.items())
