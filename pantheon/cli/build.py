"""From checked configurations to teachers, datasets, students and loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from pantheon import checkpoint
from pantheon.config import Section, StudentConfig, TeacherConfig
from pantheon.errors import ConfigError
from pantheon.reference import call, resolve
from student_client import KnowledgeLoader
from teacher_server import Teacher


def name_of(config: TeacherConfig, path: Path) -> str:
    """The teacher's name, or that of its file."""
    return config.name or path.stem


def model_from(config: TeacherConfig | StudentConfig) -> Any:
    """The model that a configuration names, with its weights."""
    model = call(config.model, config.model_args, config.where("model"))
    if config.weights is None:
        return model
    if not isinstance(model, nn.Module):
        raise ConfigError(
            f"{config.where('weights')}: {config.model} answers a {type(model).__name__}, which "
            "takes no weights; answer a torch.nn.Module"
        )
    try:
        model.load_state_dict(checkpoint.load_weights(config.weights))
    except RuntimeError as error:
        raise ConfigError(
            f"{config.where('weights')}: {config.weights} does not fit {config.model}: {error}"
        ) from error
    return model


def dataset_from(config: TeacherConfig | StudentConfig) -> Any:
    """The dataset that a configuration names, or None."""
    if config.dataset is None:
        return None
    return call(config.dataset, config.dataset_args, config.where("dataset"))


def function_from(config: Section, reference: str | None, key: str) -> Any:
    """What a reference under `key` names, or None without one."""
    return None if reference is None else resolve(reference, config.where(key))


def teacher_from(config: TeacherConfig) -> Teacher:
    """The teacher that a configuration describes."""
    if config.threads:
        torch.set_num_threads(config.threads)
    keys = ("revision", "name", "devices", "deterministic", "fixed_rows", "features", "buckets")
    keys += ("batch_rows", "finite", "views", "dataset_fingerprint")
    given = config.model_fields_set
    return Teacher(
        model_from(config),
        dataset_from(config),
        schema=config.schema_,
        collate_fn=function_from(config, config.collate_fn, "collate_fn"),
        **{key: getattr(config, key) for key in keys if key in given},
    )


def loader_from(config: StudentConfig) -> KnowledgeLoader:
    """The loader that a configuration describes."""
    keys = ("batch_size", "shuffle", "seed", "drop_last", "views", "num_workers", "teachers")
    optional = ("fields", "request_rows", "window_bytes", "max_requests", "patience", "lease")
    optional += ("integrity", "dataset_fingerprint", "revision")
    settings = {key: getattr(config, key) for key in keys}
    settings |= {k: v for k in optional if (v := getattr(config, k)) is not None}
    ids = function_from(config, config.ids, "ids")
    return KnowledgeLoader(
        dataset_from(config),
        merge={field: merge_from(config, field) for field in config.merge},
        collate_fn=function_from(config, config.collate_fn, "collate_fn"),
        ids=None if ids is None else ids(),
        **settings,
    )


def merge_from(config: StudentConfig, field: str) -> Any:
    """A merge: its name, ``{weighted: {teacher: weight}}``, ``{mixture: …}`` or a function."""
    from pantheon.merge import Mixture, Weighted

    value, where = config.merge[field], config.where("merge", field)
    if isinstance(value, str):
        return resolve(value, where) if ":" in value else value
    kinds = {"weighted": Weighted, "mixture": Mixture}
    kind, weights = next(iter(value.items()), ("", None))
    if len(value) != 1 or kind not in kinds or not isinstance(weights, dict):
        raise ConfigError(
            f"{where}: expected a merge's name, package.module:function, or one of weighted and "
            f"mixture with a weight for each teacher; found {value}"
        )
    return kinds[kind](**weights)
