"""From checked configurations to models, datasets and functions."""

from __future__ import annotations

from typing import Any

from torch import nn

from pantheon.compress.artifact import Artifact
from pantheon.compress.run_folder import result_of
from pantheon.config import Section, StreamConfig, StudentConfig, TeacherConfig
from pantheon.errors import ConfigError
from pantheon.reference import call, resolve
from pantheon.saving import checkpoint


def model_from(config: TeacherConfig | StudentConfig) -> Any:
    """The model that a configuration names, with its weights."""
    if isinstance(config, TeacherConfig) and config.artifact is not None:
        return Artifact.load(result_of(config.artifact)).model
    assert config.model is not None  # The configuration has one of the two.
    model = call(config.model, config.model_args, config.where("model"))
    if config.weights is None:
        return model
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{config.where('weights')}: {config.model} answers a {type(model).__name__}, which "
            "takes no weights; answer a torch.nn.Module"
        )
    checkpoint.fill(model, config.weights, config.where("weights"))
    return model


def dataset_from(config: TeacherConfig | StreamConfig) -> Any:
    """The dataset that a configuration names, or None."""
    if config.dataset is None:
        return None
    return call(config.dataset, config.dataset_args, config.where("dataset"))


def function_from(config: Section, reference: str | None, key: str) -> Any:
    """What a reference under `key` names, or None without one."""
    return None if reference is None else resolve(reference, config.where(key))
