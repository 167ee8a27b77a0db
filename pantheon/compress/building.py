"""From a pipeline's configuration to what the pipeline is made of."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from pantheon.compress.artifact import Artifact
from pantheon.compress.config import (
    DistilConfig,
    ExportConfig,
    PipelineConfig,
    RunConfig,
    StageConfig,
    resolved,
)
from pantheon.compress.custom import Custom
from pantheon.compress.distil import Distil
from pantheon.compress.export import Export
from pantheon.compress.prune.analysis import AnalyseSensitivity
from pantheon.compress.prune.config import PruneConfig, SensitivityConfig, SparsifyConfig
from pantheon.compress.prune.sparsify import Sparsify
from pantheon.compress.prune.stage import Prune
from pantheon.compress.quantize.config import DiagnoseConfig, QuantizeConfig
from pantheon.compress.quantize.diagnosis import Diagnose
from pantheon.compress.quantize.stage import Quantize
from pantheon.compress.run_folder import GIVEN, RunFolder, result_of
from pantheon.compress.search.settings import SearchStageConfig
from pantheon.compress.stage import Stage
from pantheon.config import load
from pantheon.errors import ConfigError
from pantheon.saving import checkpoint

COUNTED = 1000
"""Samples for which stages say their cost, to tell them apart by it."""


def stages_from(config: PipelineConfig) -> list[Stage]:
    """The stages, in order."""
    stages = [_stage(stage) for stage in config.stages]
    for own, stage in zip(config.stages, stages, strict=True):
        if isinstance(own, SearchStageConfig):
            from pantheon.compress.search.stage import require_scores

            parts = config.stream.parts
            held = parts is not None and parts.validation is not None
            require_scores(stage.name, config.metric is not None, held)
    return stages


def _stage(config: StageConfig) -> Stage:
    match config:
        case DistilConfig():
            return Distil.from_config(config)
        case SensitivityConfig():
            return AnalyseSensitivity.from_config(config)
        case PruneConfig():
            return Prune.from_config(config)
        case SparsifyConfig():
            return Sparsify.from_config(config)
        case QuantizeConfig():
            return Quantize.from_config(config)
        case DiagnoseConfig():
            return Diagnose.from_config(config)
        case SearchStageConfig():
            return _search(config)
        case ExportConfig():
            return Export.from_config(config)
        case RunConfig():
            return Custom.from_config(config)


def _search(config: SearchStageConfig) -> Stage:
    try:
        from pantheon.compress.search.stage import Search
    except ImportError as error:
        raise ConfigError(
            f"{config.where('stage')}: a search needs {error.name}, which is not installed; pip "
            "install pantheon-kd[search]"
        ) from error
    return Search.from_config(config)


def asked_of(
    asked: Mapping[str, Any], artifact: Artifact, stages: Sequence[Stage], seed: int
) -> dict[str, Any]:
    """What a run was asked for, with what tells its artifact and stages from others."""
    told = [[stage.name, stage.phase, asdict(stage.cost(COUNTED))] for stage in stages]
    return {**asked, GIVEN: {"artifact": artifact.digest(), "stages": told, "seed": seed}}


def artifact_from(config: PipelineConfig) -> Artifact:
    """The model that goes in."""
    if config.artifact is not None:
        return Artifact.load(result_of(config.artifact))
    assert config.model is not None  # The configuration has one of the two.
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        artifact = Artifact.make(config.model, config.model_args, config.where("model"))
    if config.weights is not None:
        checkpoint.fill(artifact.model, config.weights, config.where("weights"))
    return artifact


def finished(config: PipelineConfig) -> bool:
    """Whether its folder holds a run that came to its end.

    Raises:
        ResumeMismatch: it does, of a run that was asked for otherwise.
    """
    kept = RunFolder(config.folder, [])
    if not kept.summary.exists():
        return False
    kept.check(resolved(config))
    return True


def needed(
    needs: Sequence[Path], above: tuple[Path, ...] = ()
) -> list[tuple[Path, PipelineConfig]]:
    """The pipelines of some files, and those that they need, that are not finished; in order.

    Args:
        needs: the files.
        above: files that need them.

    Raises:
        ConfigError: two that need each other.
        ResumeMismatch: one is finished, and was asked for otherwise than its file says now.
    """
    found: dict[Path, PipelineConfig] = {}
    for need in needs:
        path = need.resolve()
        if path in above:
            chain = " -> ".join(p.name for p in (*above[above.index(path) :], path))
            raise ConfigError(f"pipelines need each other: {chain}; take one of the needs out")
        own = load(need, PipelineConfig)
        for each, config in (*needed(own.needs, (*above, path)), (need, own)):
            if not finished(config):
                found.setdefault(each, config)
    return list(found.items())
